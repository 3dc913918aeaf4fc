"""Small pictures of a fit while it goes on: a bounded number, evenly spaced."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, features

from experiments.lib import folders

SIDE = 320  # Pixels of the longest side of a picture.

_QUALITY = 85
_SHOWN, _HELD = 80, 1500  # Milliseconds of a picture, and of the last one.


class Frames:
  """Pictures of a fit in memory, each a JPEG; a checkpoint keeps them.

  A fit that goes on ends with the pictures of one that nothing stopped.

  Attributes:
    kept: (steps, bytes of a JPEG) of each picture, in the order of the steps.
  """

  def __init__(self, most: int):
    """Holds nothing yet.

    Args:
      most: how many pictures to keep; above it every second one goes.
    """
    self._most = most
    self.kept: list[tuple[int, bytes]] = []

  def is_due(self, steps: int) -> bool:
    """Returns whether a picture after so many steps would be kept."""
    if len(self.kept) < 2:
      return self._most > 0
    first, second, last = (self.kept[i][0] for i in (0, 1, -1))
    return steps - last >= second - first

  def add(self, steps: int, image: np.ndarray) -> None:
    """Keeps a picture of the fit, float [H, W, 1 or 3]."""
    data = io.BytesIO()
    shrink(image, SIDE).save(data, 'JPEG', quality=_QUALITY)
    self.kept.append((steps, data.getvalue()))
    if len(self.kept) > self._most:
      self.kept = self.kept[::2]

  def save(self) -> list[list[Any]]:
    """Returns what `load` reads, as JSON can hold it."""
    return [[step, base64.b64encode(x).decode()] for step, x in self.kept]

  def load(self, saved: Sequence[Sequence[Any]]) -> None:
    """Goes back to the pictures that were saved."""
    self.kept = [(int(step), base64.b64decode(x)) for step, x in saved]

  def animate(self, path: str, last: np.ndarray) -> bool:
    """Writes the pictures one after the other, as an animated WebP.

    Args:
      path: the file to write or replace.
      last: what the animation ends with, float [H, W, 1 or 3].

    Returns:
      Whether there is an animation: of fewer than two pictures, and where
      Pillow has no WebP, there is none.
    """
    if len(self.kept) < 2 or not features.check('webp'):
      return False
    shown = [
      Image.open(io.BytesIO(jpeg), formats=['JPEG']).convert('RGB')
      for _, jpeg in self.kept
    ]
    shown.append(shrink(last, SIDE).convert('RGB').resize(shown[0].size))
    data = io.BytesIO()
    shown[0].save(
      data,
      'WEBP',
      save_all=True,
      append_images=shown[1:],
      duration=[_SHOWN] * (len(shown) - 1) + [_HELD],
      loop=0,
      quality=_QUALITY,
      method=0,
    )
    folders.write_atomic(path, data.getvalue())
    return True


def shrink(image: np.ndarray, side: int) -> Image.Image:
  """Returns a picture of 8 bits whose longest side is at most `side`.

  Args:
    image: float [H, W, 1 or 3]; values outside [0, 1] are clipped, and NaN
      is black.
    side: in pixels.
  """
  # Every second pixel, say, of what is far too large: filtering all of it takes
  # a second for a large photograph.
  stride = max(1, max(image.shape[:2]) // (2 * side))
  levels = _round(image[::stride, ::stride])
  picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
  longest = max(picture.size)
  if longest <= side:
    return picture
  width, height = (max(1, round(n * side / longest)) for n in picture.size)
  return picture.resize((width, height), Image.Resampling.LANCZOS)


def _round(image: np.ndarray) -> np.ndarray:
  """Returns the nearest levels of 8 bits, in parts that fit into a cache."""
  levels = np.empty(image.shape, np.uint8)
  rows = max(1, 2**19 // max(image[0].size, 1))
  for top in range(0, len(image), rows):
    part = np.nan_to_num(255 * np.asarray(image[top : top + rows]))
    levels[top : top + rows] = np.rint(np.clip(part, 0, 255))
  return levels
