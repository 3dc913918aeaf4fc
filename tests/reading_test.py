"""Reading: each value of a made file is right, and all else is refused.

The files are made byte by byte (made_files), so that no reader can agree with
itself about a mistake.
"""

import importlib.util
import io
import logging
import subprocess
import sys
import tracemalloc
import zipfile
from typing import Any

import made_files as made
import numpy as np
import pytest
from PIL import Image

from experiments.lib import images, reading


def _numbers(dtype, *shape):
  """Returns values over the whole range of a type, negative ones left out."""
  dtype, rng = np.dtype(dtype), np.random.default_rng(7)
  if dtype.kind == 'f':
    values = rng.random(shape).astype(dtype)
    values.flat[:2] = 0, 1
    return values
  high = int(np.iinfo(dtype).max)
  values = rng.integers(0, high, shape, dtype, endpoint=True)
  values.flat[:2] = 0, high
  return values


def _bits(bits, *shape):
  kind = np.uint8 if bits <= 8 else np.uint16
  values = np.random.default_rng(3).integers(0, 1 << bits, shape).astype(kind)
  values.flat[:2] = 0, (1 << bits) - 1
  return values


def _whiten(values):
  kind = values.dtype
  return 1 if kind.kind == 'f' else int(np.iinfo(kind).max)


def _expect(values, white=None):
  values = values[..., None] if values.ndim == 2 else values
  scaled = values.astype(np.float64) / (white or _whiten(values))
  return scaled.astype(np.float32)


# --- The table: name, bytes, what is expected, depth.

_NUMBERS = [f'{kind}{size}' for kind in 'ui' for size in (1, 2, 4, 8)]
_NUMBERS += ['f2', 'f4', 'f8']


def _make_tiffs():
  for order, word in (('<', 'little'), ('>', 'big')):
    for name in _NUMBERS:
      grey = _numbers(name, 5, 7, 1)
      depth = grey.dtype.name
      yield (
        f'{word} {depth}',
        made.tiff(grey, order=order),
        _expect(grey),
        depth,
      )
    for name in ('u1', 'u2', 'u4', 'i2', 'f2', 'f4', 'f8'):
      colour = _numbers(name, 5, 7, 3)
      depth = colour.dtype.name
      for planar in (1, 2):
        data = made.tiff(colour, order=order, photometric=2, planar=planar)
        yield (
          f'{word} RGB {depth} planes {planar}',
          data,
          _expect(colour),
          depth,
        )
    for bits in (1, 2, 4, 8, 10, 12, 14, 16):
      grey = _bits(bits, 5, 7, 1)
      top = (1 << bits) - 1
      for photometric, right in ((0, top - grey), (1, grey)):
        packed = bits if bits not in (8, 16) else None
        data = made.tiff(
          grey, order=order, bits=packed, photometric=photometric
        )
        yield (
          f'{word} {bits} bits photometric {photometric}',
          data,
          _expect(right, top),
          f'uint{bits}',
        )
    deep = _bits(12, 5, 7, 3)
    data = made.tiff(deep, order=order, bits=12, photometric=2)
    yield f'{word} RGB 12 bits', data, _expect(deep, 4095), 'uint12'
    for name in ('u1', 'u4'):
      grey = _numbers(name, 5, 7, 1)
      data = made.tiff(grey, order=order, photometric=0)
      yield (
        f'{word} white zero {name}',
        data,
        _expect(_whiten(grey) - grey),
        grey.dtype.name,
      )


def _make_channels():
  for channels in range(1, 6):
    values = _numbers('u2', 5, 7, channels)
    extra = (0,) * (channels - 1)
    for planar in (1, 2):
      data = made.tiff(values, planar=planar, extra=extra)
      name = f'{channels} channels planes {planar}'
      yield name, data, _expect(values), 'uint16'


