"""Stages: identities with plain fits, what goes on, and who sees the truth."""

import json
import os
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from configs import staged as staged_config
from dipjax import codes, metrics, monitors, operators
from dipjax.engine import lanes, slots, staged
from experiments import staged as experiment
from experiments.lib import (
  build,
  chains,
  checkpoints,
  images,
  recorder,
  stages,
)
from experiments.lib import workdir as workdirs
from experiments.lib.data import load_denoising

LEVELS = [0.001, 0.004, 0.01]
LENGTHS = {'steps': 100, 'alpha': 0.5, 'k': -25}


# --- The description of stages.


def test_a_plan_goes_down_to_the_measurement_itself():
  plan = staged.plan_stages(LEVELS, reference='measurement', **LENGTHS)
  assert [stage.level for stage in plan] == [0.01, 0.004, 0]
  assert [stage.noise for stage in plan] == [0.01, 0.004, 0]
  assert [stage.steps for stage in plan] == [35, 44, 50]


def test_the_noise_of_a_target_is_what_is_added_and_what_is_known():
  plan = staged.plan_stages(
    LEVELS, reference='measurement', sigma=0.1, **LENGTHS
  )
  noise = [0.01 + 0.99 * 0.01, 0.004 + 0.996 * 0.01, 0.01]
  np.testing.assert_allclose([stage.noise for stage in plan], noise)
  # The clean image has none of its own.
  plan = staged.plan_stages(LEVELS, reference='clean', sigma=0.1, **LENGTHS)
  assert [stage.level for stage in plan] == LEVELS[::-1]
  assert [stage.noise for stage in plan] == LEVELS[::-1]


def test_one_stage_of_the_measurement_is_the_measurement():
  (stage,) = staged.plan_stages([0.5], reference='measurement', **LENGTHS)
  assert stage == staged.Stage(level=0.0, noise=0.0, steps=50)
  image = jax.random.uniform(jax.random.key(3), (6, 5, 3))
  target = staged.make_target(jax.random.key(0), image, stage.level)
  np.testing.assert_array_equal(target, image)


def test_targets_have_their_level_and_noises_of_their_own():
  image = jnp.full((64, 64, 3), 0.5)
  key, level, noises = jax.random.key(0), 0.02, []
  for index in range(3):
    own = staged.make_key(key, index)
    target = staged.make_target(own, image, level)
    noises.append((np.asarray(target) - 0.5 * np.sqrt(1 - level)).ravel())
  count = noises[0].size
  for noise in noises:
    assert abs(noise.var() / level - 1) < 5 * np.sqrt(2 / count)
  for other in noises[1:]:
    correlation = np.mean(noises[0] * other) / level
    assert abs(correlation) < 5 / np.sqrt(count)


def test_the_noise_is_reached_or_the_rule_decides():
  image = jnp.zeros((2, 2, 1))
  monitor = monitors.ReachNoise(otherwise=monitors.Last(steps=4))
  assert monitors.ReachNoise(otherwise=monitors.Last(steps=4)) == monitor
  for noise, stops in ((0.05, 2), (0.0, 4), (0.001, None)):
    state, done = monitor.init(image, None), []
    problem = types.SimpleNamespace(
      operator=operators.Identity(), measurement=image, sigma=jnp.sqrt(noise)
    )
    for step, error in enumerate((0.3, 0.06, 0.049, 0.2, 0.02)):
      seen = monitors.Observation(
        jnp.array(step),
        jnp.array(7.0),
        image + jnp.sqrt(error),
        image + step,
        problem,
      )
      state = monitor.update(state, seen)
      done.append(bool(state.done))
      # A monitor that is done stays where it is.
      kept = min(step, {0.05: 2, 0.0: 3}.get(noise, step))
      assert int(state.step) == kept
      np.testing.assert_array_equal(state.image, image + kept)
    if noise == 0:
      assert done.index(True) == 3
    elif stops:
      assert done.index(True) == stops
    else:
      assert not any(done)


