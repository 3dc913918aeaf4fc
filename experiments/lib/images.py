"""Reads and writes image files; no other module knows their formats.

An image is float32 [H, W, C] with values in [0, 1]; C is 1 (grey) or 3 (RGB).
"""

import io
import os
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.lib import folders

MAX_PIXELS = 100_000_000

# Photographs inside scikit-image's own package, which need no download.
SAMPLES = (
  'astronaut',
  'brick',
  'camera',
  'chelsea',
  'coffee',
  'coins',
  'grass',
  'gravel',
  'hubble_deep_field',
  'moon',
  'rocket',
)

_TOO_LARGE = f'more than {MAX_PIXELS} pixels; reduce or cut it first'
_TRANSPARENT = 'has transparent pixels; flatten it onto a background first'


def read_image(source: str) -> np.ndarray:
  """Returns the whole, upright image of a file or of a sample, or refuses it.

  The function fills in nothing and guesses nothing: a damaged file, real
  transparency, several frames and more than MAX_PIXELS pixels are errors.
  16-bit grey keeps its depth; the decoder reduces 16-bit colour to 8 bits.
  Colour profiles are ignored. A phone's multi-picture JPEG gives its first
  picture.

  Args:
    source: a file, or one of SAMPLES where no file has that name.

  Returns:
    float32 [H, W, C], values in [0, 1]; C is 3 for colour and palette images
    and 1 for grey ones.

  Raises:
    ValueError: the message says in one line what is wrong with the source.
  """
  path = os.path.expanduser(source)
  if os.path.isfile(path):
    return _read_file(path)
  if source in SAMPLES:
    return _read_sample(source)
  if os.path.isdir(path):
    raise ValueError(f'{path!r} is a folder; name one image in it')
  raise ValueError(
    f'{path!r} is neither a file nor one of the samples {", ".join(SAMPLES)}'
  )


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


def _read_file(path: str) -> np.ndarray:
  try:
    # Pillow warns of files that the checks below accept or refuse by
    # themselves.
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      with Image.open(path) as image:
        _check_header(image)
        ImageOps.exif_transpose(image, in_place=True)
        return _read_pixels(image)
  except UnidentifiedImageError:
    what = 'is empty' if not os.path.getsize(path) else 'is not a known image'
    raise ValueError(f'{path!r} {what}; give a PNG, JPEG or TIFF') from None
  except Image.DecompressionBombError:
    raise ValueError(f'{path!r}: {_TOO_LARGE}') from None
  # Decoders raise nearly anything on damaged data.
  except Exception as error:
    raise ValueError(f'{path!r}: {error or type(error).__name__}') from error


def _check_header(image: Image.Image) -> None:
  """Refuses, before decoding, an image with too many pixels or frames."""
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise ValueError(f'{width} x {height} is {_TOO_LARGE}')
  frames = getattr(image, 'n_frames', 1)
  # The later pictures in a phone's JPEG are previews and gain maps of the
  # photograph, not photographs.
  if frames != 1 and image.format != 'MPO':
    raise ValueError(
      f'holds {frames} frames; save the one to restore as a file of its own'
    )


def _read_pixels(image: Image.Image) -> np.ndarray:
  if image.mode == 'F':
    return _check_unit(np.asarray(image, np.float32))[..., None]
  if image.mode.startswith('I'):
    return _read_deep(image)
  if image.has_transparency_data:
    image = _drop_alpha(image)
  return _scale(image.convert('L' if image.mode in ('1', 'L') else 'RGB'), 255)


def _read_deep(image: Image.Image) -> np.ndarray:
  """Reads 16-bit grey; for other integers no value is known to be white."""
  if image.mode == 'I' and image.format not in ('PNG', 'PPM'):
    raise ValueError('holds 32-bit or signed integers; save 8 or 16 bits')
  pixels = np.asarray(image)
  if (pixels == image.info.get('transparency', -1)).any():
    raise ValueError(_TRANSPARENT)
  return _scale(pixels, 65535)


def _drop_alpha(image: Image.Image) -> Image.Image:
  opaque = image.convert('RGBA')
  if opaque.getchannel('A').getextrema() != (255, 255):
    raise ValueError(_TRANSPARENT)
  return opaque.convert('L' if image.mode in ('1', 'L', 'LA') else 'RGB')


def _check_unit(pixels: np.ndarray) -> np.ndarray:
  low, high = pixels.min(), pixels.max()
  # Written with "not", because NaN fails every comparison.
  if not (low >= 0 and high <= 1):
    raise ValueError(
      f'holds floats from {low} to {high}; scale them to [0, 1] first'
    )
  return pixels


def _scale(pixels: Image.Image | np.ndarray, white: int) -> np.ndarray:
  image = np.asarray(pixels).astype(np.float32) / np.float32(white)
  return image[..., None] if image.ndim == 2 else image


def _read_sample(name: str) -> np.ndarray:
  try:
    from skimage import data

    pixels = getattr(data, name)()
  except ImportError:
    raise ValueError(
      f"the sample {name!r} needs scikit-image: pip install 'dipjax[samples]', "
      'or give a file with --config.data.image=FILE'
    ) from None
  return _scale(pixels, 255)


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