def _make_other_tiffs():
  colour = _numbers('u2', 5, 7, 3)
  rows: list[dict[str, Any]] = [
    {'deflate': True},
    {'deflate': True, 'planar': 2},
    {'big': True},
    {'big': True, 'order': '>', 'planar': 2},
  ]
  for options in rows:
    data = made.tiff(colour, photometric=2, **options)
    yield f'RGB uint16 {options}', data, _expect(colour), 'uint16'
  for order in '<>':
    for name in ('u1', 'u2', 'u4', 'i2', 'f4', 'f8'):
      for photometric, planar, channels in ((1, 1, 1), (2, 1, 3), (2, 2, 3)):
        values = _numbers(name, 5, 7, channels)
        data = made.tiff(
          values,
          order=order,
          photometric=photometric,
          planar=planar,
          deflate=True,
        )
        row = f'deflate {order}{name} {channels} planes {planar}'
        yield row, data, _expect(values), values.dtype.name
    for name in ('u1', 'u2'):
      values = _numbers(name, 5, 7, 1)
      data = made.tiff(values, order=order, photometric=0, deflate=True)
      right = _expect(_whiten(values) - values)
      yield f'deflate {order}{name} white zero', data, right, values.dtype.name
    for bits in (1, 2, 4):
      values = _bits(bits, 5, 7, 1)
      for photometric in (0, 1):
        data = made.tiff(
          values, order=order, bits=bits, photometric=photometric, deflate=True
        )
        top = (1 << bits) - 1
        right = _expect(values if photometric else top - values, top)
        yield (
          f'deflate {order}{bits} bits {photometric}',
          data,
          right,
          f'uint{bits}',
        )
  for name in ('u1', 'u2', 'f4'):
    opaque = _numbers(name, 5, 7, 4)
    opaque[..., 3] = _whiten(opaque)
    for extra in (1, 2):
      data = made.tiff(opaque, photometric=2, extra=(extra,))
      right = _expect(opaque[..., :3])
      yield f'RGBA {name} extra {extra}', data, right, opaque.dtype.name
  for bits in (1, 2, 4, 8):
    table = _numbers('u2', 3, 1 << bits)
    index = _bits(bits, 5, 7, 1)
    tags = {320: ('H', *map(int, table.ravel()))}
    data = made.tiff(
      index, bits=None if bits == 8 else bits, photometric=3, tags=tags
    )
    yield f'palette {bits}', data, _expect(table.T[index[..., 0]]), 'uint16'
  inks = _numbers('u1', 5, 7, 4)
  paper = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
  yield 'CMYK', made.tiff(inks, photometric=5), _expect(paper, 255), 'uint8'


def _make_pngs():
  channels = {0: 1, 2: 3, 4: 2, 6: 4}
  for colour, depth in [
    *((0, n) for n in (1, 2, 4, 8, 16)),
    *((c, n) for c in (2, 4, 6) for n in (8, 16)),
  ]:
    values = _bits(depth, 9, 11, channels[colour])
    top = (1 << depth) - 1
    if colour in (4, 6):
      values[..., -1] = top
    right = values[..., :-1] if colour in (4, 6) else values
    for way in ('filtered', 'interlaced'):
      rows = (
        made.png_rows(values, depth, (0, 1, 2, 3, 4))
        if way == 'filtered'
        else made.png_passes(values, depth)
      )
      data = _make_png(rows, values.shape, depth, colour, way == 'interlaced')
      name = f'PNG colour {colour} depth {depth} {way}'
      yield name, data, _expect(right, top), f'uint{depth}'
  for depth in (1, 2, 4, 8):
    table, index = _numbers('u1', 1 << depth, 3), _bits(depth, 9, 11, 1)
    rows = made.png_rows(index, depth)
    chunks = [(b'PLTE', table.tobytes())]
    data = made.png(rows, 11, depth=depth, colour=3, chunks=chunks)
    yield f'PNG palette {depth}', data, _expect(table[index[..., 0]]), 'uint8'


def _make_png(rows, shape, depth, colour, interlaced):
  height, width, _ = shape
  if not interlaced:
    return made.png(rows, width, depth=depth, colour=colour)
  # The header's height is that of the image, not of the rows of the passes.
  rows = [b''.join(rows), *[b''] * (height - 1)]
  return made.png(rows, width, depth=depth, colour=colour, interlaced=True)


def _make_netpbms():
  bits = _bits(1, 5, 11)
  plain = '\n'.join(' '.join(map(str, row)) for row in bits).encode()
  yield 'P1', b'P1 # a\n11 5\n' + plain, _expect(1 - bits, 1), 'uint1'
  packed = made.pack_bits(bits, 1)
  yield 'P4', b'P4\n11 5\n' + packed, _expect(1 - bits, 1), 'uint1'
  for white in (1, 2, 100, 255, 256, 1000, 4095, 65535):
    for grey, channels in ((True, 1), (False, 3)):
      values = np.random.default_rng(white).integers(
        0, white, (5, 7, channels), endpoint=True
      )
      head = f'\n# odd\n7 5 # size\n{white}\n'.encode()
      text = ' '.join(map(str, values.ravel())).encode()
      stored = values.astype('u1' if white < 256 else '>u2').tobytes()
      depth = f'uint{1 if white == 1 else 8 if white < 256 else 16}'
      right = _expect(values, white)
      magic = (b'P2', b'P5') if grey else (b'P3', b'P6')
      yield f'{magic[0]} maxval {white}', magic[0] + head + text, right, depth
      yield f'{magic[1]} maxval {white}', magic[1] + head + stored, right, depth
  values = _numbers('u2', 5, 7, 3)
  head = b'P7\nWIDTH 7\nHEIGHT 5\nDEPTH 3\nMAXVAL 65535\nTUPLTYPE RGB\nENDHDR\n'
  yield 'P7', head + values.astype('>u2').tobytes(), _expect(values), 'uint16'
  for order, scale in (('<', '-1.0'), ('>', '1')):
    for magic, channels in (('Pf', 1), ('PF', 3)):
      values = _numbers('f4', 5, 7, channels)
      head = f'{magic}\n7 5\n{scale}\n'.encode()
      stored = values[::-1].astype(f'{order}f4').tobytes()
      yield f'{magic} {order}', head + stored, _expect(values), 'float32'


