"""The tags of a TIFF, which say what its samples are; they decode nothing."""

import os
import re
import struct
from typing import BinaryIO, NamedTuple

from experiments.lib.reading.raw import check_packed, check_size

_MAX_PAGES = 10_000
_MAX_BYTES = 32 << 20  # Of one tag.
_MAX_TILE = 1 << 22  # Pixels that a tile may have in a small image.
_MAX_RATIO = 1100  # Of samples to their file, and
_MAX_FREE = 16 << 20  # bytes for which the ratio does not matter.
_TYPES = dict(enumerate('BsHIIbBhiifdI', 1)) | {16: 'Q', 17: 'q', 18: 'Q'}
_RATIONALS = (5, 10)
_REDUCED, _MASK = 1, 4  # Bits of NewSubfileType.
_DNG = 50706
_WANTED = {
  'kind': 254,
  'width': 256,
  'height': 257,
  'bits': 258,
  'compression': 259,
  'photometric': 262,
  'fill_order': 266,
  'text': 270,
  'strips': 273,
  'orientation': 274,
  'samples': 277,
  'lengths': 279,
  'planar': 284,
  'colours': 320,
  'tile_width': 322,
  'tile_height': 323,
  'tiles': 324,
  'tile_lengths': 325,
  'inks': 332,
  'extra': 338,
  'format': 339,
  'profile': 34675,
  'depth': 32997,
  'dng': _DNG,
}
_SEVERAL = ('extra', 'colours', 'strips', 'lengths')
_NAMES = {tag: name for name, tag in _WANTED.items()}
_DEFAULTS = {
  'kind': (0,),
  'bits': (1,),
  'compression': (1,),
  'fill_order': (1,),
  'orientation': (1,),
  'samples': (1,),
  'planar': (1,),
  'tile_width': (1,),
  'tile_height': (1,),
  'inks': (1,),
  'extra': (),
  'format': (1,),
  'depth': (1,),
  'colours': (),
  'strips': (),
  'lengths': (),
  'tiles': (),
  'tile_lengths': (),
}


class Page(NamedTuple):
  """One image of a TIFF: where it stands, and what its samples are."""

  index: int
  offset: int  # Where its tags lie.
  big: bool  # BigTIFF.
  big_endian: bool
  width: int
  height: int
  photometric: int
  bits: int
  format: int  # 1 unsigned, 2 signed, 3 float.
  samples: int
  planar: int  # 1 samples of a pixel together, 2 apart.
  extra: tuple[int, ...]
  compression: int
  fill_order: int
  orientation: int
  inks: int
  colours: tuple[int, ...]  # The palette, 16 bits each.
  strips: tuple[int, ...]  # Where they lie.
  lengths: tuple[int, ...]  # Bytes of each strip.
  profile: bytes | None


def read_page(path: str, page: int | None) -> Page:
  """Returns the tags of the only page, or of page `page`, or refuses it.

  Reduced copies and masks of other pages are no pages.
  """
  with open(path, 'rb') as file:
    big_endian = file.read(2) == b'MM'
    file.seek(0)
    found = _read_all(file)
  if any('dng' in tags for _, tags in found):
    raise ValueError('is a camera raw file; develop it to a TIFF first')
  whole = _list_whole(found)
  if not whole:
    raise ValueError(
      'holds previews alone; a camera raw file must be developed'
    )
  if page is None and len(whole) > 1:
    raise ValueError(
      f'holds {len(whole)} frames; save the one to restore as a file of its own'
    )
  _check_stack(whole[0][1].get('text', ()))
  if not 0 <= (page or 0) < len(whole):
    raise ValueError(f'has no page {page}; it has {len(whole)}')
  index, tags = whole[page or 0]
  made = _make(index, tags, big_endian)
  _check_bytes(made, tags, os.path.getsize(path))
  return made


def count_pages(path: str) -> int:
  """Returns how many pages a TIFF has, of which `read_page` reads one."""
  with open(path, 'rb') as file:
    return len(_list_whole(_read_all(file)))


def _list_whole(found):
  return [
    (i, tags) for i, tags in found if not tags['kind'][0] & (_REDUCED | _MASK)
  ]


def _check_stack(text):
  """Refuses a stack of ImageJ, whose later images have no tags."""
  found = re.match(
    rb'ImageJ=.*?^images=(\d{1,9})', bytes(text[:1000]), re.M | re.S
  )
  if found and int(found[1]) > 1:
    raise ValueError(
      f'is a stack of {int(found[1])} images of ImageJ; save the one to '
      'restore as a file of its own'
    )


