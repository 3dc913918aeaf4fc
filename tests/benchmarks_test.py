"""What the benchmark counts, and the rows that it writes."""

import time

import jax
import numpy as np
import pytest

from benchmarks import (
  folder,
  lane_rules,
  limits,
  memory,
  noise,
  overhead,
  programs,
  shared,
  start,
  step,
)
from dipjax import Case, Recipe, many, monitors
from dipjax.conv import choose
from dipjax.networks import dncnn, pixels, skip
from experiments.lib import images


# 2 FLOP a multiply-add, three passes: facts of requirement 2's network.
@pytest.mark.parametrize(
  'size,teraflops', [(64, 0.0072), (128, 0.0288), (256, 0.115), (512, 0.460)]
)
def test_flops_of_requirement_2(size, teraflops):
  flops = limits.count_flops(skip.Skip(), size)
  assert flops == pytest.approx(1e12 * teraflops, rel=0.01)


def test_flops_by_hand():
  network = skip.Skip(outputs=1, down=(2,), up=(3,), skip=(1,))
  pixels = 8 * 8
  first = pixels * 4 + pixels // 4 * 9 * 4 * 2
  later = pixels // 4 * 9 * 2 * 2 + pixels * (9 * 3 * 3 + 3 * 3 + 3)
  assert limits.count_flops(network, 8, 4) == 2 * (2 * first + 3 * later)


def test_scan_takes_steps_of_all_lanes():
  network = dncnn.DnCNN(depth=2, channels=8)
  one = programs.make_fit(network, 'float32')
  scan = programs.make_scan(one, size=16, count=2)
  assert scan.call() == scan.call() == 2 * programs.SCAN
  assert scan.peak_bytes > 2 * 4 * 16 * 16 * programs.INPUTS
  assert scan.compile_seconds > 0


def test_all_that_watches_and_guards_is_timed():
  network = dncnn.DnCNN(depth=2, channels=4)
  calls = overhead.make_calls(network, size=16)
  assert list(calls) == ['one monitor, no guard', 'one monitor', 'all rules']
  assert [call() for call in calls.values()] == [programs.SCAN] * 3


def test_no_fit_is_timed_with_the_trace_of_another():
  make = lambda: programs.make_fit(skip.Skip(), 'float32')
  assert make() != make()


def test_memory_has_a_line_for_what_each_method_allows(capsys, monkeypatch):
  monkeypatch.setattr(programs, 'plan_bytes', lambda one, problem: 10**9)
  monkeypatch.setattr(
    memory.memory,
    'estimate_bytes',
    # Noise of 32 channels, or the image itself.
    lambda recipe, problem, lanes: 10**7 * problem.code.shape[2],
  )
  memory.main(['--sizes', '64'])
  _, *lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1:3] for line in lines] == [
    *2 * [['float32', 'squared']],
    *2 * [['bfloat16', 'squared']],
    *2 * [['float32', 'stein']],
  ]
  assert [line.split()[-1] for line in lines] == 4 * ['(0.32)'] + 2 * ['(0.03)']


def test_all_rules_of_lanes_compute_the_same():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 8, 12, 3)).astype('f')
  kernel = rng.normal(size=(2, 3, 3, 3, 4)).astype('f')
  rules = lane_rules.make_rules()
  compute = jax.jit(lambda x, k: [rule(x, k) for rule in rules.values()])
  first, *others = compute(x, kernel)
  assert first.shape == (2, 8, 12, 4) and len(others) >= 5
  for y in others:
    np.testing.assert_allclose(y, first, atol=1e-4)


