"""Images: what is read is what was written, and what is broken is refused."""

import os
import pathlib
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.lib import folders, images


def _levels(*shape, dtype=np.uint8):
  high = np.iinfo(dtype).max
  return np.random.default_rng(0).integers(0, high, shape, dtype, endpoint=True)


def _chunk(kind, data):
  check = struct.pack('>I', zlib.crc32(kind + data))
  return struct.pack('>I', len(data)) + kind + data + check


def _png(width, height, *, depth=8, colour=0, rows=b'', transparent=b''):
  """A PNG of any header, whether or not its rows agree with it."""
  header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      _chunk(b'IHDR', header),
      _chunk(b'tRNS', transparent) if transparent else b'',
      _chunk(b'IDAT', zlib.compress(rows)),
      _chunk(b'IEND', b''),
    ]
  )


def _save(path, pixels, **options):
  picture = pixels if isinstance(pixels, Image.Image) else None
  (picture or Image.fromarray(pixels)).save(path, **options)


def _truncate(path, fraction=0.5):
  data = path.read_bytes()
  path.write_bytes(data[: int(fraction * len(data))])


# --- What is written is read again.


@pytest.mark.parametrize('channels', [1, 3])
def test_every_level_survives_the_round_trip(tmp_path, channels):
  levels = np.arange(256 * channels).reshape(16, 16, channels) % 256
  image = (levels / 255).astype(np.float32)
  images.write_image(tmp_path / 'a.png', image)
  back = images.read_image(str(tmp_path / 'a.png'))
  assert back.dtype == np.float32
  np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize('channels', [1, 3])
def test_any_value_comes_back_within_half_a_level(tmp_path, channels):
  image = np.random.default_rng(1).random((9, 7, channels), np.float32)
  images.write_image(tmp_path / 'a.png', image)
  back = images.read_image(str(tmp_path / 'a.png'))
  assert np.abs(back - image).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
  'value, level',
  [
    (0.49 / 255, 0),
    (0.51 / 255, 1),
    (127.49 / 255, 127),
    (0.5, 128),
    (254.49 / 255, 254),
    (254.51 / 255, 255),
    (-0.3, 0),
    (1.7, 255),
  ],
)
def test_values_round_to_the_nearest_level_and_clip(tmp_path, value, level):
  images.write_image(tmp_path / 'a.png', np.full((2, 2, 1), value, np.float32))
  assert (np.asarray(Image.open(tmp_path / 'a.png')) == level).all()


@pytest.mark.parametrize(
  'image, says',
  [
    (np.zeros((4, 4)), r'\(4, 4\)'),
    (np.zeros((4, 4, 2)), r'\(4, 4, 2\)'),
    (np.zeros((1, 4, 4, 3)), r'\(1, 4, 4, 3\)'),
    (np.zeros((0, 4, 3)), r'\(0, 4, 3\)'),
    (np.full((2, 2, 3), np.nan), '12 of 12'),
    (np.array([[[np.inf], [0.0]]]), '1 of 2'),
  ],
)
def test_what_is_no_image_is_not_written(tmp_path, image, says):
  with pytest.raises(ValueError, match=says):
    images.write_image(tmp_path / 'a.png', image)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_a_failing_write_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
  target = tmp_path / 'a.json'
  folders.write_atomic(target, b'old')

  def fail(*_):
    raise OSError('no space left')

  monkeypatch.setattr(os, step, fail)
  with pytest.raises(OSError, match='no space left'):
    folders.write_atomic(target, b'new')
  assert os.listdir(tmp_path) == ['a.json']
  assert target.read_bytes() == b'old'


def test_the_target_changes_only_once_the_data_is_complete(
  tmp_path, monkeypatch
):
  target, seen = tmp_path / 'a.json', []
  folders.write_atomic(target, b'old')
  replace = os.replace

  def watch(source, destination):
    source = pathlib.Path(source)
    seen.append((source.parent, source.name[0], source.read_bytes()))
    seen.append(target.read_bytes())
    replace(source, destination)

  monkeypatch.setattr(os, 'replace', watch)
  folders.write_atomic(str(target), b'new')
  assert seen == [(tmp_path, '.', b'new'), b'old']
  assert os.listdir(tmp_path) == ['a.json']
  assert target.read_bytes() == b'new'


# --- Every kind of good file.

_RGB = _levels(5, 7, 3)
_GREY = _levels(5, 7)
_DEEP = _levels(5, 7, dtype=np.uint16)
_MASK = _GREY > 127
_OPAQUE = np.full((5, 7, 1), 255, np.uint8)


