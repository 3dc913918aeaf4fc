"""The ablation: arms, budgets, tables and claims; runs that go on."""

import copy
import csv
import json
import os
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from configs import ablation as ablation_config
from configs import ddpm as ddpm_config
from dipjax import diffusion, metrics
from dipjax.engine import lanes
from experiments import ddpm
from experiments.ablation import __main__ as ablation
from experiments.ablation import arms as arms_lib
from experiments.ablation import baselines, claims, table
from experiments.ablation.table import FIXED, ORACLE, STAGED, STOPPED, Arm
from experiments.lib import (
  checkpoints,
  images,
  plots,
  recorder,
  records,
  stages,
)
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data, load_denoising

# The source's table, U-Net: PSNR by beta_max, schedule and perceptual loss.
PUBLISHED = {
  (0.01, 'linear', 0.0): 27.7683,
  (0.01, 'linear', 0.1): 28.0903,
  (0.01, 'scaled-linear', 0.0): 28.4366,
  (0.01, 'scaled-linear', 0.1): 28.9212,
  (0.02, 'linear', 0.0): 27.0062,
  (0.02, 'linear', 0.1): 27.5224,
  (0.02, 'scaled-linear', 0.0): 27.5031,
  (0.02, 'scaled-linear', 0.1): 27.8355,
}
PUBLISHED_PLAIN = {0.01: 26.8612, 0.02: 25.1043}


def _make_row(psnrs, method=STAGED, **factors):
  arm = Arm('unet', 0.0, 'measurement', 'linear', 0.01)._replace(**factors)
  seeds = [{'seed': i, 'psnr': psnr} for i, psnr in enumerate(psnrs)]
  return {'arm': arm.name, 'method': method, **arm._asdict(), 'lanes': seeds}


# --- Arms and their budget.


def test_all_arms_are_crossed_beside_a_plain_fit_for_each_loss():
  config = ablation_config.get_config()
  crossed = {name: config.arms[name] for name in config.arms}
  del crossed['together']
  arms = table.cross_arms(**crossed)
  plain = [arm for arm in arms if arm.is_plain]
  assert len(arms) == 3 * 2 * (1 + 2 * 2 * 2) and len(plain) == 3 * 2
  assert len({arm.name for arm in arms}) == len(arms)
  crossed['networks'] = ('unet', 'unet')
  assert len(table.cross_arms(**crossed)) == 2 * (1 + 2 * 2 * 2)


@pytest.mark.parametrize('budget', [97, 1000])
def test_every_arm_spends_the_budget_and_never_more(budget, photograph):
  config = _make_config(photograph)
  config.fit.steps = budget
  for arm, planned in arms_lib.plan_arms(config).items():
    own = arms_lib.make_config(config, arm)
    assert sum(stage.steps for stage in stages.make_plan(own)) == planned
    assert budget - own.schedule.stages < planned <= budget
    assert not arm.is_plain or planned == budget
    own.fit.steps += 1
    assert sum(stage.steps for stage in stages.make_plan(own)) > budget


def test_arms_that_differ_in_numbers_alone_have_one_program():
  arms = table.cross_arms(
    networks=('unet', 'resnet'),
    perceptual=(0, 0.1, 0.2),
    references=('clean',),
    schedules=('linear', 'cosine'),
    beta_max=(0.01,),
  )
  groups = arms_lib.group_arms(arms)
  found = [arm for group in groups.values() for arm in group]
  assert sorted(found) == sorted(arms)
  # Networks as they were given; without features and with them, of each a plain
  # fit for each weight, and twice as many staged ones.
  assert list(groups)[:2] == ['unet-squared-plain', 'unet-squared-staged']
  assert list(map(len, groups.values())) == 2 * [1, 2, 2, 4]
  for group in groups.values():
    assert len({(a.network, a.is_plain, a.perceptual > 0) for a in group}) == 1


# --- Table and claims.