def test_rows(capsys, monkeypatch):
  monkeypatch.setattr(
    programs,
    'make_scan',
    lambda one, size, count: programs.Scan(_sleep, 1000 * count, 7.0),
  )
  monkeypatch.setattr(programs, 'make_single', lambda one, size: _sleep)
  one = programs.make_fit(skip.Skip(), 'float32')
  case = step.Case(32, 'float32', flops=10**6, limit=1e9)
  rows = step.time_case(case, one, [1, 2], {'torch': _sleep}, rounds=3)
  assert [row.lanes for row in rows] == [1, 2]
  assert [row.peak_bytes for row in rows] == [1000, 2000]
  for row in rows:
    assert row.milliseconds_per_lane_step > 2
    assert row.ratio_to_torch == pytest.approx(1, rel=0.8)
    assert row.fraction_of_limit == pytest.approx(
      1 / row.milliseconds_per_lane_step
    )
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4
  assert 'of torch' in lines[0] and 'single step' in lines[2]


def _sleep():
  time.sleep(0.01)
  return 4


def test_what_does_not_work_is_refused_in_one_line(capsys):
  with pytest.raises(SystemExit):
    step.main(['--sizes', '100'])
  assert 'the network needs 128' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    step.main(['--rounds', '1'])
  assert '--rounds must be at least 2' in capsys.readouterr().err


@pytest.mark.parametrize('flag', ['--rounds=1', '--size=0', '--lanes=0'])
def test_lane_rules_refuse_what_cannot_be_timed(flag, capsys):
  with pytest.raises(SystemExit) as stop:
    lane_rules.main([flag])
  assert stop.value.code == 2
  assert 'at least' in capsys.readouterr().err.splitlines()[-1]


def test_both_starts_share_one_folder(monkeypatch):
  runs = []
  monkeypatch.setattr(
    start.subprocess, 'run', lambda command, **named: runs.append(named['env'])
  )
  start.main(['--sizes', '64', '128'])
  folders = [run['JAX_COMPILATION_CACHE_DIR'] for run in runs]
  assert folders[0] == folders[1] != folders[2] == folders[3]


def test_a_start_says_how_long_it_took(monkeypatch, capsys):
  monkeypatch.setattr(
    programs,
    'make_scan',
    lambda one, size, count: programs.Scan(_sleep, size, 7.25),
  )
  start.time_start('64x64  first start', 64)
  line = capsys.readouterr().out
  assert line.startswith('64x64  first start: imports ')
  assert 'programs 7.2 s' in line and '10 steps' in line


def test_a_start_of_a_size_that_is_none_is_refused(capsys):
  with pytest.raises(SystemExit) as stopped:
    start.main(['--sizes', '65'])
  assert stopped.value.code == 2
  assert '--sizes 65: the network needs' in capsys.readouterr().err


def test_noise_has_a_line_for_each_kind_and_the_worst_first(capsys):
  arguments = ['--pictures', 'flat', 'ramp', '--kinds', 'rows', '--crop', '64']
  noise.main([*arguments, '--sizes', '32'])
  summary, worst = capsys.readouterr().out.strip().split('\n\n')
  worst, seconds = worst.rsplit('\n', 1)
  assert seconds.startswith('32x32: ') and seconds.endswith(' s')
  assert [line.split(' | ')[:3] for line in summary.splitlines()[2:]] == [
    ['| rows', level, quantity]
    for level in ('5', '15')
    for quantity in ('sigma', 'rows')
  ]
  ratios = [float(line.split(' | ')[6]) for line in worst.splitlines()[2:]]
  distances = [abs(np.log(max(ratio, 1e-3))) for ratio in ratios]
  assert len(ratios) == 8 and distances == sorted(distances, reverse=True)


def test_demosaicing_keeps_what_is_smooth():
  y, x = np.mgrid[:12, :16] / 16
  image = np.stack([x, y, (x + y) / 2], -1)
  for demosaic in (noise.demosaic_bilinear, noise.demosaic_malvar):
    inner = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(demosaic(image)[inner], image[inner], atol=1e-6)


def test_batches_wait_for_their_slowest_and_slots_do_not():
  recipe = Recipe(
    network=pixels.Pixels(), monitors={'last': monitors.Last(steps=100)}
  )
  steps = (30, 10, 10, 10)
  cases = [
    Case(np.full((8, 8, 3), 0.5, 'f'), recipe=recipe.replace(steps=most))
    for most in steps
  ]
  counts = {
    way: folder._restore({'way': way, 'lanes': 2}, cases, recipe)
    for way in ('slots', 'queue', 'batches')
  }
  assert counts == {
    # One lane takes the 30 steps, and the other all else in the meantime.
    'slots': [60, 60, 4],
    'queue': [60, 60, 4],
    'batches': [60, 80, 4],
  }


