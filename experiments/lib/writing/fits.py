"""FITS with the header of the input; blank pixels stay blank."""

import numpy as np

from experiments.lib.writing.formats import count_bits
from experiments.lib.writing.levels import Content

# What the header says of the old pixels.
_STALE = ('CHECKSUM', 'DATASUM', 'DATAMIN', 'DATAMAX')
_SCALES = ('BSCALE', 'BZERO', 'BLANK')
_BLOCK = 2880


def encode_fits(content: Content) -> bytes:
  """Returns one HDU; after an empty one where the input was an extension."""
  header = _make_header(content)
  stored = _store(content, header)
  data = stored.astype(stored.dtype.newbyteorder('>')).tobytes()
  data += bytes(-len(data) % _BLOCK)
  head = header.tostring().encode('ascii')
  if 'XTENSION' in header:
    first = type(header)([('SIMPLE', True), ('BITPIX', 8), ('NAXIS', 0)])
    first['EXTEND'] = True
    head = first.tostring().encode('ascii') + head
  return head + data


def _make_header(content):
  from astropy.io import fits

  plan, like = content.plan, content.like
  header = fits.Header([('SIMPLE', True)])
  if like.container == 'FITS':
    header = fits.Header.fromstring(like.header or '', sep='\n')
  if (like.container, like.depth) != ('FITS', plan.depth):
    for key in _SCALES:
      header.remove(key, ignore_missing=True)
  header['BITPIX'] = _find_bitpix(plan.depth)
  height, width, channels = content.values.shape
  flat = channels == 1 and (like.flat or like.container != 'FITS')
  axes = (width, height) if flat else (width, height, channels)
  header['NAXIS'] = len(axes)
  for axis, size in enumerate(axes, 1):
    before = f'NAXIS{axis - 1}' if axis > 1 else 'NAXIS'
    header.set(f'NAXIS{axis}', size, after=before)
  zero = _find_zero(plan.depth)
  if zero and 'BZERO' not in header:
    header['BZERO'] = zero
  for key in _STALE:
    header.remove(key, ignore_missing=True)
  return header


def _find_bitpix(depth):
  bits = count_bits(depth)
  return -bits if depth.startswith('float') else bits


def _find_zero(depth):
  """Returns what is added to the stored integers, which have other signs."""
  if depth == 'int8':
    return -128
  unsigned = depth in ('uint16', 'uint32', 'uint64')
  return 1 << (count_bits(depth) - 1) if unsigned else 0


def _store(content, header):
  """Returns the numbers of a file, [H, W] or [C, H, W]."""
  plan, values = content.plan, content.values
  scale, zero = header.get('BSCALE', 1), header.get('BZERO', 0)
  if plan.depth.startswith(('float', 'scaled')):
    if (scale, zero) != (1, 0):
      values = ((values - zero) / scale).astype(values.dtype)
    if plan.depth.startswith('scaled'):
      kind = np.iinfo(plan.depth.removeprefix('scaled '))
      values = np.clip(np.rint(values), kind.min, kind.max).astype(kind.dtype)
  elif zero:
    # The highest bit is turned over.
    bits = 8 * values.dtype.itemsize
    kind = f'u{bits // 8}'
    flipped = values.view(kind) ^ np.array(1 << (bits - 1), kind)
    values = flipped if bits == 8 else flipped.view(f'i{bits // 8}')
  if 'BLANK' in header and values.dtype.kind != 'f':
    values = _avoid_blank(values, header['BLANK'], content.like.mask)
  values = np.moveaxis(values, 2, 0)
  return values[0] if header['NAXIS'] == 2 else values


def _avoid_blank(values, blank, mask):
  """Moves restored pixels by one level where that level means blank."""
  hit = values == blank
  if mask is not None:
    hit &= mask[..., None]
  if not hit.any():
    return values
  near = blank + 1 if blank < np.iinfo(values.dtype).max else blank - 1
  return np.where(hit, np.array(near, values.dtype), values)
