"""Tiles of one size that cover a picture, and the weights that blend them.

Along each axis tiles lie at even distances, the first at the picture's begin
and the last at its end. Neighbours overlap, and where they do, the weight goes
over from one to the other, so that no seam shows.
"""

import numpy as np


def find_side(length: int, most: int, overlap: int, multiple: int) -> int:
  """Returns the side of the tiles that cover an axis.

  There are as few tiles as `most` allows, and each is no larger than they need.

  Args:
    length: of the picture along the axis.
    most: the longest side of a tile.
    overlap: the least number of pixels that two neighbours share, below `most`.
    multiple: of the side, where that is neither above `most` nor `length`.
  """
  count = _count(length, most, overlap)
  side = -(-(length + (count - 1) * overlap) // count)
  return min(length, most, multiple * -(-side // multiple))


def _count(length, side, overlap):
  if length <= side:
    return 1
  return 1 - -(length - side) // (side - overlap)


def place(length: int, side: int, overlap: int, step: int = 1) -> list[int]:
  """Returns where the tiles begin along an axis.

  Args:
    length: of the picture along the axis, a multiple of `step`.
    side: of a tile, a multiple of `step`.
    overlap: the least number of pixels that two neighbours share.
    step: all tiles begin at multiples of it.
  """
  length, side, overlap = length // step, side // step, -(-overlap // step)
  places = np.linspace(0, length - side, _count(length, side, overlap))
  return (step * places.round().astype(int)).tolist()


def weigh(
  length: int, side: int, places: list[int], ramp: int, margin: int = 0
) -> np.ndarray:
  """Returns each tile's weights along an axis, float32 [tiles, side].

  The weights of all tiles at a pixel add up to 1. They fall to 0 at the ends of
  a tile where it has a neighbour.

  Args:
    length: of the picture along the axis.
    side: of a tile.
    places: where the tiles begin, see `place`.
    ramp: pixels over which a weight falls.
    margin: pixels at such an end whose weight is 0.
  """
  inside = np.arange(side) + 0.5 - margin
  rising, falling = inside / ramp, inside[::-1] / ramp
  weights = np.ones((len(places), side))
  # The picture's own ends have no neighbour to go over to.
  weights[1:] = np.minimum(weights[1:], np.maximum(rising, 0))
  weights[:-1] = np.minimum(weights[:-1], np.maximum(falling, 0))
  total = np.zeros(length)
  for begin, weight in zip(places, weights):
    total[begin : begin + side] += weight
  for begin, weight in zip(places, weights):
    weight /= total[begin : begin + side]
  return weights.astype(np.float32)
