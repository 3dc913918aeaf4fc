"""PNG, JPEG, BMP, GIF and WebP, by Pillow, in the modes that it reads right."""

import contextlib
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from experiments.lib.reading.notes import find_notes
from experiments.lib.reading.raw import (
  MAX_PIXELS,
  Notes,
  Raw,
  check_packed,
  check_size,
)

# The modes of each format whose values Pillow gives as they are stored.
_COLOURS = {'1', 'L', 'LA', 'P', 'RGB', 'RGBA'}
_MODES = {
  'PNG': _COLOURS | {'I', 'I;16'},
  'JPEG': {'L', 'RGB', 'CMYK'},
  'BMP': _COLOURS,
  'GIF': _COLOURS,
  'WEBP': {'RGB', 'RGBA'},
}
_ORIENTATION = 0x0112
_MAX_SCANS = 100  # Of a JPEG, as libtiff has it.
_MAX_BYTES = 10 * MAX_PIXELS  # Of a file; no pixel takes so many.
# What takes the low byte of a sample where Pillow takes the high one.
_NATIVE = 'L' if sys.byteorder == 'little' else 'B'
_SWAPPED = {'L': 'B', 'B': 'L', 'N': 'B' if _NATIVE == 'L' else 'L'}


class Loaded(NamedTuple):
  """A decoded, upright image, how it was turned, and its notes."""

  image: Image.Image
  turned: int  # EXIF's orientation, 2 to 8; 0: not turned.
  notes: Notes


def read_pillow(path: str, container: str) -> Raw:
  """Returns the values of a file of one of the formats of `_MODES`."""
  size = os.path.getsize(path)
  if size > _MAX_BYTES:
    raise ValueError(f'has {size} bytes, more than {MAX_PIXELS} pixels take')
  with open_image(path, container) as image:
    check_size(image.height, image.width)
    _check_frames(image)
    if image.mode not in _MODES[container]:
      raise ValueError(f'is a {container} of mode {image.mode}, not supported')
    if container == 'JPEG':
      _check_scans(path)
    profile = image.info.get('icc_profile')
    if image.mode == 'CMYK' and profile:
      raise ValueError('holds inks with a colour profile; convert it to RGB')
    depth, colour = _read_header(path) if container == 'PNG' else (8, 2)
    # A palette becomes RGB.
    bands = 3 if image.mode == 'P' else len(image.getbands())
    samples = image.width * image.height * bands
    check_packed(samples, size)
    if depth == 16 and colour:
      values, alpha, loaded = _read_deep_png(path, colour)
      bits = 16
    else:
      if image.mode == '1':
        depth = 1
      loaded = load(image)
      values, alpha = split(loaded.image, depth if colour == 0 else 8)
      bits = 16 if depth == 16 else depth if image.mode in ('1', 'L') else 8
  return Raw(
    values,
    (1 << bits) - 1,
    f'uint{bits}',
    container,
    turned=loaded.turned,
    profile=profile,
    alpha=alpha,
    notes=loaded.notes,
  )


@contextlib.contextmanager
def open_image(source, container: str) -> Iterator[ImageFile.ImageFile]:
  """Opens a file as one format alone; no other decoder sees a byte of it."""
  try:
    formats = ['JPEG', 'MPO'] if container == 'JPEG' else [container]
    # Pillow maps a file that it knows by name, and turns what it mapped
    # wrongly (TIFF, orientations 5 to 8): it gets the open file.
    with (
      open(source, 'rb') if isinstance(source, str) else source as file,
      Image.open(file, formats=formats) as image,
    ):
      yield image
  except UnidentifiedImageError:
    raise ValueError('is not a known image; give a PNG, JPEG or TIFF') from None
  except Image.DecompressionBombError:
    raise ValueError(
      f'more than {MAX_PIXELS} pixels; reduce or cut it first'
    ) from None


def load(image: Image.Image) -> Loaded:
  """Decodes an image and turns it upright."""
  turned = image.getexif().get(_ORIENTATION, 0)
  turned = turned if turned in range(2, 9) else 0
  image.load()
  # What Pillow loads of a TIFF is upright; a second turn would undo it.
  if image.format == 'TIFF':
    return Loaded(image, turned, Notes())
  notes = find_notes(image, turned or 1)  # A turn rewrites them.
  ImageOps.exif_transpose(image, in_place=True)
  return Loaded(image, turned, notes)


