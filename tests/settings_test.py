"""The settings of JAX in a user's session change no result, to the last bit."""

import contextlib
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dipjax
from dipjax import (
  codes,
  diffusion,
  features,
  methods,
  metrics,
  monitors,
  operators,
  schedules,
  settings,
)
from dipjax.conv import choose
from dipjax.engine import fit, lanes, loop, memory, staged
from dipjax.methods import METHODS
from dipjax.monitors import MONITORS
from dipjax.networks import denoiser, dncnn, pixels, skip
from tests import fits

RANDOM = np.random.RandomState(0)
CLEAN = np.float32(RANDOM.uniform(0.2, 0.8, (8, 10, 3)))
NOISY = np.clip(CLEAN + RANDOM.normal(scale=0.1, size=CLEAN.shape), 0, 1)
WEIGHTS = RANDOM.uniform(size=(8, 10, 1))  # float64, as NumPy's are.
SMALL = skip.Skip(down=(4,), up=(4,), skip=(2,))


def _set_all():
  """Settings of which each would change a result, or end it in an error."""
  stack = contextlib.ExitStack()
  for setting in (
    jax.enable_x64(True),
    jax.debug_nans(True),
    jax.debug_infs(True),
    jax.numpy_dtype_promotion('strict'),
    jax.default_prng_impl('rbg'),
    jax.threefry_partitionable(False),
    jax.transfer_guard('disallow'),
  ):
    stack.enter_context(setting)
  return stack


def _assert_same(make):
  """The same call alone, and where arrays have 64 bits."""
  expected = jax.device_get(make())
  with jax.enable_x64(True):
    actual = jax.device_get(make())
  _assert_equal(actual, expected)
  return actual


def _assert_equal(actual, expected):
  actual, expected = map(jax.tree.leaves, (actual, expected))
  assert len(actual) == len(expected) > 0
  for a, b in zip(actual, expected):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def _restore(measurement=NOISY, operator=None, **changes):
  arguments = {'network': pixels.Pixels(), 'steps': 12, 'chunk': 6}
  result = fits.restore(measurement, operator, **{**arguments, **changes})
  return result._replace(rule=())


@pytest.mark.parametrize('name', METHODS)
def test_a_method_gives_the_same_where_arrays_have_64_bits(name):
  result = _assert_same(
    lambda: _restore(method=METHODS[name](), sigma=0.1, clean=CLEAN)
  )
  for leaf in jax.tree.leaves(result):
    assert leaf.dtype in (np.float32, np.int32, bool)


@pytest.mark.parametrize('rule,seeds', [('in_turn', (0,)), ('at_once', (0, 1))])
def test_monitors_and_lanes_give_the_same_where_arrays_have_64_bits(
  rule, seeds
):
  """All rules side by side, over a network, in one lane and in two."""
  watched = {name: monitor() for name, monitor in MONITORS.items()}
  watched['horizon'] = monitors.AtHorizon(monitor=monitors.EMV(), decay=0.5)
  watched['reach'] = monitors.ReachNoise(otherwise=monitors.WMV(window=3))
  with choose.aim(choose.Target('cpu', lanes=rule)):
    _assert_same(
      lambda: _restore(
        network=dncnn.DnCNN(depth=2, channels=4),
        method=methods.Stein(),
        monitors=watched,
        rule='mean',
        sigma=0.1,
        reference=CLEAN,
        clean=CLEAN,
        seeds=seeds,
      )
    )


@pytest.mark.parametrize(
  'make',
  [
    lambda: operators.make_mask(WEIGHTS),
    lambda: operators.make_blur(np.ones((3, 3))),
    lambda: operators.Downsample(2),
    lambda: lambda image: image * WEIGHTS,
    lambda: lambda image: jnp.fft.fft2(image, axes=(0, 1)).real / 80,
  ],
)
def test_an_operator_gives_the_same_where_arrays_have_64_bits(make):
  operator = make()
  measured = np.asarray(operator(jnp.asarray(CLEAN)))
  _assert_same(
    lambda: _restore(measured, operator, size=CLEAN.shape, steps=3, chunk=3)
  )


@pytest.mark.filterwarnings('ignore:Explicitly requested dtype float64')
@pytest.mark.parametrize(
  'make', [operators.Mask, lambda weights: lambda image: image * weights]
)
def test_an_operator_whose_own_arrays_have_64_bits_is_taken(make):
  run = lambda operator: _restore(CLEAN, operator, steps=3, chunk=3)
  expected = run(operators.make_mask(WEIGHTS))
  with jax.enable_x64(True):
    # A copy: JAX remembers constants by their identity, in 32 bits too.
    weights = jnp.asarray(WEIGHTS.copy())
    assert weights.dtype == np.float64
    images = run(make(weights)).images
  # A constant of the program may be rounded otherwise than an argument.
  np.testing.assert_allclose(images, expected.images, rtol=1e-5)


