"""The base of methods for Gaussian noise of a known deviation.

The network denoises: its code is the measurement itself with more noise added.
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
  """A method whose code is the measurement and whose noise is known.

  Attributes:
    ratio: the jitter of the code divided by the measurement's sigma, above 0.

  Raises:
    ValueError: a ratio that is not above 0, or not finite.
  """

  needs: ClassVar[frozenset[str]] = frozenset({'sigma'})
  makes_code: ClassVar[bool] = True

  ratio: float = 1.5

  def __post_init__(self):
    if not (math.isfinite(self.ratio) and self.ratio > 0):
      raise ValueError(f'ratio must be a number > 0, got {self.ratio}')

  def prepare(self, parts: base.Parts) -> base.Parts:
    """Returns the parts with code = measurement and jitter = ratio * sigma.

    A measurement that lies in [0, 1] counts as clipped: its operator is then
    `operators.Clipped`, which tells what the clipped noise is on average.

    Raises:
      ValueError: the caller gives an operator, a code or a jitter, or no sigma.
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
    # Noise that the camera clipped moves the average of dark and bright pixels:
    # the operator predicts the moved average.
    operator = operators.Identity()
    if noise.is_clipped(parts.measurement):
      operator = operators.Clipped(jnp.float32(parts.sigma))
    return parts._replace(
      operator=operator,
      code=codes.use_image(parts.measurement),
      jitter=self.ratio * parts.sigma,
    )


def find_variance(problem: Problem, image: Array) -> Array:
  """Returns the variance of the measurement's noise around an image.

  The variance is one number, sigma^2; for a clipped measurement it is an array
  with the variance of each value.

  Raises:
    ValueError: a problem without sigma.
  """
  if problem.sigma is None:
    raise ValueError('this method needs the sigma of the measurement: got none')
  if isinstance(problem.operator, operators.Clipped):
    # The variance is a constant of the loss: without `stop_gradient` the image
    # could lower the loss by moving to where less noise is expected.
    return problem.operator.find_variance(jax.lax.stop_gradient(image))
  return jnp.square(problem.sigma)
