"""Writing: a file has the values, the depth and the notes of the input.

What is written is read by another reader than ours: by Pillow, tifffile,
astropy and NumPy, and a PNG byte by byte.
"""

import errno
import io
import os
import struct
import sys
import tracemalloc
import zlib
from typing import Any

import made_files as made
import numpy as np
import pytest
import reading_test
import tifffile
from astropy.io import fits
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from experiments.lib import folders, reading, writing
from experiments.lib.reading import notes

ENDINGS = {
  'PNG': '.png',
  'JPEG': '.jpg',
  'BMP': '.bmp',
  'GIF': '.gif',
  'WEBP': '.webp',
  'Netpbm': '.pnm',
  'PFM': '.pfm',
  'TIFF': '.tif',
  'FITS': '.fits',
  'npy': '.npy',
  'npz': '.npz',
}


def _read(tmp_path, data, **options):
  path = tmp_path / 'input.bin'
  path.write_bytes(data)
  return reading.read(str(path), **options)


def _write(tmp_path, ending, like, pixels=None, **options):
  """Returns the path of a file with the pixels, by default the input's own."""
  path = str(tmp_path / f'output{ending}')
  writing.write(
    path, like.pixels if pixels is None else pixels, like, **options
  )
  return path


# --- Every file that is read is written again as it was.

ROWS = [row[:2] for row in [*reading_test.TABLE, *reading_test.ALPHAS]]


@pytest.mark.parametrize('name, data', ROWS, ids=[row[0] for row in ROWS])
def test_what_was_read_is_written_again(tmp_path, name, data):
  picture = _read(tmp_path, data)
  path = str(tmp_path / f'output{ENDINGS[picture.container]}')
  plan = writing.write(path, picture.pixels, picture)
  again = reading.read(path)
  for field in ('pixels', 'mask', 'stored', 'alpha'):
    one, other = getattr(picture, field), getattr(again, field)
    np.testing.assert_array_equal(one, other, field, strict=True)
  assert (plan.depth, plan.white) == (again.depth, again.white)
  if picture.container == 'PNG' and picture.depth in ('uint2', 'uint4'):
    assert again.depth == 'uint8' and picture.depth in plan.describe()
  else:
    assert (again.depth, again.white) == (picture.depth, picture.white)


# --- The table of what is written, read by others.


def _read_pillow(path):
  with Image.open(path) as image:
    return np.asarray(image)


