"""Noise that a whole row or column shares."""

import numpy as np

_PARTS = 16  # Of a row.
_FILTER = np.array([1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5]) / 32**0.5
_QUARTILE = 0.6744897501960817  # Median of the absolute values of N(0, 1).
_SURE = 4.0  # Standard errors that noise of rows must have.


def find_row_noise(image: np.ndarray) -> float:
  """Returns the standard deviation of what each row adds to all its pixels.

  The parts of a row share the noise of the row, and no other noise: the noise
  of rows is the covariance of the odd and the even parts. It is 0 where chance
  may have made it.

  Args:
    image: [H, W, C].
  """
  height, width, channels = image.shape
  parts = min(_PARTS, width // 4)
  width -= width % parts
  means = image[:, :width].reshape(height, parts, -1, channels).mean(2)
  count = height - len(_FILTER) + 1
  windows = np.stack([means[i : i + count] for i in range(len(_FILTER))])
  details = np.tensordot(_FILTER, windows, axes=1)
  # Medians: an edge in a few of the parts does not count.
  odd, even = np.median(details[:, ::2], 1), np.median(details[:, 1::2], 1)
  both, neither = _find_variance(odd + even), _find_variance(odd - even)
  shared = np.mean(both - neither) / 4
  error = np.mean(both) / 4 * np.sqrt(4 / count)
  return float(np.sqrt(shared)) if shared > _SURE * error else 0.0


def _find_variance(details):
  """Returns the variance of each channel, in spite of a few large values."""
  return np.square(np.median(np.abs(details), 0) / _QUARTILE)
