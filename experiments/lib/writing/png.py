"""PNG: Pillow, and imagecodecs for the 16-bit colours that Pillow lacks."""

import struct

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo, iTXt

from experiments.lib.reading.notes import XMP
from experiments.lib.writing.levels import Content
from experiments.lib.writing.pillow import make_image, save

_START = 33  # Where the header ends.
_HEADERS = (b'IHDR', b'IDAT', b'IEND')


def encode_png(content: Content) -> bytes:
  """Returns a PNG with its profile, EXIF, resolution and text."""
  options = _find_options(content)
  values = content.join()
  if content.plan.depth != 'uint16' or values.ndim == 2:
    return save(make_image(values, content.plan.depth), 'PNG', options)
  import imagecodecs

  data = bytes(imagecodecs.png_encode(np.ascontiguousarray(values)))
  # The notes are those of a PNG of one pixel.
  notes = save(Image.new('L', (1, 1)), 'PNG', options)
  chunks = b''.join(
    chunk for chunk in _split(notes) if chunk[4:8] not in _HEADERS
  )
  return data[:_START] + chunks + data[_START:]


def _find_options(content):
  text = PngInfo()
  for name, data in content.notes.colour:
    text.add(name, data)
  for key, value in content.notes.text:
    if isinstance(value, iTXt):
      text.add_itxt(key, value, value.lang or '', value.tkey or '')
    elif key == XMP:
      text.add_itxt(key, value)
    else:
      text.add_text(key, value)
  return {
    'pnginfo': text,
    'icc_profile': content.plan.profile,
    'dpi': content.notes.dpi,
    'exif': content.notes.exif,
  }


def _split(data):
  start = 8
  while start < len(data):
    (size,) = struct.unpack_from('>I', data, start)
    yield data[start : start + size + 12]
    start += size + 12
