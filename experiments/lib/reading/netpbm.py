"""PBM, PGM, PPM, PAM and PFM, with any maxval.

Written out here because Pillow scales to 8 bits what has another maxval. The
format: https://netpbm.sourceforge.net/doc/
"""

import os
import re
import string

import numpy as np

from experiments.lib.reading.raw import Raw, check_shape

# Channels of each; the plain ones hold decimal numbers.
_CHANNELS = {b'P1': 1, b'P2': 1, b'P3': 3, b'P4': 1, b'P5': 1, b'P6': 3}
_TUPLES = {
  'BLACKANDWHITE': 1,
  'GRAYSCALE': 1,
  'RGB': 3,
  'BLACKANDWHITE_ALPHA': 2,
  'GRAYSCALE_ALPHA': 2,
  'RGB_ALPHA': 4,
}
_MAX_HEADER = 1 << 16  # Bytes, with its comments.
_MAX_DIGITS = 16  # Of a plain sample, with the space behind it.
_TOKEN = re.compile(rb'(?:\s|#[^\n\r]*[\n\r])*([^\s#]{1,20})')


def read_netpbm(path: str) -> Raw:
  """Returns the values between 0 and the maxval, which is white."""
  with open(path, 'rb') as file:
    return _read(file, file.read(_MAX_HEADER))


def _read(file, head):
  magic = head[:2]
  if magic in (b'Pf', b'PF'):
    return _read_floats(file, head, 3 if magic == b'PF' else 1)
  if magic == b'P7':
    return _read_pam(file, head)
  bitmap = magic in (b'P1', b'P4')
  (width, height, *maxval), start = _read_tokens(head, 2, 2 if bitmap else 3)
  white = 1 if bitmap else _check_maxval(maxval[0])
  shape = (height, width, _CHANNELS[magic])
  check_shape(shape)
  if magic in (b'P1', b'P2', b'P3'):
    values = _read_plain(file, start, shape, magic == b'P1')
  elif magic == b'P4':
    stride = (width + 7) // 8
    rows = _read_samples(file, start, (height, stride, 1), np.dtype('u1'))
    bits = np.unpackbits(rows.view(np.uint8)[..., 0], axis=1, count=width)
    values = bits[..., None]
  else:
    values = _read_samples(file, start, shape, _find_type(white))
  # In a bitmap, a one is black.
  return _make(1 - values if bitmap else values, white)


def _read_pam(file, head):
  end = head.find(b'ENDHDR\n')
  if end < 0:
    raise ValueError('is truncated: its header does not end')
  lines = [line.split() for line in head[3:end].decode('ascii').splitlines()]
  fields = {
    line[0]: line[1]
    for line in lines
    if len(line) > 1 and not line[0].startswith('#')
  }
  kind = fields.get('TUPLTYPE', '')
  shape = tuple(int(fields[key]) for key in ('HEIGHT', 'WIDTH', 'DEPTH'))
  if _TUPLES.get(kind) != shape[2]:
    raise ValueError(
      f'is a PAM of {shape[2]} channels and type {kind!r}, not supported'
    )
  check_shape(shape)
  white = _check_maxval(int(fields['MAXVAL']))
  values = _read_samples(file, end + 7, shape, _find_type(white))
  if kind.endswith('_ALPHA'):
    return _make(values[..., :-1], white, values[..., -1])
  return _make(values, white)


def _read_floats(file, head, channels):
  match = re.match(rb'P[fF]\s+(\d{1,9})\s+(\d{1,9})\s+(\S{1,20})\s', head)
  if not match:
    raise ValueError('has a damaged header')
  scale = float(match[3])
  if abs(scale) != 1:
    raise ValueError(f'is a PFM of scale {scale:g}; save it with scale 1 or -1')
  shape = (int(match[2]), int(match[1]), channels)
  check_shape(shape)
  dtype = np.dtype('<f4' if scale < 0 else '>f4')
  values = _read_samples(file, match.end(), shape, dtype)
  return Raw(values[::-1], None, 'float32', 'PFM')


def _read_tokens(head, start, count):
  """Returns numbers of the header, and where the samples begin."""
  numbers = []
  for _ in range(count):
    match = _TOKEN.match(head, start)
    if not match or not match[1].isdigit():
      raise ValueError('has a damaged header')
    numbers.append(int(match[1]))
    start = match.end()
  return numbers, start + 1


def _read_samples(file, start, shape, dtype) -> np.ndarray:
  needed = int(np.prod(shape)) * dtype.itemsize
  missing = start + needed - os.fstat(file.fileno()).st_size
  if missing > 0:
    raise ValueError(f'is truncated: {missing} bytes are missing')
  file.seek(start)
  data = file.read(needed)
  if re.match(rb'P[1-7]\s', file.read(3)):
    raise ValueError(
      'holds several frames; save the one to restore as a file of its own'
    )
  return np.frombuffer(data, dtype).reshape(shape)


def _read_plain(file, start, shape, bits):
  count = int(np.prod(shape))
  file.seek(start)
  text = file.read(_MAX_HEADER + _MAX_DIGITS * count)
  if file.read(1):
    raise ValueError(f'is too long for {count} samples')
  text = re.sub(rb'#[^\n\r]*', b'', text)
  if bits:
    text = text.translate(None, string.whitespace.encode())
    values = np.frombuffer(text, np.uint8) - np.uint8(ord('0'))
  elif text.translate(None, b' \t\n\r\v\f0123456789') == b'':
    if re.search(rb'\d{10}', text):
      raise ValueError('holds a sample of ten digits')
    values = np.fromstring(text, np.uint32, sep=' ')
  else:
    raise ValueError('holds samples that are no decimal numbers')
  if len(values) != count:
    raise ValueError(
      f'is truncated or too long: {len(values)} of {count} samples'
    )
  return values.reshape(shape)


def _check_maxval(maxval):
  if not 1 <= maxval <= 65535:
    raise ValueError(f'has maxval {maxval}; it must lie between 1 and 65535')
  return maxval


def _find_type(white):
  return np.dtype('u1' if white < 256 else '>u2')


def _make(values, white, alpha=None):
  if values.max() > white:
    raise ValueError(f'holds {values.max()}, above its maxval {white}')
  bits = 1 if white == 1 else 8 if white < 256 else 16
  return Raw(values, white, f'uint{bits}', 'Netpbm', alpha=alpha)