def test_settings_change_no_result_nor_do_they_end_in_an_error():
  """Neither where the program is compiled, nor where it was already."""
  lanes.forget_programs()
  run = lambda: _restore(method=methods.Recorrupted(), sigma=0.1, clean=CLEAN)
  with _set_all():
    first = run()
  _assert_equal(first, run())


def test_the_settings_outside_are_back_after_an_error():
  with jax.enable_x64(True), jax.debug_nans(True):
    with pytest.raises(KeyError), settings.pin():
      assert jnp.zeros(()).dtype == np.float32
      raise KeyError
    assert jnp.zeros(()).dtype == np.float64
    assert jax.config.jax_debug_nans


def test_stages_give_the_same_where_arrays_have_64_bits():
  """As experiments.staged fits them: two stages, each posed and fitted."""

  noisy = np.float32(NOISY)

  def run():
    key = jax.random.key(0)
    recipe = dipjax.Recipe(network=SMALL, code=codes.use_image(noisy), steps=4)
    before = None
    for index, level in enumerate((0.1, 0.0)):
      stage = staged.make_key(key, index)
      target = staged.make_target(stage, jnp.asarray(noisy), level)
      prepared, operator = recipe.prepare(target)
      problem = lanes.pose_problem(
        prepared, stage, target, operator, noisy.shape, sigma=0.1
      )
      memory.check_memory(prepared, problem, 10**12)
      before, trace = loop.run_lanes(
        fit.make_fit(prepared),
        stage[None],
        lanes.stack_lanes([problem]),
        start=lambda fresh, before=before: (
          staged.inherit(fresh, before, keep_optimizer=True)
          if before
          else fresh
        ),
        chunk=4,
      )
    good = before.guard.replace(good=before.guard.good.replace(key=()))
    return before.replace(key=(), guard=good), trace

  _assert_same(run)


def test_a_diffusion_gives_the_same_where_arrays_have_64_bits():
  levels = schedules.cumulate_levels(schedules.make_betas('linear', 8))
  network = denoiser.Denoiser(channels=(8, 8))
  training = diffusion.make_training(network, optax.adam(1e-3), levels, batch=2)
  images = np.stack([CLEAN, CLEAN[::-1]])

  def run():
    key = jax.random.key(0)
    state = diffusion.begin(training, key, images)
    state, loss = diffusion.train(training, state, images)
    model = network, state.average, levels, key
    return (
      state.replace(key=()),
      loss,
      diffusion.draw_samples(
        *model, (1, 8, 8, 3), steps=diffusion.choose_steps(8, 3)
      ),
      diffusion.denoise(*model, images, sigma=0.05, eta=0.5),
    )

  _assert_same(run)


def test_what_is_drawn_has_32_bits():
  key = jax.random.key(0)
  code = np.zeros((4, 6, 3), np.float32)
  draw = lambda key, code: (
    codes.draw_uniform_noise(key, (4, 6), 2),
    codes.make_meshgrid((4, 6)),
    codes.jitter_code(key, code, 0.1),
    features.draw_params(key, (2, 2, 2, 2, 2)),
    SMALL.init(key, code),
    pixels.Pixels().init(key, code),
  )
  # As one program: one by one they take longer to compile.
  _assert_same(lambda: jax.jit(draw)(key, code))


def test_scores_are_the_same_where_arrays_have_64_bits():
  images = [np.tile(image, (2, 2, 1)) for image in (np.float32(NOISY), CLEAN)]
  _assert_same(
    lambda: (
      metrics.psnr(*images),
      metrics.psnr_y(*images, shave=1),
      metrics.ssim(*images),
      metrics.correlate_error(images[0], *images),
    )
  )


def test_threads_have_pinned_settings_and_keep_the_order():
  def make(i):
    time.sleep(0.02 * (i == 0))
    if i == 5:
      raise ValueError('not five')
    return i, jnp.asarray(np.float64(i)).dtype, threading.get_ident()

  with jax.enable_x64(True):
    made = list(settings.map_in_threads(make, range(5)))
    with pytest.raises(ValueError, match='not five'):
      list(settings.map_in_threads(make, range(6)))
  numbers, dtypes, threads = zip(*made)
  assert numbers == (0, 1, 2, 3, 4) and set(dtypes) == {np.dtype('float32')}
  assert threading.get_ident() not in threads