def test_a_line_has_means_and_the_deviations_of_a_sample():
  row = _make_row([20.0, 23.0], reference='clean') | {'planned': 120}
  for lane, best, spent in zip(row['lanes'], (21.0, 25.0), (90, 120)):
    lane |= {'ssim': 0.5, 'spent': spent, 'oracle': {'psnr': best}}
  line = table.summarize_row(row, 100)
  assert (line['psnr'], line['best'], line['gap']) == (21.5, 23.0, 1.5)
  assert line['psnr_std'] == pytest.approx(np.std([20, 23], ddof=1))
  assert line['gap_std'] == pytest.approx(np.std([1, 2], ddof=1))
  assert (line['spent'], line['budget'], line['planned']) == (105, 100, 120)
  assert line['protocol'] == ORACLE
  assert line['note'] == f'{ORACLE}; 20 steps more than the others'
  (shown,) = table.format_markdown([line]).splitlines()[2:]
  assert shown == (
    '| staged | unet | 0.0 | clean | linear | 0.01 | 120 | 105 | 21.50 ± 2.12 '
    '| 0.5000 ± 0.0000 | 23.00 ± 2.83 | 1.50 ± 0.71 | oracle protocol; 20 '
    'steps more than the others |'
  )


def test_what_is_missing_stays_empty():
  row = {'arm': 'BM3D', 'method': 'BM3D', 'note': 'not installed', 'lanes': []}
  one = row | {'note': '', 'lanes': [{'psnr': 30.0, 'ssim': 0.9}]}
  lines = [table.summarize_row(r, 100) for r in (row, one)]
  shown = table.format_markdown(lines).splitlines()[2:]
  assert shown[0] == f'| BM3D {"|  " * 11}| not installed |'
  assert '| 30.00 | 0.9000 |' in shown[1]
  read = list(csv.DictReader(table.format_csv(lines).splitlines()))
  assert [r['psnr'] for r in read] == ['', '30.0']
  assert read[1]['psnr_std'] == '' and read[0]['note'] == 'not installed'


def test_the_published_numbers_are_those_of_the_sources_table():
  rows = [
    _make_row([psnr], beta_max=beta, schedule=schedule, perceptual=weight)
    for (beta, schedule, weight), psnr in PUBLISHED.items()
  ]
  judged = {verdict['claim']: verdict for verdict in claims.judge_claims(rows)}
  for claim in claims.CLAIMS[1:]:
    verdict = judged[claim.text]
    assert verdict['holds'] and verdict['pairs'] == 4
    assert verdict['difference_db'] == pytest.approx(claim.published, abs=5e-3)
  gains = []
  for beta, psnr in PUBLISHED_PLAIN.items():
    staged = [row for row in rows if row['beta_max'] == beta]
    plain = [_make_row([psnr], FIXED, perceptual=w) for w in (0.0, 0.1)]
    gains.append(claims.judge_claims(staged + plain)[0])
  claim = claims.CLAIMS[0]
  gain = np.mean([gain['difference_db'] for gain in gains])
  assert gain == pytest.approx(claim.published, abs=5e-3)


def test_a_claim_compares_seeds_of_arms_that_differ_in_it_alone():
  rows = [
    _make_row([20.0, 21.0, 22.0]),
    _make_row([20.5, 21.0, 24.0], schedule='scaled-linear'),
    _make_row([10.0] * 3, beta_max=0.02),
    _make_row([9.0] * 3, beta_max=0.02, schedule='scaled-linear'),
    _make_row([99.0] * 3, reference='clean', schedule='scaled-linear'),
    _make_row([30.0] * 3, FIXED),
    _make_row([0.0] * 3, FIXED, network='resnet'),
  ]
  judged = claims.judge_claims(rows)
  plain, schedule, perceptual, beta, stopped, *clean = judged
  assert schedule['pairs'] == 2 and schedule['pairs_that_agree'] == 1
  over_seeds = np.array([[0.5, 0, 2], [-1, -1, -1]]).mean(axis=0)
  assert schedule['difference_db'] == pytest.approx(over_seeds.mean())
  assert schedule['std'] == pytest.approx(over_seeds.std(ddof=1))
  assert schedule['text'] == (
    'scaled-linear levels beat linear ones: does not hold, -0.08 dB ± 0.52 '
    'over 3 seeds, within their spread; in 1 of 2 pairs of arms; '
    'published +0.58 dB (oracle protocol)'
  )
  assert not plain['holds'] and plain['pairs'] == 4
  assert beta['holds'] and beta['pairs_that_agree'] == 2
  for verdict in (perceptual, stopped):
    assert verdict['holds'] is None and 'not tested' in verdict['text']
  for verdict in clean:
    assert verdict['text'].startswith(f'{ORACLE}: ')
  assert clean[0]['holds'] and clean[0]['difference_db'] == 69