def test_turns_fill_the_lanes_that_a_queue_leaves_free(monkeypatch):
  monkeypatch.setattr(many, '_TURN', 10)
  recipe = Recipe(
    network=pixels.Pixels(), monitors={'last': monitors.Last(steps=100)}
  )
  cases = [
    Case(np.full((8, 8, 3), 0.5, 'f'), recipe=recipe.replace(steps=most))
    for most in (20, 20, 40)
  ]
  with choose.aim(choose.Target('gpu')):
    counts = {
      way: folder._restore({'way': way, 'lanes': 2}, cases, recipe)
      for way in ('slots', 'queue')
    }
  # Two of 20 steps and then one of 40, all of them alone; or only the last 20.
  assert counts == {'slots': [80, 100, 3], 'queue': [80, 120, 3]}


def test_the_pictures_of_a_folder_have_three_shapes():
  cell = {'count': 5, 'side': 16, 'channels': 8, 'steps': 9, 'patience': 3}
  shapes = [case.measurement.shape for case in folder.make_cases(cell)]
  kinds = [(16, 16, 3), (16, 12, 3), (12, 16, 3)]
  assert shapes == [*kinds, *kinds[:2]]
  assert folder.make_recipe(cell).steps == 9


def test_pictures_that_share_have_the_noise_that_is_asked_for(tmp_path):
  cell = {'images': ['astronaut', 'coffee'], 'count': 3, 'side': 48}
  shared.write_pictures(cell | {'sigma': 25.0}, tmp_path)
  pairs = [
    [images.read_image(str(tmp_path / kind / f'{number:03}.png'))]
    for number in range(3)
    for kind in ('noisy', 'clean')
  ]
  noisy, clean = np.concatenate(pairs[::2]), np.concatenate(pairs[1::2])
  assert noisy.shape == clean.shape == (3, 48, 48, 3)
  assert np.std(noisy - clean) == pytest.approx(25 / 255, rel=0.1)
  assert np.abs(clean[0] - clean[2]).max() > 0.1  # Two parts of one image.


def test_the_table_of_a_shared_network_has_its_loss(
  tmp_path, monkeypatch, capsys
):
  def run(cell):
    psnr = [30.0, 28.0] if cell['way'] == 'single' else [30.5, 27.0]
    each = [0.5, 0.7]
    return {
      'psnr': psnr,
      'seconds': 9.0,
      'seconds_of_cores': 8.0,
      'seconds_of_each': each,
    }

  monkeypatch.setattr(shared, 'run_cell', run)
  path = tmp_path / 'shared.jsonl'
  for _ in range(2):
    shared.main(['--count', '2', '--steps', '9', '--json', str(path)])
  assert len(path.read_text().splitlines()) == 2
  said = capsys.readouterr().out
  assert said.count('| single | 1000 | 29.00 |  |  | 8 | 4 |  |') == 2
  row = '| shared, sees 2 | 9 | 28.75 | -1.00 | +0.50 | 8 | 4 | 0.6 |'
  assert said.count(row) == 2


def test_rows_of_a_folder_are_found_again(tmp_path, monkeypatch, capsys):
  counts = lambda cell, cases, recipe: [8, 10, cell['count']]
  monkeypatch.setattr(folder, '_restore', counts)
  monkeypatch.setattr(folder, 'make_cases', lambda cell: [])
  path = tmp_path / 'folder.jsonl'
  command = ['--count', '4', '--lanes', '1', '2', '--json', str(path)]
  for _ in range(2):
    folder.main(command)
  assert len(path.read_text().splitlines()) == 7
  said = capsys.readouterr().out
  assert said.count('an hour, occupancy 80.0%') == 7
  assert said.count('| alone | 1 | ') == said.count('| slots | 2 | ') == 2
