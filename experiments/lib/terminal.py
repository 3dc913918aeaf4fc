"""A picture in the terminal, two pixels to a character."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np
from PIL import Image

_MOST = 40  # Characters a picture is wide at most, and half of them high.
_HALF = '\N{UPPER HALF BLOCK}'


def show(pictures: Sequence[np.ndarray], out: TextIO | None = None) -> bool:
  """Prints pictures side by side, and returns whether they can be shown.

  A terminal has to say by COLORTERM that it has 24-bit colours; NO_COLOR and
  anything but a terminal get nothing.

  Args:
    pictures: of one size, [H, W, C] with C of 1 or 3, clipped to [0, 1].
    out: where to print; None is the standard output.
  """
  stream: Any = out or sys.stdout
  has_colours = os.environ.get('COLORTERM') in ('truecolor', '24bit')
  if os.environ.get('NO_COLOR') or not has_colours or not stream.isatty():
    return False
  if (stream.encoding or '').lower().replace('-', '') != 'utf8':
    return False
  columns = shutil.get_terminal_size().columns
  width = min(_MOST, (columns + 1) // len(pictures) - 1)
  if width < 1:
    return False
  parts = [draw(picture, width) for picture in pictures]
  print(
    '\n'.join(' '.join(row) for row in zip(*parts)), file=stream, flush=True
  )
  return True


def draw(picture: np.ndarray, width: int) -> list[str]:
  """Returns the lines of a picture, each of at most `width` characters.

  The picture is reduced to fit into a square of that side. It is not enlarged,
  but for a row that makes their number even.

  Args:
    picture: [H, W, C], see `show`.
    width: characters.
  """
  height, across, _ = picture.shape
  levels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
  levels = np.broadcast_to(levels, (height, across, 3))
  factor = min(1, width / max(height, across))
  # A character is two pixels high.
  size = max(1, round(factor * across)), 2 * max(1, round(factor * height / 2))
  small = Image.fromarray(levels).resize(size, Image.Resampling.BOX)
  rows = np.asarray(small)
  return [
    ''.join(map(_paint, upper, lower)) + '\x1b[0m'
    for upper, lower in zip(rows[::2], rows[1::2], strict=True)
  ]


def _paint(upper, lower):
  colour = lambda pixel: ';'.join(str(int(value)) for value in pixel)
  return f'\x1b[38;2;{colour(upper)}m\x1b[48;2;{colour(lower)}m{_HALF}'
