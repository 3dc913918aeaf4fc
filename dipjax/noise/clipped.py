"""The moments of noise that a camera clipped.

A measurement is y = x + sigma z with z ~ N(0, 1), where x is the image without
noise. A camera clips y to [0, 1], which makes black pixels brighter and white
pixels darker on average. For a pixel x, z reaches black at low = -x / sigma and
white at high = (1 - x) / sigma; every moment of clipped noise is a sum of three
parts: below low, between low and high, above high.
"""

import jax
import jax.numpy as jnp
from jax.scipy import stats

Array = jax.Array

_NEVER = 40.0  # Deviations that no noise reaches.


def is_clipped(measurement: Array) -> Array:
  """Returns whether all values lie in [0, 1]: then noise may be clipped."""
  return jnp.all((measurement >= 0) & (measurement <= 1))


def expect_clipped(
  image: Array, sigma: Array, *, black: bool = True, white: bool = True
) -> Array:
  """Returns the mean of each pixel once noise is added and clipped to [0, 1].

  For a pixel x the mean is the expectation of clip(x + sigma z), z ~ N(0, 1).
  Away from black and white it is x; for a black pixel it is 0.4 sigma above
  black, for a white pixel 0.4 sigma below white.

  Args:
    image: any shape.
    sigma: standard deviation of the noise before it was clipped, above 0.
    black: whether noise was clipped at 0.
    white: whether noise was clipped at 1.
  """
  # Between black and white lies a truncated Gaussian: its share of x, and its
  # mean moved by the difference of the densities at the two ends. Noise above
  # white counts as 1, noise below black as 0.
  low, high = _find_ends(image, sigma, black, white)
  between = stats.norm.cdf(high) - stats.norm.cdf(low)
  moved = stats.norm.pdf(low) - stats.norm.pdf(high)
  return image * between + sigma * moved + stats.norm.cdf(-high)


def expect_square(image: Array, sigma: Array) -> Array:
  """Returns the mean square of the noise of a measurement clipped to [0, 1].

  For a pixel x the mean square is the expectation of (clip(x + sigma z) - x)^2,
  z ~ N(0, 1): sigma^2 away from black and white, sigma^2 / 2 at black and at
  white. The result is the mean over all pixels, a scalar.

  Args:
    image: the image without the noise, any shape, taken as in [0, 1].
    sigma: standard deviation of the noise before it was clipped.
  """
  return jnp.mean(_expect_squares(jnp.clip(image, 0, 1), sigma))


def expect_variance(
  image: Array, sigma: Array, *, black: bool = True, white: bool = True
) -> Array:
  """Returns the variance of each pixel's noise after clipping to [0, 1].

  The variance is sigma^2 away from black and white, and a third of sigma^2 at
  black and at white.

  Args:
    image: the image without the noise, any shape, taken as in [0, 1].
    sigma: standard deviation of the noise before it was clipped, above 0.
    black: whether noise was clipped at 0.
    white: whether noise was clipped at 1.
  """
  # Clipped noise has a mean of its own, and a variance is the mean square
  # without the square of the mean.
  x = jnp.clip(image, 0 if black else None, 1 if white else None)
  bias = expect_clipped(x, sigma, black=black, white=white) - x
  return _expect_squares(x, sigma, black, white) - jnp.square(bias)


def _find_ends(x, sigma, black=True, white=True):
  """Returns what z is where it reaches black and white."""
  low = -x / sigma if black else jnp.full_like(x, -_NEVER)
  high = (1 - x) / sigma if white else jnp.full_like(x, _NEVER)
  return low, high


def _expect_squares(x, sigma, black=True, white=True):
  # Without noise the bounds would be 0 / 0 for a black pixel.
  low, high = _find_ends(x, jnp.maximum(sigma, 1e-12), black, white)
  # Noise that neither end clips. The integral of z^2 times the density is, by
  # parts, the probability between the ends plus a term for each end.
  between = stats.norm.cdf(high) - stats.norm.cdf(low)
  moved = low * stats.norm.pdf(low) - high * stats.norm.pdf(high)
  inside = jnp.square(sigma) * (between + moved)
  # Clipped noise has one size: -x below black, 1 - x above white.
  at_black = jnp.square(x) * stats.norm.cdf(low)
  at_white = jnp.square(1 - x) * stats.norm.cdf(-high)
  return inside + at_black + at_white
