"""Checkpoints: what was saved comes back, and damage is never taken for it."""

import gc
import os
import pathlib
import shutil
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lib import checkpoints, leaves


class State(NamedTuple):
  weights: dict
  key: jax.Array
  step: jax.Array
  trace: np.ndarray


def _make(step: int, length: int = 3) -> State:
  rng = np.random.default_rng(step)
  return State(
    {'a': jnp.asarray(rng.random((40, 50), np.float32)), 'b': jnp.zeros(())},
    jax.random.key(step),
    jnp.int32(step),
    rng.random((2, length)),
  )


LIKE = _make(0, 0)


def _open(path, every='1', **arguments):
  return checkpoints.Checkpoints(str(path / 'c'), every=every, **arguments)


def _save(path, *steps, **arguments):
  with _open(path, **arguments) as saved:
    for step in steps:
      saved.save(_make(step), step, records=10 * step)


def _assert_state(state: State, step: int):
  expected = _make(step)
  assert jnp.array_equal(
    jax.random.key_data(state.key), jax.random.key_data(expected.key)
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    state._replace(key=0),
    expected._replace(key=0),
  )
  # Arrays that are bound to a device would compile the step again.
  assert isinstance(state.step, np.ndarray)


def _list_files(path) -> list[pathlib.Path]:
  return sorted(p for p in (path / 'c').rglob('*') if p.is_file())


def test_what_was_saved_comes_back(tmp_path):
  _save(tmp_path, 1, 2, 3)
  with _open(tmp_path) as saved:
    notes = saved.find_latest()
    assert notes is not None
    assert notes['step'] == 3 and notes['records'] == 30
    _assert_state(saved.load(LIKE), 3)
  numbers = [n for n in os.listdir(tmp_path / 'c') if n.isdigit()]
  assert len(numbers) == 2


def test_nothing_comes_back_where_nothing_was_saved(tmp_path):
  with _open(tmp_path) as saved:
    assert saved.load(LIKE) is None
  with _open(tmp_path, every='0') as saved:
    saved.save(_make(1), 1)
    saved.keep('a', _make(1))
  assert not os.listdir(tmp_path)


def test_the_state_may_change_once_it_was_saved(tmp_path):
  with _open(tmp_path) as saved:
    changing = np.ones(100_000, np.float32)
    saved.save({'a': changing}, 1)
    changing[:] = 7
  with _open(tmp_path) as saved:
    assert (saved.load({'a': np.zeros(0, np.float32)})['a'] == 1).all()


