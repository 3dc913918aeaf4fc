"""The fit, its lanes and the library call: what no change may break."""

import doctest
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from dipjax import (
  blurring,
  codes,
  corruptions,
  features,
  methods,
  metrics,
  monitors,
  operators,
)
from dipjax.conv import choose
from dipjax.engine import fit, lanes
from dipjax.networks import decoder, dncnn, pixels, plain_unet, skip
from tests import fits

# Fits of one size, network and rule share a compiled program, whatever their
# numbers of steps are.
NETWORK = skip.Skip(down=(8, 8), up=(8, 8), skip=(4, 0))
LEAST = skip.Skip(down=(4,), up=(4,), skip=(0,))  # Of two scales.
TINY = dncnn.DnCNN(depth=2, channels=8)  # Compiles in half the time.
LAST = {'last': monitors.Last()}
RULE = {'wmv': monitors.WMV(window=5, patience=10)}
OF_KNOWN_NOISE = (methods.Recorrupted, methods.Stein)


def _make_noisy(height=12, width=16, channels=3, seed=0):
  """A smooth picture and the same with noise."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  clean = 0.5 + 0.3 * np.sin(6 * x + 4 * y)[..., None] * np.ones(channels)
  noise = np.random.RandomState(seed).normal(scale=0.1, size=clean.shape)
  return np.float32(clean), np.clip(np.float32(clean + noise), 0, 1)


def _restore(measurement, operator=None, **changes):
  arguments = {'network': NETWORK, 'monitors': LAST, 'steps': 20}
  return fits.restore(measurement, operator, **{**arguments, **changes})


def _assert_same(a, b, **tolerance):
  """The images, what was selected and the params of two restorations."""
  for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params)):
    np.testing.assert_allclose(x, y, **tolerance)
  np.testing.assert_allclose(a.images, b.images, **tolerance)
  np.testing.assert_array_equal(a.selected, b.selected)
  np.testing.assert_array_equal(a.stopped, b.stopped)


def test_restored_image_is_closer_to_the_clean_one():
  clean, noisy = _make_noisy()
  result = _restore(noisy, steps=100, seeds=(0, 1))
  before = metrics.psnr(noisy, clean)
  for image in result.images:
    assert metrics.psnr(image, clean) > before + 5
  # The mean of two is better than both on average, by convexity.
  errors = np.mean(np.square(result.images - clean), axis=(1, 2, 3))
  assert np.mean(np.square(result.image - clean)) < errors.mean()
  np.testing.assert_allclose(
    result.deviation, np.abs(result.images[0] - result.images[1]) / 2, atol=1e-6
  )


# Outliers are told from the picture after a while, soonest beside few
# parameters.
@pytest.mark.parametrize(
  'method,network,steps',
  [
    (methods.Absolute(), NETWORK, 200),
    (methods.Outliers(), decoder.Decoder(width=16, doublings=2), 900),
  ],
)
def test_pixels_that_are_wrong_altogether_are_ignored(method, network, steps):
  clean, _ = _make_noisy()
  damaged = corruptions.add_impulse_noise(clean, 0.1, seed=0)
  plain, result = (
    _restore(damaged, network=network, steps=steps, method=each)
    for each in (methods.Squared(), method)
  )
  psnr = metrics.psnr(result.image, clean)
  assert psnr > metrics.psnr(plain.image, clean) + 3


@functools.cache
def _fit_plainly():
  """What the squared error gives."""
  return _restore(_make_noisy()[1], steps=300).image


@pytest.mark.parametrize('method', OF_KNOWN_NOISE)
def test_a_method_that_knows_the_noise_learns_less_of_it(method):
  clean, noisy = _make_noisy()
  result = _restore(noisy, steps=300, method=method(), sigma=0.1)
  plain = metrics.psnr(_fit_plainly(), clean)
  assert metrics.psnr(result.image, clean) > plain + 1


@pytest.mark.parametrize('method', OF_KNOWN_NOISE)
def test_the_jitter_of_such_a_method_is_its_ratio_times_the_noise(method):
  _, noisy = _make_noisy()
  run = lambda sigma, **fields: _restore(
    noisy, method=method(**fields), sigma=sigma, steps=5
  )
  default = run(0.1)
  _assert_same(default, run(0.1, ratio=1.5), rtol=0, atol=0)
  other = run(0.1, ratio=0.75)
  assert np.abs(other.images - default.images).max() > 1e-4


def _find_biases(method, seed):
  """The bias near white where clipping is expected, and where it is not."""
  clean, _ = _make_noisy()
  clean = np.clip(clean + 0.4, 0, 1)  # Half of it near white.
  drawn = np.random.RandomState(0).normal(scale=0.1, size=clean.shape)
  noisy = np.float32(clean + drawn)
  restore = lambda measurement: _restore(
    measurement, steps=600, method=method(), sigma=0.1, seeds=(seed,)
  )
  bias = lambda image: np.mean((image - clean)[clean > 0.95])
  clipped = np.clip(noisy, 0, 1)
  # One value below 0 says that nothing was clipped.
  other = clipped.copy()
  other[0, 0, 0] = -1e-3
  return [abs(bias(x)) for x in (restore(clipped).image, restore(other).image)]


# The network of seed 1 sees its code as it is with either method.
@pytest.mark.parametrize('method', OF_KNOWN_NOISE)
def test_clipping_is_expected_where_the_noise_is_known(method):
  biases = _find_biases(method, seed=1)
  assert biases[0] < 0.8 * biases[1] < 0.8 * 0.05


def test_clipping_is_expected_where_the_code_is_mirrored():
  biases = _find_biases(methods.Recorrupted, seed=0)
  assert biases[0] < 0.8 * biases[1] and biases[0] < 0.8 * 0.05


@pytest.mark.parametrize('method', OF_KNOWN_NOISE)
@pytest.mark.parametrize(
  'changes,message',
  [
    ({}, 'needs the sigma of the noise'),
    ({'sigma': 0.0}, 'needs the sigma of the noise'),
    ({'sigma': 0.1, 'jitter': 0.2}, 'a jitter of its own'),
    ({'sigma': 0.1, 'code': codes.draw_uniform_noise}, 'give neither'),
    ({'sigma': 0.1, 'operator': operators.Identity()}, 'give neither'),
    (
      {'sigma': 0.1, 'network': decoder.Decoder(width=8, doublings=2)},
      'take a network whose code is as large',
    ),
  ],
)
def test_a_method_that_knows_the_noise_says_what_it_cannot_have(
  method, changes, message
):
  _, noisy = _make_noisy()
  with pytest.raises(ValueError, match=message):
    _restore(noisy, method=method(), **changes)


def test_same_seed_is_bit_equal_and_another_differs():
  _, noisy = _make_noisy()
  first, second = _restore(noisy), _restore(noisy)
  _assert_same(first, second, rtol=0, atol=0)
  other = _restore(noisy, seeds=(1,))
  assert np.abs(first.images - other.images).max() > 0.01


def test_a_lane_alone_equals_the_same_among_four():
  _, noisy = _make_noisy()
  # A CPU runs lanes one after the other by one program: to the last bit.
  most = 0 if choose.runs_in_turn() else 1e-5
  run = lambda *seeds: _restore(
    noisy, network=TINY, monitors=RULE, seeds=seeds, steps=15
  )
  together = run(3, 4, 5, 6)
  for lane, seed in enumerate((3, 4, 5, 6)):
    alone = run(seed)
    np.testing.assert_allclose(
      together.images[lane], alone.images[0], rtol=0, atol=most
    )
    np.testing.assert_allclose(
      together.trace.loss[lane], alone.trace.loss[0], rtol=most
    )


def test_lanes_at_once_equal_one_after_the_other():
  """The rule of a GPU or TPU and that of the CPU; rounding may differ."""
  _, noisy = _make_noisy()
  run = lambda: _restore(noisy, network=TINY, seeds=(0, 1), steps=3)
  with choose.aim(choose.Target('cpu', lanes='in_turn')):
    one_by_one = run()
  with choose.aim(choose.Target('cpu', lanes='at_once')):
    at_once = run()
  np.testing.assert_allclose(at_once.images, one_by_one.images, atol=1e-4)
  np.testing.assert_allclose(
    at_once.trace.loss, one_by_one.trace.loss, rtol=1e-4
  )


@pytest.mark.parametrize('chunk', [1, 10])
def test_chunks_give_the_same_result(chunk):
  _, noisy = _make_noisy()
  run = lambda chunk: _restore(noisy, network=TINY, steps=100, chunk=chunk)
  whole, parts = run(100), run(chunk)
  _assert_same(whole, parts, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(whole.trace.loss, parts.trace.loss, rtol=1e-5)


def test_finished_lanes_stay_as_they_are():
  _, noisy = _make_noisy()
  exact = _restore(noisy, network=TINY, chunk=10)
  beyond = _restore(noisy, network=TINY, chunk=100)
  assert beyond.trace.loss.shape == (1, 20) and beyond.trace.active.all()
  _assert_same(exact, beyond, rtol=1e-5, atol=1e-6)


def test_steps_is_an_upper_limit():
  _, noisy = _make_noisy()
  later = {'last': monitors.Last(steps=20)}
  result = _restore(noisy, network=pixels.Pixels(), monitors=later, steps=7)
  assert result.stopped.tolist() == [7]


def test_lanes_stop_each_at_its_own_step():
  clean, noisy = _make_noisy()
  result = _restore(
    noisy, network=TINY, monitors=RULE, seeds=(0, 1, 2, 3), steps=500
  )
  assert len(set(result.stopped.tolist())) > 1
  np.testing.assert_array_equal(result.stopped, result.selected + 11)
  np.testing.assert_array_equal(result.trace.active.sum(axis=1), result.stopped)


def test_the_clean_image_never_steers():
  clean, noisy = _make_noisy()
  run = lambda clean: _restore(
    noisy, clean=clean, network=TINY, monitors=RULE, steps=500
  )
  without = run(None)
  for other in (clean, 1 - clean):
    _assert_same(without, run(other), rtol=1e-5, atol=1e-6)
  assert 'oracle' not in without.monitors


def _count_programs():
  programs = lanes.advance, lanes._draw, lanes._start
  return [program._cache_size() for program in programs]


def test_a_new_image_does_not_recompile():
  for seed in range(3):
    clean, noisy = _make_noisy(12, 12, seed=seed)
    _restore(
      noisy,
      clean=clean,
      network=pixels.Pixels(),
      seeds=(seed,),
      jitter=0.01 * seed,
      steps=5,
    )
    if seed == 0:
      compiled = _count_programs()
  assert _count_programs() == compiled


def test_one_program_draws_for_all_rules_and_numbers_of_lanes():
  _, noisy = _make_noisy(8, 8)
  lanes.forget_programs()
  for rule, seeds in ((monitors.Last(), (0,)), (monitors.EMV(), (1, 2))):
    watched = {'rule': rule}
    _restore(
      noisy, network=pixels.Pixels(), monitors=watched, seeds=seeds, steps=1
    )
  assert lanes.advance._cache_size() == 2
  assert lanes._draw._cache_size() == 1


@pytest.mark.parametrize(
  'shape', [(9, 14, 3), (17, 5, 1), (1, 1, 3), (16, 16, 4), (3, 40, 1)]
)
def test_any_size_restores_to_its_own(shape):
  _, noisy = _make_noisy(*shape)
  network = LEAST.clone(outputs=shape[-1])
  result = _restore(noisy, network=network, steps=2)
  assert result.image.shape == result.deviation.shape == shape
  assert np.all((result.image >= 0) & (result.image <= 1))


def test_only_real_pixels_enter_the_loss():
  """A fit of a crop is a fit of the whole whose rest is not looked at."""
  _, noisy = _make_noisy(10, 10)
  network = decoder.Decoder(width=8, doublings=2)
  result = _restore(noisy, network=network, steps=1)
  code_size = network.code_size(10, 10)
  assert code_size == (3, 3)
  key = jax.random.key(0)
  problem_key, params_key = jax.random.split(key)

  # As a whole: one by one its operations take longer to compile.
  @jax.jit
  def make_image():
    code = codes.draw_uniform_noise(jax.random.fold_in(key, 1), code_size, 32)
    jittered = code + 1 / 30 * jax.random.normal(
      jax.random.fold_in(problem_key, 0), code.shape
    )
    return network.apply(network.init(params_key, code), jittered)

  image = make_image()
  assert image.shape == (12, 12, 3)
  loss = np.mean(np.square(image[1:11, 1:11] - noisy))
  np.testing.assert_allclose(result.trace.loss[0, 0], loss, rtol=1e-5)


def test_operator_of_the_users_own():
  """Every second pixel is missing; the others are fitted."""
  clean, _ = _make_noisy(16, 16)
  keep = lambda image: image[::2, ::2]
  network = skip.Skip(down=(8,), up=(8,), skip=(0,))
  result = _restore(
    keep(clean), keep, size=clean.shape, network=network, steps=200
  )
  assert metrics.psnr(result.image, clean) > 25


ROWS, COLUMNS = np.divmod(np.random.RandomState(0).permutation(576)[:300], 24)


def _scan(image):
  """Every row of low frequency and every second one of the others."""
  rows = np.append(np.arange(6), np.arange(6, 24, 2))
  spectrum = jnp.fft.fft2(image[..., 0], norm='ortho')[rows]
  return jnp.stack([spectrum.real, spectrum.imag])


CAMERAS = {
  'mask': (operators.make_mask(np.arange(576).reshape(24, 24) % 3 > 0), 3),
  'reduction': (operators.Downsample(2), 3),
  'blur': (operators.make_blur(blurring.make_gaussian_kernel(1)), 3),
  'composed': (operators.compose(operators.Downsample(2), jnp.sqrt), 3),
  'random pixels': (lambda image: image[ROWS, COLUMNS], 3),
  'Fourier rows': (_scan, 1),
}


@pytest.mark.parametrize('operator,channels', CAMERAS.values(), ids=CAMERAS)
def test_the_image_behind_any_operator_is_found(operator, channels):
  clean, _ = _make_noisy(24, 24, channels)
  result = _restore(
    operator(clean),
    operator,
    size=clean.shape,
    network=skip.Skip(outputs=channels, down=(8,), up=(8,), skip=(0,)),
    steps=60,
    decay=0.9,
  )
  assert result.image.shape == clean.shape
  # The first loss is that of an image that knows nothing of the clean one.
  loss = result.trace.loss[0]
  assert np.mean(loss[-5:]) < loss[0] / 5
  flat = np.full_like(clean, clean.mean())
  assert metrics.psnr(result.image, clean) > metrics.psnr(flat, clean) + 3


def test_another_mask_or_weight_does_not_recompile():
  clean, _ = _make_noisy(12, 12)
  for seed in range(3):
    seen = np.random.default_rng(seed).random((12, 12)) > 0.3
    mask = operators.make_mask(seen)
    penalties = [(methods.total_variation, 1e-4 * seed)]
    _restore(
      mask(clean),
      mask,
      network=pixels.Pixels(),
      penalties=penalties,
      steps=2,
      chunk=2,
    )
    if seed == 0:
      compiled = _count_programs()
  assert _count_programs() == compiled


def test_pixels_alone_become_the_measurement_and_penalties_smooth_them():
  _, noisy = _make_noisy()
  run = lambda weight: (
    _restore(
      noisy,
      network=pixels.Pixels(),
      penalties=[(methods.total_variation, weight)],
      steps=400,
      decay=0,
    ).image
  )
  rough, smooth = run(0), run(1e-3)
  np.testing.assert_allclose(rough, noisy, atol=1e-3)
  variation = methods.total_variation
  assert variation(smooth) < variation(rough) / 2


VGG = features.Features(fits.draw_features(4, 4, 4, 1, 1))


def test_the_perceptual_loss_is_added_in_every_lane():
  _, noisy = _make_noisy()
  run = lambda weight, seeds, precision: _restore(
    noisy,
    network=pixels.Pixels(),
    perceptual=(VGG, weight),
    steps=40,
    decay=0,
    seeds=seeds,
    precision=precision,
  )
  without, with_it, twice = (run(w, (0, 1), 'float32') for w in (0, 1, 2))
  first = [run.trace.loss[:, 0] for run in (without, with_it, twice)]
  added = first[1] - first[0]  # In the first step all fits are the same.
  assert np.all(added > 0)
  np.testing.assert_allclose(first[2] - first[0], 2 * added, rtol=1e-4)
  assert np.all(with_it.trace.loss[:, -1] < first[1])
  alone = run(1, (1,), 'float32')
  np.testing.assert_allclose(alone.images[0], with_it.images[1], atol=1e-6)
  rounded = run(1, (0, 1), 'bfloat16').trace.loss[:, 0]
  np.testing.assert_allclose(rounded, first[1], rtol=0.02)


def test_the_examples_of_the_documentation_run():
  """Two steps on a small picture, and no network or a small one."""
  default = dipjax.Recipe()

  def restore(
    measurement, operator=None, recipe=default, *, size=None, **changes
  ):
    outputs = (size or measurement.shape)[-1]
    network = recipe.network or pixels.Pixels(outputs=outputs)
    if isinstance(network, plain_unet.PlainUNet):
      network = network.clone(channels=(4,))
    quick = recipe.replace(network=network, steps=2)
    return dipjax.restore(
      measurement, operator, quick, size=size, chunk=2, **changes
    )

  photo, _ = _make_noisy(16, 20)
  package = types.SimpleNamespace(restore=restore)
  names = {'dipjax': package, 'photo': photo, 'params': VGG.params}
  # Not through `import`, which would bring the slow defaults back.
  source = dipjax.restore.__doc__.replace('import dipjax, ', 'import ')
  example = doctest.DocTestParser().get_doctest(
    source, names, 'restore', None, 0
  )
  report = []
  results = doctest.DocTestRunner(verbose=False).run(
    example, out=report.append, clear_globs=False
  )
  assert results.attempted > 20 and not results.failed, ''.join(report)
  assert example.globs['image'].shape == (16, 20, 1)


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'measurement': np.zeros((4, 4, 3), int)}, 'floats'),
    ({'measurement': np.full((4, 4, 3), np.nan)}, 'NaN'),
    ({'measurement': np.full((4, 4, 3), np.inf)}, 'NaN or infinite'),
    ({'measurement': np.zeros((0, 4, 3))}, 'empty'),
    ({'measurement': np.zeros((4, 4))}, r'\[H, W, C\]'),
    ({'measurement': np.zeros((4, 4, 2))}, 'C of 1, 3 or 4'),
    ({'clean': np.zeros((4, 5, 3))}, 'clean image must be'),
    ({'clean': np.full((4, 4, 3), np.nan)}, 'clean image holds NaN'),
    ({'steps': 0}, 'at least 1'),
    ({'chunk': 0}, 'at least 1'),
    ({'seeds': ()}, 'at least 1'),
    ({'rule': 'oracle'}, 'none of the monitors'),
    ({'decay': 1.0}, 'decay'),
    ({'operator': lambda image: image[1:]}, 'the operator turns'),
    ({'network': skip.Skip(outputs=1)}, 'the network gives'),
    ({'operator': operators.Downsample(3)}, 'factor 3 does not divide'),
    ({'operator': operators.Downsample(2)}, r'into \(2, 2, 3\)'),
    ({'operator': operators.make_mask(np.ones((4, 5)))}, 'does not fit'),
    ({'operator': operators.make_blur(np.ones((9, 9)))}, 'too small'),
    ({'size': (8, 8, 3)}, 'the operator turns'),
    ({'size': (8, 8)}, r'\[H, W, C\]'),
    ({'memory': 0}, 'takes at least .* there are 0 GB'),
    ({'seeds': (0, -1)}, r'seeds must be in \[0, 2\*\*32\), got -1'),
    ({'seeds': (2**32,)}, 'seeds must be .* got 4294967296'),
    ({'steps': 2**31}, 'at least 1 and below'),
    ({'sigma': -1}, 'sigma must be a number >= 0, got -1'),
    ({'reference': np.zeros((4, 5, 3))}, 'the reference must be'),
    (
      {'monitors': {'a': monitors.Discrepancy()}},
      'discrepancy needs the sigma',
    ),
    ({'penalties': [(jnp.sum, -1)]}, 'weight of .* got -1'),
    ({'penalties': [(jnp.sum, np.nan)]}, 'weight of .* got nan'),
    ({'perceptual': (VGG, -1.0)}, 'weight of the perceptual error .* got -1'),
    ({'perceptual': (VGG.replace(layers=('relu9',)), 1)}, "'relu9' is not"),
    ({'perceptual': (VGG.replace(layers=('relu4_1',)), 1)}, 'at least 8 pixel'),
    (
      {'perceptual': (VGG, 1), 'measurement': np.zeros(5), 'size': (4, 4, 3)},
      r'features are of an image|does not reduce',
    ),
    ({'penalties': [(jnp.square, 1)]}, 'one number, .*4, 4, 3'),
    ({'measurement': np.full((4, 4, 3), 200.0)}, 'floats of 200 .* by 255'),
    ({'measurement': np.zeros((4, 4, 3), np.uint8)}, 'divide it by 255'),
    ({'measurement': np.zeros((4, 4, 3), complex)}, 'real and imaginary'),
    ({'measurement': np.full((4, 4, 3), 1e39)}, 'NaN or infinite'),
    ({'measurement': np.zeros((4, 4))}, r'as image\[..., None\]'),
    ({'measurement': np.zeros((3, 4, 4 + 1))}, r'transpose\(1, 2, 0\)'),
    ({'measurement': np.zeros((1, 4, 4, 3))}, r'as images\[0\]'),
    ({'measurement': np.ma.masked_array(np.zeros((4, 4, 3)))}, 'make_mask'),
    ({'clean': np.full((4, 4, 3), 200.0)}, 'clean image is floats of 200'),
    ({'sigma': 25}, 'at most 4, got 25: divide it by .* 255'),
    ({'sigma': '0.1'}, "sigma must be a number >= 0, got '0.1'"),
    (
      {
        'measurement': np.full((2, 2, 3), 200.0),
        'operator': lambda image: image[::2, ::2],
        'size': (4, 4, 3),
      },
      'floats of 200',
    ),
    (
      {
        'measurement': np.full((4, 4, 3), 200.0),
        'operator': operators.make_mask(np.eye(4)),
      },
      'floats of 200',
    ),
    ({'seeds': 3}, r'seeds are a sequence, such as \(0, 1\), got 3'),
    ({'seeds': None}, 'seeds are a sequence'),
    ({'seeds': '01'}, "a seed is a whole number .* got '0'"),
    ({'seeds': (0.0,)}, r'a seed is a whole number .* got 0\.0'),
    ({'seeds': (True,)}, 'a seed is a whole number .* got True'),
    ({'seeds': (jax.random.key(0),)}, 'a seed is a whole number'),
    ({'seeds': (5, 0, 5)}, 'seeds must differ, got 5 twice'),
    ({'size': (4.0, 4, 3)}, r'size is \(H, W, C\)'),
    ({'size': 4}, r'size is \(H, W, C\), got 4'),
    ({'size': (-4, 4, 3)}, r'an image is \[H, W, C\] .* got \(-4, 4, 3\)'),
    ({'steps': 6.0}, r'steps must be a whole number, .* got 6\.0'),
    ({'chunk': 7.5}, r'chunk must be a whole number, at least 1, got 7\.5'),
    ({'operator': lambda image: np.asarray(image)}, 'the operator calls NumPy'),
    (
      {'operator': lambda image: image if image.sum() > 0 else -image},
      'the operator asks for the values .* use jnp.where',
    ),
    ({'penalties': [(lambda x: float(x[0, 0, 0]), 1)]}, 'a penalty asks'),
    ({'operator': lambda image: jnp.fft.fft2(image)}, 'gives complex64'),
    ({'operator': lambda image: image > 0.5}, 'gives bool, which has no grad'),
    ({'operator': lambda image: (image, image)}, 'one array, got tuple'),
    (
      {'operator': lambda image: image * jnp.ones((5, 6, 3))},
      r'the operator fails for an image \(4, 4, 3\)',
    ),
  ],
)
def test_bad_arguments_are_refused(changes, message):
  arguments = {'measurement': np.zeros((4, 4, 3)), **changes}
  with pytest.raises(ValueError, match=message):
    _restore(arguments.pop('measurement'), **arguments)


@pytest.mark.parametrize('size', [[8, 8, 3], np.array([8, 8, 3]), (8, 8, 3)])
def test_sizes_and_seeds_may_be_arrays(size):
  clean, _ = _make_noisy(8, 8)
  keep = lambda image: image[::2, ::2]
  arguments = {'network': pixels.Pixels(), 'steps': 1, 'chunk': np.int64(1)}
  result = _restore(
    keep(clean), keep, size=size, seeds=np.arange(2), **arguments
  )
  assert result.images.shape == (2, 8, 8, 3)


def test_a_measurement_that_is_no_image_may_have_any_range():
  clean, _ = _make_noisy(8, 8)
  network = pixels.Pixels()
  for operator in (
    lambda image: 255 * image,
    lambda image: jnp.fft.rfft2(image, axes=(0, 1)).real,
    lambda image: jnp.cumsum(image, axis=0),
  ):
    measured = operator(clean)
    assert np.abs(measured).max() > 3
    result = _restore(
      measured, operator, size=clean.shape, network=network, steps=1, sigma=9
    )
    assert result.image.shape == clean.shape


def test_a_restoration_is_not_traced():
  _, noisy = _make_noisy(8, 8)
  for transform in (jax.jit, jax.grad):
    with pytest.raises(ValueError, match='is traced: call restore outside of'):
      transform(lambda measurement: _restore(measurement).image.mean())(noisy)


def test_no_more_programs_are_kept_than_there_is_memory_for(monkeypatch):
  monkeypatch.setattr(lanes, 'MOST_PROGRAMS', 2)
  lanes.forget_programs()
  _, noisy = _make_noisy(8, 8)

  def restore(operator):
    network = pixels.Pixels()
    return _restore(noisy, operator, network=network, steps=1, chunk=1)

  kept = []
  for _ in range(4):
    restore(lambda image: 1.0 * image)
    kept.append(lanes.advance._cache_size())
  assert kept == [1, 2, 1, 2]


def test_memory_is_judged_before_any_code_is_drawn():
  _, noisy = _make_noisy(64, 64)
  drawn = []

  def code(key, size):
    drawn.append(isinstance(key, jax.core.Tracer))
    return codes.draw_uniform_noise(key, size, 8)

  message = '64x64 in 2 lanes takes about .* fit: remat .* one lane '
  with pytest.raises(ValueError, match=message):
    _restore(noisy, code=code, memory=34 * 10**5, seeds=(0, 1))
  assert drawn == [True]
  message = 'fit: .*one lane with bfloat16 and remat'
  aimed = choose.aim(choose.Target('gpu'))
  with aimed, pytest.raises(ValueError, match=message):
    _restore(noisy, code=code, memory=43 * 10**5, seeds=(0, 1))


def test_a_fit_needs_a_monitor():
  with pytest.raises(ValueError, match='monitor'):
    dipjax.Recipe(network=NETWORK, monitors={})


def test_stack_lanes_keeps_static_fields():
  crops = [operators.Crop(1, 2, 3, 4)] * 2
  assert lanes.stack_lanes(crops) == crops[0]
  stacked = lanes.stack_lanes([{'a': jnp.zeros(3)}] * 2)
  assert stacked['a'].shape == (2, 3)


def test_recipes_that_differ_in_a_problems_numbers_share_a_program():
  recipe = dipjax.Recipe(network=NETWORK, penalties=[(jnp.mean, 1.0)])
  others = [
    recipe.replace(steps=7, jitter=0.1, penalties=[(jnp.mean, 2.0)]),
    recipe.replace(code=codes.Meshgrid()),
    recipe.replace(monitors={'emv': monitors.EMV()}, rule='emv'),
  ]
  for other in others:
    assert fit.make_fit(other) == fit.make_fit(recipe)
    assert hash(fit.make_fit(other)) == hash(fit.make_fit(recipe))
  for other in (
    recipe.replace(method=methods.Absolute()),
    recipe.replace(penalties=[]),
    recipe.replace(decay=0.5),
    recipe.replace(monitors={'emv': monitors.EMV(patience=5)}),
  ):
    assert fit.make_fit(other) != fit.make_fit(recipe)


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'monitors': {'a': monitors.SURE()}}, "as that of the method 'stein'"),
    ({'method': methods.Stein(), 'precision': 'bfloat16'}, 'the precision'),
    ({'precision': 'half'}, "'half' is not one of float32"),
    ({'jitter': -1.0}, 'jitter must be a number >= 0'),
  ],
)
def test_a_recipe_whose_parts_do_not_fit_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dipjax.Recipe(**changes)


def test_the_module_of_restore_is_not_hidden():
  assert dipjax.restore is dipjax.api.restore