def test_stopping_is_how_far_final_images_are_from_the_best():
  rows = []
  for method, reference, gap in (
    (STAGED, 'measurement', 0.5),
    (STAGED, 'measurement', 1.0),
    (STAGED, 'clean', 0.25),
    (FIXED, 'measurement', 3.0),
  ):
    row = _make_row([20.0], method, reference=reference)
    row['lanes'][0]['oracle'] = {'psnr': 20 + gap}
    rows.append(table.summarize_row(row, 1))
  assert claims.describe_stopping(rows) == [
    f'{mark}: final image 20.00 dB, best of the run {20 + gap:.2f} dB; the gap '
    f'is {gap:.2f} dB on average and {worst:.2f} dB at worst over {count} arms'
    for mark, gap, worst, count in (
      (STAGED, 0.75, 1.0, 2),
      (f'{ORACLE}: {STAGED}', 0.25, 0.25, 1),
      (FIXED, 3.0, 3.0, 1),
    )
  ]


def test_arms_are_drawn(tmp_path, monkeypatch):
  pytest.importorskip('matplotlib')
  rows = [
    _make_row([20.0, 21.0], reference=name) for name in ('clean', 'measurement')
  ]
  rows += [_make_row([19.0, 20.0], FIXED)]
  rows += [{'arm': 'BM3D', 'method': 'BM3D', 'lanes': []}]
  lines = [table.summarize_row(row, 1) for row in rows]
  assert plots.draw_arms(tmp_path / 'arms.png', lines)
  few = images.read_image(str(tmp_path / 'arms.png'))
  assert plots.draw_arms(tmp_path / 'arms.png', lines * 5)
  many = images.read_image(str(tmp_path / 'arms.png'))
  assert few.std() > 0.01 and many.shape[0] > few.shape[0]
  monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
  assert not plots.draw_arms(tmp_path / 'none.png', lines)
  assert os.listdir(tmp_path) == ['arms.png']


# --- Runs.


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  """A file with a smooth picture, 24 wide and 18 high."""
  return write_photograph(18, 24, (9, 8, 6))


def _make_config(image, **changes):
  """A plain arm and 4 staged ones."""
  config = ablation_config.get_config('smoke')
  config.data.update(image=image, crop=())
  config.cases.unet.network.channels = (4,)
  config.arms.beta_max = (0.02,)
  config.update_from_flattened_dict(changes)
  return config


def _run(config, workdir):
  returned = ablation.run(config, str(workdir))
  result = json.loads((workdir / 'result.json').read_text())
  assert result == json.loads(json.dumps(returned.summary))
  return result


def _read_arms(workdir):
  """The rows of arms.jsonl, without what the clock says."""
  rows = records.read_lines(str(workdir / 'arms.jsonl'))
  return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


@pytest.fixture(scope='module')
def config(photograph):
  return _make_config(photograph).lock()


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory):
  """A run of all arms: its folder, its result, programs compiled."""
  workdir = tmp_path_factory.mktemp('finished')
  lanes.forget_programs()
  result = _run(config, workdir)
  return workdir, result, lanes.advance._cache_size()


def test_one_program_for_each_shape(finished):
  """The plain fit, and all arms: schedules, levels and targets are data."""
  assert finished[2] == 2


