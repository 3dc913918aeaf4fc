"""What methods for Gaussian noise of a known deviation have in common.

The network denoises: its code is the measurement itself, with more noise on it.
A camera clips very dark and very bright pixels, which biases their average. The
methods model the clipping, so that black stays black and white stays white.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipjax import codes, noise, operators
from dipjax.engine.problem import Problem
from dipjax.methods import base

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class KnownNoise(base.Method):
  """A method whose code is the measurement; the fields of each such method.

  Attributes:
    ratio: the jitter of the code over the measurement's sigma, above 0.

  Raises:
    ValueError: another ratio.
  """

  needs: ClassVar[frozenset[str]] = frozenset({'sigma'})
  makes_code: ClassVar[bool] = True

  ratio: float = 1.5

  def __post_init__(self):
    if not (math.isfinite(self.ratio) and self.ratio > 0):
      raise ValueError(f'ratio must be a number > 0, got {self.ratio}')

  def prepare(self, parts: base.Parts) -> base.Parts:
    """Returns the parts with the measurement as code and its noise as jitter.

    A measurement that lies in [0, 1] counts as clipped: its operator is then
    `operators.Clipped`, which tells what the clipped noise is on average.

    Raises:
      ValueError: an operator, a code or a jitter of the caller's; no sigma.
    """
    self.check_task(operator=parts.operator, code=parts.code)
    if not parts.sigma:
      raise ValueError(
        f'the method {self.name!r} needs the sigma of the noise, above 0, got '
        f'{parts.sigma}'
      )
    if parts.jitter is not None:
      raise ValueError(
        f'the method {self.name!r} has a jitter of its own, ratio * sigma: '
        f'leave out jitter={parts.jitter}, set the ratio'
      )
    operator = operators.Identity()
    if noise.is_clipped(parts.measurement):
      operator = operators.Clipped(jnp.float32(parts.sigma))
    return parts._replace(
      operator=operator,
      code=codes.use_image(parts.measurement),
      jitter=self.ratio * parts.sigma,
    )


def find_variance(problem: Problem, image: Array) -> Array:
  """Returns the variance of the noise: of each pixel where it was clipped.

  Raises:
    ValueError: a problem without sigma.
  """
  if problem.sigma is None:
    raise ValueError('this method needs the sigma of the measurement: got none')
  if isinstance(problem.operator, operators.Clipped):
    return problem.operator.find_variance(jax.lax.stop_gradient(image))
  return jnp.square(problem.sigma)
