"""Impulses: salt and pepper, and hot pixels."""

from typing import NamedTuple

import numpy as np

from dipjax.noise.tiles import MARGIN

_RANGES = 1.3  # An impulse stands out by so many ranges of its neighbours,
_STEP = 0.05  # and by this at least.
_KNOWN = 14  # Neighbours, of 24, that a judgement needs.
_RARE = 0.1  # An impulse that fewer pixels would show counts for no more.
_LEAST = 5e-4  # A smaller share may be chance.


class Impulses(NamedTuple):
  """The impulses of tiles.

  Attributes:
    share: the estimated share of the values, in [0, 1].
    found: [..., 16, 16], where an impulse was seen.
  """

  share: float
  found: np.ndarray


def find_impulses(tiles: np.ndarray, ends: tuple = (0, 1)) -> Impulses:
  """Returns the values that no neighbour comes near, and their share.

  A value is an impulse where it lies beyond its 24 neighbours by more than
  their whole range. Neighbours at an end do not count, since they may be
  impulses themselves. Texture hides impulses: an impulse of some value
  counts for as many as would have been hidden.

  Args:
    tiles: [..., 20, 20].
    ends: the values that salt and pepper have.
  """
  size = tiles.shape[-1] - 2 * MARGIN
  inner = tiles[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
  known = ~np.isin(tiles, ends)
  above, below = np.where(known, tiles, -np.inf), np.where(known, tiles, np.inf)
  highest, lowest = np.full(inner.shape, -np.inf), np.full(inner.shape, np.inf)
  count = np.zeros(inner.shape, np.int8)
  for y in range(2 * MARGIN + 1):
    for x in range(2 * MARGIN + 1):
      if (y, x) == (MARGIN, MARGIN):
        continue
      window = (..., slice(y, y + size), slice(x, x + size))
      np.maximum(highest, above[window], out=highest)
      np.minimum(lowest, below[window], out=lowest)
      count += known[window]
  judged = count >= _KNOWN
  highest, lowest = highest[judged], lowest[judged]
  step = np.maximum(_RANGES * (highest - lowest), _STEP)
  values = inner[judged]
  bright, dark = values > highest + step, values < lowest - step
  found = np.zeros(inner.shape, bool)
  found[judged] = bright | dark
  if not values.size:
    return Impulses(0.0, found)
  seen = _count(values[bright], highest + step)
  seen += _count(-values[dark], step - lowest)
  share = min(seen / values.size, 1.0)
  if share < _LEAST:
    return Impulses(0.0, np.zeros_like(found))
  return Impulses(share, found)


def _count(values, thresholds):
  """Returns how many impulses there are for those that were seen."""
  ranks = np.searchsorted(np.sort(thresholds), values)
  chance = ranks / len(thresholds)
  return float(np.sum(1 / np.maximum(chance, _RARE)))
