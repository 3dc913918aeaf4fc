"""What noise a measurement has: its level, and how to make two out of one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats

Array = jax.Array

# The high-pass filter of Daubechies' wavelet with two vanishing moments: of
# edges and gradients less is left than of noise.
_DB2 = np.array([1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5]) / 32**0.5
_QUARTILE = 0.6744897501960817  # Of the absolute values of N(0, 1).
_ENOUGH = 0.05  # Share of the coefficients that must be free of clipped values.


def estimate_sigma(image: np.ndarray) -> float:
  """Returns the standard deviation of the white noise in a picture.

  The median of the absolute finest diagonal wavelet coefficients, over 0.6745:
  Donoho and Johnstone 1994, as scikit-image's estimate_sigma, but away from the
  edges. Coefficients of exactly 0, as of missing pixels, do not count, nor do
  those that touch a value of exactly 0 or 1: noise that was clipped to [0, 1]
  is estimated as it was before, unless hardly anything lies between.

  Args:
    image: [H, W, C], sides of at least 8 pixels; the mean over its channels.

  Raises:
    ValueError: another shape.
  """
  image = np.asarray(image, np.float64)
  if image.ndim != 3 or min(image.shape[:2]) < 8:
    raise ValueError(
      'the noise is estimated in an image [H, W, C] of at least 8 pixels a '
      f'side, got {image.shape}: give sigma'
    )
  details = _filter(_filter(image).swapaxes(0, 1))
  ends = np.isin(image, (0, 1))
  touched = _find_touched(_find_touched(ends).swapaxes(0, 1))
  return float(
    np.mean(
      [
        _find_deviation(details[..., c], touched[..., c])
        for c in range(image.shape[2])
      ]
    )
  )


def _filter(image):
  """Every second one of the differences along the first axis."""
  return np.tensordot(_DB2, _gather(image), axes=1)


def _find_touched(ends):
  """Where one of the values that a difference sees is true."""
  return np.max(_gather(ends), axis=0)


def _gather(image):
  """What each difference sees, [taps, ...]: every second window of rows."""
  count = len(image) - len(_DB2) + 1
  return np.stack([image[i : i + count : 2] for i in range(len(_DB2))])


def _find_deviation(coefficients, touched):
  some = coefficients != 0
  free = some & ~touched
  if np.sum(free) < _ENOUGH * coefficients.size:
    free = some
  magnitudes = np.abs(coefficients[free])
  return np.median(magnitudes) / _QUARTILE if magnitudes.size else 0.0


def is_clipped(measurement: Array) -> Array:
  """Returns whether all values lie in [0, 1], so that noise may be cut off."""
  return jnp.all((measurement >= 0) & (measurement <= 1))


def expect_clipped(image: Array, sigma: Array) -> Array:
  """Returns the mean of the image with noise, clipped to [0, 1].

  Of each pixel x the expectation of clip(x + sigma z), z ~ N(0, 1): x itself
  away from black and white, 0.4 sigma above black and below white.

  Args:
    image: any shape.
    sigma: standard deviation of the noise before it was clipped, above 0.
  """
  low, high = -image / sigma, (1 - image) / sigma
  between = stats.norm.cdf(high) - stats.norm.cdf(low)
  moved = stats.norm.pdf(low) - stats.norm.pdf(high)
  return image * between + sigma * moved + stats.norm.cdf(-high)


def expect_square(image: Array, sigma: Array) -> Array:
  """Returns the mean square of noise that was clipped with the image to [0, 1].

  Of each pixel x the expectation of (clip(x + sigma z) - x)^2, z ~ N(0, 1):
  sigma^2 away from black and white, half of it at either. Their mean.

  Args:
    image: the image without the noise, any shape, taken as in [0, 1].
    sigma: standard deviation of the noise before it was clipped.
  """
  return jnp.mean(_expect_squares(jnp.clip(image, 0, 1), sigma))


def expect_variance(image: Array, sigma: Array) -> Array:
  """Returns the variance of each pixel's noise after clipping to [0, 1].

  sigma^2 away from black and white, a third of it at either.

  Args:
    image: the image without the noise, any shape, taken as in [0, 1].
    sigma: standard deviation of the noise before it was clipped, above 0.
  """
  x = jnp.clip(image, 0, 1)
  bias = expect_clipped(x, sigma) - x
  return _expect_squares(x, sigma) - jnp.square(bias)


def _expect_squares(x, sigma):
  scale = jnp.maximum(sigma, 1e-12)
  low, high = -x / scale, (1 - x) / scale
  # Of the noise that neither end cuts off.
  between = stats.norm.cdf(high) - stats.norm.cdf(low)
  moved = low * stats.norm.pdf(low) - high * stats.norm.pdf(high)
  inside = jnp.square(sigma) * (between + moved)
  black = jnp.square(x) * stats.norm.cdf(low)
  white = jnp.square(1 - x) * stats.norm.cdf(-high)
  return inside + black + white


def split_measurement(
  measurement: np.ndarray, sigma: float, *, tau: float = 0.5, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns y + tau sigma w and y - sigma w / tau, w ~ N(0, 1).

  Where the measurement y has Gaussian noise of deviation sigma, the noises of
  the two are independent: one is fitted, and the other tells, but for a
  constant, how far the fit is from the truth (Pang et al., Recorrupted-to-
  Recorrupted, CVPR 2021).

  Args:
    measurement: of any shape.
    sigma: standard deviation of its noise.
    tau: the smaller, the less noise the first and the more the second has.
    seed: of w.

  Raises:
    ValueError: sigma is negative, tau not positive, or one not finite.
  """
  if not (np.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')
  if not (np.isfinite(tau) and tau > 0):
    raise ValueError(f'tau must be a number > 0, got {tau}')
  shape = np.shape(measurement)
  noise = sigma * np.random.RandomState(seed).normal(size=shape)
  first, second = measurement + tau * noise, measurement - noise / tau
  return first.astype(np.float32), second.astype(np.float32)
