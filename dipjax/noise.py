"""The noise of a measurement: its level, its clipping, and its splitting.

A measurement is y = x + sigma z with z ~ N(0, 1), where x is the image without
noise. A camera clips y to [0, 1], which makes black pixels brighter and white
pixels darker on average. For a pixel x, z reaches black at low = -x / sigma and
white at high = (1 - x) / sigma; every moment of clipped noise is a sum of three
parts: below low, between low and high, above high.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats

Array = jax.Array

# The high-pass filter of Daubechies' wavelet with two vanishing moments. Its
# length is 1, so white noise keeps its deviation; constants and linear
# gradients vanish, so little of the picture is left.
_DB2 = np.array([1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5]) / 32**0.5
_QUARTILE = 0.6744897501960817  # The median of the absolute values of N(0, 1).
_ENOUGH = 0.05  # Share of the coefficients that must be free of clipped values.


def estimate_sigma(image: np.ndarray) -> float:
  """Returns the standard deviation of the white noise in a picture.

  The estimate is the median of the absolute finest diagonal wavelet
  coefficients, divided by 0.6745, averaged over the channels (Donoho and
  Johnstone 1994; scikit-image's estimate_sigma, but away from the edges).
  Coefficients of exactly 0, as missing pixels give, do not count. Coefficients
  that touch a value of exactly 0 or 1 do not count either, because the noise of
  that value may have been clipped: sigma is the deviation before the clipping.
  Where fewer than 5% of the coefficients are free of clipped values, all
  coefficients but those of exactly 0 count.

  Args:
    image: [H, W, C], sides of at least 8 pixels.

  Raises:
    ValueError: another shape.
  """
  image = np.asarray(image, np.float64)
  if image.ndim != 3 or min(image.shape[:2]) < 8:
    raise ValueError(
      'the noise is estimated in an image [H, W, C] of at least 8 pixels a '
      f'side, got {image.shape}: give sigma'
    )
  # The diagonal details are differences along both axes. A horizontal or a
  # vertical edge is constant along one axis and vanishes.
  details = _filter(_filter(image).swapaxes(0, 1))
  # A coefficient is touched where any of its 4 x 4 pixels may be clipped. A
  # clipped pixel has lost part of its noise and would lower the estimate.
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
  """Returns every second difference along the first axis, [rows, ...]."""
  return np.tensordot(_DB2, _gather(image), axes=1)


def _find_touched(ends):
  """Returns where a difference sees at least one true value."""
  return np.max(_gather(ends), axis=0)


def _gather(image):
  """Returns the rows that each difference sees, [taps, rows, ...].

  The windows advance by two rows and stay inside the image: an edge that was
  made up would not have the noise of the picture.
  """
  count = len(image) - len(_DB2) + 1
  return np.stack([image[i : i + count : 2] for i in range(len(_DB2))])


def _find_deviation(coefficients, touched):
  # The median, unlike a mean square, ignores the few large coefficients of
  # edges and textures.
  some = coefficients != 0
  free = some & ~touched
  if np.sum(free) < _ENOUGH * coefficients.size:
    free = some
  magnitudes = np.abs(coefficients[free])
  return np.median(magnitudes) / _QUARTILE if magnitudes.size else 0.0


def is_clipped(measurement: Array) -> Array:
  """Returns whether all values lie in [0, 1]: then noise may be clipped."""
  return jnp.all((measurement >= 0) & (measurement <= 1))


def expect_clipped(image: Array, sigma: Array) -> Array:
  """Returns the mean of each pixel once noise is added and clipped to [0, 1].

  For a pixel x the mean is the expectation of clip(x + sigma z), z ~ N(0, 1).
  Away from black and white it is x; for a black pixel it is 0.4 sigma above
  black, for a white pixel 0.4 sigma below white.

  Args:
    image: any shape.
    sigma: standard deviation of the noise before it was clipped, above 0.
  """
  # Between black and white lies a truncated Gaussian: its share of x, and its
  # mean moved by the difference of the densities at the two ends. Noise above
  # white counts as 1, noise below black as 0.
  low, high = -image / sigma, (1 - image) / sigma
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


def expect_variance(image: Array, sigma: Array) -> Array:
  """Returns the variance of each pixel's noise after clipping to [0, 1].

  The variance is sigma^2 away from black and white, and a third of sigma^2 at
  black and at white.

  Args:
    image: the image without the noise, any shape, taken as in [0, 1].
    sigma: standard deviation of the noise before it was clipped, above 0.
  """
  # Clipped noise has a mean of its own, and a variance is the mean square
  # without the square of the mean.
  x = jnp.clip(image, 0, 1)
  bias = expect_clipped(x, sigma) - x
  return _expect_squares(x, sigma) - jnp.square(bias)


def _expect_squares(x, sigma):
  # Without noise the bounds would be 0 / 0 for a black pixel.
  scale = jnp.maximum(sigma, 1e-12)
  low, high = -x / scale, (1 - x) / scale
  # Noise that neither end clips. The integral of z^2 times the density is, by
  # parts, the probability between the ends plus a term for each end.
  between = stats.norm.cdf(high) - stats.norm.cdf(low)
  moved = low * stats.norm.pdf(low) - high * stats.norm.pdf(high)
  inside = jnp.square(sigma) * (between + moved)
  # Clipped noise has one size: -x below black, 1 - x above white.
  black = jnp.square(x) * stats.norm.cdf(low)
  white = jnp.square(1 - x) * stats.norm.cdf(-high)
  return inside + black + white


def split_measurement(
  measurement: np.ndarray, sigma: float, *, tau: float = 0.5, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns y + tau sigma w and y - sigma w / tau, with w ~ N(0, 1).

  Where the measurement y has Gaussian noise of deviation sigma, the noises of
  the two results are independent. A fit to the first never sees the noise of
  the second, so the second tells, up to a constant, how far the fit is from the
  truth (Pang et al., Recorrupted-to-Recorrupted, CVPR 2021).

  Args:
    measurement: any shape.
    sigma: standard deviation of the noise of the measurement.
    tau: a smaller tau gives the first result less noise and the second more.
    seed: of w.

  Returns:
    Two arrays of the shape of the measurement, float32.

  Raises:
    ValueError: a negative sigma, a tau that is not positive, or either that is
      not finite.
  """
  if not (np.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')
  if not (np.isfinite(tau) and tau > 0):
    raise ValueError(f'tau must be a number > 0, got {tau}')
  # The added noises have opposite signs and the product of their deviations is
  # sigma^2, which cancels the noise that y gives to both results.
  shape = np.shape(measurement)
  noise = sigma * np.random.RandomState(seed).normal(size=shape)
  first, second = measurement + tau * noise, measurement - noise / tau
  return first.astype(np.float32), second.astype(np.float32)
