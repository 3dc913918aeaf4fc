"""The cache of compiled programs: damage is repaired once, and quietly."""

import collections
import concurrent.futures
import resource
import time
import warnings
from typing import Literal

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments.lib import compiled, folders

_HIT = '/jax/compilation_cache/cache_hits'
_OPTIONS = (
  'jax_compilation_cache_dir',
  'jax_persistent_cache_min_compile_time_secs',
  'jax_persistent_cache_enable_xla_caches',
)


def _flip(data):
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGES = {
  'truncated': lambda data: data[: len(data) // 2],
  'flipped': _flip,
  'flipped at the end': lambda data: data[:-1] + bytes([data[-1] ^ 1]),
  'empty': lambda data: b'',
  # Whole, but no program: JAX fails to load it.
  'foreign': lambda data: b'0' * 40,
}


@pytest.fixture
def folder(tmp_path, monkeypatch, jax_cache):
  """The folder of a cache that `enable_cache` finds; JAX's is put back."""
  before = {name: getattr(jax.config, name) for name in _OPTIONS}
  monkeypatch.setattr(*jax_cache)
  monkeypatch.setattr(folders, 'find_cache', lambda: str(tmp_path))
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  yield tmp_path / 'compiled'
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def run(folder, capsys):
  """() -> what a run does that compiles three programs: hits, files, lines."""
  counts = collections.Counter()
  count = lambda event, **_: counts.update([event])
  jax.monitoring.register_event_listener(count)

  def run(warn: Literal['error', 'ignore'] = 'error'):
    # A new process has neither programs nor a cache.
    compilation_cache.reset_cache()
    compiled.enable_cache()
    counts.clear()
    x = np.arange(3, dtype=np.float32)
    with warnings.catch_warnings():
      warnings.simplefilter(warn)
      for factor in (2.0, 3.0, 4.0):
        scale = jax.jit(lambda x, factor=factor: x * factor)
        np.testing.assert_array_equal(scale(x), np.arange(3) * factor)
    said = capsys.readouterr()
    return counts[_HIT], len(list(folder.glob('*'))), said.err + said.out

  yield run
  jax.monitoring.unregister_event_listener(count)


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_repaired_once_and_quietly(damage, folder, run):
  assert run() == (0, 3, '')
  assert run() == (3, 3, '')
  for path in sorted(folder.glob('*'))[:2]:
    path.write_bytes(damage(path.read_bytes()))
  assert run() == (1, 3, '')
  assert run() == (3, 3, '')


def test_an_entry_that_jax_cannot_load_is_replaced(folder, run):
  run()
  path, *_ = folder.glob('*')
  cache = compiled._Cache(str(folder))
  cache.put(path.name.removesuffix('-cache'), b'no program')
  assert run('ignore') == (2, 3, '')
  assert run() == (3, 3, '')


def test_jax_itself_can_read_the_entries(run, monkeypatch, jax_cache):
  run()
  monkeypatch.setattr(compiled, '_replace_cache', lambda: None)
  monkeypatch.setattr(*jax_cache)
  assert run() == (3, 3, '')


def test_a_full_disk_is_one_line(folder, run):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  try:
    hits, files, said = run()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert (hits, files) == (0, 0)
  assert said.count('\n') == 1 and f'{folder}: File too large' in said
  assert run() == (0, 3, '')


def test_a_folder_that_cannot_be_made_is_one_line(folder, run):
  folder.write_text('in the way')
  hits, _, said = run()
  assert hits == 0 and said.count('\n') == 1 and f'{folder}: ' in said


def test_what_a_read_only_folder_has_is_read(folder, run, monkeypatch):
  run()
  for path in sorted(folder.glob('*'))[:2]:
    path.unlink()

  def refuse(*_, **__):
    raise OSError(30, 'Read-only file system')

  monkeypatch.setattr(compiled.tempfile, 'mkstemp', refuse)
  hits, files, said = run()
  assert (hits, files) == (1, 1)
  assert said.count('\n') == 1 and 'Read-only file system' in said


def test_two_runs_at_once_read_whole_entries_or_none(tmp_path):
  values = [bytes([index]) * 200_000 for index in range(4)]

  def use(value):
    cache = compiled._Cache(str(tmp_path))
    found = set()
    for _ in range(40):
      cache.put('key', value)
      found.add(cache.get('key'))
    return found

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = set().union(*pool.map(use, values))
  assert found <= set(values)
  assert len(list(tmp_path.glob('*'))) == 1


def test_the_checks_cost_little(tmp_path):
  cache = compiled._Cache(str(tmp_path))
  for index in range(300):
    cache.put(str(index), bytes(10_000))
  start = time.process_time()
  assert all(cache.get(str(index)) for index in range(300))
  assert time.process_time() - start < 0.25


def test_the_users_own_folder_stays_with_jax(folder, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'elsewhere')
  before = getattr(jax.config, _OPTIONS[0])
  compiled.enable_cache()
  assert getattr(jax.config, _OPTIONS[0]) == before
  assert not folder.exists()
