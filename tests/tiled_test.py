"""Pictures in tiles, each a fit of its own: cuts, seams, batches, memory."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from benchmarks import seams
from configs import inpaint as inpaint_config
from dipjax import blurring, codes, methods, metrics, monitors, operators
from dipjax.conv import choose
from dipjax.engine import cover, lanes, loop, memory, tiled
from dipjax.engine.fit import make_fit
from dipjax.networks import dncnn, skip
from experiments import inpaint
from experiments.lib import build, machine, recorder
from tests import fits

NETWORK = dncnn.DnCNN(depth=2, channels=8)  # Compiles in half the time.
PRIOR = skip.Skip(down=(8,), up=(8,), skip=(4,))
LAST = {'last': monitors.Last()}
MASK = np.random.default_rng(0).random((40, 40)) > 0.4


def _make_image(height=40, width=40, channels=3):
  y, x = np.mgrid[:height, :width] / max(height, width)
  wave = 0.5 + 0.3 * np.sin(9 * x + 7 * y) * np.cos(11 * x - 5 * y)
  return np.float32(wave[..., None] * np.linspace(1, 0.7, channels))


def _restore(measurement, operator=None, **changes):
  network = NETWORK.clone(outputs=changes.get('size', measurement.shape)[-1])
  given = {'network': network, 'monitors': LAST, 'steps': 20}
  return fits.restore(measurement, operator, **{**given, **changes})


def _make_task(operator=None, image=None, network=NETWORK, **fields):
  image = _make_image() if image is None else image
  seen = np.asarray(operator(jnp.asarray(image))) if operator else image
  network = network.clone(outputs=image.shape[-1])
  recipe = dipjax.Recipe(network=network, monitors=LAST, **fields)
  return tiled.Task(recipe, seen, operator, image.shape, None, None, None)


def _make_plan(task, side) -> tiled.Plan:
  plan = tiled.make_plan(task, side)
  assert plan is not None
  return plan


# --- Where tiles lie.


@pytest.mark.parametrize('step,margin', [(1, 0), (1, 3), (4, 8)])
@pytest.mark.parametrize('length', [40, 64, 100, 1000])
def test_tiles_cover_an_axis_and_their_weights_add_up_to_one(
  length, step, margin
):
  most, ramp = 40, 4
  overlap = 2 * margin + ramp
  side = cover.find_side(length, most, overlap, 4)
  places = cover.place(length, side, overlap, step)
  assert side <= most and places[0] == 0 and places[-1] + side == length
  assert all(place % step == 0 for place in places)
  assert np.all(np.diff(places) > 0)
  assert np.all(np.diff(places) <= side - overlap)
  weights = cover.weigh(length, side, places, ramp, margin)
  total = np.zeros(length)
  for place, weight in zip(places, weights):
    total[place : place + side] += weight
  np.testing.assert_allclose(total, 1, atol=1e-6)
  assert weights.min() >= 0
  for number, weight in enumerate(weights):
    kept = np.ones(side, bool)
    kept[: margin * (number > 0)] = False
    kept[side - margin * (number + 1 < len(places)) :] = False
    np.testing.assert_array_equal(weight > 0, kept)
  # No step of a weight is larger than that of a ramp.
  if len(places) > 1:
    assert np.abs(np.diff(weights, axis=1)).max() < 1.6 / ramp


def test_an_axis_as_short_as_the_overlap_has_one_tile():
  assert cover.find_side(3, 8, 3, 4) == 3
  assert cover.place(3, 3, 3) == cover.place(2, 2, 3) == [0]


OPERATORS = {
  'identity': (lambda: None, 24),
  'mask': (lambda: operators.make_mask(MASK), 24),
  'blur': (
    lambda: operators.make_blur(blurring.make_gaussian_kernel(0.8)),
    24,
  ),
  'motion': (
    lambda: operators.make_blur(blurring.make_motion_kernel(5, 20)),
    24,
  ),
  'reduced': (lambda: operators.Downsample(2), 24),
  'by a box': (lambda: operators.Downsample(4, 'box'), 24),
  'composed': (
    lambda: operators.compose(
      operators.make_mask(MASK),
      operators.make_blur(np.ones((3, 3))),
      operators.Downsample(2, 'box'),
    ),
    24,
  ),
  'own': (
    lambda: operators.make_local(lambda image: image**2, 0),
    24,
  ),
}


@pytest.mark.parametrize('make,side', OPERATORS.values(), ids=OPERATORS)
def test_the_problem_of_each_tile_is_solved_by_the_picture(make, side):
  """And each measured value is in the problem of one tile at least."""
  operator, image = make(), _make_image()
  task = _make_task(operator)
  plan = _make_plan(task, side)
  step = plan.reach.step
  seen = np.zeros(task.measurement.shape[:2])
  structures = set()
  for index, (top, left) in enumerate(plan.corners):
    recipe, problem = tiled.pose(task, plan, index, jax.random.key(0))
    crop = operators.Crop(top, left, *plan.tile)
    predicted = problem.operator(crop(image))
    np.testing.assert_allclose(predicted, problem.measurement, atol=2e-6)
    ones = problem.replace(measurement=jnp.ones_like(problem.measurement))
    weights = tiled._find_seen(plan, crop)
    part = np.ones(ones.measurement.shape[:2])
    part = part if weights is None else weights[..., 0] * part
    place = tuple(
      slice(begin // step, (begin + one) // step)
      for begin, one in zip((top, left), plan.tile)
    )
    seen[place] += part
    # What is kept of the measurement is that of the whole.
    whole = task.measurement[place] * part[..., None]
    np.testing.assert_array_equal(problem.measurement, np.float32(whole))
    structures.add((jax.tree.structure(problem), make_fit(recipe)))
    assert recipe.code == task.recipe.code or task.recipe.code is None
  assert seen.min() >= 1 and seen.max() > 1
  assert len(structures) == 1


def test_an_image_as_a_code_is_cut_too():
  flash = _make_image(channels=1)
  task = _make_task(code=codes.use_image(flash))
  plan = _make_plan(task, 24)
  _, problem = tiled.pose(task, plan, 3, jax.random.key(0))
  assert plan.corners[3] == (16, 16)
  np.testing.assert_array_equal(problem.crop(problem.code), flash[16:, 16:])


# --- The fits.


def test_the_picture_is_made_of_the_fits_of_its_tiles():
  """Each as it is alone; two seeds; and the arrays of the result."""
  image = _make_image()
  plans = []
  result = _restore(image, tile=24, seeds=(3, 5), tell=plans.append)
  (plan,) = plans
  assert plan.describe() == '40x40: fitted in 4 tiles of 24x24'
  assert len(plan.batches) == 4
  task = _make_task()
  rows, columns = plan.weigh()
  for lane, seed in enumerate((3, 5)):
    whole = np.zeros_like(image)
    for index, (top, left) in enumerate(plan.corners):
      key = jax.random.key(seed)
      recipe, problem = tiled.pose(task, plan, index, key)
      states, _ = loop.run_lanes(
        make_fit(recipe.replace(steps=20)),
        tiled.make_key(key, index)[None],
        lanes.stack_lanes([problem.replace(steps=jnp.array(20))]),
      )
      weights = np.outer(rows[index // 2], columns[index % 2])[..., None]
      part = whole[top : top + 24, left : left + 24]
      part += weights * np.asarray(states.monitors['last'].image[0])
    np.testing.assert_allclose(
      result.images[lane], np.clip(whole, 0, 1), atol=1e-6
    )
  np.testing.assert_allclose(result.image, result.images.mean(0), atol=1e-6)
  assert np.abs(result.images[0] - result.images[1]).max() > 1e-3
  assert result.selected.tolist() == [19, 19]
  assert result.stopped.tolist() == [20, 20]
  assert result.trace.loss.shape == (2, 80)
  assert result.trace.step[0].tolist() == list(range(80))
  assert not result.diverged.any() and list(result.monitors) == ['last']
  assert {leaf.shape[0] for leaf in jax.tree.leaves(result.params)} == {2}


def test_how_many_tiles_are_fitted_at_once_changes_nothing():
  task = _make_task(steps=20)
  plan, keys = _make_plan(task, 24), jax.random.key(0)[None]
  states, trace = tiled.run(task, plan, keys)
  three = dataclasses.replace(plan, together=3)
  assert [*map(list, three.batches)] == [[0, 1, 2], [1, 2, 3]]
  together, joined = tiled.run(task, three, keys)
  most = 0 if choose.runs_in_turn() else 1e-5
  np.testing.assert_allclose(
    together.monitors['last'].image, states.monitors['last'].image, atol=most
  )
  assert trace.loss.shape == (1, 80) and joined.loss.shape == (1, 40)
  np.testing.assert_allclose(
    joined.loss[0, :20], trace.loss[0, :60].reshape(3, 20).mean(0), rtol=1e-5
  )


def test_one_tile_of_the_whole_picture_is_the_plain_fit():
  image, told = _make_image(20, 24), []
  plain = _restore(image)
  tile = _restore(image, tile=32, tell=told.append)
  np.testing.assert_array_equal(tile.images, plain.images)
  assert not told


class _Store:
  """Keeps the progress of each save."""

  def __init__(self):
    self.kept, self.saves = None, 0

  def load(self, like):
    if self.kept is not None:
      kinds = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
      assert kinds(self.kept) == kinds(like)
    return self.kept

  def is_due(self, step):
    return step % 50 == 0

  def save(self, progress):
    self.kept = jax.tree.map(jnp.copy, progress)
    self.saves += 1


@pytest.mark.parametrize('calls', [1, 3, 7])
def test_a_fit_in_tiles_goes_on_and_ends_equal_to_the_last_bit(calls):
  image = _make_image()
  whole = _restore(image, tile=24)
  store, seen = _Store(), []

  def stop(states, trace):
    seen.append(int(trace.step.max()))
    assert states.step.shape == (1,)
    return len(seen) == calls

  cut = _restore(image, tile=24, store=store, watch=stop)
  assert seen == [10 * n + 9 for n in range(calls)]
  begun = (calls + 1) // 2
  assert np.mean(cut.image[..., 0] > 0) == pytest.approx(
    {1: 0.36, 2: 0.6, 4: 1}[begun]
  )
  before, more = store.saves, []
  again = _restore(
    image,
    tile=24,
    store=store,
    watch=lambda states, trace: more.append(int(trace.step.max())),
  )
  assert more[0] == 10 * calls + 9 and store.saves > before
  np.testing.assert_array_equal(again.images, whole.images)
  jax.tree.map(np.testing.assert_array_equal, again.trace, whole.trace)


def test_tiles_leave_no_seam():
  """Beside tiles that only meet, and the fit of the whole."""
  image = _make_image(64, 64)
  mask = np.random.default_rng(1).random((64, 64)) > 0.5
  operator = operators.make_mask(mask)
  plans = []
  result = _restore(
    np.asarray(operator(image)),
    operator,
    network=PRIOR,
    tile=40,
    steps=200,
    tell=plans.append,
  )
  (plan,) = plans
  error = result.image - image
  assert metrics.psnr(result.image, image) > 20
  assert seams.measure_seams(error, plan) < 0.02
  # The measure sees a seam where there is one.
  shifted = error.copy()
  middle = seams.find_seams(plan)[1][1]
  shifted[:, middle + 1 :] += 0.05
  assert seams.measure_seams(shifted, plan) > 0.02


# --- Memory.


def _find_bytes(task, side=0):
  """What a fit of the whole takes, or of one of its tiles."""
  if side:
    return memory.estimate_bytes(
      *tiled._shape(task, _make_plan(task, side), lambda *_: None)
    )
  recipe, operator = task.recipe.prepare(task.measurement, task.operator)
  problem = jax.eval_shape(
    lambda key: lanes.pose_problem(
      recipe, key, task.measurement, operator, task.size
    ),
    jax.random.key(0),
  )
  return memory.estimate_bytes(recipe, problem)


def test_what_does_not_fit_is_fitted_in_tiles_with_a_line_that_says_so(
  monkeypatch,
):
  monkeypatch.setattr(tiled, 'SIDES', (32, 24))
  image, task = _make_image(), _make_task()
  # Pictures of the whole count too.
  tile = _find_bytes(task, 24) + tiled._count_pictures(task, 1)
  whole = _find_bytes(task)
  assert tile < whole
  fitting = round((tile + whole) / 2)
  line = r'40x40 in 1 lane takes about .* GB, there are .* GB: fitted in \d'
  with pytest.warns(UserWarning, match=line + ' tiles of'):
    result = _restore(image, memory=fitting)
  plans = []
  _restore(image, memory=fitting, tell=plans.append)
  asked = _restore(image, tile=plans[0].side)
  np.testing.assert_array_equal(result.images, asked.images)
  assert plans[0].reason in plans[0].describe()
  with pytest.raises(ValueError, match='40x40 in 1 lane takes at least'):
    _restore(image, memory=10**4)


def test_only_what_sees_everything_is_refused_with_the_size_that_would_fit():
  image = _make_image(64, 80)
  operator = lambda image: jnp.fft.rfft2(image[..., 0]).real
  seen = np.asarray(operator(image))
  need = _find_bytes(_make_task(operator, image, PRIOR))
  says = (
    r'80x64 in 1 lane takes about .*; the operator <lambda> sees the whole '
    r'picture at once, .*: about (\d+)x(\d+) would fit, or say how far'
  )
  with pytest.raises(ValueError, match=says) as refused:
    _restore(
      seen,
      operator,
      network=PRIOR,
      size=image.shape,
      memory=round(0.6 * need),
    )
  width, height = map(int, re.search(says, str(refused.value)).groups())
  assert 0.5 < width * height / (64 * 80) < 0.6
  small = _find_bytes(_make_task(operator, image[:height, :width], PRIOR))
  assert 0.5 * need < small < 0.66 * need


def test_a_gpu_fits_as_many_tiles_at_once_as_memory_allows():
  task = _make_task()
  plan = _make_plan(task, 16)
  assert len(plan.corners) == 9
  prepared, tile = tiled._shape(task, plan, lambda *_: None)
  count = lambda limit: tiled._join(plan, prepared, tile, limit, 1).together
  assert count(10**12) == 1
  with choose.aim(choose.Target('gpu')):
    lane = memory.estimate_bytes(prepared, tile)
    assert [count(n * lane) for n in (1.5, 2.5, 4.5)] == [1, 2, 3]
    assert count(10**12) == 5


# --- Bad input.


def test_masked_and_flat_tiles_do_not_blow_up():
  image = _make_image()
  image[:, 20:] = 0.5
  mask = MASK.copy()
  mask[:26, :26] = False
  operator = operators.make_mask(mask)
  result = _restore(
    np.asarray(operator(image)),
    operator,
    network=PRIOR,
    tile=24,
    steps=100,
    seeds=(0, 1),
  )
  assert not result.diverged.any() and np.all(np.isfinite(result.images))
  assert np.all((result.image >= 0) & (result.image <= 1))
  assert np.abs(result.image[28:, 28:] - 0.5).mean() < 0.1


def test_a_grey_line_is_cut_along_itself():
  line, plans = _make_image(1, 60, 1), []
  result = _restore(line, tile=32, steps=2, tell=plans.append)
  assert len(plans[0].corners) == 2 and result.image.shape == (1, 60, 1)


def _darken_downwards(image):
  return image * jnp.linspace(1, 0.5, image.shape[0])[:, None, None]


BLUR = operators.make_blur(np.ones((9, 9)))


@pytest.mark.parametrize(
  'operator,changes,message',
  [
    (None, {'tile': 0}, 'tile must be at least 1, got 0'),
    (
      None,
      {
        'tile': 24,
        'window': 24,
        'method': methods.Recorrupted(),
        'sigma': 0.1,
      },
      'leave out tile=24',
    ),
    (BLUR, {'tile': 8}, 'tiles of 8 pixels are too small: the operator Blur'),
    (jnp.square, {'tile': 24}, 'square sees the whole picture at once: leave'),
    (
      operators.make_local(jnp.square, 0, 2),
      {'tile': 24},
      'each 2x2 pixels .* the measurement is',
    ),
    (
      operators.make_local(lambda image: image[..., 0], 1),
      {'tile': 24, 'size': (40, 40, 3)},
      'with channels',
    ),
    (None, {'tile': 24, 'memory': 0}, '24x24 in 1 lane takes at least'),
    (operators.make_local(BLUR, 1), {'tile': 24}, 'say a larger reach'),
    (
      operators.make_local(operators.make_mask(MASK), 0),
      {'tile': 24},
      'does not fit an image',
    ),
    (
      operators.make_local(_darken_downwards, 0),
      {'tile': 24},
      '_darken_downwards says .* measures a tile unlike the whole: say',
    ),
  ],
)
def test_what_tiles_cannot_have_is_refused(operator, changes, message):
  image = _make_image()
  seen = np.asarray(operator(image)) if operator else image
  with pytest.raises(ValueError, match=message):
    _restore(seen, operator, **changes)


# --- A run.


def test_a_run_in_tiles_stays_one_where_memory_has_changed(
  tmp_path, write_photograph, monkeypatch, capsys
):
  monkeypatch.setattr(tiled, 'SIDES', (24,))
  config = inpaint_config.get_config('smoke,network=dncnn')
  config.data.update(image=write_photograph(48, 64, (9, 8, 6)), crop=(40, 40))
  config.fit.steps, config.record.every = 20, 10
  config.checkpoint.every = '10'

  def run(limit, folder):
    monkeypatch.setattr(machine, 'find_memory', lambda: limit)
    return inpaint.run(config, str(tmp_path / folder))

  data = inpaint.load(config.data)
  task = tiled.Task(
    build.make_recipe(config, 3),
    data.measurement,
    data.operator,
    data.measurement.shape,
    *3 * (None,),
  )
  limit = (_find_bytes(task) + _find_bytes(task, 24)) // 2
  expected = run(limit, 'once')
  said = r'40x40 in 1 lane takes about .*: fitted in 4 tiles of 24x24\n'
  assert re.search(said, capsys.readouterr().out)
  assert expected.summary['tiles'] == {'count': 4, 'size': [24, 24]}
  assert expected.summary['steps'] == 80

  with monkeypatch.context() as patch:
    calls, record = [], recorder.Recorder.__call__

    def kill(self, *arguments):
      calls.append(0)
      if len(calls) == 5:
        raise KeyboardInterrupt
      return record(self, *arguments)

    patch.setattr(recorder.Recorder, '__call__', kill)
    with pytest.raises(KeyboardInterrupt):
      run(limit, 'twice')
  result = run(None, 'twice')
  assert 'going on after step 40' in capsys.readouterr().out
  assert result.summary['tiles'] == expected.summary['tiles']
  np.testing.assert_array_equal(
    result.images['restored'], expected.images['restored']
  )


# --- The benchmark.


def test_a_row_has_the_seams_of_both(tmp_path, write_photograph, capsys):
  path = tmp_path / 'rows.jsonl'
  image = write_photograph(48, 64, (9, 8, 6))
  arguments = ['--images', image, '--tasks', 'inpaint']
  arguments += ['--words', 'smoke,network=dncnn']
  arguments += ['--crop', '40', '--tiles', '24', '--steps', '5']
  seams.main([*arguments, '--json', str(path)])
  (row,) = map(json.loads, path.read_text().splitlines())
  assert row['tiles'] == 4 and row['size'] == [24, 24]
  assert -1 < row['seams'] < 1 and -1 < row['seams_whole'] < 1
  assert '4 tiles of 24x24: ' in capsys.readouterr().out
