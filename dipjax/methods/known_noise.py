"""The base of methods for Gaussian noise of a known deviation.

The network denoises: its code is the measurement itself with more noise added,
of the same kind: in proportion as strong at each brightness, and as correlated
between neighbours. A camera clips very dark and very bright pixels, which
biases their average. Where it did, the methods model the clipping, so that
black stays black and white stays white.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dipjax import blurring, codes, operators
from dipjax.engine.problem import Problem
from dipjax.methods import base

Array = jax.Array

_REACH = 2  # Pixels to each side whose mean tells the brightness.


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

    The operator is `operators.Noisy`, which tells what is measured on average,
    and with which variance.

    Raises:
      ValueError: the caller gives an operator, a code or a jitter, or no noise.
    """
    self.check_task(operator=parts.operator, code=parts.code)
    if parts.noise is None or not parts.noise.sigma:
      raise ValueError(
        f'the method {self.name!r} needs the sigma of the noise, above 0, got '
        f'{parts.noise and parts.noise.sigma}'
      )
    if parts.jitter is not None:
      raise ValueError(
        f'the method {self.name!r} has a jitter of its own, ratio * sigma: '
        f'leave out jitter={parts.jitter}, set the ratio'
      )
    return parts._replace(
      operator=operators.make_noisy(parts.noise),
      code=codes.use_image(parts.measurement),
      jitter=self.ratio * parts.noise.sigma,
    )


def find_variance(problem: Problem, image: Array) -> Array:
  """Returns the variance of the measurement's noise around an image.

  The variance is one number, sigma^2, or an array with the variance of each
  value, where noise was clipped or depends on the brightness.

  Raises:
    ValueError: a problem without sigma.
  """
  if problem.sigma is None:
    raise ValueError('this method needs the sigma of the measurement: got none')
  operator = problem.operator
  if not isinstance(operator, operators.Noisy):
    return jnp.square(problem.sigma)
  if operator.gain is not None:
    # The image has seen the noise that was added to its code. A variance that
    # follows the image would follow that noise, and correlate with it.
    image = problem.crop(_smooth(problem.code.astype(jnp.float32)))
  return operator.find_variance(image)


def jitter_code(key: Array, problem: Problem) -> tuple[Array, Array]:
  """Returns the code with noise like its own, and the deviation of this noise.

  The deviation is the problem's jitter. Where the noise of the measurement
  depends on the brightness, so does the jitter; where its neighbours or its
  channels correlate, those of the jitter do.
  """
  operator, deviation = problem.operator, problem.jitter
  if not isinstance(operator, operators.Noisy):
    return codes.jitter_code(key, problem.code, deviation), deviation
  if operator.gain is not None:
    brightness = _smooth(problem.code.astype(jnp.float32))
    variance = operator.find_unclipped(brightness)
    level: Any = problem.sigma
    deviation = deviation * jnp.sqrt(variance) / level
  code = codes.jitter_code(
    key, problem.code, deviation, operator.spread, operator.channels
  )
  return code, deviation


def _smooth(code):
  """Returns the brightness around each pixel, which has little noise."""
  side = 2 * min(_REACH, *(length - 1 for length in code.shape[:2])) + 1
  kernel = jnp.full((side, side), 1 / side**2, jnp.float32)
  return blurring.blur_image(code, kernel)