@pytest.mark.parametrize(
  'name, pixels, expected',
  [
    ('rgb.png', _RGB, _RGB / 255),
    ('rgb.bmp', _RGB, _RGB / 255),
    ('rgb.tiff', _RGB, _RGB / 255),
    ('grey.png', _GREY, _GREY / 255),
    ('grey.tiff', _GREY, _GREY / 255),
    ('one_bit.png', Image.fromarray(_MASK), _MASK),
    ('one_bit.tiff', Image.fromarray(_MASK), _MASK),
    ('deep.png', _DEEP, _DEEP / 65535),
    ('deep.tiff', _DEEP, _DEEP / 65535),
    ('deep.pgm', _DEEP, _DEEP / 65535),
    ('float.tiff', (_GREY / 255).astype(np.float32), _GREY / 255),
    ('opaque.png', np.concatenate([_RGB, _OPAQUE], 2), _RGB / 255),
    (
      'opaque_grey.png',
      np.concatenate([_GREY[..., None], _OPAQUE], 2),
      _GREY / 255,
    ),
  ],
)
def test_lossless_files_are_read_exactly(tmp_path, name, pixels, expected):
  _save(tmp_path / name, pixels)
  image = images.read_image(str(tmp_path / name))
  expected = np.reshape(expected, (5, 7, -1)).astype(np.float32)
  assert image.dtype == np.float32
  np.testing.assert_array_equal(image, expected)


def test_a_palette_is_resolved_to_colours(tmp_path):
  palette = Image.fromarray(_RGB).quantize(8)
  palette.save(tmp_path / 'a.png')
  assert Image.open(tmp_path / 'a.png').mode == 'P'
  image = images.read_image(str(tmp_path / 'a.png'))
  np.testing.assert_allclose(image, np.asarray(palette.convert('RGB')) / 255)


def test_an_opaque_palette_entry_is_no_transparency(tmp_path):
  palette = Image.fromarray(_RGB).quantize(8)
  palette.save(tmp_path / 'a.png', transparency=b'\xff' * 8)
  image = images.read_image(str(tmp_path / 'a.png'))
  np.testing.assert_allclose(image, np.asarray(palette.convert('RGB')) / 255)


def test_cmyk_becomes_rgb(tmp_path):
  inks = Image.new('CMYK', (8, 8), (0, 255, 255, 0))
  inks.save(tmp_path / 'a.tiff')
  image = images.read_image(str(tmp_path / 'a.tiff'))
  np.testing.assert_array_equal(image, np.broadcast_to([1, 0, 0], (8, 8, 3)))


def test_deep_colour_keeps_its_sixteen_bits(tmp_path):
  deep = _levels(1, 2, 3, dtype=np.uint16)
  rows = b'\0' + deep.astype('>u2').tobytes()
  (tmp_path / 'a.png').write_bytes(_png(2, 1, depth=16, colour=2, rows=rows))
  image = images.read_image(str(tmp_path / 'a.png'))
  np.testing.assert_array_equal(image, (deep / 65535).astype(np.float32))


@pytest.mark.parametrize(
  'orientation, upright',
  [
    (1, lambda x: x),
    (2, lambda x: x[:, ::-1]),
    (3, lambda x: x[::-1, ::-1]),
    (4, lambda x: x[::-1]),
    (5, lambda x: x.transpose(1, 0, 2)),
    (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
    (8, lambda x: np.rot90(x)),
  ],
)
def test_photographs_are_turned_upright(tmp_path, orientation, upright):
  exif = Image.Exif()
  exif[0x0112] = orientation
  _save(tmp_path / 'a.png', _RGB, exif=exif)
  image = images.read_image(str(tmp_path / 'a.png'))
  np.testing.assert_array_equal(image, upright(_RGB / 255).astype(np.float32))


def test_of_a_multi_picture_jpeg_the_photograph_is_read(tmp_path):
  photograph = Image.new('RGB', (16, 16), (255, 0, 0))
  preview = Image.new('RGB', (8, 8), (0, 0, 255))
  path = tmp_path / 'a.jpg'
  photograph.save(path, 'MPO', save_all=True, append_images=[preview])
  image = images.read_image(str(path))
  np.testing.assert_allclose(
    image, np.broadcast_to([1, 0, 0], (16, 16, 3)), atol=0.01
  )


@pytest.mark.parametrize('name', images.SAMPLES)
def test_samples_need_no_file_and_no_download(name, monkeypatch):
  pytest.importorskip('skimage')
  monkeypatch.setitem(sys.modules, 'pooch', None)
  image = images.read_image(name)
  assert image.dtype == np.float32 and image.shape[2] in (1, 3)
  assert image.min() >= 0 and 0.5 < image.max() <= 1


def test_a_file_goes_before_a_sample_of_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _save('camera', _GREY, format='PNG')
  assert images.read_image('camera').shape == (5, 7, 1)


def test_a_sample_without_scikit_image_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'skimage', None)
  with pytest.raises(ValueError, match=r"pip install 'dipjax\[samples\]'"):
    images.read_image('camera')


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  _save(tmp_path / 'a.png', _GREY)
  assert images.read_image('~/a.png').shape == (5, 7, 1)


# --- Every kind of bad file: how to make one, and what is said about it.


def _make_truncated(path):
  _save(path, _levels(64, 64, 3))
  _truncate(path)


