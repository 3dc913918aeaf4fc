"""A sweep: each point is the fit that it is alone, in one program."""

import json
import os

import numpy as np
import pytest

import dipjax
from configs import sweep as sweep_config
from dipjax import monitors, optimizers
from dipjax.engine import lanes
from dipjax.networks import pixels
from experiments import sweep
from experiments.lib import records
from experiments.lib.data import load_denoising


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  return write_photograph(12, 16, (5, 4, 3))


def _make_config(photograph, words='smoke,network=pixels,stop=last', **numbers):
  config = sweep_config.get_config(words)
  config.data.update(image=photograph, crop=())
  config.lanes, config.fit.steps, config.record.every = 3, 20, 5
  config.sweep.update(numbers)
  return config


@pytest.fixture(scope='module')
def finished(photograph, tmp_path_factory):
  """A sweep of eight points, and the programs that it compiled."""
  config = _make_config(
    photograph, learning_rate=(0.01, 0.1), jitter=(0.0, 0.1), seeds=(0, 5)
  )
  lanes.forget_programs()
  workdir = tmp_path_factory.mktemp('sweep')
  return config, workdir, sweep.run(config, str(workdir))


def test_all_points_share_one_program(finished):
  _, workdir, result = finished
  assert lanes.advance._cache_size() == 1
  rows = records.read_lines(str(workdir / 'sweep.jsonl'))
  assert len(rows) == 8 == result.summary['points']
  table = result.summary['table']
  assert [line['seeds'] for line in table] == [2] * 4
  scores = [line['psnr'] for line in table]
  assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1] + 1
  assert set(os.listdir(workdir)) == {
    *('config.json', 'result.json', 'sweep.jsonl', 'table.md', 'sweep.png')
  }
  lines = (workdir / 'table.md').read_text().splitlines()
  assert len(lines) == 6 and 'learning_rate | jitter | seeds' in lines[0]


def test_a_rate_is_a_learning_rate(finished):
  """A point is the fit with that learning rate in the optimiser."""
  config, workdir, _ = finished
  data = load_denoising(config.data)
  rows = records.read_lines(str(workdir / 'sweep.jsonl'))
  (row,) = (
    r
    for r in rows
    if (r['learning_rate'], r['jitter'], r['seed']) == (0.1, 0.1, 5)
  )
  recipe = dipjax.Recipe(
    network=pixels.Pixels(),
    monitors={'last': monitors.Last()},
    optimizer=optimizers.make_optimizer('adam', 0.1),
    jitter=0.1,
    steps=20,
    decay=config.average.decay,
  )
  alone = dipjax.restore(data.measurement, None, recipe, seeds=(5,))
  assert row['loss'] == float(alone.trace.loss[0, -1])
  assert row['steps'] == 20


@pytest.mark.parametrize('rate', [0.5, 2.0])
def test_rates_share_a_program_and_scale_the_first_step(rate):
  noisy = np.full((8, 8, 3), 0.5, np.float32)
  recipe = dipjax.Recipe(
    network=pixels.Pixels(), monitors={'last': monitors.Last()}, steps=1
  )
  start, plain, scaled = (
    dipjax.restore(noisy, None, recipe.replace(rate=one)).params['image'][0]
    for one in (0.0, None, rate)
  )
  np.testing.assert_allclose(
    scaled - start, rate * (plain - start), rtol=1e-4, atol=1e-7
  )
  same = recipe.replace(rate=rate).find_program()
  assert same == recipe.find_program()
  with pytest.raises(ValueError, match='rate must be a number >= 0'):
    recipe.replace(rate=-1.0)


def test_a_sweep_goes_on_where_it_was(finished, tmp_path, monkeypatch, capsys):
  config, workdir, _ = finished
  append, calls = records.append_lines, []

  def fail(path, rows):
    calls.append(path)
    if len(calls) == 4:
      raise OSError(28, 'No space left on device', path)
    append(path, rows)

  with monkeypatch.context() as patch, pytest.raises(OSError):
    patch.setattr(records, 'append_lines', fail)
    sweep.run(config, str(tmp_path))
  assert len(records.read_lines(str(tmp_path / 'sweep.jsonl'))) == 3
  capsys.readouterr()
  sweep.run(config, str(tmp_path))
  assert '8 points, 3 of them before' in capsys.readouterr().out
  read = lambda folder: sorted(
    json.dumps({k: v for k, v in row.items() if k != 'seconds'})
    for row in records.read_lines(str(folder / 'sweep.jsonl'))
  )
  assert read(tmp_path) == read(workdir)
  sweep.run(config, str(tmp_path))
  assert 'this run is finished' in capsys.readouterr().out


@pytest.mark.parametrize(
  'words,numbers,message',
  [
    ('smoke', {'sigma': (10.0,)}, 'sweep.sigma is set and nothing reads it'),
    ('fast,smoke', {'jitter': (0.1,)}, 'sweep.jitter is set and nothing reads'),
    ('smoke', {'seeds': (1, 1)}, 'is there twice'),
    ('smoke', {'jitter': (-1.0,)}, 'sweep.jitter must be a tuple'),
  ],
)
def test_numbers_that_nothing_reads_are_refused(
  photograph, tmp_path, words, numbers, message
):
  with pytest.raises(ValueError, match=message):
    sweep.run(_make_config(photograph, words, **numbers), str(tmp_path / 'run'))
  assert not os.listdir(tmp_path)


def test_sigmas_are_told(photograph):
  config = _make_config(photograph, 'fast,smoke,network=pixels', sigma=(10, 20))
  points = sweep.make_grid(config, config.sweep)
  assert [point.sigma for point in points] == [10, 20]
  assert {point.jitter for point in points} == {None}
  own = config.copy_and_resolve_references()
  del own.sweep
  data = load_denoising(config.data)
  cases = [sweep.make_case(own, data, point) for point in points]
  for case, sigma in zip(cases, (10, 20), strict=True):
    assert case.noise.sigma == pytest.approx(sigma / 255)