def _make_arrays():
  for name in (*_NUMBERS, '?'):
    for order in '<>':
      values = (
        _bits(1, 5, 7, 1).astype(bool) if name == '?' else _numbers(name, 5, 7)
      )
      white = 1 if name == '?' else None
      stored = values.astype(f'{order}{name}')
      depth = 'uint1' if name == '?' else values.dtype.name
      yield (
        f'npy {order}{name}',
        made.npy(stored),
        _expect(values, white),
        depth,
      )
  values = _numbers('u2', 5, 7, 3)
  yield 'npz', _zip({'a.npy': made.npy(values)}), _expect(values), 'uint16'
  header = "{'descr': '<u2', 'fortran_order': True, 'shape': (7, 5, 3), }"
  data = made.npy(values.T.reshape(3, 5, 7).copy(), header=header)
  right = np.moveaxis(values.T.reshape(3, 5, 7), 0, 2).swapaxes(0, 1)
  yield 'npy of columns', data, _expect(right), 'uint16'


def _make_fits():
  for name in ('u1', 'i2', 'i4', 'i8', 'f4', 'f8'):
    values = _numbers(name, 5, 7)
    depth = values.dtype.name
    yield f'FITS {name}', made.fits(values), _expect(values), depth
  for size in (2, 4, 8):
    values = _numbers(f'u{size}', 5, 7)
    half = 1 << (8 * size - 1)
    stored = (values ^ values.dtype.type(half)).view(f'i{size}')
    data = made.fits(stored, BZERO=half)
    yield f'FITS unsigned {size}', data, _expect(values), values.dtype.name
  signed = _numbers('i1', 5, 7)
  data = made.fits((signed.astype(int) + 128).astype('u1'), BZERO=-128)
  yield 'FITS signed 1', data, _expect(signed), 'int8'
  cube = _numbers('i2', 3, 5, 7)
  yield 'FITS cube', made.fits(cube), _expect(np.moveaxis(cube, 0, 2)), 'int16'
  stored = np.arange(35, dtype='i2').reshape(5, 7)
  data = made.fits(stored, BSCALE=0.025, BZERO=0.125)
  right = _expect(stored * 0.025 + 0.125, 1)
  yield 'FITS scaled', data, right, 'scaled int16'


def _zip(files):
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return data.getvalue()


def _need(name):
  """Skips a row where the extra that reads it is missing."""
  if name.startswith('FITS'):
    pytest.importorskip('astropy', reason='reads FITS: dipjax[fits]')


TABLE = [
  *_make_tiffs(),
  *_make_channels(),
  *_make_other_tiffs(),
  *_make_pngs(),
  ('BMP', made.bmp(_bits(8, 5, 7, 3)), _expect(_bits(8, 5, 7, 3)), 'uint8'),
  *_make_netpbms(),
  *_make_arrays(),
  *_make_fits(),
]


def _read(tmp_path, data, **options):
  path = tmp_path / 'made.bin'
  path.write_bytes(data)
  return reading.read(str(path), **options)


def _read_or_skip(tmp_path, data, **options):
  try:
    return _read(tmp_path, data, **options)
  except ValueError as error:
    found = importlib.util.find_spec('tifffile')
    if 'dipjax[tiff]' in str(error) and not found:
      pytest.skip('reads these TIFFs: dipjax[tiff]')
    raise


def test_the_table_is_long():
  assert len({row[0] for row in TABLE}) == len(TABLE) >= 60


@pytest.mark.parametrize(
  'name, data, right, depth', TABLE, ids=[row[0] for row in TABLE]
)
def test_every_value_is_right(tmp_path, name, data, right, depth):
  _need(name)
  picture = _read_or_skip(tmp_path, data)
  assert picture.depth == depth
  assert picture.mask is None and not picture.turned
  assert picture.pixels.dtype == np.float32
  assert picture.pixels.shape == right.shape
  # Pillow rounds the product of two inks to a level.
  atol = 0.51 / 255 if name == 'CMYK' else 0
  np.testing.assert_allclose(picture.pixels, right, rtol=0, atol=atol)


@pytest.mark.parametrize('deflate', [False, True])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('dtype', ['u1', 'u2', 'u4', 'f4'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_each_way_of_reading_a_tiff_turns_it_alike(
  tmp_path, dtype, orientation, channels, deflate
):
  values = _numbers(dtype, 5, 7, channels)
  tags = {274: ('H', orientation)}
  data = made.tiff(
    values, photometric=1 + channels // 2, deflate=deflate, tags=tags
  )
  picture = _read_or_skip(tmp_path, data)
  image = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7))
  turns = [None, None, *map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2))]
  turn = turns[orientation]
  order = np.asarray(image if turn is None else image.transpose(turn))
  right = _expect(values).reshape(35, channels)[order]
  np.testing.assert_array_equal(picture.pixels, right)
  assert picture.turned == (orientation > 1)
  assert picture.turn == (orientation if orientation > 1 else 0)


