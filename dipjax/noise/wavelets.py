"""The level of white noise by its finest wavelets, in pictures of any size."""

import numpy as np

# The high-pass filter of Daubechies' wavelet with two vanishing moments. Its
# length is 1, so white noise keeps its deviation; constants and linear
# gradients vanish, so little of the picture is left.
_DB2 = np.array([1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5]) / 32**0.5
_QUARTILE = 0.6744897501960817  # The median of the absolute values of N(0, 1).
_ENOUGH = 0.05  # Share of the coefficients that must be free of clipped values.


def estimate_by_wavelets(image: np.ndarray) -> float:
  """Returns the standard deviation of white noise; texture raises it.

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
  image = check_shape(image).astype(np.float64)
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


def check_shape(image: np.ndarray) -> np.ndarray:
  """Returns the image as an array.

  Raises:
    ValueError: not [H, W, C] with sides of at least 8 pixels.
  """
  image = np.asarray(image)
  if image.ndim != 3 or min(image.shape[:2]) < 8:
    raise ValueError(
      'the noise is estimated in an image [H, W, C] of at least 8 pixels a '
      f'side, got {image.shape}: give sigma'
    )
  return image


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
