"""Networks that go on with parts of a restored image, on noise put on it."""

import multiprocessing
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from configs import req2
from dipjax import methods, metrics, noise, rehearsal
from dipjax.conv import choose
from dipjax.engine import fit, lanes, tiles
from experiments import denoise
from experiments.lib import recorder
from tests import fits

SIGMA = fits.SIGMA
MODEL = noise.Model.make_white(SIGMA, clipped=True)
RECIPE = fits.WINDOWS.replace(steps=40, decay=0.9)


@pytest.fixture(scope='module')
def fitted():
  """A picture, the same with noise, and its fit."""
  clean, noisy = fits.make_noisy(40, 56)
  return clean, noisy, dipjax.restore(noisy, recipe=RECIPE, noise=MODEL)


def _rehearse(fitted, **changes):
  _, noisy, result = fitted
  params = jax.tree.map(lambda leaf: leaf[0], result.params)
  arguments = {'image': result.image, 'noise': MODEL, 'steps': 20, **changes}
  image = arguments.pop('image')
  return rehearsal.rehearse(noisy, image, params, RECIPE, **arguments)


# --- The method.


@pytest.mark.parametrize('clipped', [False, True])
@pytest.mark.parametrize('level', [0.0, 0.5, 1.0])
def test_the_network_sees_the_image_with_noise_like_the_pictures(
  level, clipped
):
  image = np.full((64, 64, 3), level, np.float32)
  model = noise.Model.make_white(SIGMA, clipped=clipped)
  recipe, operator = RECIPE.replace(
    method=methods.Rehearsed(), window=64
  ).prepare(image, noise=model)
  problem = lanes.pose_problem(
    recipe, jax.random.key(0), image, operator, image.shape, sigma=SIGMA
  )
  # A residual network begins as the identity: its image is what it sees.
  params = fit.draw_params(RECIPE.network, jax.random.key(0), problem.code)
  objective = jax.jit(fit.make_objective(recipe))
  loss, seen = objective(params, problem, jax.random.key(1))
  expected = (
    noise.expect_square(jnp.asarray(image), jnp.float32(SIGMA))
    if clipped
    else SIGMA**2
  )
  np.testing.assert_allclose(loss, expected, rtol=0.05)
  np.testing.assert_allclose(loss, np.mean((seen - image) ** 2), rtol=1e-5)
  if clipped:
    assert seen.min() >= 0 and seen.max() <= 1
  _, other = objective(params, problem, jax.random.key(2))
  assert np.abs(other - seen).max() > SIGMA


# --- The parts of a picture.


def test_a_network_that_learned_from_the_image_itself_denoises_better(fitted):
  clean, _, result = fitted
  made = _rehearse(fitted, image=clean, steps=200)
  before, after = (metrics.psnr(x, clean) for x in (result.image, made))
  assert after > before + 0.5


def test_a_rehearsal_without_a_step_is_the_fit(fitted):
  # Steps of a rate of 0 leave the parameters as they are.
  _, noisy, result = fitted
  params = jax.tree.map(lambda leaf: leaf[0], result.params)
  made = rehearsal.rehearse(
    noisy,
    result.image,
    params,
    RECIPE.replace(rate=0.0),
    noise=MODEL,
    steps=10,
  )
  np.testing.assert_allclose(made, result.image, atol=1e-5)


def test_the_same_call_gives_the_same_bits_in_any_chunks(fitted):
  one = _rehearse(fitted)
  np.testing.assert_array_equal(_rehearse(fitted, chunk=7), one)
  assert np.abs(_rehearse(fitted, seed=1) - one).max() > 1e-5


