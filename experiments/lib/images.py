"""Reads and writes image files; no other module knows their formats.

An image is float32 [H, W, C] with values in [0, 1]; C is 1 (grey) or 3 (RGB).
"""

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from experiments.lib import folders, reading

MAX_PIXELS = reading.MAX_PIXELS
SAMPLES = reading.SAMPLES


def read_image(source: str) -> np.ndarray:
  """Returns the pixels of `read_picture`: float32 [H, W, C], C 1 or 3."""
  return read_picture(source).pixels


def read_picture(
  source: str,
  *,
  white: float | None = None,
  page: int | None = None,
  masked: bool = False,
) -> reading.Picture:
  """Returns a file or a sample as `reading.read` does, grey or colour.

  The function fills in nothing and guesses nothing. Colour profiles are
  ignored. A phone's multi-picture JPEG gives its first picture.

  Args:
    source: a file, or one of SAMPLES where no file has that name.
    white: the stored value that becomes 1; None: the type's largest.
    page: of a TIFF or a FITS file, from 0; None: the only one.
    masked: whether some pixels may be transparent, blank or not finite.

  Raises:
    ValueError: the message says in one line what is wrong with the source.
  """
  picture = reading.read(source, white=white, page=page)
  if picture.mask is not None and not masked:
    lost = picture.mask.size - np.count_nonzero(picture.mask)
    advice = (
      'fill them in first'
      if 'nan' in picture.missing
      else 'flatten it onto a background first'
    )
    raise ValueError(
      f'{source!r}: has {lost} pixels that are {picture.missing}; {advice}'
    )
  channels = picture.pixels.shape[2]
  if channels not in (1, 3):
    raise ValueError(f'{source!r}: has {channels} channels; give 1 or 3')
  return picture


def crop_picture(
  picture: reading.Picture, box: Sequence[int]
) -> reading.Picture:
  """Returns the box of a picture, see `crop_image`."""
  return picture.crop(*_find_box(box, *picture.pixels.shape[:2]))


def crop_image(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
  """Returns the box of the image; an empty box gives the whole image.

  Args:
    image: [H, W, ...].
    box: (top, left, height, width) in pixels, inside the image; (height, width)
      of the image's middle, or what there is of it; or ().

  Raises:
    ValueError: the box is not two or four integers, or reaches outside the
      image.
  """
  top, left, height, width = _find_box(box, *image.shape[:2])
  return image[top : top + height, left : left + width]


def fill(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
  """Returns the image with each masked pixel replaced by one near to it.

  A pixel takes the nearest valid pixel of its row; a row without any takes the
  nearest row.

  Args:
    image: [H, W, C].
    mask: [H, W], True = valid, somewhere at least; None: all are.
  """
  if mask is None:
    return image
  columns = _find_nearest(mask)
  rows = _find_nearest(np.atleast_2d(mask.any(axis=1)))[0]
  filled = np.take_along_axis(image, columns[..., None], axis=1)
  return filled[rows]


def _find_nearest(valid):
  """Returns the index of the nearest valid entry of each row, [rows, n]."""
  index = np.arange(valid.shape[1])
  before = np.maximum.accumulate(np.where(valid, index, -valid.shape[1]), 1)
  after = np.where(valid, index, 2 * valid.shape[1])[:, ::-1]
  after = np.minimum.accumulate(after, 1)[:, ::-1]
  nearest = np.where(index - before <= after - index, before, after)
  return np.clip(nearest, 0, valid.shape[1] - 1)


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes an 8-bit PNG, the whole file or nothing.

  Args:
    path: the file to write or replace; its folder must exist.
    image: float [H, W, C], C 1 or 3; values outside [0, 1] are clipped, values
      between two levels are rounded to the nearest.

  Raises:
    ValueError: another shape, or a value that is not finite.
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
    raise ValueError(
      f'{os.fspath(path)!r} needs an image [H, W, 1 or 3], got {image.shape}'
    )
  broken = image.size - np.count_nonzero(np.isfinite(image))
  if broken:
    raise ValueError(
      f'{os.fspath(path)!r} needs finite values; {broken} of {image.size} '
      'are not: look for a fit that diverged'
    )
  levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
  data = io.BytesIO()
  # Pillow takes a grey image as [H, W].
  grey = levels.shape[2] == 1
  Image.fromarray(levels[..., 0] if grey else levels).save(data, 'PNG')
  folders.write_atomic(path, data.getvalue())


def _find_box(box, height, width):
  """Returns (top, left, height, width) of a box inside an image."""
  if isinstance(box, tuple | list) and not box:
    return 0, 0, height, width
  if isinstance(box, tuple | list) and len(box) == 2:
    h, w = min(box[0], height), min(box[1], width)
    box = ((height - h) // 2, (width - w) // 2, h, w)
  if not _is_inside(box, height, width):
    raise ValueError(
      f'crop {box!r} does not fit an image {height} high and {width} wide; '
      'give (top, left, height, width)'
    )
  return box


def _is_inside(box: Sequence[int], height: int, width: int) -> bool:
  if not isinstance(box, tuple | list) or len(box) != 4:
    return False
  if any(
    isinstance(n, bool) or not isinstance(n, int | np.integer) for n in box
  ):
    return False
  y, x, h, w = box
  inside = y >= 0 and x >= 0 and y + h <= height and x + w <= width
  return inside and h > 0 and w > 0