@pytest.mark.parametrize('size', [(5, 7), (8, 8), (9, 16)])
def test_an_image_becomes_a_code_in_whose_middle_it_lies(size):
  image = np.random.default_rng(0).random((5, 7, 3), np.float32)
  code = codes.extend_image(jnp.asarray(image), size)
  assert code.shape == (*size, 3)
  top, left = (size[0] - 5) // 2, (size[1] - 7) // 2
  np.testing.assert_array_equal(code[top : top + 5, left : left + 7], image)
  if top:
    np.testing.assert_array_equal(code[top - 1, left : left + 7], image[0])


def test_an_unknown_reference_is_refused():
  with pytest.raises(ValueError, match="'oracle' is not one of measurement"):
    staged.plan_stages(LEVELS, reference='oracle', **LENGTHS)


# --- The experiment, with a network of one level.


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  """A file with a small picture, 23 wide and 18 high."""
  return write_photograph(18, 23, (5, 4, 3))


def _make_config(image, variant='smoke', **changes):
  config = staged_config.get_config(variant)
  config.data.update(image=image, crop=())
  config.network.update(down=(8,), up=(8,), skip=(4,), code_channels=3)
  config.fit.steps = 60
  config.update_from_flattened_dict(changes)
  return config


def _run(config, workdir):
  returned = experiment.run(config, str(workdir))
  result = json.loads((workdir / 'result.json').read_text())
  assert result == returned.summary
  return result, images.read_image(str(workdir / 'restored.png'))


@pytest.fixture(scope='module')
def chained(photograph, tmp_path_factory):
  """A chain of two seeds: its folder, result, image and programs compiled."""
  workdir = tmp_path_factory.mktemp('chained')
  lanes.forget_programs()
  ran = _run(_make_config(photograph, lanes=2), workdir)
  return workdir, *ran, lanes.advance._cache_size()


def test_one_program_serves_all_stages(chained):
  _, result, _, compiled = chained
  assert len(result['stages']) == 3
  assert compiled == 1


def test_a_chain_leaves_its_files_and_records(chained):
  workdir, result, _, _ = chained
  assert {'stages.png', 'curves.png', 'comparison.png'} <= set(
    os.listdir(workdir)
  )
  assert result['reference'] == 'measurement' and 'protocol' not in result
  planned = [stage['steps_planned'] for stage in result['stages']]
  assert planned == sorted(planned) and result['budget'] == sum(planned)
  for i, lane in enumerate(result['lanes']):
    taken = [stage['lanes'][i]['steps'] for stage in result['stages']]
    assert all(t <= p for t, p in zip(taken, planned))
    assert lane['stopped_at'] == sum(taken) <= result['steps']
    # The same image, scored by two programs, may differ in rounding.
    assert lane['oracle']['psnr'] > lane['psnr'] - 1e-3
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  for lane in (0, 1):
    own = [record for record in records if record['lane'] == lane]
    steps = [record['step'] for record in own]
    assert steps == sorted(set(steps))
    assert [r['stage'] for r in own] == sorted(r['stage'] for r in own)
    assert {record['stage'] for record in own} == {0, 1, 2}
  # The record of a stage's last step has the scores of its image.
  last = result['stages'][2]['lanes'][1]
  assert own[-1]['psnr'] == pytest.approx(last['psnr'], abs=1e-3)
  for name in ('psnr_target', 'ssim_target'):
    assert own[-1][name] == pytest.approx(last[name], abs=1e-3)


def test_the_restored_image_is_better_than_the_measurement(photograph, chained):
  result = chained[1]
  assert result['restored']['psnr'] > result['measurement']['psnr'] + 3
  expected = metrics.psnr(chained[2], images.read_image(photograph))
  assert result['restored']['psnr'] == pytest.approx(float(expected), abs=0.02)