@pytest.mark.parametrize('damage', ['flip', 'cut', 'empty', 'remove'])
def test_any_damage_takes_the_checkpoint_before(tmp_path, damage, capsys):
  """Each file of the last checkpoint in turn."""
  _save(tmp_path, 1, 2)
  shutil.copytree(tmp_path / 'c', tmp_path / 'whole')
  rng, taken = np.random.default_rng(0), []
  for file in sorted((tmp_path / 'c' / '1').rglob('*')):
    if not file.is_file() or not file.stat().st_size:
      continue
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    new = {'flip': bytes(data), 'cut': data[: len(data) // 2], 'empty': b''}
    if damage == 'remove':
      file.unlink()
    else:
      file.write_bytes(new[damage])
    with _open(tmp_path) as saved:
      found = saved.load(LIKE)
    # A change that changes nothing of the state may pass.
    step = int(found.step)
    _assert_state(found, step)
    said = capsys.readouterr().err
    assert (step == 1) == ('is damaged' in said) and said.count('\n') <= 1
    taken.append(step)
    shutil.rmtree(tmp_path / 'c')
    shutil.copytree(tmp_path / 'whole', tmp_path / 'c')
  assert 1 in taken


def test_damage_of_all_checkpoints_is_one_line(tmp_path):
  _save(tmp_path, 1, 2)
  for file in _list_files(tmp_path):
    file.write_bytes(b'')
  with (
    _open(tmp_path) as saved,
    pytest.raises(ValueError, match='all checkpoints are damaged; --over'),
  ):
    saved.load(LIKE)


def test_other_data_under_the_same_name_is_noticed(tmp_path):
  _save(tmp_path, 1, data='one')
  with (
    _open(tmp_path, data='two') as saved,
    pytest.raises(ValueError, match='the data has changed since'),
  ):
    saved.load(LIKE)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
  _save(tmp_path, 1)
  others = [
    LIKE._replace(weights={'a': jnp.zeros((3, 3)), 'b': jnp.zeros(())}),
    LIKE._replace(weights={'other': jnp.zeros(())}),
    LIKE._replace(step=jnp.float32(0)),
  ]
  for other in others:
    with (
      _open(tmp_path) as saved,
      pytest.raises(ValueError, match='another network or version'),
    ):
      saved.load(other)


def test_a_disk_that_is_full_never_ends_a_run(tmp_path, monkeypatch, capsys):
  with _open(tmp_path) as saved:
    saved.save(_make(1), 1)
    saved.flush()

    def fail(*_, **__):
      raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
      patch.setattr(os, 'mkdir', fail)
      patch.setattr(os, 'makedirs', fail)
      for step in (2, 3):
        saved.save(_make(step), step)
        saved.flush()
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'no checkpoint was written' in said
    saved.save(_make(4), 4)
  with _open(tmp_path) as saved:
    assert int(saved.load(LIKE).step) in (1, 4)


def test_a_folder_that_was_removed_is_made_again(tmp_path):
  with _open(tmp_path) as saved:
    saved.save(_make(1), 1)
    saved.flush()
    shutil.rmtree(tmp_path / 'c')
    saved.save(_make(2), 2)
  with _open(tmp_path) as saved:
    _assert_state(saved.load(LIKE), 2)


def test_a_finished_run_keeps_its_last_checkpoint(tmp_path):
  with _open(tmp_path) as saved:
    for step in (1, 2):
      saved.save(_make(step), step)
    saved.keep('stage-0', _make(7))
    _assert_state(saved.recall('stage-0', LIKE), 7)
    assert saved.recall('stage-1', LIKE) is None
    saved.finish()
  assert len(os.listdir(tmp_path / 'c')) == 1
  with _open(tmp_path) as saved:
    _assert_state(saved.load(LIKE), 2)


@pytest.mark.parametrize(
  'text, interval',
  [('60s', (60, 0)), ('0.5s', (0.5, 0)), ('500', (0, 500)), ('0', (0, 0))],
)
def test_an_interval_is_seconds_or_steps(text, interval):
  assert tuple(checkpoints.parse_interval(text)) == interval


@pytest.mark.parametrize('text', ['', 's', '-1s', '-3', 'infs', 'nans', '1.5'])
def test_what_is_no_interval_is_refused(text):
  with pytest.raises(ValueError, match='checkpoint.every must be seconds'):
    checkpoints.parse_interval(text)


def test_a_save_is_due_after_steps_or_seconds(tmp_path, monkeypatch):
  clock = [100.0]
  monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: clock[0])
  by_steps, by_seconds = _open(tmp_path, '20'), _open(tmp_path, '60s')
  assert not by_steps.is_due(19) and by_steps.is_due(20)
  assert not by_seconds.is_due(10**6)
  clock[0] += 60
  assert by_seconds.is_due(1)
  assert not _open(tmp_path, '0').is_due(10**9)


def test_saves_take_a_small_share_of_a_run(tmp_path, monkeypatch):
  """A save of 3 seconds is followed by minutes without one."""
  clock = [0.0]
  monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: clock[0])
  with _open(tmp_path, '60s') as saved:
    slow = lambda *_: clock.__setitem__(0, clock[0] + 3)
    monkeypatch.setattr(saved, '_check_space', slow)
    saved.save(_make(1), 1)
    saved.flush()
    clock[0] = 149
    assert not saved.is_due(1)
    clock[0] = 151
    assert saved.is_due(1)


def test_leaves_of_any_kind_are_packed_into_few_arrays():
  """Orbax keeps memory for each array that it saves."""
  rng = np.random.default_rng(0)
  tree = {
    **{f'w{i}': rng.random((i, 2, 3)).astype(np.float32) for i in range(9)},
    'half': [jnp.bfloat16(1.5), jnp.ones((2, 3), jnp.bfloat16)],
    'turned': np.arange(6.0).reshape(2, 3).T,
    'flags': (jnp.array([True, False]), np.zeros((0, 4), bool)),
  }
  packed = leaves.pack_leaves(tree)
  assert len(packed) == 5 and all(array.ndim == 1 for array in packed.values())
  filled = leaves.fill_tree(tree, packed)
  assert jax.tree.structure(filled) == jax.tree.structure(tree)
  for found, expected in zip(jax.tree.leaves(filled), jax.tree.leaves(tree)):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
  tree['w8'][:] = 0
  assert leaves.fill_tree(tree, packed)['w8'].any()


def test_a_save_keeps_no_memory_for_each_leaf(tmp_path):
  """The writing of each array keeps four strings, see docs/measured."""
  tree = {f'leaf{i}': np.full(3, i, np.float32) for i in range(40)}
  blocks = []
  with _open(tmp_path) as saved:
    for step in range(12):
      saved.save(tree, step)
      saved.flush()
      gc.collect()
      blocks.append(sys.getallocatedblocks())
  assert np.median(np.diff(blocks[4:])) < 2 * len(tree)


def test_leaves_that_are_not_packed_are_of_another_version():
  with pytest.raises(ValueError, match="'a'.* are missing"):
    leaves.fill_tree({'a': np.zeros(2)}, {'a': np.zeros(2)})
