"""What is published: a wheel of the library alone, and its source archive."""

import email
import pathlib
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile

import numpy as np
import pytest

import dipjax

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = 'from setuptools import build_meta as build; print(build.build_{}("."))'

# A fit of a second, in another Python than that of the tests.
RESTORE = """
import dipjax, numpy as np
from dipjax import monitors
from dipjax.networks import skip
recipe = dipjax.Recipe(
  network=skip.Skip(down=(4,), up=(4,), skip=(4,)),
  monitors={'last': monitors.Last()},
  steps=10,
)
noisy = np.random.RandomState(0).rand(8, 12, 3)
print(dipjax.__file__)
np.save('restored.npy', dipjax.restore(noisy, recipe=recipe).image)
"""


def _run(folder, *command):
  """Runs a command in a folder and returns what it prints."""
  done = subprocess.run(
    [*map(str, command)], cwd=folder, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def _build(folder, kind):
  """Returns the file that setuptools builds of a folder, without a network."""
  said = _run(folder, sys.executable, '-c', BUILD.format(kind))
  return folder / said.splitlines()[-1]


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
  """A copy of the sources, so that a build leaves nothing among them."""
  folder = tmp_path_factory.mktemp('package') / 'checkout'
  skip = shutil.ignore_patterns(
    '.*', '__pycache__', '*.egg-info', 'build', 'dist', 'runs'
  )
  shutil.copytree(ROOT, folder, ignore=skip)
  return folder


@pytest.fixture(scope='module')
def wheel(checkout):
  return _build(checkout, 'wheel')


@pytest.fixture(scope='module')
def unpacked(checkout, tmp_path_factory):
  """The folder that the source archive unpacks to."""
  folder = tmp_path_factory.mktemp('source')
  with tarfile.open(_build(checkout, 'sdist')) as archive:
    archive.extractall(folder, filter='data')
  return folder / f'dipjax-{dipjax.__version__}'


def _list(wheel):
  """Returns the names of a wheel's files, its notes apart."""
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
  notes = {name for name in names if '.dist-info/' in name}
  return names - notes, notes


def _read_metadata(wheel):
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith('/METADATA'))
    return email.message_from_string(archive.read(name).decode())


def test_the_only_name_at_the_top_is_dipjax(wheel):
  files, notes = _list(wheel)
  assert {pathlib.PurePath(name).parts[0] for name in files} == {'dipjax'}
  assert len({pathlib.PurePath(name).parts[0] for name in notes}) == 1


def test_every_module_is_installed(wheel):
  modules = (ROOT / 'dipjax').rglob('*.py')
  assert {str(path.relative_to(ROOT)) for path in modules} <= _list(wheel)[0]


def test_the_package_says_that_it_has_types(wheel):
  assert 'dipjax/py.typed' in _list(wheel)[0]


def test_nothing_but_sources_and_the_mark_of_types_is_installed(wheel):
  files, _ = _list(wheel)
  suffixes = {pathlib.PurePath(name).suffix for name in files}
  assert suffixes == {'.py', '.typed'}


def test_the_licence_comes_along(wheel, unpacked):
  text = (ROOT / 'LICENSE').read_bytes()
  (name,) = (name for name in _list(wheel)[1] if name.endswith('/LICENSE'))
  with zipfile.ZipFile(wheel) as archive:
    assert archive.read(name) == text
  assert (unpacked / 'LICENSE').read_bytes() == text


def test_the_metadata_say_what_it_is(wheel, checkout):
  found = _read_metadata(wheel)
  assert found['Version'] == dipjax.__version__
  assert found['License'] == 'Apache-2.0'
  assert found['Requires-Python'] == '>=3.11'
  assert found['Description-Content-Type'] == 'text/markdown'
  readme = (checkout / 'README.md').read_text()
  assert found.get_payload().strip() == readme.strip()
  assert {'samples', 'plots', 'progress'} <= set(
    found.get_all('Provides-Extra')
  )


def test_the_source_archive_gives_the_same_wheel(wheel, unpacked):
  again = _build(unpacked, 'wheel')
  assert again.name == wheel.name and _list(again) == _list(wheel)
  assert _read_metadata(again).as_string() == _read_metadata(wheel).as_string()


def test_an_installed_wheel_restores_a_picture(wheel, tmp_path):
  """In an environment that has what dipjax needs, and no dipjax."""
  home = tmp_path / 'venv'
  venv.create(home)
  python = home / 'bin' / 'python'
  find = 'import sysconfig; print(sysconfig.get_path("purelib"))'
  place = pathlib.Path(_run(tmp_path, python, '-I', '-c', find).strip())
  # A folder that such a line names has no lines of its own: what is installed
  # there as a checkout, as dipjax is, stays unknown.
  needed = pathlib.Path(np.__file__).parents[1]
  (place / 'needed.pth').write_text(f'{needed}\n')
  pip = sys.executable, '-m', 'pip', '--python', python, 'install'
  _run(tmp_path, *pip, '--no-deps', '--no-index', '--quiet', wheel)
  said = _run(tmp_path, python, '-I', '-c', RESTORE)
  assert pathlib.Path(said.strip()) == place / 'dipjax' / '__init__.py'
  restored = np.load(tmp_path / 'restored.npy')
  assert restored.shape == (8, 12, 3) and 0 < restored.std() < 0.5


def test_the_version_is_read_without_an_import(checkout, tmp_path):
  folder = shutil.copytree(checkout, tmp_path / 'checkout')
  source = folder / 'dipjax' / '__init__.py'
  source.write_text(f"raise ImportError('not here')\n{source.read_text()}")
  setup = 'import setuptools; setuptools.setup()'
  said = _run(folder, sys.executable, '-c', setup, '--version')
  assert said.split()[-1] == dipjax.__version__


def test_the_citation_is_of_this_version():
  lines = (ROOT / 'CITATION.cff').read_text().splitlines()
  assert f'version: {dipjax.__version__}' in lines