# --- Every mode of Pillow, written by it: an encoder is no reader.

_MODES = {
  '1': ('uint1', 1),
  'L': ('uint8', 1),
  'LA': ('uint8', 1),
  'P': ('uint16', 3),
  'RGB': ('uint8', 3),
  'RGBA': ('uint8', 3),
  'RGBX': ('uint8', 4),
  'CMYK': ('uint8', 3),
  'I;16': ('uint16', 1),
  'I;16B': ('uint16', 1),
  'I': ('int32', 1),
  'F': ('float32', 1),
}
_REFUSED_MODES = {'YCbCr': 'YCbCr', 'LAB': 'CIELab'}


@pytest.mark.parametrize('compression', [None, 'tiff_lzw', 'packbits'])
@pytest.mark.parametrize('mode', [*_MODES, *_REFUSED_MODES])
def test_a_mode_of_pillow_is_right_or_refused(tmp_path, mode, compression):
  grey = _bits(8, 5, 7)
  image = Image.fromarray(grey)
  if mode in ('I;16', 'I;16B', 'I', 'F'):
    stored = {'I': 'i4', 'F': 'f4'}.get(mode, 'u2')
    image = Image.fromarray(
      (grey / 255 if mode == 'F' else grey).astype(stored)
    )
    image = image if mode != 'I;16B' else image.convert('I').convert('I;16B')
  elif mode == '1':
    image = Image.fromarray(grey > 127)
  elif mode != 'LAB':
    image = image.convert(mode)
  else:
    image = Image.new('LAB', (7, 5))
  if mode == 'LA':
    image.putalpha(255)
  data = io.BytesIO()
  image.save(data, 'TIFF', compression=compression)
  if mode in _REFUSED_MODES:
    with pytest.raises(ValueError, match=_REFUSED_MODES[mode]):
      _read(tmp_path, data.getvalue())
    return
  try:
    picture = _read_or_skip(tmp_path, data.getvalue())
  except ValueError as error:
    # Only Pillow unpacks LZW by itself.
    assert compression == 'tiff_lzw' and 'imagecodecs' in str(error)
    return
  depth, channels = _MODES[mode]
  assert picture.depth == depth and picture.pixels.shape == (5, 7, channels)
  white = {'1': 1, 'I': 2**31 - 1, 'I;16': 65535, 'I;16B': 65535}.get(mode, 255)
  right = (grey > 127 if mode == '1' else grey) / white
  right = np.broadcast_to(right[..., None], picture.pixels.shape)
  np.testing.assert_allclose(
    picture.pixels[..., :3], right[..., :3], rtol=1e-6, atol=1e-7
  )


@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_a_jpeg_has_its_colour(tmp_path, mode):
  colour = {'L': 100, 'RGB': (200, 100, 50), 'CMYK': (55, 155, 205, 0)}[mode]
  data = io.BytesIO()
  Image.new(mode, (16, 16), colour).save(data, 'JPEG', quality=100)
  picture = _read(tmp_path, data.getvalue())
  right = 100 if mode == 'L' else [200, 100, 50]
  right = np.broadcast_to(np.divide(right, 255), picture.pixels.shape)
  np.testing.assert_allclose(picture.pixels, right, atol=3 / 255)
  assert picture.container == 'JPEG' and picture.depth == 'uint8'


@pytest.mark.parametrize('kind', ['GIF', 'WEBP'])
def test_a_lossless_file_of_the_web_is_exact(tmp_path, kind):
  image = Image.fromarray(_bits(8, 5, 7, 3)).quantize(8)
  colours = np.asarray(image.convert('RGB'))
  data = io.BytesIO()
  image = image if kind == 'GIF' else Image.fromarray(colours)
  image.save(data, kind, **({} if kind == 'GIF' else {'lossless': True}))
  picture = _read(tmp_path, data.getvalue())
  np.testing.assert_array_equal(picture.pixels, _expect(colours))


# --- White.


def test_white_is_the_value_that_becomes_one(tmp_path):
  values = np.array([[103, 973]], np.uint16)
  picture = _read(tmp_path, made.npy(values), white=1000)
  np.testing.assert_allclose(picture.pixels[..., 0], [[0.103, 0.973]])
  assert picture.white == 1000 and (picture.low, picture.high) == (103, 973)


def test_floats_above_one_ask_for_white(tmp_path):
  data = made.npy(np.array([[0, 7.5]], np.float32))
  with pytest.raises(ValueError, match=r'0 to 7\.5'):
    _read(tmp_path, data)
  picture = _read(tmp_path, data, white=10)
  np.testing.assert_allclose(picture.pixels[..., 0], [[0, 0.75]])