def _read_png(path):
  """Returns the samples of a PNG that is not interlaced, by the standard."""
  with open(path, 'rb') as file:
    data = file.read()
  width, height, bits, colour = struct.unpack_from('>IIBB', data, 16)
  channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
  packed, start = b'', 8
  while start < len(data):
    (size,) = struct.unpack_from('>I', data, start)
    if data[start + 4 : start + 8] == b'IDAT':
      packed += data[start + 8 : start + 8 + size]
    start += size + 12
  step = max(1, bits * channels // 8)
  stride = (width * channels * bits + 7) // 8
  raw = np.frombuffer(zlib.decompress(packed), np.uint8)
  rows = np.zeros((height + 1, stride + step), int)
  for row, above, line in zip(rows[1:], rows, raw.reshape(height, -1)):
    for i, byte in enumerate(map(int, line[1:])):
      a, b, c = int(row[i]), int(above[i + step]), int(above[i])
      near = [abs(a + b - c - x) for x in (a, b, c)]
      paeth = (a, b, c)[near.index(min(near))]
      guess = (0, a, b, (a + b) // 2, paeth)[line[0]]
      row[i + step] = (byte + guess) % 256
  samples = rows[1:, step:].astype(np.uint8)
  if bits < 8:
    samples = np.unpackbits(samples, axis=1, count=width * bits)
  elif bits == 16:
    samples = np.ascontiguousarray(samples).view('>u2').astype(np.uint16)
  return samples.reshape(height, width, channels)


def _read_pnm(path):
  """Returns the samples of a raw PGM or PPM, and of a PAM, of any maxval."""
  with open(path, 'rb') as file:
    data = file.read()
  if data[:2] == b'P7':
    head, _, body = data.partition(b'ENDHDR\n')
    fields = dict(line.split() for line in head.decode().splitlines()[1:])
    sizes = [int(fields[k]) for k in ('HEIGHT', 'WIDTH', 'DEPTH', 'MAXVAL')]
  else:
    magic, size, maxval, body = data.split(b'\n', 3)
    width, height = map(int, size.split())
    sizes = [height, width, 3 if magic == b'P6' else 1, int(maxval)]
  kind = '>u2' if sizes[3] > 255 else 'u1'
  return np.frombuffer(body, kind).reshape(sizes[:3]).astype(kind[-2:])


def _read_fits(path):
  with fits.open(path, memmap=False) as units:
    data = units[0].data.astype(units[0].data.dtype.newbyteorder('='))
  return np.moveaxis(data, 0, 2) if data.ndim == 3 else data


def _open_tiff(path) -> Any:
  return tifffile.TiffFile(path)


def _read_npz(path):
  with np.load(path) as archive:
    return archive[archive.files[0]]


# Ending, types, numbers of channels with alpha last, who reads it.
_CASES: list[tuple[str, list[str], tuple[int, ...], Any]] = [
  ('.png', ['u1', 'u2'], (1, 2, 3, 4), _read_png),
  ('.bmp', ['u1'], (1, 3, 4), _read_pillow),
  ('.webp', ['u1'], (3, 4), _read_pillow),
  ('.gif', ['u1'], (1,), _read_pillow),
  ('.pgm', ['u1', 'u2'], (1,), _read_pnm),
  ('.ppm', ['u1', 'u2'], (3,), _read_pnm),
  ('.pam', ['u1', 'u2'], (1, 2, 3, 4), _read_pnm),
  ('.tif', reading_test._NUMBERS, (1, 2, 3, 4), tifffile.imread),
  (
    '.fits',
    [name for name in reading_test._NUMBERS if name != 'f2'],
    (1, 3),
    _read_fits,
  ),
  ('.npy', reading_test._NUMBERS, (1, 3, 5), np.load),
  ('.npz', reading_test._NUMBERS, (1, 3, 5), _read_npz),
]
CASES = [
  (ending, name, channels, reader)
  for ending, names, several, reader in _CASES
  for name in names
  for channels in several
]


def _make_picture(values, alpha, **options):
  """Returns what reading gives of values [H, W, C], alpha last or none.

  The pixels are doubles, so that each of 53 bits can come back.
  """
  kind = values.dtype
  full = None if kind.kind == 'f' else int(np.iinfo(kind).max)
  colours = values[..., :-1] if alpha else values
  mask = values[..., -1] == (full or 1) if alpha else None
  return reading.Picture(
    pixels=colours.astype(np.float64) / (full or 1),
    mask=mask,
    white=full or 1.0,
    container='array',
    depth=kind.name,
    profile=None,
    low=0,
    high=1,
    full=full,
    stored=None if mask is None else colours[~mask],
    alpha=values[..., -1] if alpha else None,
    **options,
  )


@pytest.mark.parametrize('ending, name, channels, reader', CASES)
def test_another_reader_finds_the_values(
  tmp_path, ending, name, channels, reader
):
  values = reading_test._numbers(name, 5, 7, channels)
  if values.dtype.kind != 'f' and values.dtype.itemsize == 8:
    values = values >> 12 << 12  # A double holds 53 bits.
  alpha = channels in (2, 4)
  picture = _make_picture(values, alpha)
  found = reader(_write(tmp_path, ending, picture))
  assert found.dtype == values.dtype
  np.testing.assert_array_equal(found.reshape(values.shape), values)


@pytest.mark.parametrize('bits', [1, 2, 4, 10, 12, 14])
def test_a_packed_tiff_keeps_its_bits(tmp_path, bits):
  values = reading_test._bits(bits, 5, 7, 1)
  picture = _read(tmp_path, made.tiff(values, bits=bits))
  path = _write(tmp_path, '.tif', picture)
  with _open_tiff(path) as file:
    assert file.pages[0].bitspersample == bits
    np.testing.assert_array_equal(file.pages[0].asarray(), values[..., 0])


def test_a_jpeg_is_as_near_as_its_quality(tmp_path):
  ramp = np.linspace(0, 255, 64).astype(np.uint8)
  values = np.dstack([ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None]] * 2)
  picture = _read(tmp_path, made.npy(values[..., :3]))
  path = _write(tmp_path, '.jpg', picture)
  with Image.open(path) as opened:
    # A colour for each pixel: no layer is reduced.
    image: Any = opened
    assert {layer[1:3] for layer in image.layer} == {(1, 1)}
    error = np.asarray(image).astype(int) - values[..., :3]
  assert abs(error).max() <= 6 and np.sqrt(np.mean(error**2)) < 1.5


@pytest.mark.parametrize('maxval', [1, 100, 1000])
def test_a_maxval_is_kept(tmp_path, maxval):
  head = f'P5\n3 1\n{maxval}\n'.encode()
  values = np.array([0, maxval // 2, maxval])
  data = head + values.astype('u1' if maxval < 256 else '>u2').tobytes()
  picture = _read(tmp_path, data)
  with open(_write(tmp_path, '.pgm', picture), 'rb') as file:
    assert file.read() == data


def test_a_gif_of_many_colours_has_the_nearest_of_a_palette(tmp_path):
  colours = reading_test._bits(8, 30, 40, 3)
  picture = _read(tmp_path, made.npy(colours))
  path = _write(tmp_path, '.gif', picture)
  plan = writing.check(str(tmp_path / 'other.gif'), picture)
  assert 'at most 256 colours' in plan.describe()
  with Image.open(path) as image:
    found = np.asarray(image.convert('RGB')).astype(int)
  assert np.sqrt(np.mean((found - colours) ** 2)) < 50


def test_a_clear_colour_of_a_gif_stays_clear(tmp_path):
  index = np.array([[0, 1, 2, 0]], np.uint8)
  image = Image.fromarray(index)
  image.putpalette([9, 8, 7, 200, 0, 0, 0, 100, 0])
  data = io.BytesIO()
  image.save(data, 'GIF', transparency=0)
  picture = _read(tmp_path, data.getvalue())
  assert picture.mask is not None and picture.mask.sum() == 2
  with Image.open(_write(tmp_path, '.gif', picture)) as image:
    found = np.asarray(image.convert('RGBA'))
  right = [[9, 8, 7, 0], [200, 0, 0, 255], [0, 100, 0, 255], [9, 8, 7, 0]]
  np.testing.assert_array_equal(found[0], right)


# --- Levels.


def test_a_dim_picture_keeps_all_its_levels(tmp_path):
  noisy = np.random.default_rng(0).integers(103, 974, (40, 50, 3))
  picture = _read(tmp_path, made.npy(noisy.astype(np.uint16)))
  clean = np.linspace(103, 973, noisy.size).reshape(noisy.shape)
  for ending in ('.png', '.tif', '.ppm', '.npy', '.fits'):
    path = _write(tmp_path, ending, picture, (clean / 65535).astype('f4'))
    again = reading.read(path).pixels * np.float64(65535)
    assert abs(again - clean).max() <= 0.501, ending
    assert len(np.unique(np.rint(again))) == 871, ending


def test_counts_stay_counts_where_white_was_given(tmp_path):
  values = np.array([[103, 973]], np.uint16)
  picture = _read(tmp_path, made.npy(values), white=973)
  assert picture.pixels.max() == 1
  for ending, reader in (('.png', _read_png), ('.tif', tifffile.imread)):
    found = reader(_write(tmp_path, ending, picture))
    np.testing.assert_array_equal(found.ravel(), [103, 973])
  # Eight bits do not hold these counts: white is white there.
  found = _read_pillow(_write(tmp_path, '.bmp', picture))
  np.testing.assert_array_equal(found, [[27, 255]])


def test_what_lies_outside_is_clipped_but_not_in_floats(tmp_path):
  pixels = np.array([[[-0.2], [0.4980], [1.3]]])
  whole = _read(tmp_path, made.npy(np.zeros((1, 3), np.uint8)))
  found = _read_png(_write(tmp_path, '.png', whole, pixels))
  np.testing.assert_array_equal(found.ravel(), [0, 127, 255])
  floats = _read(tmp_path, made.npy(np.zeros((1, 3), np.float32)), white=10)
  found = np.load(_write(tmp_path, '.npy', floats, pixels))
  np.testing.assert_allclose(found, [[-2, 4.98, 13]], rtol=1e-6)


@pytest.mark.parametrize('name', ['u8', 'i8', 'u4', 'i4'])
def test_white_is_the_largest_integer_even_of_64_bits(tmp_path, name):
  values = np.array([[0, np.iinfo(name).max]], name)
  picture = _read(tmp_path, made.npy(values))
  found = np.load(_write(tmp_path, '.npy', picture))
  np.testing.assert_array_equal(found, values, strict=True)


DEPTHS = [
  ('u2', '.jpg', 'uint8'),
  ('u4', '.png', 'uint16'),
  ('i2', '.png', 'uint16'),
  ('f4', '.png', 'uint16'),
  ('f8', '.pfm', 'float32'),
  ('f2', '.fits', 'float32'),
  ('u2', '.pfm', 'float32'),
  ('u1', '.fits', 'uint8'),
  ('?', '.fits', 'uint8'),
  ('f8', '.tif', 'float64'),
]


@pytest.mark.parametrize('name, ending, depth', DEPTHS)
def test_a_container_that_lacks_the_depth_has_the_next(
  tmp_path, name, ending, depth
):
  values = np.array([[0, 1]], name)
  picture = _read(tmp_path, made.npy(values))
  plan = writing.check(str(tmp_path / f'output{ending}'), picture)
  assert plan.depth == depth
  said = f'the input has {picture.depth}' in plan.describe()
  assert said == (depth != picture.depth)
  again = reading.read(_write(tmp_path, ending, picture))
  tolerance = 0.5 / (again.full or 1e6)
  np.testing.assert_allclose(again.pixels, picture.pixels, atol=tolerance)


def test_an_array_without_a_file_has_16_bits_where_it_can(tmp_path):
  pixels = np.linspace(0, 1, 12).reshape(2, 2, 3)
  for ending, depth in (('.png', 'uint16'), ('.jpg', 'uint8')):
    plan = writing.write(str(tmp_path / f'a{ending}'), pixels, None)
    assert plan.depth == depth
  path = str(tmp_path / 'b.png')
  assert writing.write(path, pixels, None, depth='uint8').depth == 'uint8'
  np.testing.assert_array_equal(_read_png(path), np.rint(pixels * 255))


# --- Alpha and masks.


@pytest.mark.parametrize('ending', ['.png', '.tif', '.webp', '.bmp', '.pam'])
def test_clear_pixels_keep_their_colours_and_alpha_its_values(tmp_path, ending):
  values = reading_test._bits(8, 5, 7, 4)
  values[..., 3] &= 127
  values[:2, :, 3] = [[255], [0]]
  picture = _read(tmp_path, reading_test._png(values, 8, 6))
  restored = np.clip(picture.pixels + 0.2, 0, 1)
  reader = _read_pnm if ending == '.pam' else _read_pillow
  found = reader(_write(tmp_path, ending, picture, restored))
  np.testing.assert_array_equal(found[..., 3], values[..., 3])
  np.testing.assert_array_equal(found[1:], values[1:])
  right = np.minimum(values[0, :, :3].astype(int) + 51, 255)
  np.testing.assert_array_equal(found[0, :, :3], right)


def test_a_box_of_a_picture_has_the_alpha_and_the_colours_of_its_box(tmp_path):
  values = reading_test._bits(8, 5, 7, 4)
  values[::2, :, 3] = 255
  whole = _read(tmp_path, reading_test._png(values, 8, 6))
  found = _read_png(_write(tmp_path, '.png', whole.crop(1, 2, 3, 4)))
  np.testing.assert_array_equal(found, values[1:4, 2:6])


def test_alpha_is_turned_with_the_pixels_and_holds_no_more(tmp_path):
  values = reading_test._bits(8, 5, 7, 4)
  values[0, 0, 3] = 255
  exif = b'II*\0\x08\0\0\0' + struct.pack('<HHHIHHI', 1, 274, 3, 1, 6, 0, 0)
  data = reading_test._png(values, 8, 6, chunks=[(b'eXIf', exif)])
  picture = _read(tmp_path, data)
  assert picture.turned and picture.alpha is not None
  np.testing.assert_array_equal(picture.alpha, np.rot90(values[..., 3], -1))
  assert picture.alpha.base is None and picture.alpha.dtype == np.uint8
  found = _read_png(_write(tmp_path, '.png', picture))
  np.testing.assert_array_equal(found[..., 3], picture.alpha)


@pytest.mark.parametrize('name', ['u1', 'u2', 'f4'])
@pytest.mark.parametrize('deflate', [False, True])
def test_colours_multiplied_by_alpha_stay_so(tmp_path, name, deflate):
  values = reading_test._numbers(name, 5, 7, 4)
  values[0, 0, 3] = reading_test._whiten(values)
  data = made.tiff(values, photometric=2, extra=(1,), deflate=deflate)
  picture = _read(tmp_path, data)
  with _open_tiff(_write(tmp_path, '.tif', picture)) as file:
    assert file.pages[0].extrasamples == (1,)
    np.testing.assert_array_equal(file.pages[0].asarray(), values)


def test_other_containers_have_the_colours_themselves(tmp_path):
  # Half transparent: 64 of 128 is half of full, in each of the containers.
  values = np.array([[[64, 0, 128, 128], [9, 8, 7, 255]]], np.uint8)
  picture = _read(tmp_path, made.tiff(values, photometric=2, extra=(1,)))
  found = _read_png(_write(tmp_path, '.png', picture))
  np.testing.assert_array_equal(found, [[[128, 0, 255, 128], [9, 8, 7, 255]]])


def test_a_clear_colour_of_a_png_becomes_alpha(tmp_path):
  values = reading_test._bits(8, 5, 7, 1)
  key = int(values[2, 3, 0])
  chunks = [(b'tRNS', struct.pack('>H', key))]
  picture = _read(tmp_path, reading_test._png(values, 8, 0, chunks=chunks))
  found = _read_png(_write(tmp_path, '.png', picture))
  np.testing.assert_array_equal(found[..., 1], 255 * (values[..., 0] != key))
  np.testing.assert_array_equal(found[..., :1], values)


@pytest.mark.parametrize('ending', ['.tif', '.fits', '.npy'])
def test_pixels_that_are_not_finite_stay_what_they_are(tmp_path, ending):
  values = np.array([[0.5, np.nan, 1], [np.inf, 0, -np.inf]], np.float32)
  values.view(np.uint32)[0, 1] = 0x7FC01234  # Not every NaN is the same.
  picture = _read(tmp_path, made.npy(values))
  readers = {'.tif': tifffile.imread, '.fits': _read_fits, '.npy': np.load}
  found = readers[ending](_write(tmp_path, ending, picture))
  bits = np.ascontiguousarray(found, np.float32).view(np.uint32)
  np.testing.assert_array_equal(bits, values.view(np.uint32))


def test_blank_pixels_stay_blank_and_others_never_become_so(tmp_path):
  values = np.array([[5, -1, 0, 100]], np.int16)
  picture = _read(tmp_path, made.fits(values, BLANK=-1, EXPTIME=12.5))
  path = _write(tmp_path, '.fits', picture)
  with fits.open(path, do_not_scale_image_data=True) as units:
    np.testing.assert_array_equal(units[0].data, values)
  blank = _read(tmp_path, made.fits(abs(values), BLANK=100))
  path = _write(tmp_path, '.fits', blank, np.full((1, 4, 1), 100 / 32767))
  with fits.open(path, do_not_scale_image_data=True) as units:
    np.testing.assert_array_equal(units[0].data, [[101, 101, 101, 100]])
  top = _read(tmp_path, made.fits(np.array([[7, 255]], np.uint8), BLANK=255))
  path = _write(tmp_path, '.fits', top, np.ones((1, 2, 1)))
  with fits.open(path, do_not_scale_image_data=True) as units:
    np.testing.assert_array_equal(units[0].data, [[254, 255]])


# --- FITS.


def test_a_header_is_kept_but_not_what_it_says_of_old_pixels(tmp_path):
  unit = fits.PrimaryHDU(np.arange(35, dtype=np.uint16).reshape(5, 7))
  unit.header['OBJECT'] = 'M 31'
  unit.header['LONGSTRN'] = 'x' * 150
  unit.header.add_history('taken')
  unit.header['DATAMAX'] = 34
  unit.add_checksum()
  data = io.BytesIO()
  unit.writeto(data)
  picture = _read(tmp_path, data.getvalue())
  path = _write(tmp_path, '.fits', picture, picture.pixels + 1 / 65535)
  with fits.open(path, checksum=True) as units:
    units.verify('exception')
    header = units[0].header
    assert header['OBJECT'] == 'M 31' and header['LONGSTRN'] == 'x' * 150
    assert str(header['HISTORY']) == 'taken'
    assert not {'CHECKSUM', 'DATASUM', 'DATAMAX'} & set(header)
    assert units[0].data.dtype == np.uint16
    np.testing.assert_array_equal(units[0].data.ravel(), np.arange(1, 36))
  assert os.path.getsize(path) % 2880 == 0


def test_a_scale_of_fits_is_kept(tmp_path):
  stored = np.arange(35, dtype='i2').reshape(5, 7)
  picture = _read(tmp_path, made.fits(stored, BSCALE=0.025, BZERO=0.125))
  path = _write(tmp_path, '.fits', picture)
  with fits.open(path, do_not_scale_image_data=True) as units:
    assert units[0].header['BITPIX'] == 16
    assert units[0].header['BSCALE'] == 0.025
    np.testing.assert_array_equal(units[0].data, stored)


def test_an_extension_of_fits_is_an_extension_again(tmp_path):
  first, second = fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 4), 'f4'))
  second.header['EXPTIME'] = 3.5
  data = io.BytesIO()
  fits.HDUList([first, second]).writeto(data)
  picture = _read(tmp_path, data.getvalue())
  path = _write(tmp_path, '.fits', picture, picture.pixels / 2)
  with fits.open(path) as units:
    units.verify('exception')
    assert units[1].header['EXPTIME'] == 3.5
    np.testing.assert_array_equal(units[1].data, np.full((3, 4), 0.5))


