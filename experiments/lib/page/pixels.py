"""Pictures as they stand in a page: small enough, and as text."""

import base64
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.lib import frames

SIDE = 1024  # Pixels of the longest side of a picture in the page.
_LOSSLESS = 2**17  # Bytes up to which a picture is a PNG.
_CROPS = 3
_WINDOW = (24, 96)  # Pixels of the side of a crop, at least and at most.


class Place(NamedTuple):
  """A square of a picture, and why it is looked at."""

  title: str
  top: int
  left: int
  side: int

  def crop(self, image: np.ndarray) -> np.ndarray:
    """Returns the square of an image [H, W, C]."""
    rows = slice(self.top, self.top + self.side)
    return image[rows, self.left : self.left + self.side]


def make_uri(image: np.ndarray) -> str:
  """Returns a picture, at most SIDE pixels a side, as a data URI.

  A picture that packs well is a PNG, so each pixel is as it is; another one is
  a JPEG.

  Args:
    image: float [H, W, 1 or 3].
  """
  picture, data = frames.shrink(image, SIDE), io.BytesIO()
  # What is much too large as it is need not be packed to know that.
  if picture.width * picture.height <= 2 * _LOSSLESS:
    picture.save(data, 'PNG')
  if not 0 < data.tell() <= _LOSSLESS:
    data = io.BytesIO()
    picture.save(data, 'JPEG', quality=90, subsampling=0)
    return make_jpeg_uri(data.getvalue())
  return _encode('png', data.getvalue())


def make_jpeg_uri(data: bytes) -> str:
  """Returns the bytes of a JPEG as a data URI."""
  return _encode('jpeg', data)


def _encode(kind: str, data: bytes) -> str:
  return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def find_places(
  detailed: np.ndarray, maps: Mapping[str, np.ndarray]
) -> list[Place]:
  """Returns squares worth looking at closely, none of a picture that is small.

  The squares do not overlap: where a map is largest, where there is most
  detail, and where there is least.

  Args:
    detailed: the restored picture, [H, W, C].
    maps: title -> [H, W, C], for instance how large an error is.
  """
  height, width = detailed.shape[:2]
  low, high = _WINDOW
  side = int(np.clip(min(height, width) // 4, low, high))
  if min(height, width) < 2 * low:
    return []
  grey = np.nan_to_num(detailed).mean(axis=2)
  down = np.abs(np.diff(grey, axis=0, append=grey[-1:]))
  detail = down + np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
  scores = {
    title: _average_squares(np.nan_to_num(shown).mean(axis=2), side)
    for title, shown in maps.items()
  }
  squares = _average_squares(detail, side)
  scores |= {'most detail': squares, 'smoothest': -squares}
  places: list[Place] = []
  for title, score in list(scores.items())[:_CROPS]:
    taken = np.zeros(score.shape, bool)
    for place in places:
      row, column = place.top // (side // 2), place.left // (side // 2)
      taken[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    if taken.all():
      break
    best = int(np.argmax(np.where(taken, -np.inf, score)))
    row, column = np.unravel_index(best, score.shape)
    top, left = int(row) * (side // 2), int(column) * (side // 2)
    places.append(Place(title, top, left, side))
  return places


def _average_squares(values: np.ndarray, side: int) -> np.ndarray:
  """Returns the mean of each square, half a side from the next one."""
  half = side // 2
  rows, columns = (n // half for n in values.shape)
  cells = values[: rows * half, : columns * half]
  cells = cells.reshape(rows, half, columns, half).mean(axis=(1, 3))
  return (cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]) / 4
