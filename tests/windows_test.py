"""Fits that see a picture in windows, and the picture made of tiles."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import req2
from dipjax import methods, metrics, monitors, operators, optimizers
from dipjax import noise as noise_lib
from dipjax.conv import choose
from dipjax.device import packing
from dipjax.engine import cover, fit, guard, lanes, tiles
from dipjax.engine.problem import cut_window, draw_window
from dipjax.networks import plain_unet
from experiments import denoise
from experiments.lib import build, images
from tests import fits

NETWORK = fits.WINDOWS.network
TINY = NETWORK.clone(channels=(4,))  # Compiles in two thirds of the time.
SIGMA = fits.SIGMA
# Made once: an optimiser is equal only to itself.
SLOW = optimizers.make_optimizer('adam', 0.002, 0.0, 'cosine')


def _restore(noisy, **changes):
  arguments = {
    'network': NETWORK.clone(outputs=noisy.shape[-1]),
    'method': fits.WINDOWS.method,
    'monitors': fits.WINDOWS.monitors,
    'optimizer': fits.WINDOWS.optimizer,
    'window': 16,
    'steps': 20,
    'sigma': SIGMA,
  }
  return fits.restore(noisy, **{**arguments, **changes})


def _pose(noisy, window=16, network=NETWORK):
  """A prepared recipe, and the problem of one lane."""
  recipe, operator = fits.WINDOWS.replace(
    network=network, window=window
  ).prepare(noisy, noise=noise_lib.Model.make_white(SIGMA, clipped=True))
  key = jax.random.key(0)
  problem = lanes.pose_problem(
    recipe, key, noisy, operator, noisy.shape, sigma=SIGMA
  )
  return recipe, problem


# --- What a step sees.


def test_a_step_sees_one_window_and_nothing_else_of_the_picture():
  _, noisy = fits.make_noisy(40, 50)
  _, problem = _pose(noisy, window=12)
  network = plain_unet.PlainUNet(channels=(8, 8, 8), residual=True)
  drawn = jax.jit(lambda key: draw_window(problem, network, key))(
    jax.random.key(3)
  )
  window = np.asarray(drawn.measurement)
  places = [
    (top, left)
    for top in range(40 - 11)
    for left in range(50 - 11)
    if np.array_equal(noisy[top : top + 12, left : left + 12], window)
  ]
  assert len(places) == 1
  assert drawn.code.shape == (12, 12, 3)
  np.testing.assert_array_equal(drawn.crop(drawn.code), window)
  # Where the network wants more, the window is reflected.
  cut = cut_window(problem, network, np.array([3, 4]), (9, 10))
  assert cut.code.shape == (12, 12, 3)
  np.testing.assert_array_equal(cut.crop(cut.code), noisy[3:12, 4:14])
  assert set(np.unique(cut.code)) == set(np.unique(noisy[3:12, 4:14]))


def test_windows_reach_every_pixel_alike():
  place = np.float32(np.arange(7 * 9).reshape(7, 9, 1)) / 100
  grey = NETWORK.clone(outputs=1)
  _, problem = _pose(place, 4, network=grey)
  draw = lambda key: draw_window(problem, grey, key).measurement[0, 0, 0]
  corners = jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000))
  seen, counts = np.unique(np.asarray(corners), return_counts=True)
  np.testing.assert_array_equal(seen, np.unique(place[:4, :6]))
  assert counts.min() > 0.5 * 4000 / 24 and counts.max() < 1.5 * 4000 / 24


def test_a_problem_without_a_picture_stays_as_it_is():
  _, noisy = fits.make_noisy(12, 12)
  _, problem = _pose(noisy, window=None)
  assert draw_window(problem, NETWORK, jax.random.key(0)) is problem


def test_one_window_of_the_whole_picture_is_the_plain_fit():
  _, noisy = fits.make_noisy(14, 18)
  plain = _restore(noisy, network=TINY, window=None)
  windows = _restore(noisy, network=TINY, window=64, decay=0.0)
  np.testing.assert_allclose(windows.trace.loss, plain.trace.loss, rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(windows.params), jax.tree.leaves(plain.params)
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


# --- Lanes, resuming, programs.


def test_a_lane_alone_equals_the_same_among_three_in_any_chunks():
  _, noisy = fits.make_noisy(30, 40)
  most = 0 if choose.runs_in_turn() else 1e-5
  together = _restore(noisy, seeds=(3, 4, 5))
  alone = _restore(noisy, seeds=(4,), chunk=7)
  np.testing.assert_allclose(
    together.images[1], alone.images[0], rtol=0, atol=most
  )
  assert np.abs(together.images[0] - together.images[1]).max() > 1e-3


def test_a_fit_that_goes_on_ends_equal_to_the_last_bit():
  _, noisy = fits.make_noisy(30, 40)
  whole = _restore(noisy)
  store = fits.Store()
  _restore(noisy, store=store, watch=lambda states, trace: True)
  assert store.kept.states.step.tolist() == [10]
  again = _restore(noisy, store=store)
  np.testing.assert_array_equal(again.images, whole.images)
  np.testing.assert_array_equal(again.trace.loss, whole.trace.loss)


def test_another_picture_and_another_length_compile_nothing():
  lanes.forget_programs()
  tiles.denoise_tile.clear_cache()
  for seed in range(3):
    _, noisy = fits.make_noisy(30, 40, seed=seed)
    _restore(noisy, seeds=(seed,), sigma=0.1 + 0.01 * seed, steps=20 + seed)
  assert lanes.advance._cache_size() == 1
  assert tiles.denoise_tile._cache_size() == 1


# --- The whole picture.


def test_a_picture_of_tiles_is_what_the_network_makes_of_the_whole(monkeypatch):
  _, noisy = fits.make_noisy(68, 96)
  recipe, problem = _pose(noisy)
  init = jax.jit(fit.make_fit(recipe).init)
  params = init(jax.random.key(0), problem).params
  # The last layer begins at 0.
  params = packing.unpack(jax.tree.map(lambda leaf: leaf + 0.05, params))
  whole = tiles.denoise(recipe, params, problem)
  assert np.abs(whole - noisy).max() > 1e-3
  monkeypatch.setattr(tiles, 'SIDE', 40)
  monkeypatch.setattr(tiles, 'OVERLAP', 26)
  parts = tiles.denoise(recipe, params, problem)
  # A pixel sees less than 8 pixels to each side: only where a tile ends nearer
  # by does it differ. All tiles begin at even pixels, as the pools do.
  corners = itertools.product(cover.place(68, 40, 26), cover.place(96, 40, 26))
  cut = np.zeros((68, 96), bool)
  for top, left in corners:
    inside = np.zeros((68, 96), bool)
    place = slice(top, top + 40), slice(left, left + 40)
    near = np.ones((40, 40), bool)
    near[
      0 if top == 0 else 8 : 40 if top == 28 else -8,
      0 if left == 0 else 8 : 40 if left == 56 else -8,
    ] = False
    inside[place] = near
    cut |= inside
  assert 0.1 < cut.mean() < 0.9
  np.testing.assert_allclose(parts[~cut], whole[~cut], atol=1e-5)
  assert np.abs(parts - whole).max() > 1e-5


@pytest.mark.parametrize('length', [1, 512, 513, 977, 1500, 4001])
def test_tiles_cover_a_picture_and_overlap(length):
  side, seven = tiles.find_size((length, 7, 3))
  assert seven == 7 and side <= tiles.SIDE
  tops = cover.place(length, side, tiles.OVERLAP)
  assert tops[0] == 0 and tops[-1] + side == length
  steps = np.diff(tops)
  assert np.all(steps <= side - tiles.OVERLAP) and np.all(steps > 0)
  # Rounding up to a multiple of 32 is all that tiles have too much.
  assert len(tops) * (side - 32) < length + len(steps) * tiles.OVERLAP


def test_the_image_is_that_of_the_averaged_parameters():
  """Of the last ones alone for a decay of 0; and it denoises."""
  clean, noisy = fits.make_noisy(30, 40)
  result = _restore(noisy, steps=300, clean=clean, seeds=(3, 4, 5))
  assert metrics.psnr(result.image, clean) > metrics.psnr(noisy, clean) + 4
  assert (
    result.images.shape == (3, 30, 40, 3) and 'oracle' not in result.monitors
  )
  short = _restore(noisy, seeds=(3, 4, 5))
  last = _restore(noisy, decay=0.0, seeds=(3, 4, 5))
  np.testing.assert_array_equal(last.trace.loss, short.trace.loss)
  differ = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), last.params, short.params
  )
  assert max(jax.tree.leaves(differ)) > 1e-4


# --- Bad input.


@pytest.mark.parametrize('shape', [(17, 5, 3), (1, 1, 3), (1, 60, 1)], ids=str)
def test_a_picture_smaller_than_a_window_is_the_window(shape):
  _, noisy = fits.make_noisy(*shape)
  network = TINY.clone(outputs=shape[-1])
  result = _restore(noisy, network=network, window=32, steps=2)
  assert result.image.shape == shape
  assert np.all((result.image >= 0) & (result.image <= 1))


@pytest.mark.parametrize('level', [0.0, 0.5])
def test_large_areas_without_noise_are_no_jump(level):
  """Masked or clipped areas: their windows have no error at all."""
  clean, noisy = fits.make_noisy(64, 64)
  noisy[:, :44] = level
  # A texture has a hundred times the variance of the noise.
  noisy[50:, 44:] = np.indices((14, 20)).sum(0)[..., None] % 2
  result = _restore(noisy, steps=300, window=12, optimizer=SLOW)
  assert result.trace.returned.max() == -1
  assert np.abs(result.image[:40, :40] - level).mean() < 0.05
  place = slice(0, 46), slice(46, 64)
  error = lambda image: np.mean(np.square(image - clean)[place])
  assert error(result.image) < 2 * error(noisy)


def test_an_error_counts_beyond_what_the_window_itself_has():
  flat = jnp.zeros((8, 8, 1))
  texture = jnp.indices((8, 8)).sum(0)[..., None] % 2.0
  relate = lambda error, window: float(guard.relate_error(error, window, 0.1))
  assert relate(1e-9, flat) == relate(0.01, flat) == relate(0.2, texture) == 1
  assert relate(0.05, flat) == pytest.approx(5)
  assert relate(1.3, texture) == pytest.approx(5)
  assert np.isnan(relate(np.nan, flat))
  assert np.isfinite(guard.relate_error(0.0, flat, 0.0))


def test_a_fit_that_explodes_is_led_back():
  _, noisy = fits.make_noisy(30, 40)
  hot = optax.sgd(100.0)
  result = _restore(noisy, network=TINY, optimizer=hot, steps=100)
  assert result.trace.returned.max() >= 0
  assert np.all(np.isfinite(result.image))


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'window': 0}, 'window must be at least 1'),
    ({'method': methods.Squared()}, 'a method that sees the measurement'),
    ({'monitors': {'emv': monitors.EMV()}}, 'one monitor `Last`'),
    ({'size': (8, 8, 3)}, 'must be as large as the measurement'),
    ({'reference': np.zeros((12, 12, 3))}, 'no reference'),
    ({'perceptual': (operators.Identity(), 0.1)}, 'no features'),
    ({'network': NETWORK.clone(outputs=1)}, 'channels of the image'),
    ({'memory': 0}, '12x12 in 1 lane takes at least'),
  ],
)
def test_what_windows_cannot_have_is_refused(changes, message):
  _, noisy = fits.make_noisy(12, 12)
  with pytest.raises(ValueError, match=message):
    _restore(noisy, **changes)


# --- Memory, the schedule, the config.


def test_the_memory_of_windows_grows_with_the_picture_alone():
  shapes = {}
  for side in (1024, 4096):
    noisy = np.broadcast_to(np.float32(0.5), (side, side, 3))
    with pytest.raises(ValueError, match='takes at least') as refused:
      _restore(noisy, memory=0)
    number, unit = re.search(
      r'at least ([\d.e-]+) (GB)', str(refused.value)
    ).groups()
    shapes[side] = float(number) * {'GB': 1e9}[unit]
  grown = (shapes[4096] - shapes[1024]) / (4 * 3 * (4096**2 - 1024**2))
  assert 6 < grown < 12  # Pictures of float32.


def test_a_cosine_takes_the_step_down_to_nothing():
  params = {'weight': jnp.ones(3)}
  optimizer = optimizers.make_optimizer('adam', 0.1, 1.0, 'cosine')
  plain = optimizers.make_optimizer('adam', 0.1, 1.0)
  gradient = {'weight': jnp.array([1.0, -2.0, 3.0])}
  step = lambda optimizer, **given: optimizer.update(
    gradient, optimizer.init(params), params, **given
  )[0]['weight']
  full = step(plain)
  for progress, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
    moved = step(optimizer, progress=jnp.float32(progress))
    np.testing.assert_allclose(moved, share * full, atol=1e-7)
  with pytest.raises(ValueError, match="'linear' is not one of constant"):
    optimizers.make_optimizer('adam', 0.1, 0.0, 'linear')


def test_the_word_windows_runs(tmp_path, write_photograph):
  config = req2.get_config('windows,smoke')
  config.data.update(image=write_photograph(40, 60, (5, 4, 3)), crop=())
  config.fit.steps, config.lanes, config.record.preview = 40, 2, 1e-3
  config.network.channels = (4,)
  # Muon takes as long to compile as the rest: tests/photograph_test.py has it.
  config.fit.optimizer = 'adam'
  result = denoise.run(config, str(tmp_path))
  assert result.restoration.rule == 'last'
  shown = images.read_image(str(tmp_path / 'restored.png'))
  np.testing.assert_allclose(shown, result.images['restored'], atol=0.6 / 255)
  recipe = build.make_recipe(req2.get_config('windows'), 3)
  assert recipe.window == 128 and recipe.network.residual
  with pytest.raises(ValueError, match='one monitor `Last`'):
    build.make_recipe(req2.get_config('windows,stop=emv'), 3)
  assert 'window' not in req2.get_config().fit