def test_a_larger_picture_has_its_own_size_in_the_header(tmp_path):
  picture = _read(tmp_path, made.fits(np.zeros((2, 3), 'f4'), EXPTIME=2.5))
  path = _write(tmp_path, '.fits', picture, np.ones((4, 6, 3)))
  with fits.open(path) as units:
    units.verify('exception')
    assert units[0].data.shape == (3, 4, 6)
    assert units[0].header['EXPTIME'] == 2.5


# --- Arrays.


def test_an_archive_keeps_the_name_of_its_array_and_its_shape(tmp_path):
  for shape in ((2, 3), (2, 3, 1)):
    values = np.ones(shape, np.float32)
    data = io.BytesIO()
    np.savez(data, flux=values)
    picture = _read(tmp_path, data.getvalue())
    with np.load(_write(tmp_path, '.npz', picture)) as archive:
      assert archive.files == ['flux'] and archive['flux'].shape == shape


# --- Notes.


def _make_exif(order='<'):
  """Returns EXIF with a thumbnail at its end, turned to the right."""
  maker = b'offset 0x1234'
  thumbnail = b'\xff\xd8' + b'old' * 9 + b'\xff\xd9'
  word = lambda *numbers: struct.pack(f'{order}{len(numbers)}I', *numbers)
  short = lambda n: struct.pack(f'{order}HH', n, 0)
  entry = lambda tag, kind, n, data: (
    struct.pack(f'{order}HHI', tag, kind, n) + data
  )
  count = lambda n: struct.pack(f'{order}H', n)
  # The first table at 8, that of the camera at 50, the thumbnail's at 68.
  first = count(3) + entry(271, 2, 4, b'Cam\0') + entry(274, 3, 1, short(6))
  first += entry(34665, 4, 1, word(50)) + word(68)
  camera = count(1) + entry(37500, 7, len(maker), word(98)) + word(0)
  small = count(2) + entry(513, 4, 1, word(112))
  small += entry(514, 4, 1, word(len(thumbnail))) + word(0)
  head = (b'II*\0' if order == '<' else b'MM\0*') + word(8)
  body = head + first + camera + small
  assert len(body) == 98
  return body + maker + b'\0' + thumbnail


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile('XYZ')).tobytes()
TURN = '<a tiff:Orientation="6" b="c"/>'