def test_each_part_has_a_network_of_its_own(fitted, monkeypatch):
  monkeypatch.setattr(rehearsal, 'SIDE', 32)
  monkeypatch.setattr(tiles, 'OVERLAP', 8)
  seen = []
  watch = lambda states, trace: seen.append(int(states.step[0]))
  made = _rehearse(fitted, watch=watch, chunk=20)
  assert rehearsal.count_parts(made.shape) == 4 and seen == [20] * 4
  # What is beyond a part and its neighbours' overlap changes nothing in it.
  _, _, result = fitted
  other = result.image.copy()
  other[-4:, -4:] = 0
  changed = np.abs(_rehearse(fitted, image=other) - made).max(axis=2)
  assert changed[-12:, -12:].max() > 1e-5
  np.testing.assert_array_equal(changed[:8, :16], 0)


@pytest.mark.parametrize(
  'shape', [(1, 1, 3), (512, 512, 3), (2828, 4243, 3), (1414, 8485, 1)]
)
def test_a_picture_has_at_most_so_many_parts(shape):
  side = rehearsal.find_side(shape)
  assert rehearsal.count_parts(shape) <= rehearsal.MOST
  if side > rehearsal.SIDE:
    smaller = side - rehearsal.STEP
    assert tiles.count_tiles(shape, smaller) > rehearsal.MOST


@pytest.mark.parametrize('cores', [1, 3])
def test_parts_side_by_side_are_the_parts_one_by_one(
  fitted, monkeypatch, cores
):
  """The watch that ends one of them ends all."""
  monkeypatch.setattr(rehearsal, 'SIDE', 32)
  monkeypatch.setattr(tiles, 'OVERLAP', 8)
  monkeypatch.setattr(multiprocessing, 'cpu_count', lambda: 2)
  two = _rehearse(fitted)
  monkeypatch.setattr(multiprocessing, 'cpu_count', lambda: cores)
  np.testing.assert_array_equal(_rehearse(fitted), two)
  calls = []
  watch = lambda states, trace: calls.append(0) or len(calls) > 2
  assert _rehearse(fitted, watch=watch, chunk=5) is None
  assert len(calls) == 3


@pytest.mark.parametrize('most,count', [(4, 4), (3, 2)])
def test_parts_as_lanes_are_the_parts_in_threads(
  fitted, monkeypatch, most, count
):
  """As where a device runs lanes at once: groups of one size, kept whole."""
  monkeypatch.setattr(rehearsal, 'SIDE', 32)
  monkeypatch.setattr(tiles, 'OVERLAP', 8)
  whole = _rehearse(fitted)
  monkeypatch.setattr(choose, 'prefers_threads', lambda: False)
  monkeypatch.setattr(rehearsal, '_AT_ONCE', most)
  store, seen = _Store(), []
  # It ends in the second group of lanes, where there is one.
  watch = lambda states, trace: seen.append(len(states.step)) or len(seen) > 2
  ended = _rehearse(fitted, watch=watch, store=store, chunk=10)
  assert (ended is None) == (most < 4)
  assert set(seen) == {count} and len(store.parts) == count
  made = _rehearse(fitted, store=store, chunk=10)
  np.testing.assert_array_equal(made, whole)
  assert len(store.loaded) == count and len(store.parts) == 4


def test_a_program_for_a_gpu_makes_the_same_parts(fitted, monkeypatch):
  """All at once, as its lanes run; here on a CPU."""
  monkeypatch.setattr(rehearsal, 'SIDE', 32)
  monkeypatch.setattr(tiles, 'OVERLAP', 8)
  expected, lanes_seen = _rehearse(fitted, steps=10), []
  watch = lambda states, trace: lanes_seen.append(len(states.step))
  with choose.aim(choose.Target('gpu')):
    made = _rehearse(fitted, steps=10, watch=watch)
  assert lanes_seen == [4]
  np.testing.assert_allclose(made, expected, atol=1e-5)


def test_nothing_is_made_where_the_watch_ends_it(fitted):
  calls = []
  watch = lambda states, trace: calls.append(0) or True
  assert _rehearse(fitted, watch=watch) is None
  assert len(calls) == 1


