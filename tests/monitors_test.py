"""Monitors against slow references, and what every one of them promises."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import metrics, monitors, operators
from dipjax.engine.problem import Problem

SHAPE = (6, 5, 3)
SIGMA = 0.1


class _Fit(NamedTuple):
  """Outputs that approach a picture, stay there, then learn the noise."""

  clean: np.ndarray
  measurement: np.ndarray
  reference: np.ndarray
  losses: np.ndarray
  outputs: np.ndarray
  estimates: np.ndarray


def _make_fit(seed, steps=60):
  rng = np.random.RandomState(seed)
  clean = rng.uniform(size=SHAPE)
  noises = SIGMA * rng.normal(size=(2, *SHAPE))
  time = np.arange(steps)[:, None, None, None]
  late = np.maximum(time - 15, 0) / 40
  speed = 0.5 * np.exp(-time / 5) + 0.02 * late
  outputs = clean + speed * rng.normal(size=(steps, *SHAPE)) + late * noises[0]
  drift = speed * rng.normal(size=(steps, *SHAPE))
  estimates = clean + 0.5 * drift + late * noises[0]
  # It falls to below zero, and stays there.
  losses = np.maximum(0.02 - 0.001 * np.arange(steps), -0.01)
  fit = _Fit(clean, *(clean + noises), losses, outputs, estimates)
  return jax.tree.map(np.float32, fit)


def _make_problem(fit):
  unused = jnp.zeros(0)
  return Problem(
    measurement=jnp.asarray(fit.measurement),
    operator=operators.Identity(),
    crop=operators.Crop(0, 0, *SHAPE[:2]),
    **dict.fromkeys(('code', 'weights', 'jitter', 'steps'), unused),
    sigma=jnp.array(SIGMA),
    reference=jnp.asarray(fit.reference),
  )


@functools.partial(jax.jit, static_argnums=0)
def _watch(monitor, fit, clean=None):
  """Returns the states after each step, stacked."""
  problem = _make_problem(fit)

  def step(state, seen):
    state = monitor.update(state, monitors.Observation(*seen, problem))
    return state, state

  seen = jnp.arange(len(fit.outputs)), fit.losses, fit.outputs, fit.estimates
  state = monitor.init(fit.outputs[0], clean)
  return jax.lax.scan(step, state, seen)[1]


def _wait(scores, patience):
  """The step of the least score, and how many were taken to be sure of it."""
  selected = 0
  for t, score in enumerate(scores):
    if score < scores[selected] or np.isinf(scores[selected]):
      selected = t
    elif t - selected >= patience:
      return selected, t + 1
  raise AssertionError('the reference must come to an end here')


def _measure_errors(fit, target):
  images = np.float64(fit.estimates)
  return np.mean(np.square(images - target), axis=(1, 2, 3))


def _find_first(reached):
  """The first step at which it is reached, and how many were taken."""
  return int(np.argmax(reached)), int(np.argmax(reached)) + 1


def _follow(outputs, alpha):
  """EMV as the paper writes it, in float64: the variance after each step."""
  mean, variance, variances = np.float64(outputs[0]), 0.0, []
  for image in np.float64(outputs):
    difference = image - mean
    mean = mean + alpha * difference
    square = np.sum(difference**2) / difference.size
    variance = (1 - alpha) * (variance + alpha * square)
    variances.append(variance)
  # What has not forgotten its start does not count.
  return np.where(np.arange(len(outputs)) + 1 >= 10 / alpha, variances, np.inf)


def _correlate(fit):
  """1 - the correlation of each residual with the difference of both noises."""
  known = np.ravel(np.float64(fit.measurement) - fit.reference)
  residuals = np.float64(fit.measurement) - fit.estimates
  residuals = residuals.reshape(len(residuals), -1)
  sizes = np.linalg.norm(residuals, axis=1) * np.linalg.norm(known)
  return 1 - residuals @ known / sizes


# Each monitor, its slow reference (fit -> selected step, steps spent), and how
# many numbers it keeps beside its one image.
IMAGE = int(np.prod(SHAPE))
CASES = {
  'last': (monitors.Last(steps=30), lambda fit: (29, 30), 0),
  'wmv': (
    monitors.WMV(of='output', window=5, patience=8, pixels=1000),
    lambda fit: _find_end(fit.outputs, 5, 8),
    6 * IMAGE,
  ),
  'wmv_estimate': (
    monitors.WMV(window=5, patience=8, warmup=12, pixels=1000),
    lambda fit: _find_end(fit.estimates, 5, 8, 12),
    6 * IMAGE,
  ),
  'emv': (
    monitors.EMV(of='output', alpha=0.5, patience=8),
    lambda fit: _wait(_follow(fit.outputs, 0.5), 8),
    IMAGE + 1,
  ),
  'discrepancy': (
    monitors.Discrepancy(),
    lambda fit: _find_first(_measure_errors(fit, fit.measurement) <= SIGMA**2),
    0,
  ),
  'discrepancy_sooner': (
    monitors.Discrepancy(factor=2.0),
    lambda fit: _find_first(
      _measure_errors(fit, fit.measurement) <= 2 * SIGMA**2
    ),
    0,
  ),
  'sure': (monitors.SURE(), lambda fit: _find_first(fit.losses <= 0), 0),
  'pseudo_reference': (
    monitors.PseudoReference(patience=8),
    lambda fit: _wait(_measure_errors(fit, fit.reference), 8),
    0,
  ),
  'cross_validation': (
    monitors.CrossValidation(patience=8),
    lambda fit: _wait(_correlate(fit), 8),
    0,
  ),
}
MONITORS = {name: case[0] for name, case in CASES.items()} | {
  'mean': monitors.Mean(warmup=10, every=4),
  'horizon': monitors.AtHorizon(
    monitor=monitors.WMV(window=5, patience=8), decay=0.7
  ),
  'wmv_subset': monitors.WMV(window=5, patience=8, pixels=7),
  'oracle': monitors.Oracle(),
  'oracle_output': monitors.Oracle(of='output'),
  'reach_noise': monitors.ReachNoise(otherwise=monitors.Last(steps=30)),
}


# Every rule of the registry keeps the contract, with its defaults if it has no
# row here.
_seen = {type(monitor) for monitor in MONITORS.values()}
MONITORS |= {
  name: make() for name, make in monitors.MONITORS.items() if make not in _seen
}


@pytest.mark.parametrize('name', CASES)
def test_a_monitor_equals_its_slow_reference_and_then_stays(name):
  monitor, refer, numbers = CASES[name]
  watch = lambda fit: _watch(monitor, fit)
  for seed in range(3):
    fit = _make_fit(seed)
    states = watch(fit)
    selected, spent = refer(fit)
    assert spent < len(fit.outputs)
    np.testing.assert_array_equal(
      states.done, np.arange(len(fit.outputs)) + 1 >= spent
    )
    assert int(states.step[-1]) == selected
    assert int(states.spent[-1]) == spent
    np.testing.assert_array_equal(states.image[-1], fit.estimates[selected])
    kept = sum(leaf[0].size for leaf in jax.tree.leaves(states.memory))
    assert kept == numbers


def test_the_discrepancy_of_a_clipped_measurement():
  fit = _make_fit(0)
  clipped = fit._replace(
    measurement=np.clip(fit.measurement, 0, 1),
    estimates=np.clip(fit.estimates, 0, 1),
  )
  # Drawn, not by the formula.
  drawn = SIGMA * np.random.RandomState(1).normal(size=(20_000, *SHAPE))
  levels = [
    np.mean(np.square(np.clip(image + drawn, 0, 1) - image))
    for image in clipped.estimates
  ]
  assert max(levels) < 0.95 * SIGMA**2
  errors = _measure_errors(clipped, clipped.measurement)
  selected, spent = _find_first(errors <= levels)
  assert selected > _find_first(errors <= SIGMA**2)[0]
  states = _watch(monitors.Discrepancy(), clipped)
  assert int(states.step[-1]) == selected
  assert int(states.spent[-1]) == spent


@pytest.mark.parametrize('name', MONITORS)
def test_a_monitor_is_a_pure_function(name):
  """So that nothing else of the run, as its chunks, has a say."""
  fit = _make_fit(0)
  monitor = MONITORS[name]
  whole = _watch(monitor, fit, fit.clean)
  problem = _make_problem(fit)
  state = jax.tree.map(lambda leaf: leaf[19], whole)
  before = jax.tree.map(np.array, state)
  seen = monitors.Observation(
    jnp.array(20), fit.losses[20], fit.outputs[20], fit.estimates[20], problem
  )
  for _ in range(2):
    after = jax.jit(monitor.update)(state, seen)
    for field in ('done', 'spent', 'step', 'image', 'score'):
      np.testing.assert_allclose(
        getattr(after, field), getattr(whole, field)[20], rtol=1e-5
      )
  jax.tree.map(np.testing.assert_array_equal, state, before)


@pytest.mark.parametrize('name', MONITORS)
def test_a_step_keeps_every_type(name):
  """Weak types too: with others after a step, the step compiles twice."""
  fit = jax.tree.map(jnp.asarray, _make_fit(0))
  problem = _make_problem(fit)
  before = MONITORS[name].init(fit.outputs[0], fit.clean)
  seen = monitors.Observation(
    jnp.int32(0), fit.losses[0], fit.outputs[0], fit.estimates[0], problem
  )
  after = MONITORS[name].update(before, seen)
  describe = lambda state: jax.tree.map(jax.typeof, state)
  assert describe(after) == describe(before)


def _find_valley(outputs, window, patience, warmup=0):
  """WMV as the paper writes it, in float64: selected step, steps, variances."""
  variances = np.full(len(outputs), np.inf)
  best, selected = np.inf, 0
  for t in range(len(outputs)):
    if t + 1 < max(window, warmup):
      continue
    recent = np.float64(outputs[t + 1 - window : t + 1])
    variances[t] = np.mean(np.square(recent - recent.mean(axis=0)))
    if variances[t] < best:
      best, selected = variances[t], t
    elif t - selected >= patience:
      return selected, t, variances
  return selected, None, variances


def _find_end(images, window, patience, warmup=0):
  return _wait(_find_valley(images, window, patience, warmup)[2], patience)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('of', ['output', 'estimate'])
@pytest.mark.parametrize('warmup', [0, 12])
def test_wmv_equals_the_slow_reference(seed, warmup, of):
  fit = _make_fit(seed)
  monitor = monitors.WMV(
    of=of, window=5, patience=8, warmup=warmup, pixels=1000
  )
  states = _watch(monitor, fit)
  watched = {'output': fit.outputs, 'estimate': fit.estimates}[of]
  selected, end, variances = _find_valley(watched, 5, 8, warmup)
  assert end is not None, 'the reference must find a valley here'
  assert int(np.argmax(states.done)) == end
  assert int(states.step[end]) == selected
  np.testing.assert_array_equal(states.image[end], fit.estimates[selected])
  np.testing.assert_allclose(
    states.score[:end], variances[:end], rtol=1e-4, equal_nan=True
  )


def test_wmv_survives_a_large_mean():
  outputs = 0.9 + 1e-4 * np.random.RandomState(0).normal(size=(20, *SHAPE))
  outputs = np.float32(outputs)
  monitor = monitors.WMV(window=5, patience=100)
  fit = _make_fit(0, steps=20)._replace(outputs=outputs, estimates=outputs)
  states = _watch(monitor, fit)
  _, _, variances = _find_valley(outputs, 5, 100)
  np.testing.assert_allclose(states.score[5:], variances[5:], rtol=1e-3)


def test_no_deviation_of_one_sample():
  monitor = monitors.Mean(warmup=50, every=30)
  states = _watch(monitor, _make_fit(0))
  np.testing.assert_array_equal(monitor.find_deviation(states), 0)


def test_mean_is_that_of_the_samples_after_the_burn_in():
  fit = _make_fit(0)
  monitor = monitors.Mean(warmup=20, every=7)
  states = _watch(monitor, fit)
  np.testing.assert_allclose(states.image[19], fit.estimates[19], rtol=1e-6)
  for end in (20, 26, 27, 59):
    samples = np.float64(fit.outputs[20 : end + 1 : 7])
    count, squares = (leaf[end] for leaf in states.memory)
    assert int(count) == len(samples)
    np.testing.assert_allclose(
      states.image[end], samples.mean(axis=0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
      squares / count, samples.var(axis=0), rtol=1e-3, atol=1e-7
    )
    if end > 26:
      deviation = monitor.find_deviation(states)[end]
      expected = samples.std(axis=0, ddof=1)
      np.testing.assert_allclose(deviation, expected, rtol=1e-3, atol=1e-6)
  assert not np.any(states.done)


def test_oracle_finds_the_best_image():
  fit = _make_fit(0)
  for of, images in (('estimate', fit.estimates), ('output', fit.outputs)):
    states = _watch(monitors.Oracle(of=of), fit, fit.clean)
    scores = [float(metrics.psnr(image, fit.clean)) for image in images]
    np.testing.assert_allclose(states.score, scores, rtol=1e-5)
    assert int(states.step[-1]) == int(np.argmax(scores))
    np.testing.assert_array_equal(states.image[-1], images[np.argmax(scores)])


def test_the_oracle_keeps_an_image_without_any_error():
  fit = _make_fit(0)
  estimates = fit.estimates.copy()
  estimates[7] = fit.clean
  states = _watch(
    monitors.Oracle(), fit._replace(estimates=estimates), fit.clean
  )
  assert int(states.step[-1]) == 7 and np.isinf(states.best[-1])
  np.testing.assert_array_equal(states.image[-1], fit.clean)


@pytest.mark.parametrize('name', MONITORS)
def test_lanes_equal_single_fits(name):
  fits = [_make_fit(seed) for seed in range(3)]
  watch = lambda fit: _watch(MONITORS[name], fit, fit.clean)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)
  together = jax.jit(jax.vmap(watch))(stacked)
  for lane, fit in enumerate(fits):
    alone = watch(fit)
    for field in ('done', 'spent', 'step', 'image', 'score'):
      np.testing.assert_allclose(
        getattr(together, field)[lane], getattr(alone, field), rtol=1e-4
      )


@pytest.mark.parametrize('name', [n for n in MONITORS if 'oracle' not in n])
def test_only_the_oracle_sees_the_clean_image(name):
  fit = _make_fit(0)
  with_it = _watch(MONITORS[name], fit, fit.clean)
  without = _watch(MONITORS[name], fit, None)
  jax.tree.map(np.testing.assert_array_equal, with_it, without)


def test_oracle_never_asks_for_a_step():
  fit = _make_fit(0)
  states = _watch(monitors.Oracle(), fit, fit.clean)
  assert np.all(states.done)


@pytest.mark.parametrize('decay', [0.0, 0.7])
def test_a_horizon_is_the_fit_with_that_decay(decay):
  fit, rule = _make_fit(0), monitors.WMV(window=5, patience=8)
  ages = np.arange(len(fit.outputs))
  weights = np.tril(np.float64(decay) ** np.abs(ages[:, None] - ages))
  weights /= weights.sum(axis=1, keepdims=True)
  averages = np.tensordot(weights, np.float64(fit.outputs), axes=1)
  expected = _watch(rule, fit._replace(estimates=np.float32(averages)))
  actual = _watch(monitors.AtHorizon(monitor=rule, decay=decay), fit)
  for field in ('done', 'spent', 'step', 'image'):
    np.testing.assert_allclose(
      getattr(actual, field), getattr(expected, field), rtol=1e-4
    )


@pytest.mark.parametrize('decay', [0.0, 0.5, 0.99])
def test_average_weights_images_by_their_age(decay):
  images = np.random.RandomState(0).uniform(size=(12, 4))
  average = jnp.zeros(4)
  for step, image in enumerate(images):
    average, unbiased = monitors.update_average(
      average, image, jnp.array(step), decay=decay
    )
    weights = np.float64(decay) ** np.arange(step, -1, -1)
    expected = weights @ images[: step + 1] / weights.sum()
    np.testing.assert_allclose(unbiased, expected, rtol=1e-5)


@pytest.mark.parametrize(
  'make',
  [
    lambda: monitors.Last(steps=0),
    lambda: monitors.WMV(window=1),
    lambda: monitors.WMV(patience=0),
    lambda: monitors.WMV(warmup=-1),
    lambda: monitors.WMV(pixels=0),
    lambda: monitors.Mean(warmup=-1),
    lambda: monitors.Mean(warmup=0, every=0),
    lambda: monitors.EMV(alpha=1.0),
    lambda: monitors.EMV(patience=0),
    lambda: monitors.EMV(of='loss'),
    lambda: monitors.Discrepancy(factor=0.0),
    lambda: monitors.Discrepancy(of='loss'),
    lambda: monitors.PseudoReference(patience=0),
    lambda: monitors.PseudoReference(warmup=-1),
    lambda: monitors.CrossValidation(patience=0),
    lambda: monitors.AtHorizon(monitor=monitors.Oracle(), decay=1.0),
    lambda: monitors.Oracle(of='loss'),
    lambda: monitors.Oracle().init(jnp.zeros(SHAPE), None),
  ],
)
def test_impossible_arguments_are_refused(make):
  with pytest.raises(ValueError, match=r'got|needs'):
    make()


@pytest.mark.parametrize(
  'name,field',
  [
    ('discrepancy', 'sigma'),
    ('pseudo_reference', 'reference'),
    ('cross_validation', 'reference'),
  ],
)
def test_what_a_rule_needs_must_be_known(name, field):
  fit = _make_fit(0)
  problem = _make_problem(fit).replace(**{field: None})
  state = MONITORS[name].init(fit.outputs[0], None)
  image = fit.outputs[0]
  seen = monitors.Observation(jnp.array(0), 0.0, image, image, problem)
  with pytest.raises(ValueError, match=f'{name} needs the {field}'):
    MONITORS[name].update(state, seen)


def test_equal_arguments_give_the_same_monitor():
  assert monitors.WMV(window=7) == monitors.WMV(window=7)
  assert hash(monitors.WMV(window=7)) == hash(monitors.WMV(window=7))
  assert monitors.WMV(window=7) != monitors.WMV(window=8)