def _make_noted(kind, order='<'):
  """Returns a file that is turned, and has all notes that its kind can have."""
  image = Image.fromarray(reading_test._bits(8, 4, 6, 3))
  data = io.BytesIO()
  options = {'exif': b'Exif\0\0' + _make_exif(order), 'icc_profile': PROFILE}
  if kind == 'PNG':
    text = PngInfo()
    text.add_text('Title', 'A title')
    text.add_itxt('Author', '\u5317', 'zh', 'x')
    text.add_itxt(notes.XMP, TURN)
    options |= {'pnginfo': text, 'dpi': (300, 150)}
  elif kind == 'JPEG':
    options |= {'comment': b'caf\xe9', 'dpi': (300, 150), 'xmp': TURN.encode()}
  else:
    options |= {'lossless': True, 'xmp': TURN.encode()}
  image.save(data, kind, **options)
  return data.getvalue()


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_notes_are_kept_and_say_that_the_picture_is_upright(
  tmp_path, kind, order
):
  picture = _read(tmp_path, _make_noted(kind, order))
  assert picture.turned and picture.pixels.shape == (6, 4, 3)
  path = _write(tmp_path, ENDINGS[kind], picture)
  with Image.open(path) as opened:
    image: Any = opened
    image.load()
    info, exif = image.info, image.getexif()
  assert image.size == (4, 6)
  assert (exif[271], exif[274]) == ('Cam', 1)
  written = info['exif'].removeprefix(b'Exif\0\0')
  original = _make_exif(order)
  # All but the turn and the thumbnail lies where it lay.
  changed = [a != b for a, b in zip(written, original)]
  assert sum(changed) == 2 and b'old' not in written
  assert original.startswith(written[:20])
  assert info['icc_profile'] == PROFILE
  again = reading.read(path)
  assert not again.turned
  text = dict(again.notes.text)
  assert text.pop(notes.XMP) == TURN.replace('6', '1')
  if kind == 'PNG':
    assert text == {'Title': 'A title', 'Author': '\u5317'}
    assert image.text['Author'].lang == 'zh'
  elif kind == 'JPEG':
    assert text == {'Comment': 'caf\xe9'}
  if kind != 'WEBP':
    # The picture lay on its side.
    assert again.notes.dpi == pytest.approx((150, 300), abs=0.1)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
