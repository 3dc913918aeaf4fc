"""TIFF: Pillow where it is known to be right, tifffile for other numbers."""

import io
import struct
from fractions import Fraction

import numpy as np

from experiments.lib.reading.entries import (
  Entry,
  pack_entries,
  read_entries,
  read_head,
)
from experiments.lib.reading.notes import DESCRIPTIVE, XMP
from experiments.lib.writing.formats import count_bits
from experiments.lib.writing.levels import Content
from experiments.lib.writing.pillow import make_image, save
from experiments.lib.writing.plan import is_packed, is_simple

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 2, 3, 4, 5, 7
_PER_INCH = struct.pack('<H', 2)


def encode_tiff(content: Content) -> bytes:
  """Returns a TIFF that is not compressed, with its profile and its notes."""
  entries = _find_entries(content)
  plan = content.plan
  if is_packed(plan):
    data = save(make_image(_pack(content), 'uint8'), 'TIFF', {})
    entries |= _describe_packed(content)
  elif is_simple(plan, content.like):
    data = save(make_image(content.join(), plan.depth), 'TIFF', {})
  else:
    data = _encode_other(content)
  return _add_entries(data, entries)


def _pack(content):
  """Returns rows of bytes in which the bits lie from high to low."""
  height, width, channels = content.values.shape
  bits = count_bits(content.plan.depth)
  rows = np.empty((height, (width * channels * bits + 7) // 8), np.uint8)
  for row, values in zip(rows, content.values):
    both = values.astype('>u2').view(np.uint8).reshape(-1, 2)
    row[:] = np.packbits(np.unpackbits(both, axis=1)[:, 16 - bits :])
  return rows


def _describe_packed(content):
  """Returns the entries that make an image of these rows of bytes."""
  _, width, channels = content.values.shape
  bits = count_bits(content.plan.depth)
  return {
    256: Entry(_LONG, struct.pack('<I', width)),
    258: Entry(_SHORT, struct.pack('<H', bits) * channels),
    262: Entry(_SHORT, struct.pack('<H', 2 if channels == 3 else 1)),
    277: Entry(_SHORT, struct.pack('<H', channels)),
  }


def _encode_other(content):
  import tifffile

  plan = content.plan
  colour = plan.channels == 3
  extra = ['unspecified'] * (0 if colour else plan.channels - 1)
  if plan.alpha:
    extra.append('assocalpha' if content.like.associated else 'unassalpha')
  data = io.BytesIO()
  tifffile.imwrite(
    data,
    np.ascontiguousarray(content.join()),
    byteorder='<',
    bigtiff=False,
    photometric='rgb' if colour else 'minisblack',
    planarconfig='contig' if extra or colour else None,
    extrasamples=extra or None,
    metadata=None,
    software=False,
  )
  return data.getvalue()


def _find_entries(content):
  """Returns the entries for what the input says beside its pixels."""
  notes = content.notes
  found = _read_exif(notes.exif) if notes.exif else {}
  if notes.dpi:
    across, down = (Fraction(n).limit_denominator(10_000) for n in notes.dpi)
    for tag, side in ((282, across), (283, down)):
      pair = struct.pack('<II', side.numerator, side.denominator)
      found[tag] = Entry(_RATIONAL, pair)
    found[296] = Entry(_SHORT, _PER_INCH)
  text = dict(notes.text)
  if 'Description' in text:
    line = text['Description'].encode('latin-1', 'replace')
    found[270] = Entry(_ASCII, line + b'\0')
  if XMP in text:
    found[700] = Entry(_BYTE, text[XMP].encode())
  if content.plan.profile:
    found[34675] = Entry(_UNDEFINED, content.plan.profile)
  return found


def _read_exif(exif):
  """Returns what describes the picture, nothing where the EXIF is damaged."""
  try:
    order, offset = read_head(exif)
    entries = read_entries(io.BytesIO(exif), offset, order)
  except ValueError:
    return {}
  return {tag: entries[tag] for tag in DESCRIPTIVE if tag in entries}


def _add_entries(data, entries):
  """Returns the file with a table of all entries at its end."""
  if not entries:
    return data
  order, offset = read_head(data)
  entries = read_entries(io.BytesIO(data), offset, order) | entries
  data += bytes(len(data) % 2)
  table = pack_entries(entries, len(data))
  return data[:4] + struct.pack('<I', len(data)) + data[8:] + table