class _Store:
  """A store in memory, which counts."""

  def __init__(self):
    self.parts, self.loaded = {}, []

  def load(self, name, like):
    part = self.parts.get(name)
    if part is not None:
      assert part.shape == like.shape
      self.loaded.append(name)
    return part

  def save(self, name, part):
    assert name not in self.parts
    self.parts[name] = part


def test_a_part_that_was_made_is_not_made_again(fitted, monkeypatch):
  monkeypatch.setattr(rehearsal, 'SIDE', 32)
  monkeypatch.setattr(tiles, 'OVERLAP', 8)
  monkeypatch.setattr(multiprocessing, 'cpu_count', lambda: 1)
  whole, store, calls = _rehearse(fitted), _Store(), []
  watch = lambda states, trace: calls.append(0) or len(calls) > 5
  # Of two chunks a part: it ends in the middle of the third of four.
  ended = _rehearse(fitted, watch=watch, store=store, chunk=10)
  assert ended is None and len(calls) == 6 and len(store.parts) == 2
  calls.clear()
  go_on = lambda states, trace: bool(calls.append(0))
  made = _rehearse(fitted, watch=go_on, store=store, chunk=10)
  np.testing.assert_array_equal(made, whole)
  assert len(store.loaded) == 2 and len(calls) == 4 and len(store.parts) == 4


def test_steps_that_diverge_leave_a_picture(fitted):
  _, noisy, result = fitted
  params = jax.tree.map(lambda leaf: leaf[0], result.params)
  wild = RECIPE.replace(rate=1e30)
  made = rehearsal.rehearse(
    noisy, result.image, params, wild, noise=MODEL, steps=20
  )
  assert np.all(np.isfinite(made))


# --- In a run.


def test_the_config_of_windows_asks_for_it_and_others_do_not_have_it():
  assert req2.get_config('windows').fit.rehearsal == 600
  assert req2.get_config('fast').fit.rehearsal == 0
  assert 'rehearsal' not in req2.get_config().fit


def _get_config():
  config = req2.get_config('windows,smoke')
  config.network.channels = (8, 8)
  config.fit.steps = 20
  config.fit.rehearsal = 10
  config.data.crop = (64, 192, 40, 56)
  return config


def test_a_run_that_is_stopped_while_it_rehearses_goes_on_to_the_same_picture(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(rehearsal, 'SIDE', 32)
  monkeypatch.setattr(tiles, 'OVERLAP', 8)
  monkeypatch.setattr(multiprocessing, 'cpu_count', lambda: 1)
  begun, parts = [], []

  def go_on(measurement, image, *arguments, **named):
    begun.append(image)
    return rehearse(measurement, image, *arguments, **named)

  rehearse = rehearsal.rehearse
  monkeypatch.setattr(rehearsal, 'rehearse', go_on)
  whole = denoise.run(_get_config(), str(tmp_path / 'whole'))
  image = whole.images['restored']
  assert np.abs(image - begun[0]).max() > 1e-4

  def stop(following, name, part):
    # SIGTERM comes once the second of four parts is saved.
    save(following, name, part)
    parts.append(name)
    if len(parts) == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  save = recorder.Following.save
  monkeypatch.setattr(recorder.Following, 'save', stop)
  folder = tmp_path / 'stopped'
  stopped = denoise.run(_get_config(), str(folder))
  assert stopped.signal == signal.SIGTERM and len(parts) == 2
  np.testing.assert_array_equal(stopped.images['restored'], begun[0])
  again = denoise.run(_get_config(), str(folder))
  assert not again.signal and len(set(parts)) == len(parts) == 4
  np.testing.assert_array_equal(again.images['restored'], image)
  # The bar counts the parts of before.
  shown = capsys.readouterr().err.split('\r')[-1]
  assert '40/40' in shown
  assert not (folder / 'checkpoints' / 'kept').exists()
