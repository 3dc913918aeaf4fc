"""The notes of an upright file: EXIF and XMP say so; no old thumbnail."""

import re
import struct

from experiments.lib.reading import Notes
from experiments.lib.reading.entries import read_head

_ORIENTATION, _SHORT, _LONG = 274, 3, 4
# The table of the camera, which has the size of the picture.
_CAMERA, _WIDTH, _HEIGHT = 34665, 40962, 40963
# Where a thumbnail lies, and its bytes: a JPEG, or strips.
_THUMBNAILS = ((513, 514), (273, 279))
_XMP_TURN = re.compile(r'(tiff:Orientation(?:=["\']|>))\d')


def clean_notes(notes: Notes, shape: tuple[int, ...]) -> Notes:
  """Returns notes of an upright picture [H, W, C], without a thumbnail.

  All other bytes of the EXIF stay where they are, because makers of cameras
  count them from the beginning. Damaged EXIF is left out.
  """
  exif = None
  if notes.exif:
    try:
      exif = _clean_exif(notes.exif, shape)
    except (ValueError, struct.error):
      exif = None
  text = tuple((k, _turn_text(v)) for k, v in notes.text)
  return notes._replace(exif=exif, text=text)


def _turn_text(text):
  if not _XMP_TURN.search(text):
    return text  # Pillow's own strings keep their language.
  return _XMP_TURN.sub(r'\g<1>1', text)


def _clean_exif(exif, shape):
  order, offset = read_head(exif)
  data = bytearray(exif)
  entries, end = _find_entries(data, order, offset)
  if _ORIENTATION in entries:
    layout = f'{order}HHIHH'
    struct.pack_into(
      layout, data, entries[_ORIENTATION], _ORIENTATION, _SHORT, 1, 1, 0
    )
  if _CAMERA in entries:
    _set_size(data, order, entries[_CAMERA], shape)
  if len(data) < end + 4:
    return bytes(data)
  (thumbnail,) = struct.unpack_from(f'{order}I', data, end)
  if thumbnail:
    struct.pack_into(f'{order}I', data, end, 0)
    _wipe(data, order, thumbnail)
  return bytes(data)


def _set_size(data, order, place, shape):
  (offset,) = struct.unpack_from(f'{order}I', data, place + 8)
  entries, _ = _find_entries(data, order, offset)
  for tag, side in ((_WIDTH, shape[1]), (_HEIGHT, shape[0])):
    if tag in entries:
      struct.pack_into(f'{order}HHII', data, entries[tag], tag, _LONG, 1, side)


def _find_entries(data, order, offset):
  """Returns where each entry of a table lies, and where the table ends."""
  (count,) = struct.unpack_from(f'{order}H', data, offset)
  places = {}
  for start in range(offset + 2, offset + 2 + 12 * count, 12):
    (tag,) = struct.unpack_from(f'{order}H', data, start)
    places[tag] = start
  return places, offset + 2 + 12 * count


def _wipe(data, order, offset):
  """Overwrites the bytes of a thumbnail, and cuts them off at the end."""
  entries, _ = _find_entries(data, order, offset)
  for place, length in _THUMBNAILS:
    if place in entries and length in entries:
      start, size = (
        struct.unpack_from(f'{order}I', data, entries[tag] + 8)[0]
        for tag in (place, length)
      )
      size = min(size, max(0, len(data) - start))
      data[start : start + size] = bytes(size)
      if size and start + size == len(data):
        del data[start:]
