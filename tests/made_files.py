"""Image files made byte by byte, by no library that reads them."""

import struct
import zlib

import numpy as np

_FORMATS = {'u': 1, 'i': 2, 'f': 3}


def pack_bits(values, bits):
  """Returns the bytes of [H, W] integers, each row from a new byte on."""
  width = range(bits - 1, -1, -1)
  ones = [(np.asarray(values, np.int64) >> bit) & 1 for bit in width]
  rows = np.stack(ones, -1).reshape(len(values), -1).astype(np.uint8)
  return np.packbits(rows, axis=1).tobytes()


def tiff(
  values,
  *,
  order='<',
  bits=None,
  photometric=1,
  planar=1,
  extra=(),
  deflate=False,
  big=False,
  tags=(),
  pages=1,
):
  """Returns a TIFF of [H, W, C], each of its pages the same one strip."""
  height, width, channels = values.shape
  kind = _FORMATS[values.dtype.kind]
  parts = np.moveaxis(values, 2, 0) if planar == 2 else values[None]
  if bits:
    blocks = [pack_bits(p.reshape(height, -1), bits) for p in parts]
  else:
    stored = values.dtype.newbyteorder(order)
    blocks = [p.astype(stored).tobytes() for p in parts]
  if deflate:
    blocks = [zlib.compress(block) for block in blocks]
  start = 16 if big else 8
  offsets = [start + sum(map(len, blocks[:i])) for i in range(len(blocks))]
  wide = 4 if not big else 16
  entries = {
    256: ('I', width),
    257: ('I', height),
    258: ('H', *[bits or 8 * values.dtype.itemsize] * channels),
    259: ('H', 8 if deflate else 1),
    262: ('H', photometric),
    273: ('I', *offsets),
    277: ('H', channels),
    278: ('I', height),
    279: ('I', *map(len, blocks)),
    284: ('H', planar),
    338: ('H', *extra),
    339: ('H', *[kind] * channels),
  } | dict(tags)
  entries = {tag: row for tag, row in sorted(entries.items()) if len(row) > 1}
  body = b''.join(blocks)
  body += b'\0' * (len(body) % 2)
  at = start + len(body)
  head = (b'II' if order == '<' else b'MM') + struct.pack(
    f'{order}HHHQ' if big else f'{order}HI', *((43, 8, 0) if big else (42,)), at
  )
  for page in range(pages):
    table = _table(entries, order, big, at, wide, last=page == pages - 1)
    body, at = body + table, at + len(table)
  return head + body


def _table(entries, order, big, at, wide, last):
  word = 'Q' if big else 'I'
  room = 8 if big else 4
  size = struct.calcsize(f'={"Q" if big else "H"}')
  size += len(entries) * (20 if big else 12) + room
  head = struct.pack(order + ('Q' if big else 'H'), len(entries))
  later = b''
  for tag, (code, *numbers) in entries.items():
    data = struct.pack(f'{order}{len(numbers)}{code}', *numbers)
    kind = {'B': 1, 'H': 3, 'I': 4}[code]
    head += struct.pack(f'{order}HH{word}', tag, kind, len(numbers))
    if len(data) <= room:
      head += data.ljust(room, b'\0')
    else:
      head += struct.pack(order + word, at + size + len(later))
      later += data + b'\0' * (len(data) % 2)
  following = 0 if last else at + size + len(later)
  return head + struct.pack(order + word, following) + later


def png(rows, width, *, depth, colour, chunks=(), interlaced=False):
  """Returns a PNG of rows that are filtered already."""
  height = len(rows)
  header = struct.pack(
    '>IIBBBBB', width, height, depth, colour, 0, 0, int(interlaced)
  )
  parts = [(b'IHDR', header), *chunks]
  parts += [(b'IDAT', zlib.compress(b''.join(rows))), (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(_chunk(*part) for part in parts)


def png_rows(values, depth, kinds=(0,)):
  """Returns the rows of [H, W, C], filtered by the kinds in turn."""
  height, width, channels = values.shape
  flat = values.reshape(height, -1)
  packed = [pack_bits(flat[i : i + 1], depth) for i in range(height)]
  lines = [np.frombuffer(line, np.uint8).astype(int) for line in packed]
  step = max(1, depth * channels // 8)
  above, rows = np.zeros_like(lines[0]), []
  for i, line in enumerate(lines):
    kind = kinds[i % len(kinds)]
    left = np.concatenate([np.zeros(step, int), line[:-step]])
    corner = np.concatenate([np.zeros(step, int), above[:-step]])
    base = left + above - corner
    near = [abs(base - x) for x in (left, above, corner)]
    paeth = np.choose(np.argmin(near, axis=0), [left, above, corner])
    guess = [0 * line, left, above, (left + above) // 2, paeth][kind]
    rows.append(bytes([kind]) + ((line - guess) % 256).astype('u1').tobytes())
    above = line
  return rows


def png_passes(values, depth):
  """Returns the rows of the seven passes of an interlaced [H, W, C]."""
  starts = [(0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0)]
  steps = [(8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)]
  parts = [
    values[y::dy, x::dx] for (y, x), (dy, dx) in zip(starts, steps, strict=True)
  ]
  return [row for part in parts if part.size for row in png_rows(part, depth)]


def bmp(values):
  """Returns a BMP of [H, W, 3], 8 bits."""
  height, width, _ = values.shape
  rows = [row[:, ::-1].tobytes() for row in values[::-1]]
  rows = [row + b'\0' * (-len(row) % 4) for row in rows]
  data = b''.join(rows)
  size = 54 + len(data)
  head = struct.pack('<2sIHHI', b'BM', size, 0, 0, 54)
  info = (40, width, height, 1, 24, 0, len(data), 2835, 2835, 0, 0)
  return head + struct.pack('<IiiHHIIiiII', *info) + data


def fits(values, *, extension=False, **cards):
  """Returns a FITS file of an array of big-endian numbers."""
  kind = values.dtype
  bits = 8 * kind.itemsize * (-1 if kind.kind == 'f' else 1)
  axes = {f'NAXIS{i + 1}': n for i, n in enumerate(values.shape[::-1])}
  first = {'XTENSION': "'IMAGE   '"} if extension else {'SIMPLE': 'T'}
  last = {'PCOUNT': 0, 'GCOUNT': 1} if extension else {}
  fields = first | {'BITPIX': bits, 'NAXIS': values.ndim} | axes | last | cards
  lines = [
    f'{key:8s}= {value!s:>20s}'.ljust(80) for key, value in fields.items()
  ]
  head = ''.join([*lines, 'END'.ljust(80)]).encode()
  data = values.astype(kind.newbyteorder('>')).tobytes()
  pad = lambda text, fill: text + fill * (-len(text) % 2880)
  return pad(head, b' ') + pad(data, b'\0')


def npy(values, *, header=None):
  """Returns a .npy file, with any header."""
  text = header or repr(
    {
      'descr': values.dtype.str,
      'fortran_order': False,
      'shape': values.shape,
    }
  )
  text = text.encode().ljust(117) + b'\n'
  return (
    b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text + values.tobytes()
  )


def _chunk(kind, data):
  check = struct.pack('>I', zlib.crc32(kind + data))
  return struct.pack('>I', len(data)) + kind + data + check