def test_targets_never_depend_on_the_clean_image(photograph, tmp_path):
  noisy = tmp_path / 'noisy.png'
  clean = images.read_image(photograph)
  noise = np.random.RandomState(0).normal(scale=0.1, size=clean.shape)
  images.write_image(noisy, clean + noise)
  images.write_image(tmp_path / 'other.png', 1 - clean)
  restored = []
  for name in ('', photograph, str(tmp_path / 'other.png')):
    changes = {'data.sigma': 0.0, 'data.clean': name}
    config = _make_config(str(noisy), **changes)
    restored.append(_run(config, tmp_path / str(len(restored)))[1])
  for other in restored[1:]:
    np.testing.assert_allclose(other, restored[0], atol=1 / 255)


def _fit(config):
  """The Restorations of the stages, whose records nobody reads."""
  setup = stages.make_setup(config)
  config.checkpoint.every = '0'
  lanes = len(setup.plan) if config.staged.parallel else 1
  with tempfile.TemporaryDirectory() as path:
    record = recorder.Recorder(
      workdirs.Workdir(path, {}, '', None),
      config,
      steps=1,
      seeds=setup.seeds * lanes,
    )
    if config.staged.parallel:
      return setup, chains.fit_parallel(setup, record)
    count = len(setup.seeds)
    ((_, results, _),) = chains.fit_chains([setup], record, slots=count)
  return setup, results


