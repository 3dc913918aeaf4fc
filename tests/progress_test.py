"""The progress bar: what it says of the end of a fit."""

import re
import signal
import types

import numpy as np
import pytest

from configs import req2
from dipjax.engine.fit import Trace
from experiments import denoise
from experiments.lib import recorder
from experiments.lib import workdir as workdirs


class _Bar:
  """A bar that keeps what it was told, in place of tqdm's."""

  said: list[tuple[int, str]] = []

  def __init__(self, *, initial, **options):
    del options
    self.n, self._text = initial, ''

  def set_postfix_str(self, text, refresh):
    del refresh
    self._text = text

  def update(self, steps):
    self.n += steps
    self.said.append((self.n, self._text))

  def clear(self):
    pass

  def close(self):
    pass


@pytest.fixture(autouse=True)
def _has_a_bar(monkeypatch):
  monkeypatch.setattr(_Bar, 'said', [])
  monkeypatch.setattr(recorder, '_find_tqdm', lambda: _Bar)


def _find_ends():
  """Returns the step at which the bar said it, and the end that it said."""
  found = [
    (step, re.match(r'ends at (\d+) or later, in \d+ \w+, loss', text))
    for step, text in _Bar.said
  ]
  return [(step, int(match[1])) for step, match in found if match]


def test_the_end_by_the_rule_is_told_and_kept(tmp_path):
  """What the bar says last is where the slowest lane ends."""
  config = req2.get_config('smoke,network=dncnn')
  config.record.every, config.lanes = 10, 2
  config.stop.patience = 20
  done = denoise.run(config, str(tmp_path / 'run'))
  stopped = [lane['stopped_at'] for lane in done.summary['lanes']]
  ends = _find_ends()
  assert max(stopped) < config.fit.steps and ends[-1][1] == max(stopped)
  # Nothing counts before step 50, and the end only ever moves away.
  assert ends[0][0] >= 50
  assert sorted(ends, key=lambda end: end[1]) == ends
  assert all(step < end for step, end in ends)


def _make(tmp_path, words):
  config = req2.get_config(words)
  config.record.update(preview=0.0, frames=0)
  workdir = workdirs.Workdir(str(tmp_path), config.to_dict(), '', None)
  return config, recorder.Recorder(workdir, config, steps=200, seeds=[0, 1])


def _make_trace():
  """Ten steps of two lanes."""
  steps = np.tile(np.arange(10), (2, 1))
  scores = np.ones((2, 10), np.float32)
  return Trace(steps, steps >= 0, scores, scores, -steps, {})


def _show(tmp_path, words, **watched):
  """Shows ten steps of two lanes, whose rule is in a state."""
  config, made = _make(tmp_path, words)
  arrays = {name: np.array(value) for name, value in watched.items()}
  state = types.SimpleNamespace(**arrays)
  with made:
    states = types.SimpleNamespace(
      step=np.array([10, 10]), monitors={config.stop.name: state}
    )
    made(states, _make_trace())
  ((step, text),) = _Bar.said
  assert step == 10 and text.endswith('loss 1.00000, measurement 1.00 dB')
  return _find_ends()


@pytest.mark.parametrize(
  'done,best,step,ends',
  [
    ([False, False], [1, 2], [3, 5], [(10, 106)]),
    ([False, True], [1, 2], [3, 5], [(10, 104)]),
    ([True, True], [1, 2], [3, 5], []),
    ([False, False], [1, np.inf], [3, 5], []),
    ([False, False], [1, 2], [3, 150], [(10, 200)]),  # All steps there are.
  ],
)
def test_the_end_is_that_of_the_lanes_that_wait(
  tmp_path, done, best, step, ends
):
  words = 'smoke'  # Its patience is 100 steps.
  assert _show(tmp_path, words, done=done, best=best, step=step) == ends


def test_a_rule_that_does_not_wait_tells_no_end(tmp_path):
  last = {'done': [False] * 2, 'best': [1, 2], 'step': [9, 9]}
  assert not _show(tmp_path, 'smoke,stop=last', **last)


def test_what_follows_a_fit_has_a_bar_of_its_own(tmp_path, capsys):
  _, made = _make(tmp_path, 'smoke,windows')
  with made:
    image = np.zeros((8, 8, 1), np.float32)
    watch = made.follow(image, 10, 5)
    assert watch.load('0-0', image) is None
    ended = [watch(None, _make_trace()) for _ in range(3)]
    # Each lane is a part, with steps of its own.
    assert _Bar.said == [(20, ''), (40, ''), (50, '')] and not any(ended)
    # A part of an earlier start counts as its steps.
    watch.save('0-0', image)
    made.say('above')
    made.follow(image + 1, 10, 5).load('0-0', image)
    assert made._bar is None
    np.testing.assert_array_equal(watch.load('0-0', image), image)
    assert _Bar.said[3:] == [(10, '')]
    made.stop.signal = signal.SIGTERM
    assert watch(None, _make_trace())
    made.say('below')
    assert made._bar is None
  assert re.search('50 further steps.*\nbelow\n', capsys.readouterr().out)
  assert not made.records.kept


def test_the_second_chunk_tells_how_long_a_fit_takes(
  tmp_path, capsys, monkeypatch
):
  """Whatever is compiled after the steps of the first, and of the second."""
  clock = types.SimpleNamespace(now=0.0)
  clocks = {'perf_counter': lambda: clock.now, 'monotonic': lambda: clock.now}
  monkeypatch.setattr(recorder, 'time', types.SimpleNamespace(**clocks))
  _, made = _make(tmp_path, 'smoke')
  states = types.SimpleNamespace(step=np.array([10, 10]), monitors={})
  with made:
    for seconds in (50, 7):
      assert 'at most' not in capsys.readouterr().out
      clock.now += seconds
      # Two of them make another program; 190 and 180 steps are left.
      recorder._add_compiling(recorder._COMPILING[0], 2.0)
      made(states, _make_trace())
  assert 'at most 90 seconds for 200 steps' in capsys.readouterr().out