def test_weights_of_the_perceptual_loss_are_data_too(
  photograph, vgg16, tmp_path
):
  changes = {'fit.steps': 12, 'fit.perceptual_weights': vgg16, 'lanes': 1}
  config = _make_config(photograph, **changes)
  lanes.forget_programs()
  arms = [
    Arm('unet', weight, 'clean', 'linear', beta_max)
    for weight, beta_max in ((0.1, 0.01), (0.2, 0.01), (0.2, 0.02))
  ]
  rows, _ = _fit_arms(config, arms, tmp_path)
  assert lanes.advance._cache_size() == lanes._start._cache_size() == 1
  assert len({row['lanes'][0]['psnr'] for row in rows}) == 3


def _fit_arms(config, arms, path):
  """The rows of arms of one program, and their images by name, as finished."""
  folder = workdirs.Workdir(str(path), {}, '', None)
  rows, restored = [], {}

  def add(arm, added, image):
    rows.extend(added)
    restored[arm.name] = image

  assert not ablation.fit_arms(config, 'arms', arms, folder, (), add)
  return rows, restored


def test_a_run_leaves_a_line_for_each_arm(finished):
  workdir, result, _ = finished
  rows = _read_arms(workdir)
  assert [row['method'] for row in rows] == [FIXED, STOPPED, *[STAGED] * 4]
  names = {row['arm'] for row in rows}
  assert {f'{name}.png' for name in names} <= set(os.listdir(workdir))
  lines = records.read_lines(str(workdir / 'metrics.jsonl'))
  assert {record['arm'] for record in lines} == names
  for row in rows:
    clean = row['reference'] == 'clean'
    assert row.get('protocol') == (ORACLE if clean else None)
    assert clean == ('clean' in row['arm'])
    assert [lane['seed'] for lane in row['lanes']] == [0, 1]
    for lane in row['lanes']:
      assert 1 <= lane['spent'] <= row['planned'] <= 60
      assert lane['selected_step'] < lane['spent']
      assert lane['psnr'] < lane['oracle']['psnr'] + 1e-3
  for record in lines:
    assert (record.get('protocol') == ORACLE) == ('clean' in record['arm'])
  fits = [row for row in rows if row['method'] != STOPPED]
  taken = [[lane['spent'] for lane in row['lanes']] for row in fits]
  assert taken[0] == [60, 60]
  assert result['steps'] == np.sum(taken)


def test_the_table_is_in_three_forms(finished):
  workdir, result, _ = finished
  table = (workdir / 'table.md').read_text()
  for line in result['table']:
    assert (line['protocol'] == ORACLE) == (line['note'] == ORACLE)
  methods = [line['method'] for line in result['table']]
  assert methods[:5] == ['measurement', 'DDPM', 'BM3D', FIXED, STOPPED]
  assert table.count('| staged |') == 4
  assert table.count(f'| {ORACLE} |') == 2
  for claim in result['claims']:
    assert f'- {claim["text"]}\n' in table
  assert len(result['claims']) == 2 * 5 and len(result['stopping']) == 4
  assert 'no baselines.ddpm is given' in table
  with open(workdir / 'table.csv') as file:
    read = list(csv.DictReader(file))
  for line, row in zip(result['table'], read, strict=True):
    assert row['psnr'] == ('' if line['psnr'] is None else str(line['psnr']))
  assert 'arms.png' in os.listdir(workdir)


def test_scores_are_those_of_the_pictures(finished, photograph, config):
  workdir, result, _ = finished
  clean = images.read_image(photograph)
  for row in _read_arms(workdir):
    if row['method'] != FIXED:
      image = images.read_image(str(workdir / f'{row["arm"]}.png'))
      psnr = float(metrics.psnr(image, clean))
      assert row['lanes'][0]['psnr'] == pytest.approx(psnr, abs=0.05)
  noisy = load_denoising(config.data).measurement
  measured = result['table'][0]['psnr']
  assert measured == pytest.approx(float(metrics.psnr(noisy, clean)), abs=1e-3)


def test_the_plain_fit_is_that_of_the_library(finished, config):
  setup = arms_lib.make_setup(config, Arm('unet', 0.0))
  data, recipe = setup.data, setup.recipe.replace(steps=60, rule=FIXED)
  plain = dipjax.restore(
    data.measurement,
    recipe=recipe.replace(code=setup.first_code),
    clean=data.clean,
    sigma=0.0,
    seeds=setup.seeds,
  )
  fixed = _read_arms(finished[0])[0]
  for lane, image in zip(fixed['lanes'], plain.images, strict=True):
    psnr = float(metrics.psnr(image, data.clean))
    assert lane['psnr'] == pytest.approx(psnr, abs=1e-3)


