"""FITS through astropy: scaled, blank pixels left out, the header kept."""

import math
import os
import re

import numpy as np

from experiments.lib.reading.raw import Raw, check_shape, find_white

_BLOCK = 2880  # Bytes: headers and data fill whole ones.
_MAX_BLOCKS = 360  # Of one header, which makes 12,960 cards.
_MAX_UNITS = 1000
_MAX_REST = 1 << 20  # Bytes behind the last HDU.


def read_fits(path: str, page: int | None) -> Raw:
  """Returns the only image of a file, or the one of HDU `page`.

  The rows come in the order of the file; an array [C, H, W] of few channels
  becomes [H, W, C].
  """
  try:
    from astropy.io import fits
  except ImportError:
    raise ValueError(
      "is FITS, which needs astropy: pip install 'dipjax[fits]'"
    ) from None
  _check_headers(path)
  # Without a memory map no page of the file outlives it.
  with fits.open(
    path, memmap=False, do_not_scale_image_data=True, ignore_blank=True
  ) as units:
    unit = _choose(units, page)
    header = unit.header.copy()
    _check_header(header, path)
    return _make(np.asarray(unit.data), header)


def _check_headers(path):
  """Refuses headers without an end, for which astropy reads the whole file."""
  with open(path, 'rb') as file:
    size, start, count = os.path.getsize(path), 0, 0
    while start < size:
      file.seek(start)
      if count and file.read(8) != b'XTENSION':
        # Astropy looks for a header in all that follows.
        if size - start > _MAX_REST:
          raise ValueError('has a long rest behind its last HDU; cut it off')
        return
      file.seek(start)
      header = _read_header(file)
      count += 1
      if count > _MAX_UNITS:
        raise ValueError(f'holds more than {_MAX_UNITS} HDUs')
      start = file.tell() + -(-_count_bytes(header) // _BLOCK) * _BLOCK


def _read_header(file):
  header = b''
  for _ in range(_MAX_BLOCKS):
    block = file.read(_BLOCK)
    header += block
    cards = [block[i : i + 80] for i in range(0, len(block), 80)]
    if b'END'.ljust(80) in cards:
      return header
    if len(block) < _BLOCK:
      break
  raise ValueError('is damaged: a header without an end')


def _count_bytes(header):
  """Returns the bytes of data behind a header, without what fills a block."""
  fields = {}
  for start in range(0, len(header), 80):
    card = re.match(
      rb'(\w+) *= *(\d{1,18}|-\d\d|T)', header[start : start + 80]
    )
    if card:
      fields[card[1]] = 1 if card[2] == b'T' else int(card[2])
  count = min(fields.get(b'NAXIS', 0), 999)
  axes = [fields.get(b'NAXIS%d' % (i + 1), 0) for i in range(count)]
  if fields.get(b'GROUPS'):
    axes = axes[1:]
  pixels = fields.get(b'PCOUNT', 0) + (math.prod(axes) if axes else 0)
  return fields.get(b'GCOUNT', 1) * pixels * abs(fields.get(b'BITPIX', 8)) // 8


def _choose(units, page):
  if page is not None:
    if not 0 <= page < len(units):
      raise ValueError(f'has no HDU {page}; it has {len(units)}')
    found = [units[page]]
  else:
    found = [u for u in units if u.header.get('NAXIS', 0) and _is_image(u)]
  if len(found) != 1 or not _is_image(found[0]):
    raise ValueError(
      f'holds {len(found)} plain images, name the HDU of one'
      if page is None
      else f'holds no plain image in HDU {page}'
    )
  return found[0]


def _is_image(unit):
  return type(unit).__name__ in ('PrimaryHDU', 'ImageHDU')


def _check_header(header, path):
  axes = [header[f'NAXIS{i + 1}'] for i in range(header['NAXIS'])]
  # The first axis of FITS runs along a row.
  shape = tuple(reversed(axes))
  check_shape(shape[1:] + shape[:1] if len(shape) == 3 else shape)
  needed = int(np.prod(shape)) * abs(header['BITPIX']) // 8
  if needed > os.path.getsize(path):
    raise ValueError('is truncated')


def _make(stored, header):
  text = header.tostring(sep='\n', endcard=False, padding=False)
  stored = np.moveaxis(stored, 0, 2) if stored.ndim == 3 else stored
  scale, zero = header.get('BSCALE', 1), header.get('BZERO', 0)
  dtype = stored.dtype.newbyteorder('=')
  if dtype.kind == 'f':
    values = stored if (scale, zero) == (1, 0) else stored * scale + zero
    return Raw(values, None, dtype.name, 'FITS', header=text)
  blank = header.get('BLANK')
  valid = None if blank is None else stored != blank
  if valid is not None and valid.ndim == 3:
    valid = valid.all(2)
  if scale != 1 or zero not in (0, _find_shift(dtype)):
    values = stored.astype(np.float64) * scale + zero
    return Raw(values, None, f'scaled {dtype.name}', 'FITS', valid, header=text)
  if zero:
    # Unsigned integers are stored with their highest bit turned over, and the
    # signed ones of 8 bits are too.
    kind = 'i1' if dtype == np.uint8 else f'u{dtype.itemsize}'
    values = stored.astype(dtype).view(kind) ^ np.array(
      -128 if kind == 'i1' else 1 << (8 * dtype.itemsize - 1), kind
    )
    stored, dtype = values, values.dtype
  return Raw(stored, find_white(dtype), dtype.name, 'FITS', valid, header=text)


def _find_shift(dtype):
  return -128 if dtype == np.uint8 else 1 << (8 * dtype.itemsize - 1)
