"""HEIC: files of another writer (tests/data/heic), each value of them."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

from experiments.lib import images, reading

_FOLDER = pathlib.Path(__file__).parent / 'data' / 'heic'

pytestmark = pytest.mark.skipif(
  not importlib.util.find_spec('pi_heif'), reason='reads HEIC: dipjax[heic]'
)


def _ramp(bits, channels):
  """Returns what was written, as tests/data/README.md has it: [24, 40, C]."""
  y, x, k = np.mgrid[:24, :40, :channels]
  top = (1 << bits) - 1
  return (3 * x + 5 * y + 40 * k) * top // (240 + 40 * channels)


def _expect(bits, channels):
  return (_ramp(bits, channels) / ((1 << bits) - 1)).astype(np.float32)


def _read(name):
  return reading.read(str(_FOLDER / f'{name}.heic'))


@pytest.mark.parametrize(
  'name, bits, channels',
  [('grey8', 8, 1), ('rgb8', 8, 3), ('rgb10', 10, 3), ('rgb12', 12, 3)],
)
def test_a_lossless_file_is_exact(name, bits, channels):
  picture = _read(name)
  np.testing.assert_array_equal(picture.pixels, _expect(bits, channels))
  assert picture.depth == f'uint{bits}' and picture.white == (1 << bits) - 1
  assert picture.container == 'HEIC' and not picture.turned
  assert picture.mask is None and picture.profile is None


def test_a_lossy_file_is_near():
  picture = _read('rgb8-lossy')
  np.testing.assert_allclose(picture.pixels, _expect(8, 3), atol=4 / 255)


def test_a_turned_file_is_upright():
  picture = _read('turned')
  right = np.rot90(_expect(8, 3), -1)
  np.testing.assert_array_equal(picture.pixels, right)
  assert picture.turned


def test_a_profile_is_kept():
  picture = _read('profile')
  assert picture.profile is not None and picture.profile[36:40] == b'acsp'
  np.testing.assert_array_equal(picture.pixels, _expect(8, 3))


def test_what_is_not_opaque_is_masked():
  picture = _read('alpha8')
  opaque = np.eye(24, 40) == 0
  np.testing.assert_array_equal(picture.mask, opaque)
  right = _ramp(8, 4)[..., :3] / 255
  np.testing.assert_allclose(
    picture.pixels, right * opaque[..., None], rtol=1e-6
  )
  with pytest.raises(ValueError, match='flatten'):
    images.read_image(str(_FOLDER / 'alpha8.heic'))


def test_several_images_are_refused():
  with pytest.raises(ValueError, match='several frames'):
    _read('two')


@pytest.mark.parametrize('keep', [30, 200, 600, 2000])
def test_a_part_is_refused_in_one_line(tmp_path, keep, capfd):
  path = tmp_path / 'part.heic'
  path.write_bytes((_FOLDER / 'rgb8.heic').read_bytes()[:keep])
  with pytest.raises(ValueError, match='part.heic') as caught:
    reading.read(str(path))
  assert str(caught.value).isprintable()
  assert capfd.readouterr() == ('', '')


def test_pillow_is_left_as_it_is():
  """No decoder is registered, which other files could reach."""
  _read('rgb8')
  from PIL import Image

  assert 'HEIF' not in Image.OPEN and 'pi_heif' in sys.modules
