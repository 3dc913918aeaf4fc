"""Whether numbers are those of an image in [0, 1], or of another unit.

Noise takes a measurement out of [0, 1], by any distance: it is the averages of
neighbours that stay, and that tell noise from another unit.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

# Averages are taken over so many values, or blocks of so many pixels a side.
_COUNT = 64
_SIDE = 8
# How far the average of neighbours may lie outside of [0, 1]: this, and as many
# standard errors of that average. Some averages may lie farther, a tail of
# outliers or of blotches.
_MARGIN = 0.25
_ERRORS = 5.0
_SHARE = 0.05
# The farthest that one value may lie outside of [0, 1], and in deviations.
_FARTHEST = 8.0
# More noise leaves nothing of an image.
_MOST_SIGMA = 4.0
# What white usually is where it is not 1, and the maxima that tell of it.
_WHITES = {255: (200, 300), 65535: (50_000, 80_000)}
_INTEGERS = {'uint8': '255', 'uint16': '65535'}
_WHITE = 'the value of white, such as 255 for 8 bits'


def check_floats(array: Any, name: str) -> None:
  """Raises a ValueError of one line unless an array has a type of floats.

  Args:
    array: of NumPy or of JAX, also one that JAX traces.
    name: the array's name in the error.
  """
  if np.ma.isMaskedArray(array):
    raise ValueError(
      f'{name} is a masked array: give array.filled(0), and '
      'operators.make_mask(~array.mask) as the operator'
    )
  dtype = array.dtype
  if jnp.issubdtype(dtype, jnp.floating):
    return
  if jnp.issubdtype(dtype, jnp.complexfloating):
    advice = (
      'give real and imaginary parts, as np.stack([y.real, y.imag]), and an '
      'operator that does'
    )
  elif jnp.issubdtype(dtype, jnp.integer):
    advice = f'divide it by {_INTEGERS.get(str(dtype), _WHITE)}'
  else:
    advice = 'make it floats'
  raise ValueError(f'{name} must hold floats in [0, 1], got {dtype}: {advice}')


def check_image(image: np.ndarray, name: str, seen: Any = True) -> None:
  """Raises a ValueError, which names the unit, for an image of another unit.

  NaN is refused too. Noise of any kind whose average is zero may take the
  values out of [0, 1].

  Args:
    image: floats, any shape; neighbours are neighbours along the first
      axis, or along the first two of three.
    name: the array's name in the error.
    seen: booleans that broadcast to the image, which values to look at.
  """
  check_floats(image, name)
  seen = np.broadcast_to(seen, image.shape)
  low = np.min(image, initial=np.inf, where=seen)
  high = np.max(image, initial=-np.inf, where=seen)
  if (low >= 0 and high <= 1) or not seen.any():
    return
  if not (np.isfinite(low) and np.isfinite(high)):
    raise ValueError(f'{name} holds NaN or infinite values')
  advice = _find_advice(np.asarray(image, np.float64), seen, low, high)
  if advice:
    raise ValueError(
      f'{name} is floats of {low:.4g} to {high:.4g}, and those of an image lie '
      f'in [0, 1]: {advice}'
    )


def check_sigma(sigma: Any, *, of_image: bool = True) -> float:
  """Returns a standard deviation of noise as a float, or raises a ValueError.

  Args:
    sigma: a number >= 0; at most 4 for an image, where 1 is from black to
      white.
    of_image: whether the noise is that of an image in [0, 1].
  """
  array = np.asarray(sigma)
  number = array.ndim == 0 and array.dtype.kind in 'fiu'
  if not (number and np.isfinite(array) and array >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma!r}')
  if of_image and array > _MOST_SIGMA:
    raise ValueError(
      f'sigma is in the unit of an image in [0, 1], at most {_MOST_SIGMA:g}, '
      f'got {float(array):g}: divide it by the value of white, such as 255'
    )
  return float(array)


def _find_advice(image, seen, low, high):
  """Returns what makes an image of the array; '' for what is one already."""
  counts, means, deviation = _average(image, seen)
  beyond = np.maximum(-means, means - 1)
  outside = beyond > _MARGIN + _ERRORS * deviation / np.sqrt(counts)
  far = max(-low, high - 1) > _FARTHEST * (1 + deviation)
  if np.mean(outside) <= _SHARE and not far:
    return ''
  if low < 0 and max(-low, high) <= 1 + _MARGIN + _ERRORS * deviation:
    return 'scale it, as (1 + y) / 2 for -1 to 1'
  whites = [w for w, (least, most) in _WHITES.items() if least <= high <= most]
  return f'divide it by {whites[0] if whites else _WHITE}'


def _average(image, seen):
  """Returns how many values each block has, their mean, and the deviation.

  The deviation is that of the values from the mean of their block, one number
  for all blocks.
  """
  if image.ndim == 3:
    sums = lambda values: _sum(_sum(values, _SIDE).swapaxes(0, 1), _SIDE)
  else:
    sums = lambda values: _sum(np.atleast_1d(values), _COUNT)
  image = np.where(seen, image, 0)
  counts = sums(seen.astype(np.float64))
  filled = counts > 0
  counts = counts[filled]
  means = sums(image)[filled] / counts
  squares = sums(np.square(image))[filled] - counts * np.square(means)
  free = max(counts.sum() - len(counts), 1)
  return counts, means, np.sqrt(max(squares.sum(), 0) / free)


def _sum(values, count):
  """Returns the sums of `count` neighbours along the first axis."""
  return np.add.reduceat(values, np.arange(0, len(values), count), axis=0)