def load_deep(opener: Callable) -> tuple[np.ndarray, Loaded]:
  """Returns 16-bit colour, of which Pillow gives one byte at a time.

  Pillow reduces 16-bit colour to the high byte of each sample. Read in the
  other byte order, the high byte is the low one: two readings give all bits.

  Args:
    opener: opens the image, at the page to read.
  """
  with opener() as image:
    high = load(image)
    values = np.asarray(high.image).astype(np.uint16) << 8
  with opener() as image:
    image.tile = [change_mode(tile, _swap_bytes) for tile in image.tile]
    values |= np.asarray(load(image).image)
  return values, high


def split(
  image: Image.Image, bits: int = 8
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the values and the alpha, as they are stored; None: no alpha.

  Args:
    image: decoded, of a mode of `_MODES`.
    bits: of one grey sample, which Pillow stretches to eight.
  """
  if image.mode in ('1', 'L', 'I', 'I;16', 'I;16B'):
    values = np.asarray(image)
    if image.mode == '1':
      values = values.astype(np.uint8)
    elif bits < 8:
      values = values // (255 // ((1 << bits) - 1))
    key = image.info.get('transparency')
    if key is not None and image.mode == '1':
      key = int(key > 0)
    return values, None if key is None else (values != key) * _find_top(bits)
  if not image.has_transparency_data:
    return np.asarray(image.convert('RGB')), None
  grey = image.mode == 'LA'
  pixels = np.asarray(image if grey else image.convert('RGBA'))
  colours = pixels[..., 0] if grey else pixels[..., :3]
  return colours, pixels[..., -1]


def change_mode(tile, change: Callable[[str], str]):
  """Returns a tile whose samples Pillow takes for those of another mode."""
  args = tile.args
  if isinstance(args, str):
    return tile._replace(args=change(args))
  return tile._replace(args=(change(args[0]), *args[1:]))


def _find_top(bits):
  return np.array((1 << bits) - 1, np.uint8 if bits <= 8 else np.uint16)


def _check_frames(image):
  # The later pictures in a phone's JPEG are previews and gain maps of the
  # photograph, not photographs.
  if getattr(image, 'is_animated', False) and image.format != 'MPO':
    raise ValueError(
      'holds several frames; save the one to restore as a file of its own'
    )


def _check_scans(path):
  """Refuses a JPEG that goes over its pixels again and again, for hours."""
  scans = 0
  with open(path, 'rb') as file:
    while block := file.read(1 << 20):
      scans += block.count(b'\xff\xda')
  if scans > _MAX_SCANS:
    raise ValueError(f'is a JPEG of {scans} scans, more than {_MAX_SCANS}')


def _read_header(path):
  """Returns the bits and the colour type of a PNG."""
  with open(path, 'rb') as file:
    header = file.read(26)
  return header[24], header[25]


def _read_deep_png(path, colour):
  opener = lambda: open_image(path, 'PNG')
  if colour == 4:
    opener = lambda: open_image(_widen_grey(path), 'PNG')
    with opener() as image:
      loaded = load(image)
      pixels = np.asarray(loaded.image).astype(np.uint16)
    values = pixels[..., ::2] << 8 | pixels[..., 1::2]
    return values[..., 0], values[..., 1], loaded
  values, loaded = load_deep(opener)
  if colour == 6:
    return values[..., :3], values[..., 3], loaded
  key = loaded.image.info.get('transparency')
  if key is None:
    return values, None, loaded
  return values, (values != np.array(key)).any(2) * _find_top(16), loaded


def _widen_grey(path):
  """Returns 16-bit grey with alpha as the RGBA of 8 bits that its bytes are."""
  with open(path, 'rb') as file:
    data = bytearray(file.read())
  data[24:26] = 8, 6
  data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
  return io.BytesIO(data)


def _swap_bytes(mode):
  if mode[-4:-1] != ';16':
    raise ValueError(f'has samples of the layout {mode}, not supported')
  return mode[:-1] + _SWAPPED[mode[-1]]
