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
  """Returns the whole, upright image of a file or of a sample, or refuses it.

  The function fills in nothing and guesses nothing: see `reading.read`, which
  has masks, channels and what a file says of itself. Transparent and not
  finite pixels are errors here. Colour profiles are ignored. A phone's
  multi-picture JPEG gives its first picture.

  Args:
    source: a file, or one of SAMPLES where no file has that name.

  Returns:
    float32 [H, W, C], values in [0, 1]; C is 3 for colour and palette images
    and 1 for grey ones.

  Raises:
    ValueError: the message says in one line what is wrong with the source.
  """
  picture = reading.read(source)
  if picture.mask is not None:
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
  return picture.pixels


def crop_image(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
  """Returns the box of the image; an empty box gives the whole image.

  Args:
    image: [H, W, C].
    box: (top, left, height, width) in pixels, inside the image; or ().

  Raises:
    ValueError: the box is not four integers or reaches outside the image.
  """
  if isinstance(box, tuple | list) and not box:
    return image
  if not _is_inside(box, *image.shape[:2]):
    raise ValueError(
      f'crop {box!r} does not fit an image {image.shape[0]} high and '
      f'{image.shape[1]} wide; give (top, left, height, width)'
    )
  top, left, height, width = box
  return image[top : top + height, left : left + width]


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