@pytest.mark.parametrize('white', [900, 0, -1, float('nan'), float('inf')])
def test_a_white_that_does_not_fit_is_refused(tmp_path, white):
  values = np.array([[103, 973]], np.uint16)
  with pytest.raises(ValueError, match=f'{white}'):
    _read(tmp_path, made.npy(values), white=white)


def test_the_line_says_what_was_read(tmp_path):
  values = np.array([[[103], [973]]], np.uint16)
  icc = {34675: ('B', *b'profile'), 274: ('H', 6)}
  picture = _read(tmp_path, made.tiff(values, tags=icc))
  assert picture.profile == b'profile'
  assert picture.describe() == (
    'TIFF 1x2, 1 channel, uint16, values 103 to 973, white 65535, turned by '
    'its EXIF, colour profile kept, not applied'
  )


# --- What is kept to write the file again.


def test_a_profile_may_hold_any_byte(tmp_path):
  profile, data = bytes(range(256)), io.BytesIO()
  Image.new('RGB', (3, 2)).save(data, 'TIFF', icc_profile=profile)
  assert _read(tmp_path, data.getvalue()).profile == profile


@pytest.mark.parametrize('order', '<>')
def test_the_notes_of_a_tiff_are_read(tmp_path, order):
  tags = {270: ('B', *b'text\0'), 296: ('H', 3), 274: ('H', 6)}
  grey = _numbers('u1', 5, 7, 1)
  plain = made.tiff(grey, order=order, tags=tags)
  picture = _read(tmp_path, plain)
  assert picture.notes == reading.Notes(text=(('Description', 'text'),))
  assert picture.path == str(tmp_path / 'made.bin') and picture.full == 255


def test_damaged_notes_of_a_tiff_are_left_out(tmp_path):
  # A table of the camera that lies outside the file.
  data = made.tiff(_numbers('u1', 5, 7, 1), tags={34665: ('I', 1 << 30)})
  assert _read(tmp_path, data).notes == reading.Notes()


def test_tables_that_point_to_each_other_end(tmp_path):
  data = made.tiff(_numbers('u1', 5, 7, 1), tags={34665: ('I', 44)})
  assert data[4:8] == b'\x2c\0\0\0'
  assert _read(tmp_path, data).pixels.shape == (5, 7, 1)


def test_a_big_endian_bigtiff_is_read_without_pillow(tmp_path):
  values = _numbers('u2', 5, 7, 3)
  data = made.tiff(values, order='>', big=True, photometric=2)
  picture = _read_or_skip(tmp_path, data)
  np.testing.assert_array_equal(picture.pixels, _expect(values))


# --- Masks.


def _check_mask(picture, mask):
  np.testing.assert_array_equal(picture.mask, mask)
  assert not picture.pixels[~picture.mask].any()
  assert np.isfinite(picture.pixels).all()


@pytest.mark.parametrize('kind', ['npy', 'tiff', 'fits'])
def test_pixels_that_are_not_finite_are_masked(tmp_path, kind):
  values = np.array([[0.5, np.nan, 1], [np.inf, 0, 0.25]], np.float32)
  data = {
    'npy': made.npy,
    'tiff': lambda x: made.tiff(x[..., None]),
    'fits': made.fits,
  }[kind](values)
  _need(kind.upper())
  picture = _read(tmp_path, data)
  _check_mask(picture, np.isfinite(values))
  np.testing.assert_array_equal(picture.stored, [[np.nan], [np.inf]])
  assert '2 pixels masked (nan' in picture.describe()
  with pytest.raises(ValueError, match='nan'):
    images.read_image(str(tmp_path / 'made.bin'))


def test_blank_pixels_are_masked_and_the_header_is_kept(tmp_path):
  _need('FITS')
  values = np.array([[5, -1, 32767]], np.int16)
  picture = _read(tmp_path, made.fits(values, BLANK=-1, EXPTIME=12.5))
  _check_mask(picture, [[True, False, True]])
  assert picture.depth == 'int16' and picture.white == 32767
  assert picture.header is not None and 'EXPTIME' in picture.header


def _make_alphas():
  for name in ('u1', 'u2'):
    values = _numbers(name, 5, 7, 4)
    values[..., 3] = np.where(np.eye(5, 7), 3, _whiten(values))
    bits = 8 * values.dtype.itemsize
    yield f'RGBA PNG {bits}', _png(values, bits, 6)
    yield f'LA PNG {bits}', _png(values[..., 2:], bits, 4)
    yield f'RGBA {bits}', made.tiff(values, photometric=2, extra=(2,))
    yield f'LA {bits}', made.tiff(values[..., 2:].copy(), extra=(2,))


