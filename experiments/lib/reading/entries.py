"""The entries of TIFF and EXIF as they are stored, to be written again.

Nothing is decoded: an entry is its type and its bytes, little-endian.
"""

import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from experiments.lib.reading.tags import unpack

# Bytes of one number of each type; a rational is two numbers.
_WORDS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4}
_WORDS |= {11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_RATIONALS = (5, 10)
# Entries may share bytes; many that share many would fill the memory.
_MAX_FREE = 1 << 20
_LONG = 4
# What points to tables of their own: camera, GPS, interoperability.
TABLES = (34665, 34853, 40965)


class Entry(NamedTuple):
  """The type of TIFF and the bytes, or the table that the entry points to."""

  kind: int
  data: bytes
  table: 'dict[int, Entry] | None' = None


def read_entries(
  file: BinaryIO, offset: int, order: str, big: bool = False
) -> dict[int, Entry]:
  """Returns the entries of the table at `offset`, by their tags.

  Args:
    file: a TIFF or an EXIF block.
    offset: from the beginning of the file.
    order: '<' or '>', of its bytes.
    big: whether it is a BigTIFF.

  Raises:
    ValueError: the table is damaged.
  """
  size = file.seek(0, os.SEEK_END)
  return _read_table(file, offset, order, big, size, TABLES)


def pack_entries(entries: dict[int, Entry], start: int) -> bytes:
  """Returns a little-endian table that lies at `start`, and no other follows.

  Raises:
    ValueError: the table does not fit in a TIFF of 4 GB.
  """
  head = struct.pack('<H', len(entries))
  later = b''
  end = start + 2 + 12 * len(entries) + 4
  for tag, (kind, data, table) in sorted(entries.items()):
    where = end + len(later)
    if table is not None:
      kind, data = _LONG, _pack_long(where)
      later += pack_entries(table, where)
    count = len(data) // _find_size(kind)
    head += struct.pack('<HHI', tag, kind, count)
    if len(data) <= 4:
      head += data.ljust(4, b'\0')
      continue
    head += _pack_long(where)
    later += data + b'\0' * (len(data) % 2)
  return head + bytes(4) + later


def read_head(data: bytes) -> tuple[str, int]:
  """Returns the byte order of an EXIF block, and where its table lies."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(data[:4])
  if order is None or len(data) < 8:
    raise ValueError('damaged EXIF')
  return order, struct.unpack_from(f'{order}I', data, 4)[0]


def _pack_long(number):
  if number >= 1 << 32:
    raise ValueError('a TIFF of more than 4 GB; name a .npy')
  return struct.pack('<I', number)


def _find_size(kind):
  return _WORDS[kind] * (1 + (kind in _RATIONALS))


def _read_table(file, offset, order, big, size, tables):
  head, entry, word = ('Q', 20, 'Q') if big else ('H', 12, 'I')
  room = struct.calcsize(word)
  (count,) = unpack(file, offset, order + head)
  offset += struct.calcsize(head)
  entries, total = {}, count * entry
  if offset + total > size:
    raise ValueError('is truncated: its tags are missing')
  for start in range(offset, offset + count * entry, entry):
    tag, kind, number = unpack(file, start, f'{order}HH{word}')
    if kind not in _WORDS:
      continue
    needed = number * _find_size(kind)
    total += needed
    if total > max(size, _MAX_FREE):
      raise ValueError('is truncated: its tags are missing')
    where = start + 4 + room
    if needed > room or tag in tables:
      (where,) = unpack(file, where, order + word)
    if tag in tables:
      rest = tuple(t for t in tables if t != tag)
      table = _read_table(file, where, order, big, size, rest)
      entries[tag] = Entry(kind, b'', table)
    else:
      (data,) = unpack(file, where, f'{needed}s')
      entries[tag] = Entry(kind, _turn(data, order, _WORDS[kind]))
  return entries


def _turn(data, order, word):
  if order == '<' or word == 1:
    return data
  return np.frombuffer(data, f'>u{word}').astype(f'<u{word}').tobytes()
