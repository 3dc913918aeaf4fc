"""Files of every container, and what `benchmarks.fuzz_files` does to them."""

import io
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tests import made_files as made

MOST_BYTES = 1 << 20  # Of one mutant.
_HEIC = pathlib.Path(made.__file__).parent / 'data' / 'heic'

Sources = Mapping[str, Sequence[bytes]]


def make_sources() -> Sources:
  """Returns small files of every container, good ones, by its name.

  Some are made byte by byte, some by the encoders that are installed.
  """
  sources: dict[str, list[bytes]] = {}
  for container, data in _make_all():
    sources.setdefault(container, []).append(data)
  return sources


def _make_all() -> Iterator[tuple[str, bytes]]:
  grey = _draw('u1', 1)
  colour, deep = _draw('u1', 3), _draw('u2', 3)
  for depth, kind, channels in (
    *((n, 0, 1) for n in (1, 8, 16)),
    *((n, k, c) for n in (8, 16) for k, c in ((2, 3), (4, 2), (6, 4))),
  ):
    values = _draw('u1' if depth < 16 else 'u2', channels) >> (8 - depth) % 8
    rows = made.png_rows(values, depth, (0, 1, 2, 3, 4))
    yield 'PNG', made.png(rows, values.shape[1], depth=depth, colour=kind)
  yield 'BMP', made.bmp(colour)
  yield from (('Netpbm', data) for data in _make_netpbms())
  for values in (grey, deep, _draw('f4', 1), _draw('i2', 3)):
    yield 'npy', made.npy(values)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      yield 'npz', _zip({'a.npy': made.npy(values)}, method)
  rows: list[tuple[np.ndarray, dict[str, Any]]] = [
    (_draw('i2', 1)[..., 0], {'BZERO': 32768}),
    (np.moveaxis(_draw('u1', 3), 2, 0), {}),
    (_draw('f4', 1)[..., 0], {'BSCALE': 0.5}),
    (_draw('i4', 1)[..., 0], {'BLANK': -1}),
  ]
  for values, cards in rows:
    yield 'FITS', made.fits(values, **cards)
    yield (
      'FITS',
      made.fits(values, EXTEND='T') + made.fits(values, extension=True),
    )
  yield from (('TIFF', data) for data in _make_tiffs())
  yield from _encode()
  yield from (('HEIC', p.read_bytes()) for p in sorted(_HEIC.glob('*.heic')))
  yield (
    'refused',
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n',
  )
  yield 'refused', b'%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n'
  yield (
    'refused',
    b'\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x02os\x8c\x06system\x93.',
  )
  yield 'refused', b'<svg xmlns="http://www.w3.org/2000/svg" width="9"/>'
  yield 'refused', b'\0\0\0\x18ftypavif\0\0\0\0avifmif1' + bytes(64)


def _draw(dtype, channels):
  """Returns a ramp with noise [13, 17, C], floats in [0, 1]."""
  rng = np.random.default_rng(channels)
  y, x, _ = np.mgrid[:13, :17, :channels]
  values = (x + y) / 29 * 0.8 + 0.2 * rng.random((13, 17, channels))
  if channels in (2, 4):
    values[1:, ..., -1] = 1  # Opaque but for a row.
  dtype = np.dtype(dtype)
  if dtype.kind == 'f':
    return values.astype(dtype)
  return (values * np.iinfo(dtype).max).astype(dtype)


def _make_netpbms():
  yield b'P1 # a\n3 2\n1 0 1\n0 1 0'
  yield b'P4\n11 5\n' + bytes(range(10))
  for magic, text in ((2, b'1 20 255 7 0 9'), (5, b'abcdef')):
    yield b'P%d\n3 2\n255\n' % magic + text
  yield b'P3\n2 1\n1000\n' + b'1 20 999 7 0 9'
  yield b'P6\n2 1\n65535\n' + bytes(range(12))
  yield b'Pf\n3 2\n-1.0\n' + np.linspace(0, 1, 6, dtype='<f4').tobytes()
  yield b'PF\n1 2\n1.0\n' + np.linspace(0, 1, 6, dtype='>f4').tobytes()
  head = b'P7\nWIDTH 2\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\n'
  yield head + b'ENDHDR\n' + bytes(range(16))