def _png(values, bits, colour, **options):
  rows = made.png_rows(values, bits)
  return made.png(rows, values.shape[1], depth=bits, colour=colour, **options)


ALPHAS = list(_make_alphas())


@pytest.mark.parametrize('name, data', ALPHAS, ids=[row[0] for row in ALPHAS])
def test_what_is_not_opaque_is_masked(tmp_path, name, data):
  picture = _read_or_skip(tmp_path, data)
  _check_mask(picture, np.eye(5, 7) == 0)
  assert picture.pixels.shape[2] == (1 if name.startswith('LA') else 3)
  alpha = np.where(np.eye(5, 7), 3, picture.white).astype(picture.depth)
  np.testing.assert_array_equal(picture.alpha, alpha, strict=True)
  with pytest.raises(ValueError, match='flatten'):
    images.read_image(str(tmp_path / 'made.bin'))


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_a_grey_key_is_compared_with_the_stored_value(tmp_path, bits):
  values = _bits(bits, 5, 7, 1)
  chunks = [(b'tRNS', b'\0\1')]
  picture = _read(tmp_path, _png(values, bits, 0, chunks=chunks))
  mask = None if (values != 1).all() else values[..., 0] != 1
  np.testing.assert_array_equal(picture.mask, mask)


def test_a_colour_key_is_compared_with_all_sixteen_bits(tmp_path):
  values = np.array([[[257, 2, 3], [256, 2, 3]]], np.uint16)
  chunks = [(b'tRNS', values[0, 0].astype('>u2').tobytes())]
  picture = _read(tmp_path, _png(values, 16, 2, chunks=chunks))
  _check_mask(picture, [[False, True]])


# --- Pages.


def test_a_page_is_named_where_there_are_several(tmp_path):
  data = made.tiff(_numbers('u2', 5, 7, 3), photometric=2, planar=2, pages=3)
  with pytest.raises(ValueError, match='3 frames'):
    _read(tmp_path, data)
  assert _read_or_skip(tmp_path, data, page=2).pixels.shape == (5, 7, 3)
  with pytest.raises(ValueError, match='no page 3'):
    _read(tmp_path, data, page=3)


def test_an_image_of_fits_is_named_where_there_are_several(tmp_path):
  _need('FITS')
  first, second = _numbers('i2', 5, 7), _numbers('f4', 3, 4)
  later = made.fits(second, extension=True)
  data = made.fits(first, EXTEND='T') + later
  with pytest.raises(ValueError, match='holds 2 plain images'):
    _read(tmp_path, data)
  picture = _read(tmp_path, data, page=1)
  np.testing.assert_array_equal(picture.pixels, _expect(second))
  with pytest.raises(ValueError, match='no HDU 2'):
    _read(tmp_path, data, page=2)


def test_what_has_no_pages_has_no_page(tmp_path):
  with pytest.raises(ValueError, match='no pages'):
    _read(tmp_path, made.npy(_numbers('u1', 5, 7)), page=0)


# --- What is refused, in one line.

_GREY = _numbers('u1', 5, 7, 1)
_COLOUR = _numbers('u1', 5, 7, 3)
_OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"
_DEEP = '(' * 3000 + ')' * 3000
_HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (90000, 90000), }"


def _save(mode, kind, **options):
  data = io.BytesIO()
  Image.new(mode, (4, 4)).save(data, kind, **options)
  return data.getvalue()


# What makes a folder where it is opened, written by hand.
_TRAP = b'\x80\x02cos\nmkdir\nX\x06\0\0\0sprung\x85R.'