@pytest.mark.parametrize('ending', ['.png', '.jpg', '.webp', '.tif'])
def test_notes_go_to_another_kind_of_file(tmp_path, kind, ending):
  picture = _read(tmp_path, _make_noted(kind))
  path = _write(tmp_path, ending, picture)
  with Image.open(path) as image:
    image.load()
    exif = image.getexif()
    assert exif[271] == 'Cam' and exif.get(274, 1) == 1
    assert exif.get_ifd(34665) == {37500: b'offset 0x1234'}
    assert image.info['icc_profile'] == PROFILE
  assert dict(reading.read(path).notes.text)[notes.XMP] != TURN


@pytest.mark.parametrize('name', ['u1', 'u2'])
@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('order', '<>')
def test_a_tiff_keeps_its_notes(tmp_path, name, big, order):
  data = io.BytesIO()
  tifffile.imwrite(
    data,
    np.moveaxis(reading_test._numbers(name, 5, 7, 3), 2, 0),
    byteorder=order,
    bigtiff=big,
    photometric='rgb',
    planarconfig='separate',
    resolution=(118.11, 59.055),
    resolutionunit='CENTIMETER',
    description='caf\xe9'.encode('latin-1'),
    iccprofile=PROFILE,
    software='Scanner',
    extratags=[(274, 'H', 1, 6, True), (700, 'B', 3, b'<a>', True)],
    metadata=None,
  )
  picture = _read(tmp_path, data.getvalue())
  assert picture.turned
  with _open_tiff(_write(tmp_path, '.tif', picture)) as file:
    assert len(file.pages) == 1
    tags = file.pages[0].tags
    assert tags['Software'].value == 'Scanner' and 274 not in tags
    assert tags[700].value == b'<a>'
    assert tags['InterColorProfile'].value == PROFILE
    assert tags['ResolutionUnit'].value == 2
    across, down = (tags[f'{side}Resolution'].value for side in 'XY')
  np.testing.assert_allclose(across[0] / across[1], 150, atol=1e-3)
  np.testing.assert_allclose(down[0] / down[1], 300, atol=1e-3)
  text = dict(reading.read(str(tmp_path / 'output.tif')).notes.text)
  assert text['Description'] == 'caf\xe9'