def test_a_killed_run_goes_on_at_the_next_arm(
  finished, config, tmp_path, monkeypatch, capsys
):
  record, seen = recorder.Recorder.__call__, []

  def break_off(self, states, trace, notes):
    seen.append({note['arm'] for note in notes if note})
    ended = record(self, states, trace, notes)
    if len({row['arm'] for row in _read_arms(tmp_path)}) == 3:
      raise KeyboardInterrupt
    return ended

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(recorder.Recorder, '__call__', break_off)
    ablation.run(config, str(tmp_path))
  assert not (tmp_path / 'result.json').exists()
  done = {row['arm'] for row in _read_arms(tmp_path)}
  said = capsys.readouterr().out.splitlines()[0]
  assert said.startswith('5 arms of 2 seeds, a budget of 60 steps for each')
  assert said.endswith('0 arms are finished')
  seen.clear()

  def watch(self, states, trace, notes):
    seen.append({note['arm'] for note in notes if note})
    return record(self, states, trace, notes)

  monkeypatch.setattr(recorder.Recorder, '__call__', watch)
  result = _run(config, tmp_path)
  assert '3 arms are finished' in capsys.readouterr().out
  fitted = set().union(*seen)
  assert len(fitted) == 2 and not fitted & done
  assert _read_arms(tmp_path) == _read_arms(finished[0])
  lines = [
    records.read_lines(str(workdir / 'metrics.jsonl'))
    for workdir in (tmp_path, finished[0])
  ]
  assert lines[0] == lines[1]
  # And a finished one is only read.
  seen.clear()
  assert _run(config, tmp_path) == result
  assert not seen
  config = copy.deepcopy(config)
  config.schedule.stages = 4
  with pytest.raises(ValueError, match=r'with schedule\.stages=3'):
    ablation.run(config, str(tmp_path))


@pytest.fixture(scope='module')
def together(config, tmp_path_factory):
  """A run of three arms at once: its config and its folder."""
  config = copy.deepcopy(config)
  config.arms.together, config.checkpoint.every = 3, '20'
  workdir = tmp_path_factory.mktemp('together')
  _run(config, workdir)
  return config, workdir


def _read_records(workdir):
  return _read_arms(workdir), records.read_lines(str(workdir / 'metrics.jsonl'))


def test_arms_at_once_have_the_rows_of_arms_in_turn(finished, together):
  _, workdir = together
  in_order = lambda rows: sorted(map(json.dumps, rows))
  rows, lines = _read_records(workdir)
  before_rows, before_lines = _read_records(finished[0])
  assert in_order(rows) == in_order(before_rows)
  assert in_order(lines) == in_order(before_lines) and lines != before_lines


@pytest.mark.parametrize('number', [0, signal.SIGTERM])
def test_arms_that_were_interrupted_go_on_in_their_middle(
  together, number, tmp_path, monkeypatch
):
  """Killed or stopped, in the plain arm, and twice in staged ones."""
  config, workdir = together
  record, calls = recorder.Recorder.__call__, []

  def break_off(self, states, trace, notes):
    ended = record(self, states, trace, notes)
    calls.append(self.shown)
    if len(calls) == 5:
      if not number:
        raise KeyboardInterrupt
      self.stop.signal = number
    return ended

  monkeypatch.setattr(recorder.Recorder, '__call__', break_off)
  for _ in range(3):
    calls.clear()
    if number:
      assert ablation.run(config, str(tmp_path)).signal == number
    else:
      with pytest.raises(KeyboardInterrupt):
        ablation.run(config, str(tmp_path))
  calls.extend([0] * 5)
  ablation.run(config, str(tmp_path))
  assert _read_records(tmp_path) == _read_records(workdir)
  for path in workdir.glob('*perceptual*.png'):
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_arms_at_once_give_what_they_give_alone(finished, config, tmp_path):
  config = copy.deepcopy(config)
  config.lanes = 1
  config.arms.together = 3
  *_, a, b, c, d = arms_lib.plan_arms(config)
  lanes.forget_programs()
  rows, restored = _fit_arms(config, [d, b, a, c], tmp_path)
  assert lanes.advance._cache_size() == 1
  assert restored.keys() == {arm.name for arm in (a, b, c, d)}
  alone = {row['arm']: row['lanes'][0] for row in _read_arms(finished[0])}
  assert [row['arm'] for row in rows] == list(restored)
  for row in rows:
    (lane,) = row['lanes']
    assert lane == alone[row['arm']]


