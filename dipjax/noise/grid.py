"""The grid of blocks that JPEG leaves."""

import numpy as np

from dipjax.noise import tiles

_SURE = 5.0  # Standard errors that the step between blocks must have.
_FEWEST = 6  # Blocks along a side.
_COLUMNS = 1024  # That are looked at.


def has_grid(image: np.ndarray) -> bool:
  """Returns whether a picture was compressed in blocks of 8x8 pixels.

  Between two pixels of different blocks the steps are larger than the steps
  before and after; the position of the grid does not matter.

  Args:
    image: [H, W, C].
  """
  return any(_stands_out(each) for each in (image, image.swapaxes(0, 1)))


def _stands_out(image):
  # One channel and some of the columns tell enough.
  few = image[:, :: max(1, image.shape[1] // _COLUMNS), 0]
  steps = np.abs(np.diff(few, axis=0))
  excess = np.mean(steps[1:-1] - (steps[:-2] + steps[2:]) / 2, 1)
  count = len(excess) // tiles.SIDE
  if count < _FEWEST:
    return False
  phases = excess[: count * tiles.SIDE].reshape(count, tiles.SIDE)
  # Medians: a few edges of the picture do not count.
  level = np.median(phases, 0)
  best = int(np.argmax(level))
  # The steps beside the grid lack what the grid has, and say nothing.
  others = np.roll(phases, -best, 1)[:, 2:-1]
  usual = np.median(others)
  spread = np.median(np.abs(others - usual)) / 0.6745
  # The error of a median is a quarter above that of a mean.
  error = 1.2533 * spread / np.sqrt(count)
  return bool(level[best] - usual > _SURE * error)