@pytest.mark.parametrize('dtype', ['u1', 'u2'])
def test_what_a_png_says_of_its_colours_is_kept(tmp_path, dtype):
  points = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
  chunks = [
    (b'gAMA', struct.pack('>I', 100_000)),
    (b'cHRM', struct.pack('>8I', *points)),
  ]
  values = reading_test._numbers(dtype, 5, 7, 3)
  bits = 8 * values.dtype.itemsize
  picture = _read(tmp_path, reading_test._png(values, bits, 2, chunks=chunks))
  with open(_write(tmp_path, '.png', picture), 'rb') as file:
    written = file.read()
  for name, data in chunks:
    chunk = name + data + struct.pack('>I', zlib.crc32(name + data))
    assert written.count(chunk) == 1
  plan = writing.check(str(tmp_path / 'a.webp'), picture)
  assert 'without its gamma' in plan.describe()


def test_exif_in_the_text_of_a_png_turns_no_picture_twice(tmp_path):
  data, text, exif = io.BytesIO(), PngInfo(), b'Exif\0\0' + _make_exif()
  text.add_text(
    'Raw profile type exif', f'\nexif\n{len(exif):8}\n{exif.hex()}\n', zip=True
  )
  Image.new('RGB', (6, 4)).save(data, 'PNG', pnginfo=text)
  picture = _read(tmp_path, data.getvalue())
  assert picture.turned and picture.pixels.shape == (6, 4, 3)
  again = reading.read(_write(tmp_path, '.png', picture))
  assert not again.turned and again.pixels.shape == (6, 4, 3)
  with Image.open(tmp_path / 'output.png') as image:
    assert image.getexif()[271] == 'Cam'