def _make(index, tags, big_endian):
  for name in ('width', 'height', 'photometric'):
    if name not in tags:
      raise ValueError(f'is a TIFF without the tag {name} ({_WANTED[name]})')
  for name in ('bits', 'format'):
    if len(set(tags[name])) != 1:
      raise ValueError(f'has samples of several kinds: {name} {tags[name]}')
  if tags['depth'][0] != 1:
    raise ValueError(f'is a volume of {tags["depth"][0]} planes')
  check_size(tags['height'][0], tags['width'][0])
  most = max(_MAX_TILE, tags['height'][0] * tags['width'][0])
  if tags['tile_width'][0] * tags['tile_height'][0] > most:
    raise ValueError(f'has tiles of more than {most} pixels')
  several = {name: tags[name] for name in _SEVERAL}
  single = {
    name: tags[name][0]
    for name in Page._fields
    if name in tags and name not in (*_SEVERAL, 'profile')
  }
  profile = bytes(tags['profile']) if 'profile' in tags else None
  return Page(
    index=index,
    big_endian=big_endian,
    profile=profile,
    **several,
    **single,
  )


def _check_bytes(page, tags, size):
  """Refuses samples that are not there, before room is made for them."""
  # A palette becomes RGB.
  samples = max(page.samples, 3 * bool(page.colours))
  check_packed(page.height * page.width * samples, size)
  stride = (page.width * page.samples * page.bits + 7) // 8
  needed = stride * page.height
  starts = page.strips or tags['tiles']
  lengths = page.lengths or tags['tile_lengths']
  if not starts or len(starts) != len(lengths):
    raise ValueError('is a TIFF that does not say where its samples are')
  missing = not all(lengths) or max(map(sum, zip(starts, lengths))) > size
  # Parts that lie over each other would be unpacked again and again.
  if sum(lengths) > size:
    raise ValueError('is a TIFF whose samples lie over each other')
  if page.compression == 1 and sum(lengths) < needed:
    missing = True
  # No method packs all better than this.
  if missing or needed > max(_MAX_FREE, _MAX_RATIO * size):
    raise ValueError('is truncated: samples are missing')


def _read_all(file: BinaryIO):
  """Returns the index and the tags of every page."""
  size = os.fstat(file.fileno()).st_size
  head = file.read(16)
  order = '<' if head[:2] == b'II' else '>'
  big = head[2:4] in (b'+\0', b'\0+')
  if head[8:10] == b'CR':
    raise ValueError('is a camera raw file; develop it to a TIFF first')
  (offset,) = struct.unpack_from(
    f'{order}{"Q" if big else "I"}', head, 4 + 4 * big
  )
  found, seen = [], set()
  while offset:
    if offset in seen or len(seen) >= _MAX_PAGES:
      raise ValueError('is a TIFF whose pages do not end')
    seen.add(offset)
    place = {'offset': (offset,), 'big': (big,)}
    tags, offset = _read_tags(file, offset, order, big, size)
    found.append((len(found), _DEFAULTS | tags | place))
  return found


def _read_tags(file, offset, order, big, size):
  head, entry, word = ('Q', 20, 'Q') if big else ('H', 12, 'I')
  (count,) = unpack(file, offset, order + head)
  offset += struct.calcsize(head)
  if offset + count * entry > size:
    raise ValueError('is truncated: its tags are missing')
  tags = {}
  for start in range(offset, offset + count * entry, entry):
    tag, kind, number = unpack(file, start, f'{order}HH{word}')
    if tag in _NAMES:
      where = start + 4 + struct.calcsize(word)
      tags[_NAMES[tag]] = _read_tag(file, where, kind, number, order + word)
  (following,) = unpack(file, offset + count * entry, order + word)
  return {name: values for name, values in tags.items() if values}, following


def _read_tag(file, where, kind, number, word):
  code = _TYPES.get(kind)
  if code is None or kind in _RATIONALS:
    return ()
  if code == 's':
    code = 'B'
  needed = number * struct.calcsize(code)
  if needed > _MAX_BYTES:
    raise ValueError(f'has a tag of {needed} bytes')
  if needed > struct.calcsize(word[1]):
    (where,) = unpack(file, where, word)
  return unpack(file, where, f'{word[0]}{number}{code}')


def unpack(file: BinaryIO, offset: int, layout: str) -> tuple:
  """Returns what `struct.unpack` gives of the bytes from `offset` on.

  Raises:
    ValueError: the file ends before.
  """
  file.seek(offset)
  data = file.read(struct.calcsize(layout))
  if len(data) < struct.calcsize(layout):
    raise ValueError('is truncated: its tags are missing')
  return struct.unpack(layout, data)
