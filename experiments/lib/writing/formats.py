"""What each container can hold: depths, channels, alpha, notes."""

import re
from typing import NamedTuple

from experiments.lib.reading.notes import XMP


class Format(NamedTuple):
  """What a container can hold."""

  container: str
  depths: tuple[str, ...]  # From shallow to deep.
  channels: tuple[int, ...] = (1, 3)  # Without alpha.
  alpha: bool = False
  keeps: tuple[str, ...] = ()  # Of 'colour profile', 'EXIF', 'text', or keys.
  side: int = 1 << 30  # The most pixels of a side.


_NOTES = ('colour profile', 'EXIF', XMP)
_KINDS = ('uint', 'int')
_SEVERAL = (1, 2, 3, 4, 5)
_WIDE = tuple(f'{kind}{bits}' for bits in (8, 16, 32, 64) for kind in _KINDS)
_SCALED = ('scaled uint8', 'scaled int16', 'scaled int32', 'scaled int64')
PACKED = tuple(f'uint{bits}' for bits in (1, 2, 4, *range(9, 16)))
_FLOATS = ('float16', 'float32', 'float64')
DEPTHS = (*PACKED, *_WIDE, *_FLOATS)

_PNG = Format(
  'PNG', ('uint1', 'uint8', 'uint16'), alpha=True, keeps=(*_NOTES, 'text')
)
_JPEG = Format('JPEG', ('uint8',), keeps=(*_NOTES, 'Comment'), side=65_500)
_NETPBM = Format('Netpbm', ('uint1', 'uint8', 'uint16'), alpha=True)
_TIFF = Format(
  'TIFF',
  DEPTHS,
  _SEVERAL,
  alpha=True,
  keeps=(*_NOTES, 'Description'),
)
_GIF = Format('GIF', ('uint8',), alpha=True, keeps=('Comment',), side=65_535)
_WEBP = Format('WEBP', ('uint8',), alpha=True, keeps=_NOTES, side=16_383)
_FITS = Format('FITS', (*_WIDE, *_SCALED, 'float32', 'float64'), _SEVERAL)
_ARRAYS = ('uint1', *_WIDE, *_FLOATS)
FORMATS = {
  '.png': _PNG,
  '.jpg': _JPEG,
  '.jpeg': _JPEG,
  '.bmp': Format('BMP', ('uint1', 'uint8'), alpha=True, side=32_767),
  '.gif': _GIF,
  '.webp': _WEBP,
  '.pbm': _NETPBM,
  '.pgm': _NETPBM,
  '.ppm': _NETPBM,
  '.pnm': _NETPBM,
  '.pam': _NETPBM,
  '.pfm': Format('PFM', ('float32',)),
  '.tif': _TIFF,
  '.tiff': _TIFF,
  '.fits': _FITS,
  '.fit': _FITS,
  '.fts': _FITS,
  '.npy': Format('npy', _ARRAYS, _SEVERAL),
  '.npz': Format('npz', _ARRAYS, _SEVERAL),
}


def choose_depth(kind: Format, wanted: str, channels: int, alpha: bool) -> str:
  """Returns the wanted depth, else one that holds it, else the deepest."""
  depths = [
    name
    for name in kind.depths
    if count_bits(name) in (8, 16, 32, 64)
    or kind.container == 'Netpbm'
    # Packed samples are read back of grey and of RGB alone.
    or (not alpha and channels in ((1,) if count_bits(name) < 8 else (1, 3)))
  ]
  if wanted in depths:
    return wanted
  whole = wanted.startswith(_KINDS)
  # Scaled integers are floats, of which a float holds half as many bits.
  bits = count_bits(wanted) << wanted.startswith('scaled')
  deeper = [
    name
    for name in depths
    if name.startswith(_KINDS if whole else 'float')
    and count_bits(name) >= bits
  ]
  return min(deeper, key=count_bits, default=depths[-1])


def count_bits(depth: str) -> int:
  """Returns the bits of a value, 12 of 'uint12'."""
  return int(re.findall(r'\d+$', depth)[0])