def test_the_profile_of_a_deep_png_is_kept(tmp_path):
  values = reading_test._numbers('u2', 5, 7, 3)
  picture = _read(tmp_path, made.npy(values))._replace(profile=PROFILE)
  path = _write(tmp_path, '.png', picture)
  with Image.open(path) as image:
    assert image.info['icc_profile'] == PROFILE
  np.testing.assert_array_equal(_read_png(path), values)


def test_damaged_exif_is_left_out_and_damages_nothing(tmp_path):
  rng = np.random.default_rng(5)
  picture = _read(tmp_path, made.npy(np.zeros((2, 2), np.uint8)))
  for n in range(40):
    exif = bytearray(_make_exif())
    for place in rng.integers(len(exif), size=4):
      exif[place] = rng.integers(256)
    exif = bytes(exif[: rng.integers(1, len(exif))] if n % 2 else exif)
    noted = picture._replace(notes=reading.Notes(exif))
    for ending in ('.png', '.tif', '.jpg', '.webp'):
      path = _write(tmp_path, ending, noted)
      assert not reading.read(path).pixels.any()


def test_the_size_in_the_exif_is_that_of_the_picture(tmp_path):
  exif = Image.Exif()
  exif[34665] = {40962: 100, 40963: 50}
  noted = _give(notes=reading.Notes(exif.tobytes().removeprefix(b'Exif\0\0')))
  with Image.open(
    _write(tmp_path, '.jpg', noted, np.zeros((4, 6, 3)))
  ) as image:
    assert image.getexif().get_ifd(34665) == {40962: 6, 40963: 4}


def test_what_a_container_drops_is_said(tmp_path):
  picture = _read(tmp_path, _make_noted('PNG'))
  plan = writing.check(str(tmp_path / 'a.bmp'), picture)
  assert plan.describe() == (
    'BMP, 3 channels, uint8, white 255, without its colour profile, without '
    f'its EXIF, without its text Title, Author, {notes.XMP}'
  )


def test_a_profile_of_grey_is_not_one_of_colours(tmp_path):
  picture = _read(tmp_path, made.npy(np.zeros((2, 2), np.uint8)))
  grey = picture._replace(profile=bytes(16) + b'GRAY' + bytes(108))
  with Image.open(_write(tmp_path, '.webp', grey)) as image:
    assert image.mode == 'RGB' and 'icc_profile' not in image.info
  with Image.open(_write(tmp_path, '.jpg', grey)) as image:
    assert image.info['icc_profile'] == grey.profile


# --- What is refused, before a fit.


def _give(**options):
  picture = _make_picture(np.zeros((2, 2, 3), np.uint8), False)
  return picture._replace(**options)


_HALF = np.array([[0, 255], [128, 255]], np.uint8)
_NAN = _make_picture(np.zeros((1, 1, 1), np.float32), False)._replace(
  mask=np.zeros((1, 1), bool), stored=np.full((1, 1), np.nan, np.float32)
)
REFUSED = [
  ('a.xyz', _give(), 'ends in none of .png'),
  ('a', _give(), 'ends in none of .png'),
  ('nowhere/a.png', _give(), 'no folder'),
  ('folder.png', _give(), 'is a folder'),
  ('input.png', _give(path='input.png'), 'is the input'),
  ('link.png', _give(path='input.png'), 'is the input'),
  ('a.jpg', _give(alpha=_HALF), 'JPEG holds no alpha'),
  ('a.npy', _give(alpha=_HALF), 'npy holds no alpha'),
  ('a.gif', _give(alpha=_HALF), 'half transparent'),
  ('a.png', _give(pixels=np.zeros((2, 2, 5))), '1 or 3 channels, not 5'),
  ('a.webp', _give(pixels=np.zeros((1, 16384, 3))), '16383 pixels a side'),
  ('a.jpg', _give(notes=reading.Notes(bytes(70_000))), 'no EXIF of 70000'),
  (
    'a.jpg',
    _give(notes=reading.Notes(text=(('Comment', 'x' * 70_000),))),
    'no Comment of 70000',
  ),
  ('a.png', _NAN, 'no blank pixels'),
]