def _make_animation(path):
  frames = [Image.new('L', (4, 4), 60 * i) for i in range(3)]
  frames[0].save(path, save_all=True, append_images=frames[1:])


def _make_transparent(path):
  pixels = np.concatenate([_RGB, _OPAQUE], 2)
  pixels[0, 0, 3] = 254
  _save(path, pixels)


def _make_transparent_palette(path):
  Image.fromarray(_RGB).quantize(8).save(path, transparency=0)


def _make_transparent_deep(path):
  rows = b'\0' + struct.pack('>HH', 7, 65535)
  transparent = struct.pack('>H', 7)
  path.write_bytes(_png(2, 1, depth=16, rows=rows, transparent=transparent))


def _make_floats(*values):
  return lambda path: _save(path, np.array([values], np.float32))


def _make_bytes(data):
  return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
  'name, make, says',
  [
    ('truncated.png', _make_truncated, 'truncated'),
    ('truncated.jpg', _make_truncated, 'truncated'),
    ('truncated.bmp', _make_truncated, 'truncated'),
    ('truncated.gif', _make_truncated, 'truncated'),
    ('truncated.tiff', _make_truncated, 'truncated'),
    ('text.png', _make_bytes(b'no picture at all'), 'is not a known image'),
    ('empty.png', _make_bytes(b''), 'is empty'),
    ('zero.png', _make_bytes(_png(0, 0)), 'is not a known image'),
    ('flat.png', _make_bytes(_png(4, 0)), 'is not a known image'),
    ('short.png', _make_bytes(_png(4, 4, rows=b'\0' * 3)), 'truncated'),
    ('bomb.png', _make_bytes(_png(20000, 20000)), 'more than 100000000'),
    ('large.png', _make_bytes(_png(11000, 10000)), '11000 x 10000 is more'),
    ('animation.gif', _make_animation, 'several frames'),
    ('pages.tiff', _make_animation, 'holds 3 frames'),
    ('alpha.png', _make_transparent, 'flatten'),
    ('alpha_palette.png', _make_transparent_palette, 'flatten'),
    ('alpha_deep.png', _make_transparent_deep, 'flatten'),
    ('high.tiff', _make_floats(0, 1.5), r'0 to 1\.5'),
    ('low.tiff', _make_floats(-0.25, 1), r'-0\.25 to 1'),
    ('nan.tiff', _make_floats(0, np.nan), 'nan'),
    (
      'negative.tiff',
      lambda p: _save(p, Image.new('I', (2, 2), -5)),
      '-5 to -5|tifffile',
    ),
  ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, name, make, says):
  path = tmp_path / name
  make(path)
  with pytest.raises(ValueError, match=says) as caught:
    images.read_image(str(path))
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)


def test_the_most_pixels_allowed_pass_without_a_warning(tmp_path):
  # Between the size at which Pillow warns and the size that is refused.
  (tmp_path / 'a.png').write_bytes(_png(10000, 9900))
  with pytest.raises(ValueError, match='truncated'):
    images.read_image(str(tmp_path / 'a.png'))


def test_a_missing_file_is_told_apart_from_the_samples(tmp_path):
  with pytest.raises(ValueError, match='neither a file nor .*astronaut.*moon'):
    images.read_image(str(tmp_path / 'absent.png'))


def test_a_folder_is_refused(tmp_path):
  with pytest.raises(ValueError, match='is a folder'):
    images.read_image(str(tmp_path))


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  _save(path, _GREY)

  def deny(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(images.Image, 'open', deny)
  with pytest.raises(ValueError, match='Permission denied'):
    images.read_image(str(path))


# --- Crops.


@pytest.mark.parametrize(
  'box',
  [(0, 0, 5, 7), (1, 2, 3, 4), [4, 6, 1, 1], tuple(np.array([1, 1, 2, 2]))],
)
def test_a_crop_is_the_box(box):
  top, left, height, width = box
  cut = images.crop_image(_RGB, box)
  assert cut.shape == (height, width, 3)
  np.testing.assert_array_equal(cut[0, 0], _RGB[top, left])
  np.testing.assert_array_equal(
    cut[-1, -1], _RGB[top + height - 1, left + width - 1]
  )


def test_the_empty_box_is_the_whole_image():
  np.testing.assert_array_equal(images.crop_image(_RGB, ()), _RGB)


@pytest.mark.parametrize(
  'box',
  [
    (0, 0, 6, 7),
    (0, 0, 5, 8),
    (1, 0, 5, 7),
    (-1, 0, 2, 2),
    (0, -1, 2, 2),
    (0, 0, 0, 2),
    (0, 0, 2, -1),
    (0, 0, 2),
    (0, 0, 2, 2, 2),
    (0.0, 0, 2, 2),
    (0, 0, True, True),
    ('0', '0', '2', '2'),
    '0022',
    None,
    4,
  ],
)
def test_a_box_that_does_not_fit_is_refused(box):
  with pytest.raises(ValueError, match='5 high and 7 wide') as caught:
    images.crop_image(_RGB, box)
  assert repr(box) in str(caught.value)