# --- Baselines.


@pytest.mark.parametrize('channels', [1, 3])
def test_bm3d_is_told_the_noise_and_may_be_missing(channels, monkeypatch):
  noisy = np.random.default_rng(0).random((8, 9, channels), np.float32)
  told = []

  def denoise(image, sigma):
    told.append((image.shape, sigma))
    return 2 * image - 0.5

  package = types.SimpleNamespace(bm3d=denoise, bm3d_rgb=denoise)
  monkeypatch.setitem(sys.modules, 'bm3d', package)
  restored = baselines.denoise_bm3d(noisy, 0.1)
  assert restored is not None and restored.dtype == np.float32
  expected = np.clip(2 * noisy - 0.5, 0, 1)
  np.testing.assert_allclose(restored, expected, atol=1e-6)
  assert told == [((8, 9) if channels == 1 else (8, 9, 3), 0.1)]
  monkeypatch.setitem(sys.modules, 'bm3d', None)
  assert baselines.denoise_bm3d(noisy, 0.1) is None


def _write_ddpm(workdir):
  """What a run of experiments.ddpm leaves after its seventh step."""
  config = ddpm_config.get_config('smoke')
  config.network.channels = (8,)
  workdir.mkdir()
  workdirs.write_json(str(workdir / 'config.json'), config.to_dict())
  model = ddpm.make_model(config, 3)
  state = diffusion.begin(
    model.training, jax.random.key(3), jnp.zeros((1, 8, 8, 3))
  )
  state = state.replace(step=jnp.int32(7))
  with checkpoints.Checkpoints(str(workdir / workdirs.CHECKPOINTS)) as saved:
    saved.save(state, 7)
  return model, state


def test_the_ddpm_is_that_of_the_checkpoint(tmp_path):
  model, state = _write_ddpm(tmp_path / 'ddpm')
  trained = baselines.load_ddpm(str(tmp_path / 'ddpm'), (8, 12, 3))
  assert trained.steps == 7
  jax.tree.map(np.testing.assert_array_equal, trained.params, state.average)
  clean = np.full((8, 12, 3), 0.5, np.float32)
  data = Data(clean + 0.1, clean)
  rows = baselines.make_rows(data, 0.1, 'told the true sigma', trained)
  assert [row['arm'] for row in rows] == ['measurement', 'DDPM', 'BM3D']
  assert rows[1]['note'].startswith('trained for 7 steps')
  (expected,) = diffusion.denoise(
    model.network,
    state.average,
    model.levels,
    jax.random.key(0),
    jnp.asarray(data.measurement)[None],
    sigma=0.1,
  )
  psnr = float(metrics.psnr(expected, clean))
  assert rows[1]['lanes'][0]['psnr'] == pytest.approx(psnr, abs=1e-3)


def _write_no_checkpoint(folder):
  folder.mkdir()
  config = ddpm_config.get_config('smoke').to_dict()
  workdirs.write_json(str(folder / 'config.json'), config)


def _write_another(folder):
  folder.mkdir()
  workdirs.write_json(str(folder / 'config.json'), {'seed': 0})