@pytest.mark.parametrize('name, picture, says', REFUSED)
def test_what_cannot_be_written_is_refused_before(
  tmp_path, monkeypatch, name, picture, says
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'folder.png').mkdir()
  (tmp_path / 'input.png').write_bytes(b'input')
  (tmp_path / 'link.png').symlink_to('input.png')
  with pytest.raises(ValueError, match=says) as caught:
    writing.check(name, picture)
  assert '\n' not in str(caught.value)
  with pytest.raises(ValueError, match=says):
    writing.write(name, picture.pixels, picture)
  assert sorted(os.listdir()) == ['folder.png', 'input.png', 'link.png']
  assert (tmp_path / 'input.png').read_bytes() == b'input'


def test_an_unknown_depth_is_refused(tmp_path):
  with pytest.raises(ValueError, match='uint7'):
    writing.check(str(tmp_path / 'a.png'), None, depth='uint7')


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):
  def refuse(*args, **_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(writing.tempfile, 'TemporaryFile', refuse)
  with pytest.raises(ValueError, match='takes no files: Read-only'):
    writing.check(str(tmp_path / 'a.png'), _give())


@pytest.mark.parametrize(
  'extra, module, name, dtype',
  [
    ('png', 'imagecodecs', 'a.png', 'u2'),
    ('tiff', 'tifffile', 'a.tif', 'u2'),
    ('fits', 'astropy.io.fits', 'a.fits', 'u1'),
  ],
)
def test_a_missing_package_is_named_before(
  tmp_path, monkeypatch, extra, module, name, dtype
):
  picture = _make_picture(np.zeros((2, 2, 3), dtype), False)
  path = str(tmp_path / name)
  writing.check(path, picture)
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ValueError, match=rf'pip install .dipjax\[{extra}\]'):
    writing.check(path, picture)


def test_grey_and_8_bits_need_no_package(tmp_path, monkeypatch):
  for module in ('imagecodecs', 'tifffile', 'astropy.io.fits'):
    monkeypatch.setitem(sys.modules, module, None)
  for dtype, channels in (('u1', 1), ('u1', 3), ('u1', 4), ('u2', 1)):
    values = reading_test._numbers(dtype, 5, 7, channels)
    values[0, 0] = np.iinfo(dtype).max
    picture = _make_picture(values, channels == 4)
    for ending in ('.png', '.tif', '.pam'):
      again = reading.read(_write(tmp_path, ending, picture))
      assert again.depth == picture.depth


@pytest.mark.parametrize(
  'pixels, says',
  [
    (np.zeros((2, 2)), r'\[H, W, C\]'),
    (np.full((2, 2, 3), np.nan), '4 of 4 pixels'),
  ],
)
def test_pixels_that_are_no_image_are_refused(tmp_path, pixels, says):
  path = str(tmp_path / 'a.png')
  with pytest.raises(ValueError, match=says):
    writing.write(path, pixels, _give())
  assert not os.listdir(tmp_path)


def test_another_size_has_not_the_alpha(tmp_path):
  picture = _give(alpha=_HALF, mask=_HALF == 255)
  with pytest.raises(ValueError, match='4 x 4 has not the alpha'):
    writing.write(str(tmp_path / 'a.png'), np.zeros((4, 4, 3)), picture)
  plan = writing.write(str(tmp_path / 'a.png'), np.zeros((4, 4, 1)), _give())
  assert plan.channels == 1
  # A picture may be too large for a container that holds the input.
  with pytest.raises(ValueError, match='16383 pixels a side'):
    writing.check(str(tmp_path / 'a.webp'), _give(), shape=(9, 20_000, 3))


# --- Names, whole files, memory.


def test_a_name_is_free_and_beside_the_input(tmp_path):
  source = str(tmp_path / 'my.photo.TIF')
  for ending in ('', '_2', '_3'):
    path = writing.name_output(source)
    assert path == str(tmp_path / f'my.photo_restored{ending}.TIF')
    # A link that leads nowhere is no free name.
    os.symlink('nowhere', path)
  assert writing.name_output('camera') == 'camera_restored.png'


def test_a_full_disk_leaves_the_old_file_and_rescues_the_new(
  tmp_path, monkeypatch
):
  path, real = tmp_path / 'a.png', folders.write_atomic
  path.write_bytes(b'old')

  def fill(place, data):
    if os.path.dirname(place) == str(tmp_path):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
    real(place, data)

  monkeypatch.setattr(folders, 'write_atomic', fill)
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'rescue'))
  (tmp_path / 'rescue').mkdir()
  with pytest.raises(
    OSError, match='No space left.*all files are in'
  ) as caught:
    writing.write(str(path), np.zeros((2, 2, 3)), _give())
  assert path.read_bytes() == b'old'
  rescued = os.path.join(str(caught.value).split(' are in ')[1], 'a.png')
  assert not _read_png(rescued).any()


def test_writing_takes_little_more_than_the_file(tmp_path):
  pixels = np.zeros((1500, 2000, 3), np.float32)
  picture = _make_picture(np.zeros((1, 1, 3), np.uint16), False)
  path = str(tmp_path / 'a.tif')
  tracemalloc.start()
  writing.write(path, pixels, picture)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 6 * os.path.getsize(path)
