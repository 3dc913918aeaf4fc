"""What an installed dipjax holds: the library, and nothing beside it."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import dipjax

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETUP = ('-c', 'import setuptools; setuptools.setup()')


def _setup(folder, *command):
  """Runs a command of setuptools, offline, and returns what it prints."""
  done = subprocess.run(
    [sys.executable, *SETUP, *command],
    cwd=folder,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


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
def installed(checkout):
  """The files that a wheel takes, as setuptools collects them."""
  _setup(checkout, 'build', '--build-lib', 'collected')
  root = checkout / 'collected'
  files = {p.relative_to(root) for p in root.rglob('*') if p.is_file()}
  return {str(path) for path in files}


def test_the_only_name_at_the_top_is_dipjax(installed):
  assert {pathlib.PurePath(name).parts[0] for name in installed} == {'dipjax'}


def test_every_module_is_installed(installed):
  modules = (ROOT / 'dipjax').rglob('*.py')
  assert {str(path.relative_to(ROOT)) for path in modules} <= installed


def test_the_package_says_that_it_has_types(installed):
  assert 'dipjax/py.typed' in installed


def test_nothing_but_sources_and_the_mark_of_types_is_installed(installed):
  assert {pathlib.PurePath(name).suffix for name in installed} == {
    '.py',
    '.typed',
  }


def test_the_version_is_read_without_an_import(checkout, tmp_path):
  folder = shutil.copytree(checkout, tmp_path / 'checkout')
  source = folder / 'dipjax' / '__init__.py'
  source.write_text(f"raise ImportError('not here')\n{source.read_text()}")
  assert _setup(folder, '--version').split()[-1] == dipjax.__version__


def test_the_citation_is_of_this_version():
  lines = (ROOT / 'CITATION.cff').read_text().splitlines()
  assert f'version: {dipjax.__version__}' in lines
