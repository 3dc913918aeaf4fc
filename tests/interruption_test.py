"""A run that was interrupted ends equal to one that nothing stopped."""

import functools
import json
import os
import pathlib
import signal
import threading

import fits
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import inpaint as inpaint_config
from configs import prior_effect as prior_config
from configs import req1, req2
from configs import staged as staged_config
from dipjax.networks import pixels
from experiments import (
  denoise,
  inpaint,
  noise_impedance,
  prior_effect,
  staged,
)
from experiments.lib import images, recorder


class Killed(BaseException):
  """Ends a run as a kill does: nothing catches it on its way."""


def _make_denoise(photograph):
  config = req2.get_config('smoke')
  config.lanes = 2
  return config


def _make_staged(photograph, **changes):
  config = staged_config.get_config('smoke')
  config.staged.update(changes)
  config.lanes = 2
  return config


def _make_impedance(photograph):
  config = req1.get_config('smoke,network=pixels')
  config.fit.steps, config.snapshots = 80, (20, 60)
  return config


def _make_tiles(photograph):
  config = inpaint_config.get_config('smoke')
  config.fit.tile, config.fit.steps = 24, 30
  return config


RUNS = {
  'tiles': (inpaint.run, _make_tiles),
  'denoise': (denoise.run, _make_denoise),
  'staged': (staged.run, _make_staged),
  'staged at once': (
    staged.run,
    lambda photograph: _make_staged(photograph, parallel=True),
  ),
  'noise impedance': (noise_impedance.run, _make_impedance),
  'prior effect': (
    prior_effect.run,
    lambda photograph: prior_config.get_config('smoke,network=pixels'),
  ),
}


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  return write_photograph(32, 40, (5, 4, 3))


@pytest.fixture(scope='module', params=RUNS)
def whole(request, photograph, tmp_path_factory):
  """What runs, its config, and the folder of a run that nothing stopped."""
  run, make = RUNS[request.param]
  config = make(photograph)
  config.data.update(image=photograph, crop=())
  config.fit.steps = min(config.fit.steps, 80)
  config.record.every = 10
  config.checkpoint.every, config.record.preview = '20', 1e-3
  workdir = tmp_path_factory.mktemp('whole')
  run(config, str(workdir))
  return run, config, workdir


def _read_all(workdir: pathlib.Path) -> dict[str, bytes]:
  """The pictures and records of a run, which have no times in them."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob('*'))
    if path.suffix in ('.png', '.jsonl', '.webp')
  }


def _break_off(monkeypatch, after: int):
  """Lets a run take so many chunks, and kills it in the next one."""
  calls = []
  record = recorder.Recorder.__call__

  def break_off(self, *arguments):
    calls.append(0)
    if len(calls) > after:
      raise Killed
    return record(self, *arguments)

  monkeypatch.setattr(recorder.Recorder, '__call__', break_off)


def test_a_resumed_run_equals_an_uninterrupted_one(
  whole, tmp_path, monkeypatch
):
  """Killed before the first checkpoint, right after one, and between two."""
  run, config, workdir = whole
  for after in (1, 2, 1):
    with monkeypatch.context() as patch:
      _break_off(patch, after)
      with pytest.raises(Killed):
        run(config, str(tmp_path))
  run(config, str(tmp_path))
  assert _read_all(tmp_path) == _read_all(workdir)


def test_a_finished_run_is_read_and_not_run_again(whole, monkeypatch, capsys):
  run, config, workdir = whole
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  _break_off(monkeypatch, 0)
  capsys.readouterr()
  again = run(config, str(workdir))
  assert 'finished' in capsys.readouterr().out
  assert again.summary == json.loads((workdir / 'result.json').read_text())
  for name, image in again.images.items():
    read = images.read_image(str(workdir / f'{name}.png'))
    np.testing.assert_array_equal(image, read)
  after = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
  assert {p: after[p] for p in after if p.is_file()} == {
    p: before[p] for p in before if p.is_file()
  }


def _stop_after(monkeypatch, chunks: int, number: int):
  """Sends a signal to this process in one of the chunks."""
  calls, record = [], recorder.Recorder.__call__

  def send(self, *arguments):
    calls.append(0)
    if len(calls) == chunks:
      os.kill(os.getpid(), number)
      _wait_for(self.stop)
    return record(self, *arguments)

  monkeypatch.setattr(recorder.Recorder, '__call__', send)


def _wait_for(stop):
  waiting = threading.Event()
  for _ in range(500):
    if stop:
      return
    waiting.wait(0.01)
  raise AssertionError('the signal did not arrive')


def test_a_signal_leaves_the_best_picture_and_the_run_goes_on(
  whole, tmp_path, monkeypatch
):
  run, config, workdir = whole
  numbers = signal.SIGINT, signal.SIGTERM
  handlers = [*map(signal.getsignal, numbers)]
  for chunks, number in zip((2, 1), numbers):
    with monkeypatch.context() as patch:
      _stop_after(patch, chunks, number)
      stopped = run(config, str(tmp_path))
    assert stopped.signal == number
    assert handlers == [*map(signal.getsignal, numbers)]
    result = json.loads((tmp_path / 'result.json').read_text())
    assert result['stopped'] is True
    assert list(tmp_path.rglob('preview.png'))
    assert 'stopped before its end' in (tmp_path / 'report.html').read_text()
    if 'restored' in stopped.images:
      assert stopped.images['restored'].std() > 0.05
      assert (tmp_path / 'restored.png').exists()
  run(config, str(tmp_path))
  assert 'stopped' not in json.loads((tmp_path / 'result.json').read_text())
  assert not list(tmp_path.rglob('preview.png'))
  assert _read_all(tmp_path) == _read_all(workdir)


def test_a_store_and_chunks_never_change_a_result():
  """Chunks of 7 and of 20 steps, interrupted and not: one result."""

  class Memory:
    saved = None

    def load(self, like):
      return self.saved

    def is_due(self, step):
      return True

    def save(self, progress):
      self.saved = jax.tree.map(jnp.copy, progress)

  noisy = np.random.default_rng(0).random((16, 16, 3), np.float32)
  network = pixels.Pixels()
  fit = functools.partial(fits.restore, noisy, network=network, steps=40)
  whole = fit(chunk=20)
  store, calls = Memory(), []

  def watch(states, trace):
    calls.append(0)
    return len(calls) == 3

  cut = fit(chunk=7, watch=watch, store=store)
  assert cut.stopped == 21
  resumed = fit(chunk=7, store=store)
  np.testing.assert_array_equal(resumed.image, whole.image)
  jax.tree.map(np.testing.assert_array_equal, resumed.trace, whole.trace)