def _make_tiffs():
  for order in '<>':
    for kind in ('u1', 'u2', 'u4', 'f4'):
      for planar in (1, 2):
        for deflate in (False, True):
          yield made.tiff(
            _draw(kind, 3),
            order=order,
            photometric=2,
            planar=planar,
            deflate=deflate,
          )
    grey = _draw('u1', 1)
    yield made.tiff(grey, order=order, bits=12)
    yield made.tiff(grey >> 7, order=order, bits=1, photometric=0)
    yield made.tiff(_draw('u2', 1), order=order, big=True)
    yield made.tiff(_draw('u1', 4), order=order, photometric=2, extra=(2,))
    table = {320: ('H', *range(0, 65536, 86)[:768])}
    yield made.tiff(grey, order=order, photometric=3, tags=table)
    yield made.tiff(grey, order=order, pages=3)


def _encode():
  """Yields what Pillow, NumPy and tifffile write."""
  colour = Image.fromarray(_draw('u1', 3))
  grey = colour.convert('L')
  exif = Image.Exif()
  exif[0x0112] = 6
  rows: list[tuple[str, Image.Image, dict[str, Any]]] = [
    ('PNG', colour, {'exif': exif, 'icc_profile': bytes(200)}),
    ('PNG', colour.quantize(16), {'transparency': 3}),
    ('JPEG', colour, {'quality': 90, 'exif': exif}),
    ('JPEG', colour, {'progressive': True, 'subsampling': 2}),
    ('JPEG', grey, {'icc_profile': bytes(300)}),
    ('JPEG', colour.convert('CMYK'), {}),
    ('GIF', colour.quantize(64), {}),
    ('GIF', grey, {'save_all': True, 'append_images': [grey]}),
    ('BMP', colour.quantize(16), {}),
    ('BMP', grey.convert('1'), {}),
    ('WEBP', colour, {'quality': 60}),
    ('WEBP', colour.convert('RGBA'), {'lossless': True, 'exif': exif}),
    *(
      ('TIFF', colour, {'compression': name})
      for name in ('tiff_lzw', 'packbits', 'jpeg', 'tiff_adobe_deflate')
    ),
    ('TIFF', grey.convert('1'), {'compression': 'group4'}),
    ('TIFF', grey.convert('1'), {'compression': 'group3'}),
    ('TIFF', colour.convert('CMYK'), {}),
  ]
  for container, image, options in rows:
    data = io.BytesIO()
    image.save(data, container, **options)
    yield container, data.getvalue()
  data = io.BytesIO()
  np.savez_compressed(data, a=_draw('u2', 3))
  yield 'npz', data.getvalue()
  import tifffile

  layouts: list[dict[str, Any]] = [
    {'tile': (16, 16)},
    {'compression': 'zlib', 'predictor': 2, 'rowsperstrip': 4},
    {'bigtiff': True},
  ]
  for options in layouts:
    data = io.BytesIO()
    tifffile.imwrite(data, _draw('u2', 3), photometric='rgb', **options)
    yield 'TIFF', data.getvalue()


def _zip(files, method):
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w', method) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return data.getvalue()


def make_mutant(
  sources: Sources, seed: int, index: int, container: str = ''
) -> tuple[str, bytes]:
  """Returns the container and the bytes of mutant `index`, the same each time.

  Args:
    sources: of `make_sources`.
    seed: of all mutants.
    index: of this one.
    container: of the source; '': each in turn.
  """
  rng = np.random.default_rng((seed, index))
  names = sorted(sources)
  container = container or names[index % len(names)]
  data = _choose(rng, sources[container])
  other = _choose(rng, sources[_choose(rng, names)])
  for _ in range(min(rng.geometric(0.6), 5)):
    data = _choose(rng, MUTATIONS)(rng, data, other)[:MOST_BYTES]
  # Without right sums a decoder would look at little else.
  if data[:4] == b'\x89PNG' and rng.random() < 0.9:
    data = mend_png(data)
  if data[:2] == b'PK' and rng.random() < 0.5:
    data = _mend_zip(data)
  return container, data


def _choose(rng, items):
  return items[rng.integers(len(items))]


def _place(rng, data):
  """Returns a place, often among the first bytes."""
  size = len(data) + 1
  return int(rng.integers(min(size, 64) if rng.random() < 0.3 else size))


def _flip(rng, data, other):
  changed = bytearray(data)
  for _ in range(rng.integers(1, 9) if data else 0):
    place = min(_place(rng, data), len(data) - 1)
    changed[place] ^= 1 << rng.integers(8)
  return bytes(changed)


