"""The contact sheet: small pictures before and after, side by side."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MOST = 24  # Pictures of a sheet.
_SIDE = 160  # Pixels of a small picture.
_COLUMNS = 3
_GAP, _LINE = 8, 18


class Cell(NamedTuple):
  """One picture of a sheet."""

  caption: str
  before: np.ndarray  # [H, W, C] in [0, 1]
  after: np.ndarray


def choose_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the rows for a sheet: the worst first, or the first ones.

  The worst have the lowest PSNR; without a clean picture nobody knows it.
  """
  rows = list(rows)
  scored = [row for row in rows if row.get('psnr') is not None]
  return sorted(scored, key=lambda row: row['psnr'])[:MOST] or rows[:MOST]


def draw_sheet(cells: Iterable[Cell]) -> np.ndarray | None:
  """Returns the sheet, [H, W, 3] in [0, 1], on white; None without a cell.

  Args:
    cells: may be a generator; of each only the small pictures are kept.
  """
  drawn = [_draw(cell) for cell in cells]
  if not drawn:
    return None
  height, width, _ = drawn[0].shape
  columns = min(_COLUMNS, len(drawn))
  rows = -(-len(drawn) // columns)
  sheet = np.ones((rows * (height + _GAP), columns * (width + _GAP), 3))
  for place, cell in enumerate(drawn):
    row, column = divmod(place, columns)
    top, left = row * (height + _GAP), column * (width + _GAP)
    sheet[top : top + height, left : left + width] = cell
  return sheet


def _draw(cell):
  """Returns one cell of the sheet; all are of one size."""
  canvas = Image.new('RGB', (2 * _SIDE + _GAP, _SIDE + _LINE), 'white')
  for left, picture in ((0, cell.before), (_SIDE + _GAP, cell.after)):
    small = _shrink(picture)
    middle = (_SIDE - small.width) // 2, (_SIDE - small.height) // 2
    canvas.paste(small, (left + middle[0], middle[1]))
  font = ImageFont.load_default(12)
  draw, text = ImageDraw.Draw(canvas), cell.caption
  # The font has no other letters.
  text = ''.join(c if c.isascii() and c.isprintable() else '?' for c in text)
  while len(text) > 4 and draw.textlength(text, font) > canvas.width:
    text = '...' + text[4:]
  draw.text((0, _SIDE + 2), text, fill='black', font=font)
  return np.asarray(canvas, np.float32) / 255


def _shrink(picture):
  levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
  levels = np.broadcast_to(levels, (*levels.shape[:2], 3))
  image = Image.fromarray(np.ascontiguousarray(levels))
  scale = _SIDE / max(image.size)
  size = [max(1, round(scale * side)) for side in image.size]
  way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
  return image.resize((size[0], size[1]), way)
