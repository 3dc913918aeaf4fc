"""Methods: the contract of all, the authors' number, identities, lanes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

import dipjax
from dipjax import (
  blurring,
  codes,
  features,
  methods,
  noise,
  operators,
  optimizers,
)
from dipjax.engine import lanes, memory
from dipjax.engine.problem import Problem, make_problem
from dipjax.methods import base, known_noise, outliers, perceptual
from dipjax.networks import pixels, skip
from tests import fits


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


# --- The contract: every row of METHODS keeps it.

SIZE = (6, 7, 3)
each_method = pytest.mark.parametrize('name', methods.METHODS)


def _make_parts(**changes):
  parts = methods.Parts(
    measurement=jnp.asarray(_draw(*SIZE, seed=1)),
    operator=None,
    network=pixels.Pixels(),
    code=None,
    jitter=None,
    optimizer=optimizers.make_optimizer('adam'),
    noise=noise.Model.make_white(0.1, clipped=True),
  )
  return parts._replace(**changes)


def _pose(method, seed=0):
  """What the method makes of a small denoising problem."""
  parts = method.prepare(_make_parts())
  problem = make_problem(
    jax.random.key(seed),
    parts.measurement,
    parts.operator,
    parts.network,
    SIZE,
    code=parts.code,
    jitter=parts.jitter,
    steps=3,
    sigma=parts.noise.sigma,
  )
  return parts, problem


@each_method
def test_a_method_is_a_value(name):
  make = methods.METHODS[name]
  assert make() == make() and hash(make()) == hash(make())
  assert make().name == name
  others = [other() for other in methods.METHODS.values()]
  assert others.count(make()) == 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    make().anything = 1


@each_method
def test_a_method_leaves_nothing_open_and_can_be_fitted(name):
  method = methods.METHODS[name]()
  parts, problem = _pose(method)
  assert None not in parts
  again, _ = _pose(method, seed=1)
  # So that another image or seed compiles nothing.
  assert again.network == parts.network
  assert again.optimizer == parts.optimizer
  key = jax.random.key(2)
  params = jax.jit(parts.network.init)(key, problem.code)['params']
  objective = method.make_objective(parts.network)
  lose = lambda params: objective(params, problem, key)
  compute = jax.jit(jax.value_and_grad(lose, has_aux=True))
  (loss, image), slope = compute(params)
  assert loss.shape == () and image.shape == SIZE
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
  assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(slope))


@each_method
def test_a_method_takes_penalties_or_refuses_them(name):
  method = methods.METHODS[name]()
  penalties = [(jnp.mean, 2.0)]
  if not method.takes_terms:
    with pytest.raises(ValueError, match=f"'{name}' takes no penalties"):
      dipjax.Recipe(method=method, penalties=penalties)
    return
  parts, problem = _pose(method)
  key = jax.random.key(2)
  params = jax.jit(parts.network.init)(key, problem.code)['params']
  more = problem.replace(weights=jnp.array([2.0]))
  with_it = method.make_objective(parts.network, (jnp.mean,))
  loss, image = jax.jit(with_it)(params, more, key)
  plain = jax.jit(method.make_objective(parts.network))
  without, _ = plain(params, problem, key)
  np.testing.assert_allclose(loss, without + 2 * image.mean(), rtol=1e-5)


@each_method
def test_a_method_says_in_one_line_what_task_it_is_not_for(name):
  method = methods.METHODS[name]()
  tasks = [{'operator': operators.Identity()}, {'code': codes.UniformNoise(1)}]
  for task in tasks:
    if method.makes_code:
      with pytest.raises(ValueError, match=f"'{name}' is for denoising") as e:
        method.prepare(_make_parts(**task))
      assert '\n' not in str(e.value)
    else:
      prepared = method.prepare(_make_parts(**task))
      assert prepared.operator == operators.Identity()
      assert prepared.code == task.get('code', base.NOISE_CODE)
  if method.makes_code:
    with pytest.raises(ValueError, match='has a jitter of its own'):
      method.prepare(_make_parts(jitter=0.1))
  else:
    assert method.prepare(_make_parts(jitter=0.1)).jitter == 0.1
  if 'sigma' in method.needs:
    with pytest.raises(ValueError, match='needs the sigma of the noise'):
      method.prepare(_make_parts(noise=None))


@each_method
def test_memory_counts_what_a_method_keeps(name):
  """A step of two passes keeps more than one of one pass."""
  recipe = dipjax.Recipe(
    network=skip.Skip(down=(8,), up=(8,), skip=(4,), outputs=3),
    method=methods.METHODS[name](),
  )
  noisy = jnp.asarray(_draw(16, 16, 3))
  white = noise.Model.make_white(0.1)
  prepared, operator = recipe.prepare(noisy, noise=white)
  problem = lanes.pose_problem(
    prepared, jax.random.key(0), noisy, operator, noisy.shape, sigma=0.1
  )
  needed = memory.estimate_bytes(prepared, problem)
  squared, operator = recipe.replace(method=methods.Squared()).prepare(noisy)
  code = squared.replace(code=lambda key, size: problem.code)
  plain = lanes.pose_problem(
    code, jax.random.key(0), noisy, operator, noisy.shape
  )
  least = memory.estimate_bytes(squared, plain)
  passes = recipe.method.passes
  assert least * (1.5 if passes == 2 else 0.99) < needed < least * 2.2


# --- Total variation.


def test_total_variation_equals_the_authors(downsampler):
  value = methods.total_variation(downsampler['image'])
  np.testing.assert_allclose(value, downsampler['tv_loss'], rtol=1e-6)


def test_total_variation_is_the_sum_over_pixels_one_by_one():
  image = _draw(4, 5, 2)
  expected = sum(
    np.hypot(
      image[y + 1, x, c] - image[y, x, c], image[y, x + 1, c] - image[y, x, c]
    )
    for y in range(3)
    for x in range(4)
    for c in range(2)
  )
  np.testing.assert_allclose(
    methods.total_variation(image), expected, rtol=1e-5
  )


def test_total_variation_scales_with_the_contrast_and_ignores_brightness():
  image = _draw(8, 9, 3)
  value = methods.total_variation(image)
  np.testing.assert_allclose(
    methods.total_variation(-3 * image + 0.5), 3 * value, rtol=1e-5
  )


_vary = jax.jit(jax.value_and_grad(methods.total_variation))


@pytest.mark.parametrize('scale', [0, 1e-30, 1e-20, 1e-3, 1, 1e4])
def test_the_slope_of_total_variation_is_bounded_even_where_flat(scale):
  image = scale * _draw(8, 9, 3) + np.float32(scale == 0)
  value, slope = _vary(image)
  assert np.isfinite(value) and (value > 0) == (scale > 1e-10)
  assert np.all(np.abs(slope) <= 4)


def test_the_smallest_image_has_no_variation():
  assert methods.total_variation(_draw(1, 1, 3)) == 0


def _make_problem(weights):
  return Problem(
    measurement=jnp.asarray(_draw(6, 7, 3, seed=1)),
    operator=operators.Identity(),
    crop=operators.Crop(0, 0, 6, 7),
    code=jnp.zeros((6, 7, 1)),
    weights=jnp.array(weights, jnp.float32),
    jitter=jnp.array(0.0),
    steps=jnp.array(1),
  )


PENALTIES = (methods.total_variation, jnp.mean)


def _evaluate(problem, penalties=PENALTIES):
  objective = methods.Squared().make_objective(pixels.Pixels(), penalties)
  image = _draw(6, 7, 3)
  loss, output = objective({'image': image}, problem, jax.random.key(0))
  np.testing.assert_array_equal(output, image)
  return loss


def test_the_loss_is_the_mean_squared_error_and_the_weighted_penalties():
  image, measurement = _draw(6, 7, 3), _draw(6, 7, 3, seed=1)
  error = np.mean((image - measurement) ** 2)
  np.testing.assert_allclose(_evaluate(_make_problem([]), ()), error, rtol=1e-5)
  expected = error + 0.01 * methods.total_variation(image) + 2 * image.mean()
  np.testing.assert_allclose(
    _evaluate(_make_problem([0.01, 2])), expected, rtol=1e-5
  )


def test_weights_of_zero_are_no_penalty():
  assert _evaluate(_make_problem([0, 0])) == _evaluate(_make_problem([]), ())


def test_weights_may_differ_from_lane_to_lane():
  problems = [_make_problem(weights) for weights in ([0, 0], [1, 0], [0.5, 3])]
  together = jax.vmap(_evaluate)(lanes.stack_lanes(problems))
  alone = [_evaluate(problem) for problem in problems]
  np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_the_absolute_error_is_the_mean_of_the_absolute_differences():
  problem = _make_problem([])
  objective = methods.Absolute().make_objective(pixels.Pixels())
  params = {'image': jnp.asarray(_draw(6, 7, 3))}
  loss, image = objective(params, problem, jax.random.key(0))
  expected = np.mean(np.abs(np.asarray(image) - problem.measurement))
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_outliers_are_added_to_what_is_compared():
  problem, image = _make_problem([]), jnp.asarray(_draw(6, 7, 3))
  beside = outliers.BesideOutliers(pixels.Pixels(), image.shape)
  objective = methods.Outliers().make_objective(beside)
  none = jnp.zeros_like(image)
  params = {'network': {'image': image}, 'plus': none, 'minus': none}
  key = jax.random.key(0)
  loss, _ = objective(params, problem, key)
  np.testing.assert_allclose(loss, _evaluate(problem, ()), rtol=1e-6)
  missing = problem.measurement - image
  params['plus'] = jnp.sqrt(jnp.maximum(missing, 0))
  params['minus'] = jnp.sqrt(jnp.maximum(-missing, 0))
  loss, output = objective(params, problem, key)
  assert loss < 1e-10
  np.testing.assert_array_equal(output, image)
  with pytest.raises(ValueError, match='that its `prepare` returns'):
    methods.Outliers().make_objective(pixels.Pixels())


# --- Mirrored codes.


class _Same(pixels.Pixels):
  """The code itself, plus 1 in the first corner."""

  @nn.compact
  def __call__(self, code):
    return code.at[0, 0].add(1)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_network_of_an_even_seed_sees_its_code_mirrored(seed):
  method = methods.Recorrupted()
  _, problem = _pose(method, seed)
  objective = method.make_objective(_Same())
  # The code comes back as it was, and the corner that the network changed is
  # another one in the picture.
  corners = set()
  for k in range(24):
    key = jax.random.key(k)
    less = 1.0 if seed % 2 else 0.6
    quieter = problem.replace(jitter=less * problem.jitter)
    code, _ = known_noise.jitter_code(key, quieter)
    _, image = objective({}, problem, key)
    changed = np.argwhere(np.abs(image - problem.crop(code)).max(2) > 0.5)
    np.testing.assert_array_equal(changed.shape, (1, 2))
    corners.add(tuple(changed[0].tolist()))
  assert len(corners) == (1 if seed % 2 else 4)
  assert corners <= {(0, 0), (0, 6), (5, 0), (5, 6)}


def test_no_code_is_mirrored_where_that_is_not_asked_for():
  method = methods.Recorrupted(mirrored=False)
  _, problem = _pose(method)
  objective = method.make_objective(_Same())
  for k in range(6):
    _, image = objective({}, problem, jax.random.key(k))
    assert np.argmax(image.sum(2)) == 0


# --- The perceptual error.

VGG = features.Features(
  fits.draw_features(2, 3, 1, 1, 1), ('relu1_2', 'relu2_1')
)
evaluate = jax.jit(lambda problem: _evaluate(problem, ()))


def test_the_perceptual_error_is_the_weighted_mean_squared_difference():
  problem = perceptual.add_features(_make_problem([]), VGG, 0.5)
  extract = jax.jit(lambda image: VGG(image))
  image, measurement = _draw(6, 7, 3), _draw(6, 7, 3, seed=1)
  difference = extract(image) - extract(measurement)
  expected = np.mean((image - measurement) ** 2)
  expected += 0.5 * np.mean(difference**2)
  np.testing.assert_allclose(evaluate(problem), expected, rtol=1e-5)


def test_penalties_and_features_have_each_its_weight():
  problem = perceptual.add_features(_make_problem([0.01, 2]), VGG, 0)
  alone = _evaluate(_make_problem([0.01, 2]))
  np.testing.assert_allclose(_evaluate(problem), alone, rtol=1e-6)


def _count_convolutions(problem):
  objective = methods.Squared().make_objective(pixels.Pixels())
  params = {'image': _draw(6, 7, 3)}
  program = jax.make_jaxpr(objective)(params, problem, jax.random.key(0))
  # Weights and features are arguments: there are but a mean and a deviation.
  assert all(const.size <= 3 for const in program.consts)
  return str(program).count('conv_general_dilated[')


@pytest.mark.parametrize('convolving', ['slices'], indirect=True)
def test_the_features_of_the_measurement_are_not_computed_in_a_step(convolving):
  problem = perceptual.add_features(_make_problem([]), VGG, 0.5)
  assert _count_convolutions(_make_problem([])) == 0
  assert _count_convolutions(problem) == 3


def test_lanes_share_the_feature_network_and_may_differ_in_its_weight():
  problems = [
    perceptual.add_features(_make_problem([]), VGG, weight)
    for weight in (0.0, 0.5)
  ]
  stacked = lanes.stack_lanes(problems)
  shapes = lambda tree: [leaf.shape for leaf in jax.tree.leaves(tree)]
  assert shapes(stacked.features) == shapes(VGG)
  assert stacked.target.shape == (2, *problems[0].target.shape)
  alone = [evaluate(problem) for problem in problems]
  assert alone[1] > alone[0]
  taken = [lanes.take_lane(stacked, i) for i in range(2)]
  np.testing.assert_array_equal([evaluate(p) for p in taken], alone)
  advance = lambda state, problem: (state, _evaluate(problem, ()))
  for run in (lanes._run_in_turn, lanes._run_at_once):
    run_all = jax.jit(functools.partial(run, advance))
    _, together = run_all(jnp.zeros(2), stacked)
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_features_are_computed_in_the_precision_of_the_code():
  problem = perceptual.add_features(_make_problem([]), VGG, 0.5)
  narrow = problem.replace(code=problem.code.astype(jnp.bfloat16))
  exact, rounded = evaluate(problem), evaluate(narrow)
  assert rounded.dtype == jnp.float32 and rounded != exact
  np.testing.assert_allclose(rounded, exact, rtol=0.02)


@pytest.mark.parametrize('weight', [-0.1, float('nan'), float('inf')])
def test_a_weight_of_features_that_is_none_is_refused(weight):
  with pytest.raises(ValueError, match='weight of the perceptual error'):
    perceptual.add_features(_make_problem([]), VGG, weight)


# --- Stein's risk.


class _Shrink(nn.Module):
  """A network that denoises what it is given: times its one parameter."""

  @nn.compact
  def __call__(self, code):
    return self.param('factor', nn.initializers.ones, ()) * code


def _make_denoising(sigma, jitter=0.0):
  """A problem whose code is the measurement, and the clean image."""
  clean = _draw(128, 128, 3)
  noise = sigma * np.random.RandomState(1).normal(size=clean.shape)
  noisy = jnp.asarray(np.float32(clean + noise))
  return clean, _make_problem([]).replace(
    measurement=noisy,
    code=noisy,
    crop=operators.Crop(0, 0, 128, 128),
    sigma=jnp.array(sigma),
    jitter=jnp.array(jitter),
  )


@pytest.mark.parametrize('factor', [0.0, 0.7, 1.0])
@pytest.mark.parametrize('jitter', [0.2, 0.3])
def test_the_recorrupted_error_is_that_against_the_truth(factor, jitter):
  sigma = 0.2
  clean, problem = _make_denoising(sigma, jitter)
  objective = methods.Recorrupted().make_objective(_Shrink())
  params = {'factor': jnp.array(factor)}
  loss, image = objective(params, problem, jax.random.key(0))
  # Of the noise that the target has been given, and of its own.
  constant = sigma**2 + sigma**4 / jitter**2
  error = np.mean(np.square(image - clean))
  spread = 2 * np.sqrt(constant) / np.sqrt(clean.size)
  assert abs(loss - constant - error) < 5 * spread
  squared = methods.Squared().make_objective(_Shrink())
  loss, image = squared(params, problem, jax.random.key(0))
  # The squared error of the same network takes fitted noise for the picture.
  taken = loss - sigma**2 - np.mean(np.square(image - clean))
  np.testing.assert_allclose(taken, -2 * factor * sigma**2, atol=5 * spread)


def _make_kind(kind, seed):
  """Noise of a kind, as a model, and noise like it on a clean image."""
  draw = np.random.RandomState(seed).normal
  clean = np.float32(0.2 + 0.6 * _draw(16, 16, 3).repeat(12, 0).repeat(12, 1))
  white = draw(size=clean.shape)
  if kind == 'brightness':
    variance = 0.002 + 0.05 * clean
    model = noise.Model(
      sigma=float(np.sqrt(variance.mean())),
      constant=0.002,
      least=0.002,
      gain=0.05,
      error=0.0,
    )
    return model, clean, clean + np.sqrt(variance) * white
  model = noise.Model.make_white(0.2)
  if kind == 'channels':
    model = model.replace(channels=0.8)
    white = noise.share_channels(white, 0.8)
  if kind == 'neighbours':
    spread = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 6
    table = np.zeros((9, 9))
    table[2:7, 2:7] = ndimage.correlate(
      np.pad(spread, 1), spread, mode='constant'
    )
    model = model.replace(correlation=table)
    white = ndimage.convolve(white, spread[..., None], mode='mirror')
  return model, clean, clean + 0.2 * white


class _Blur(nn.Module):
  """A network that takes the mean of nine pixels, times its parameter.

  It takes the mean of the channels too.
  """

  def code_size(self, height, width):
    return height, width

  @nn.compact
  def __call__(self, code):
    kernel = jnp.full((3, 3), 1 / 9)
    factor = self.param('factor', nn.initializers.ones, ())
    mean = jnp.mean(code, -1, keepdims=True)
    return factor * blurring.blur_image(0 * code + mean, kernel)


@pytest.mark.parametrize(
  'kind', ['white', 'brightness', 'neighbours', 'channels']
)
def test_no_kind_of_noise_is_taken_for_the_picture(kind):
  method = methods.Recorrupted(ratio=1.0)
  objective = method.make_objective(_Blur())

  @jax.jit
  def find_gap(problem, clean, key):
    """The slope of the loss in the parameter, less that of the true error."""

    def lose(factor):
      loss, image = objective({'factor': factor}, problem, key)
      return loss - jnp.mean(jnp.square(image - clean))

    return jax.grad(lose)(jnp.float32(1))

  gaps = []
  for seed in range(16):
    model, clean, noisy = _make_kind(kind, seed)
    noisy = jnp.asarray(np.float32(noisy))
    parts = method.prepare(
      _make_parts(measurement=noisy, network=_Blur(), noise=model)
    )
    problem = make_problem(
      jax.random.key(0),
      noisy,
      parts.operator,
      parts.network,
      noisy.shape,
      code=parts.code,
      jitter=parts.jitter,
      steps=3,
      sigma=model.sigma,
    )
    gaps.append(find_gap(problem, clean, jax.random.key(seed)))
  mean, spread = np.mean(gaps), np.std(gaps) / len(gaps) ** 0.5
  # Taken for white, noise that neighbours share would pull the slope down by
  # twice its covariance with the image, 0.045.
  assert abs(mean) < 4 * spread < 0.01


def test_an_error_that_needs_the_noise_and_one_without_penalties():
  objective = methods.Recorrupted().make_objective(pixels.Pixels())
  with pytest.raises(ValueError, match='needs the sigma'):
    objective({'image': _draw(6, 7, 3)}, _make_problem([]), jax.random.key(0))
  penalties = (methods.total_variation,)
  with pytest.raises(ValueError, match="'stein' takes no penalties"):
    methods.Stein().make_objective(pixels.Pixels(), penalties)


@pytest.mark.parametrize('factor', [0.0, 0.7, 1.0])
def test_steins_risk_is_the_squared_error_that_it_does_not_see(factor):
  sigma = 0.2
  clean, problem = _make_denoising(sigma)
  objective = methods.Stein().make_objective(_Shrink())
  params = {'factor': jnp.array(factor)}
  risk, image = objective(params, problem, jax.random.key(0))
  noisy = problem.measurement
  np.testing.assert_allclose(image, factor * noisy, rtol=1e-6)
  error = np.mean(np.square(image - clean))
  # The spread of the means of noise and of the probe over so many values.
  assert abs(risk - error) < 5 * 2 * sigma / np.sqrt(clean.size)


def test_a_code_that_is_not_the_measurement_has_no_divergence():
  problem = _make_problem([]).replace(sigma=jnp.array(0.1))
  image = _draw(6, 7, 3)
  objective = methods.Stein().make_objective(pixels.Pixels())
  risk, _ = objective({'image': image}, problem, jax.random.key(0))
  residual = np.mean(np.square(image - problem.measurement))
  np.testing.assert_allclose(risk, residual - 0.01, rtol=1e-4)


@pytest.mark.parametrize(
  'changes,message',
  [
    ({}, 'needs the sigma'),
    ({'sigma': 0.1, 'weights': jnp.ones(1)}, 'neither penalties nor'),
    ({'sigma': 0.1, 'code': jnp.zeros((6, 7, 1), jnp.bfloat16)}, 'float32'),
  ],
)
def test_steins_risk_refuses_what_it_cannot_estimate(changes, message):
  objective = methods.Stein().make_objective(pixels.Pixels())
  problem = _make_problem([]).replace(**changes)
  with pytest.raises(ValueError, match=message):
    objective({'image': _draw(6, 7, 3)}, problem, jax.random.key(0))


@pytest.mark.parametrize('distance', [0.0, -1.0, np.nan, np.inf])
def test_steins_risk_needs_a_distance(distance):
  with pytest.raises(ValueError, match='distance must be a number > 0, got'):
    methods.Stein(distance=distance)