REFUSED = [
  ('EPS', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'PostScript'),
  ('EPS of DOS', b'\xc5\xd0\xd3\xc6' + bytes(40), 'PostScript'),
  ('PDF', b'%PDF-1.7\n', 'PDF'),
  ('HEIC', b'\0\0\0\x18ftypheic' + bytes(16), 'HEIC|File size too small'),
  ('AVIF', b'\0\0\0\x18ftypavif' + bytes(16), 'AVIF'),
  ('SVG', b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'drawing'),
  ('pickle', _TRAP, 'never opened'),
  ('nested pickle', b'\x80\x04' + b']' * 100_000 + b'.', 'never opened'),
  ('nested old pickle', b'(' * 100_000 + b'.', 'not a known image'),
  ('pickle in npy', made.npy(np.zeros(0), header=_OBJECTS), 'never opened'),
  ('deep header', made.npy(np.zeros(0), header=_DEEP), '.'),
  ('huge npy', made.npy(np.zeros(0), header=_HUGE), 'more than 100000000'),
  (
    'huge npz',
    _zip({'a.npy': made.npy(np.zeros(0), header=_HUGE)}),
    'more tha',
  ),
  ('short npy', made.npy(_GREY)[:-1], 'truncated'),
  ('flat npy', made.npy(np.zeros(5)), 'shape'),
  ('many channels', made.npy(np.zeros((5, 7, 9))), 'shape'),
  ('complex', made.npy(np.zeros((5, 7), complex)), 'complex128'),
  ('text in npy', made.npy(np.zeros((5, 7), 'U1')), '<U1'),
  ('two arrays', _zip({'a.npy': b'', 'b.npy': b''}), '2 files'),
  ('another archive', _zip({'a.txt': b'x'}), '1 files'),
  ('negative', made.npy(np.full((2, 2), -3, np.int16)), '-3'),
  ('nothing counts', made.npy(np.full((2, 2), np.nan)), 'no pixel'),
  ('CIELab', made.tiff(_COLOUR, photometric=8), 'CIELab'),
  ('YCbCr', made.tiff(_COLOUR, photometric=6), 'YCbCr'),
  ('mosaic', made.tiff(_GREY, photometric=32803), 'mosaic'),
  ('raw', made.tiff(_GREY, tags={50706: ('B', 1, 4, 0, 0)}), 'camera raw'),
  ('preview', made.tiff(_GREY, tags={254: ('I', 1)}), 'previews'),
  ('LZMA', made.tiff(_GREY, tags={259: ('H', 34925)}), 'compression 34925'),
  ('unlike bits', made.tiff(_COLOUR, tags={258: ('H', 5, 6, 5)}), '5, 6, 5'),
  ('void', made.tiff(_GREY, tags={339: ('H', 4)}), 'format 4'),
  ('complex TIFF', made.tiff(_GREY, tags={339: ('H', 6)}), 'format 6'),
  ('signed white zero', made.tiff(_GREY.view('i1'), photometric=0), 'white'),
  (
    'turned bits',
    made.tiff(_numbers('u4', 5, 7, 1), tags={266: ('H', 2)}),
    '.',
  ),
  ('volume', made.tiff(_GREY, tags={32997: ('I', 4)}), '4 planes'),
  (
    'stack of ImageJ',
    made.tiff(_GREY, tags={270: ('B', *b'ImageJ=1.53\nimages=9\nslices=9\n')}),
    'stack of 9',
  ),
  ('huge tile', made.tiff(_GREY, tags={322: ('I', 1 << 30)}), 'tiles'),
  ('huge TIFF', made.tiff(_GREY, tags={256: ('I', 1 << 30)}), 'more than'),
  ('no samples', made.tiff(_GREY)[:20], 'truncated'),
  ('short samples', made.tiff(_bits(12, 5, 7, 1), bits=12)[:-9], 'truncated'),
  (
    'inks with a profile',
    made.tiff(
      _numbers('u1', 5, 7, 4), photometric=5, tags={34675: ('B', 1, 2)}
    ),
    'CMYK',
  ),
  ('maxval 0', b'P5 2 2 0 abcd', 'maxval 0'),
  ('above maxval', b'P5 2 2 9 \0\1\2\x0a', 'above its maxval'),
  ('short PGM', b'P5 2 2 255 abc', 'truncated'),
  ('two PGM', b'P5 1 1 255 aP5 1 1 255 b', 'several frames'),
  ('plain with text', b'P2 2 1 255 1 x', 'decimal'),
  ('short plain', b'P2 2 1 255 1', 'of 2 samples'),
  ('PFM of a scale', b'Pf 1 1 -3\n' + bytes(4), 'scale'),
  (
    'PAM of a type',
    b'P7\nWIDTH 1\nHEIGHT 1\nDEPTH 7\nMAXVAL 9\nENDHDR\n',
    'PAM',
  ),
  ('ICO', _save('RGB', 'ICO', sizes=[(4, 4)]), 'not a known image'),
  ('TGA', _save('RGB', 'TGA'), 'not a known image'),
  ('FITS without pixels', made.fits(np.zeros((0, 0))), '.'),
  ('FITS too large', made.fits(np.zeros((2, 2)), NAXIS1=20000), 'truncated'),
]


@pytest.mark.parametrize(
  'name, data, says', REFUSED, ids=[row[0] for row in REFUSED]
)
def test_all_else_is_refused_in_one_line(
  tmp_path, monkeypatch, capfd, name, data, says
):
  _need(name)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=says) as caught:
    _read(tmp_path, data)
  text = str(caught.value)
  assert 'made.bin' in text and '\n' not in text and len(text) < 300
  assert not (tmp_path / 'sprung').exists()
  assert capfd.readouterr() == ('', '')


def test_a_small_archive_takes_little_memory(tmp_path):
  values = np.zeros((9000, 9000), np.float32)
  data = _zip({'a.npy': made.npy(values)})
  assert len(data) < 1 << 20
  del values
  tracemalloc.start()
  with pytest.raises(ValueError, match='times its size'):
    _read(tmp_path, data)
  assert tracemalloc.get_traced_memory()[1] < 50 << 20
  tracemalloc.stop()