def _overwrite(rng, data, other):
  place = _place(rng, data)
  text = rng.bytes(rng.integers(1, 9))
  return data[:place] + text + data[place + len(text) :]


def _cut(rng, data, other):
  return data[: _place(rng, data)]


def _remove(rng, data, other):
  start = _place(rng, data)
  return data[:start] + data[start + int(rng.integers(1, 200)) :]


def _splice(rng, data, other):
  start, place = _place(rng, other), _place(rng, data)
  part = other[start : start + int(rng.integers(1, 400))]
  kept = place + len(part) * int(rng.integers(2))
  return data[:place] + part + data[kept:]


def _repeat(rng, data, other):
  start = _place(rng, data)
  block = data[start : start + int(rng.integers(1, 100))]
  times = int(_choose(rng, (2, 10, 100, 3000)))
  return data[:start] + block * times + data[start:]


def _swap(rng, data, other):
  a, b, c, d = sorted(_place(rng, data) for _ in range(4))
  return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _join(rng, data, other):
  return data + other if rng.random() < 0.7 else other + data


def _set_extreme(rng, data, other):
  """Sets a field of 1, 2, 4 or 8 bytes to a length that nobody expects."""
  size = int(_choose(rng, (1, 2, 4, 8)))
  top = 1 << 8 * size
  values = (0, 1, 10_000, 65_535, top // 2 - 1, top // 2, top - 1, top - 2)
  value = int(_choose(rng, values)) % top
  text = value.to_bytes(size, _choose(rng, ('little', 'big')))
  # Fields are aligned.
  place = _place(rng, data) // 2 * 2
  return data[:place] + text + data[place + size :]


def _set_number(rng, data, other):
  """Writes another decimal number in the place of one."""
  found = list(re.finditer(rb'-?\d+(\.\d+)?', data[:2000]))
  if not found:
    return _set_extreme(rng, data, other)
  match = _choose(rng, found)
  texts = b'0 -1 1 3 9999 10000 65535 65536 99999999 4294967296 1e9 nan'.split()
  text = _choose(rng, [*texts, b'9' * 40, b'1' * 5000, b'(' * 150])
  return data[: match.start()] + text + data[match.end() :]


# What precedes the width and height, how many bytes each has, their order.
_SIZES = (
  (rb'IHDR', 4, 'big'),
  (rb'ispe....', 4, 'big'),
  (rb'\xff[\xc0-\xc2]...', 2, 'big'),
  (rb'GIF8.a|,....', 2, 'little'),
  (rb'BM.{16}', 4, 'little'),
  (rb'\x9d\x01\x2a|VP8L.....', 2, 'little'),
  (rb'VP8X.{8}', 3, 'little'),
  (rb'[\x00\x01]\x01[\x03\x04]\x00....', 4, 'little'),
  (rb'\x01[\x00\x01]\x00[\x03\x04]....', 4, 'big'),
)


def _set_size(rng, data, other):
  """Gives an image another width or height, or both."""
  found = [
    (match.end(), size, order)
    for pattern, size, order in _SIZES
    for match in re.finditer(pattern, data, re.DOTALL)
  ]
  if not found:
    return _set_number(rng, data, other)
  place, size, order = _choose(rng, found)
  value = int(_choose(rng, (0, 1, 18, 300, 3000, 5000, 9999, 65535, 1 << 31)))
  text = (value % (1 << 8 * size)).to_bytes(size, order)
  text *= int(rng.integers(1, 3))
  place += size * int(rng.integers(2)) * (len(text) == size)
  return data[:place] + text + data[place + len(text) :]


MUTATIONS: tuple[Callable[..., bytes], ...] = (
  _flip,
  _overwrite,
  _cut,
  _remove,
  _splice,
  _repeat,
  _swap,
  _join,
  _set_extreme,
  _set_extreme,
  _set_size,
  _set_size,
  _set_number,
)


def mend_png(data: bytes) -> bytes:
  """Returns a PNG with the right sum behind each chunk that is whole."""
  changed, start = bytearray(data), 8
  while start + 12 <= len(data):
    (size,) = struct.unpack_from('>I', data, start)
    end = start + 8 + size
    if end + 4 > len(data):
      break
    struct.pack_into('>I', changed, end, zlib.crc32(data[start + 4 : end]))
    start = end + 4
  return bytes(changed)


def _mend_zip(data):
  """Returns an archive that is valid again, of one changed file."""
  return _zip({'a.npy': data[40:]}, zipfile.ZIP_DEFLATED)