@pytest.mark.parametrize(
  'write,shape,message',
  [
    (lambda folder: None, (8, 8, 3), 'is no folder of a run'),
    (_write_another, (8, 8, 3), 'is no folder of a run'),
    (_write_no_checkpoint, (8, 8, 3), 'has no checkpoint yet'),
    (_write_no_checkpoint, (8, 9, 3), 'must have sides that are multiples'),
    (_write_ddpm, (8, 8, 1), 'does not fit images .8, 8, 1.'),
  ],
)
def test_a_ddpm_that_cannot_be_used_is_refused(write, shape, message, tmp_path):
  write(tmp_path / 'ddpm')
  with pytest.raises(ValueError, match=message):
    baselines.load_ddpm(str(tmp_path / 'ddpm'), shape)


# --- Bad input.

BAD_INPUT = {
  'network': (
    {'arms.networks': ('unet', 'vit', 'skip')},
    ["got ('unet', 'vit', 'skip')"],
  ),
  'schedule': (
    {'arms.schedules': ('linear', 'sigmoid')},
    ['arms.schedules must be', "got ('linear', 'sigmoid')"],
  ),
  'beta_max': (
    {'arms.beta_max': (1e-5, 0.01)},
    ['4 of 9 arms cannot run: ', 'linear-1e-05: ', 'got 0.0001 and 1e-05'],
  ),
  'reference': (
    {'arms.references': ('truth',)},
    ['arms.references must be', "got ('truth',)"],
  ),
  'perceptual': (
    {'arms.perceptual': (0.0, -0.1)},
    ['arms.perceptual must be', 'each a number from 0', 'got (0.0, -0.1)'],
  ),
  'weights': (
    {'arms.perceptual': (0.1,), 'fit.perceptual_weights': '/no/such.npz'},
    ['5 of 5 arms', '/no/such.npz'],
  ),
  'residual': (
    {
      'arms.networks': ('unet', 'dncnn'),
      'cases.dncnn.network.residual': True,
    },
    ['1 of 10 arms cannot run: plain-dncnn-perceptual0: ', 'got 4'],
  ),
  'no_steps': ({'fit.steps': 0}, ['fit.steps must be a whole number from 1']),
  'no_networks': ({'arms.networks': ()}, ['a tuple of 1 to 100']),
  'together': ({'arms.together': 0}, ['arms.together must be a whole number']),
  'no_seeds': ({'lanes': 0}, ['lanes must be a whole number from 1']),
  'no_clean': ({'data.sigma': 0.0}, ['needs the clean image']),
  'ddpm': ({'baselines.ddpm': '/no/such'}, ["'/no/such' is no folder"]),
}


@pytest.mark.parametrize('name', BAD_INPUT)
def test_bad_input_is_named_before_anything_starts(name, photograph, tmp_path):
  changes, parts = BAD_INPUT[name]
  config = _make_config(photograph)
  config.update_from_flattened_dict(changes)
  with pytest.raises(ValueError) as error:
    ablation.run(config, str(tmp_path / 'run'))
  assert '\n' not in str(error.value)
  for part in parts:
    assert part in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_a_rule_that_does_not_stop_by_itself_is_refused(photograph, tmp_path):
  with pytest.raises(ValueError, match='stop=last and method=squared do not'):
    ablation_config.get_config('smoke,stop=last')
  config = ablation_config.get_config('smoke,stop=pseudo_reference')
  config.data.update(image=photograph, crop=())
  with pytest.raises(ValueError, match='one of emv, wmv, got .pseudo_ref'):
    ablation.run(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_word_chooses_the_network():
  config = ablation_config.get_config('quick,network=dncnn')
  assert config.arms.networks == ('dncnn',)
  assert config.cases.dncnn.network.depth == 9
  assert ablation_config.get_config('quick').arms.networks == ('unet',)


def test_bad_input_at_the_command_line_is_one_line(
  photograph, tmp_path, run_experiment
):
  status, errors = run_experiment(
    'ablation',
    *('--config=configs/ablation.py:smoke', f'--workdir={tmp_path}/run'),
    *(f'--config.data.image={photograph}', '--config.data.crop=()'),
    '--config.arms.beta_max=(1e-05,)',
  )
  assert status == 2, errors
  assert errors.startswith('error: 4 of 5 arms cannot run: ')
  assert errors.count('\n') == 1
  assert not os.listdir(tmp_path)