def test_no_program_is_started(tmp_path, monkeypatch):
  def start(*args, **_):
    raise AssertionError(args)

  monkeypatch.setattr(subprocess, 'Popen', start)
  path = tmp_path / 'drawing.png'
  path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
  with pytest.raises(ValueError, match='PostScript'):
    reading.read(str(path))


@pytest.mark.parametrize('planar', [1, 2])
def test_libraries_keep_their_lines_to_themselves(tmp_path, capfd, planar):
  data = bytearray(
    made.tiff(
      _numbers('u2', 50, 70, 3), photometric=2, planar=planar, deflate=True
    )
  )
  data[100:200] = bytes(100)
  with pytest.raises(ValueError):
    _read(tmp_path, bytes(data))
  assert capfd.readouterr() == ('', '')
  assert not logging.getLogger('tifffile').disabled


@pytest.mark.parametrize(
  'extra, module, data',
  [
    ('tiff', 'tifffile', made.tiff(_numbers('u4', 5, 7, 1))),
    ('fits', 'astropy.io', made.fits(_numbers('i2', 5, 7))),
    ('heic', 'pi_heif', b'\0\0\0\x18ftypheic' + bytes(16)),
  ],
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, extra, module, data):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ValueError, match=rf'pip install .dipjax\[{extra}\]'):
    _read(tmp_path, data)


def test_a_zarr_folder_is_named(tmp_path):
  (tmp_path / 'zarr.json').write_text('{}')
  with pytest.raises(ValueError, match='Zarr is not supported'):
    reading.read(str(tmp_path))


def test_damage_is_refused_in_one_line(tmp_path, capfd):
  rng = np.random.default_rng(11)
  for _ in range(400):
    name, data, _, _ = TABLE[rng.integers(len(TABLE))]
    damaged = bytearray(data)
    for place in rng.integers(min(len(data), 400), size=3):
      damaged[place] = rng.integers(256)
    try:
      picture = _read(tmp_path, bytes(damaged))
    except ValueError as error:
      assert '\n' not in str(error) and len(str(error)) < 400, name
    else:
      assert 0 <= picture.pixels.min() <= picture.pixels.max() <= 1, name
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('predictor', [False, True])
@pytest.mark.parametrize(
  'layout', [{'rowsperstrip': 4}, {'tile': (16, 16)}], ids=['strips', 'tiles']
)
@pytest.mark.parametrize('planar', ['contig', 'separate'])
@pytest.mark.parametrize('dtype', ['u1', 'u2', 'u4', 'i2', 'f4'])
def test_strips_and_tiles_of_another_writer(
  tmp_path, dtype, planar, layout, predictor, order
):
  tifffile = pytest.importorskip('tifffile', reason='writes the files')
  values = _numbers(dtype, 21, 37, 3)
  if predictor:
    # The differences of neighbours, which is what is stored then.
    number = 3 if values.dtype.kind == 'f' else 2
    layout = layout | {'compression': 'zlib', 'predictor': number}
  data = io.BytesIO()
  tifffile.imwrite(
    data,
    values if planar == 'contig' else np.moveaxis(values, 2, 0),
    photometric='rgb',
    planarconfig=planar,
    byteorder=order,
    **layout,
  )
  picture = _read(tmp_path, data.getvalue())
  np.testing.assert_array_equal(picture.pixels, _expect(values))


@pytest.mark.parametrize('layout', [{'rowsperstrip': 4}, {'tile': (16, 16)}])
@pytest.mark.parametrize('photometric', ['minisblack', 'miniswhite'])
@pytest.mark.parametrize('dtype', ['u1', 'u2', 'u4', 'f4'])
@pytest.mark.parametrize('order', '<>')
def test_grey_strips_and_tiles_of_another_writer(
  tmp_path, dtype, photometric, layout, order
):
  tifffile = pytest.importorskip('tifffile', reason='writes the files')
  values = _numbers(dtype, 21, 37)
  data = io.BytesIO()
  tifffile.imwrite(
    data, values, photometric=photometric, byteorder=order, **layout
  )
  if photometric == 'miniswhite':
    if values.dtype.kind == 'f':
      with pytest.raises(ValueError, match='white is zero'):
        _read(tmp_path, data.getvalue())
      return
    values = _whiten(values) - values
  picture = _read(tmp_path, data.getvalue())
  np.testing.assert_array_equal(picture.pixels, _expect(values))


def test_floats_below_black_are_noise_where_white_is_told(tmp_path):
  values = np.array([[-3.5, 0.0], [20.0, 40.0]], np.float32)
  np.save(tmp_path / 'a.npy', values)
  source = str(tmp_path / 'a.npy')
  with pytest.raises(ValueError, match=r'floats from -3.5 to 40.*white=40'):
    reading.read(source)
  picture = reading.read(source, white=40.0)
  np.testing.assert_allclose(picture.pixels[..., 0], values / 40)
  with pytest.raises(ValueError, match='outside'):
    reading.read(source, white=3.0)