def test_one_stage_at_level_zero_is_a_plain_fit(photograph):
  config = _make_config(photograph, lanes=2, **{'schedule.stages': 1})
  _, (result,) = _fit(config)
  data = load_denoising(config.data)
  recipe = build.make_recipe(config, 3, own=('schedule', 'staged'))
  plain = dipjax.restore(
    data.measurement,
    recipe=recipe.replace(steps=30, code=codes.use_image(data.measurement)),
    clean=data.clean,
    seeds=build.make_seeds(config),
  )
  np.testing.assert_allclose(result.images, plain.images, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(result.stopped, [30, 30])
  np.testing.assert_allclose(result.trace.loss, plain.trace.loss, rtol=1e-5)


def _copy(states):
  """What stays when the states are used up."""
  states = states.replace(key=(), guard=None)
  return jax.tree.map(np.array, jax.device_get(states))


class _Watched(slots.Slots):
  """Notes the code, the first states and the last states of each stage."""

  calls: list[list] = []

  def fill(self, index, key, problem, clean=None, *, start=None):
    super().fill(index, key, problem, clean, start=start)
    begun = self.find_progress()[index].states
    self.calls.append([np.asarray(problem.code), _copy(begun)])

  def take_finished(self):
    taken = super().take_finished()
    for _, states, _ in taken:
      self.calls[-1].append(_copy(states))
    return taken


@pytest.fixture
def calls(monkeypatch):
  """What `_Watched` notes, stage by stage where there is one seed."""
  monkeypatch.setattr(chains, 'Slots', _Watched)
  monkeypatch.setattr(_Watched, 'calls', [])
  return _Watched.calls


def test_parameters_and_images_go_on(photograph, calls):
  """Each stage starts where the one before ended, on its image."""
  images_of = {}
  for keep in (False, True):
    calls.clear()
    config = _make_config(photograph, **{'staged.keep_optimizer': keep})
    setup, results = _fit(config)
    images_of[keep] = results[-1].image
    first = codes.extend_image(jnp.asarray(setup.data.measurement), (18, 24))
    np.testing.assert_array_equal(calls[0][0], first)
    for i in (1, 2):
      seen, start, _ = calls[i]
      before = calls[i - 1][2]
      jax.tree.map(np.testing.assert_array_equal, start.params, before.params)
      assert int(start.step[0]) == 0 and not np.any(start.average)
      count = int(jax.tree.leaves(start.opt_state)[0][0])
      assert count == (int(before.opt_state[0].count[0]) if keep else 0)
      image = jnp.asarray(results[i - 1].images[0])
      code = codes.extend_image(image, (18, 24))
      np.testing.assert_array_equal(seen, code)
  assert np.abs(images_of[False] - images_of[True]).max() > 1e-3


def test_a_fixed_code_stays(photograph, calls):
  config = _make_config(photograph, lanes=2, **{'staged.code': 'fixed'})
  config.fit.steps = 12
  _fit(config)
  # Both seeds take the same steps, and so go from stage to stage together.
  first, second = ([code for code, *_ in calls[n::2]] for n in (0, 1))
  assert len(first) == len(second) == 3
  for own in (first, second):
    for code in own[1:]:
      np.testing.assert_array_equal(code, own[0])
  assert np.abs(first[0] - second[0]).max() > 0.01


def test_same_seed_is_equal_and_another_differs(photograph):
  run = lambda seed: _fit(_make_config(photograph, seed=seed))[1][-1].image
  first = run(0)
  np.testing.assert_array_equal(run(0), first)
  assert np.abs(run(1) - first).max() > 1e-3


def test_a_stage_ends_where_its_loss_is_its_noise(photograph):
  config = _make_config(photograph, **{'staged.sigma': 25.5})
  config.fit.steps = 2000
  setup, results = _fit(config)
  for stage, result in zip(setup.plan, results):
    assert stage.noise >= 0.01
    steps = int(result.stopped[0])
    assert steps < stage.steps and int(result.selected[0]) == steps - 1
    loss = result.trace.loss[0]
    assert loss[steps - 1] <= stage.noise < loss[: steps - 1].min(initial=1)
  # And by the rule alone all steps are taken.
  config = _make_config(
    photograph, 'smoke,stop=last', **{'staged.residual': False}
  )
  setup, results = _fit(config)
  for stage, result in zip(setup.plan, results):
    assert result.stopped.tolist() == [stage.steps]


@pytest.mark.parametrize('least', [0, 1])
def test_a_stop_leaves_the_stages_that_all_seeds_have_finished(
  least, photograph, monkeypatch
):
  changes = {'staged.sigma': 25.5, 'record.every': 1, 'fit.steps': 2000}
  config = _make_config(photograph, lanes=2, **changes)
  record, recorders = recorder.Recorder.__call__, []

  def stop(self, states, trace, notes):
    record(self, states, trace, notes)
    fitted = [note['stage'] for note in notes]
    # Each seed goes from stage to stage by itself.
    if len(set(fitted)) == 2 and min(fitted) == least:
      self.stop.signal = 2
      recorders.append(self)

  with monkeypatch.context() as patch:
    patch.setattr(recorder.Recorder, '__call__', stop)
    _, stopped = _fit(config)
  # What was saved says how many stages each seed has finished.
  ended = [count for count, *_ in recorders[0].label.values()]
  assert len(ended) == 2 and min(ended) in (least, least + 1)
  # Where no stage is finished by all, there is what is left of the first one.
  assert len(stopped) == max(min(ended), 1)
  assert jax.tree.leaves(stopped[-1].params)[0].shape[0] == 2
  _, whole = _fit(config)
  for seed in range(2):
    if ended[seed] >= len(stopped):
      own = stopped[-1].images[seed]
      other = whole[len(stopped) - 1].images[seed]
      np.testing.assert_array_equal(own, other)


def test_a_checkpoint_of_an_earlier_version_is_refused(
  photograph, tmp_path, monkeypatch
):
  notes = {'label': 'stage-1'}  # What a checkpoint had of a chain before 0.2.
  find = lambda self: notes
  monkeypatch.setattr(checkpoints.Checkpoints, 'find_latest', find)
  with pytest.raises(ValueError, match='another version: use another workdir'):
    experiment.run(_make_config(photograph), str(tmp_path / 'run'))


def test_stages_at_once_start_each_on_its_own(photograph):
  config = _make_config(photograph, lanes=2)
  _, chain = _fit(config)
  config.staged.parallel = True
  _, parallel = _fit(config)
  assert len(parallel) == 3
  # The first stage has nothing before it, in both forms.
  np.testing.assert_allclose(parallel[0].images, chain[0].images, atol=1e-6)
  np.testing.assert_array_equal(parallel[0].selected, chain[0].selected)
  assert np.abs(parallel[1].images - chain[1].images).max() > 1e-2
  # A network that is begun anew is far away at first.
  assert parallel[2].trace.loss[0, 0] > 2 * chain[2].trace.loss[0, 0]


def test_the_parallel_form_as_a_run(photograph, tmp_path):
  config = _make_config(photograph, **{'staged.parallel': True, 'lanes': 2})
  result, _ = _run(config, tmp_path)
  assert [lane['seed'] for lane in result['lanes']] == [0, 1]
  taken = [lane['steps'] for s in result['stages'] for lane in s['lanes']]
  assert result['steps'] == max(taken)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  pairs = {(record['lane'], record['stage']) for record in records}
  assert pairs == {(lane, lane // 2) for lane in range(6)}


def test_the_oracle_protocol_is_marked_in_every_output(
  photograph, tmp_path, capsys, monkeypatch
):
  figure = pytest.importorskip('matplotlib.figure')
  titles, captions = [], []
  set_title = figure.Figure.suptitle
  monkeypatch.setattr(
    figure.Figure,
    'suptitle',
    lambda self, text: titles.append(text) or set_title(self, text),
  )
  draw = experiment.report.pictures.draw_comparison
  monkeypatch.setattr(
    experiment.report.pictures,
    'draw_comparison',
    lambda panels: captions.extend(panels) or draw(panels),
  )
  config = _make_config(photograph, **{'staged.reference': 'clean'})
  result, _ = _run(config, tmp_path)
  mark = 'oracle protocol'
  assert result['protocol'] == mark and result['reference'] == 'clean'
  assert titles == [mark, mark]
  assert any(mark in caption for caption in captions)
  first, *_, last, page = capsys.readouterr().out.strip().splitlines()
  assert first.startswith(mark) and last.startswith(mark)
  assert page.endswith('report.html')
  assert f'at most {result["budget"]} steps in all' in first
  for line in (tmp_path / 'metrics.jsonl').read_text().splitlines():
    assert json.loads(line)['protocol'] == mark
  assert result['stages'][-1]['level'] == pytest.approx(1e-4)


BAD_INPUT = {
  'schedule': (['schedule.name=sigmoid'], "schedule.name must .*'sigmoid'"),
  'no_stages': (['schedule.stages=0'], 'schedule.stages must be a whole'),
  'beta_zero': (['schedule.beta_min=0.0'], 'beta_min must be a number above 0'),
  'beta_one': (['schedule.beta_max=1.0'], 'beta_max must be .* below 1'),
  'no_steps': (['schedule.alpha=1.0'], 'would have -17 steps'),
  'nan': (['schedule.k=nan'], 'schedule.k must be a number'),
  'reference': (['staged.reference=truth'], "reference must be .*'truth'"),
  'code': (['staged.code=zeros'], "staged.code must be .*'zeros'"),
  'sigma': (['staged.sigma=-1.0'], 'staged.sigma must be a number from 0'),
  'no_clean': (
    ['staged.reference=clean', 'data.sigma=0.0'],
    'needs the clean image',
  ),
}


@pytest.mark.parametrize('name', BAD_INPUT)
def test_bad_input_leaves_nothing(name, photograph, tmp_path):
  changes, message = BAD_INPUT[name]
  config = _make_config(photograph)
  for change in changes:
    field, value = change.split('=')
    kind = type(config[field.split('.')[0]][field.split('.')[1]])
    config.update_from_flattened_dict({field: kind(value)})
  with pytest.raises(ValueError, match=message) as error:
    experiment.run(config, str(tmp_path / 'run'))
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_bad_input_at_the_command_line_is_one_line(
  photograph, tmp_path, run_experiment
):
  status, errors = run_experiment(
    'staged',
    *('--config=configs/staged.py:smoke', f'--workdir={tmp_path}/run'),
    *(f'--config.data.image={photograph}', '--config.data.crop=()'),
    '--config.schedule.name=sigmoid',
  )
  assert status == 2, errors
  assert errors.startswith('error: ') and errors.count('\n') == 1
  assert not os.listdir(tmp_path)
