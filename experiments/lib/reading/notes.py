"""What a file says of itself: EXIF, resolution, text. Pixels are not here."""

import re
import struct

from PIL import Image

from experiments.lib.reading.entries import Entry, pack_entries, read_entries
from experiments.lib.reading.raw import Notes
from experiments.lib.reading.tags import Page

# The key under which PNG keeps XMP; other files have a place of their own.
XMP = 'XML:com.adobe.xmp'
# The tags that describe a picture, and say nothing of how it is stored: maker,
# model, software, dates, artist, host, copyright, and those of camera and GPS.
DESCRIPTIVE = (271, 272, 305, 306, 315, 316, 33432, 34665, 34853)
_DESCRIPTION, _XMP, _UNIT = 270, 700, 296
_ACROSS, _DOWN = 282, 283
_PER_INCH = {2: 1, 3: 2.54}
_MAX_DPI = 65535
# How ImageMagick writes EXIF into the text of a PNG.
_RAW_EXIF = ('Raw profile type exif', 'Raw profile type APP1')


def find_notes(image: Image.Image, orientation: int) -> Notes:
  """Returns the notes of a loaded PNG, JPEG, BMP, GIF or WebP."""
  info = image.info
  text = dict(getattr(image, 'text', {}))
  exif = info.get('exif')
  for key in _RAW_EXIF:
    found = _decode_raw(text.get(key, ''))
    if found:
      text.pop(key)
      exif = exif or found
  if isinstance(info.get('comment'), bytes):
    text['Comment'] = info['comment'].decode('latin-1')
  text |= _decode_xmp(info.get('xmp'))
  exif = re.sub(rb'^(Exif\0\0)+', b'', exif) if exif else None
  dpi = _check_dpi(info.get('dpi'), orientation)
  return Notes(exif or None, dpi, tuple(text.items()), _find_colour(info))


def read_tags(path: str, page: Page) -> Notes:
  """Returns the notes of one page of a TIFF; none where they are damaged."""
  order = '>' if page.big_endian else '<'
  try:
    with open(path, 'rb') as file:
      found = read_entries(file, page.offset, order, page.big)
  except ValueError:
    return Notes()
  kept = {tag: found[tag] for tag in DESCRIPTIVE if tag in found}
  exif = b'II*\0\x08\0\0\0' + pack_entries(kept, 8) if kept else None
  text = {}
  if _DESCRIPTION in found:
    text['Description'] = (
      found[_DESCRIPTION].data.rstrip(b'\0').decode('latin-1')
    )
  if _XMP in found:
    text |= _decode_xmp(found[_XMP].data)
  dpi = _find_dpi(found, page.orientation)
  return Notes(exif, dpi, tuple(text.items()))


def _find_colour(info):
  """Returns what a PNG says of its colours without a profile."""
  chunks = []
  if 'gamma' in info:
    chunks.append((b'gAMA', struct.pack('>I', round(info['gamma'] * 1e5))))
  points = [round(point * 1e5) for point in info.get('chromaticity', ())]
  if len(points) == 8:
    chunks.append((b'cHRM', struct.pack('>8I', *points)))
  if 'srgb' in info:
    chunks.append((b'sRGB', bytes([info['srgb']])))
  return tuple(chunks)


def _decode_raw(text):
  """Returns the EXIF of three lines of heading and then hexadecimal ones."""
  try:
    data = bytes.fromhex(''.join(text.split('\n')[3:]))
  except ValueError:
    return None
  return data if data.startswith(b'Exif\0\0') else None


def _decode_xmp(data):
  try:
    return {XMP: data.decode()} if data else {}
  except UnicodeDecodeError:
    return {}


def _find_dpi(found, orientation):
  unit = found.get(_UNIT, Entry(3, b'\2\0')).data
  inches = _PER_INCH.get(int.from_bytes(unit, 'little'))
  sides = [found.get(tag, Entry(5, b'')).data for tag in (_ACROSS, _DOWN)]
  if inches is None or any(len(side) != 8 for side in sides):
    return None
  pairs = [struct.unpack('<II', side) for side in sides]
  dpi = [n / d * inches if d else 0 for n, d in pairs]
  return _check_dpi(dpi, orientation)


def _check_dpi(dpi, orientation):
  """Returns the two of the upright picture, None if no file can hold them."""
  try:
    across, down = map(float, dpi)
  except (TypeError, ValueError, ZeroDivisionError):
    return None
  if not (0 < across <= _MAX_DPI and 0 < down <= _MAX_DPI):
    return None
  # The last four orientations lay the picture on its side.
  return (down, across) if orientation in range(5, 9) else (across, down)
