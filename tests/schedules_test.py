"""Schedules: independent float64 numbers, sums, order, moments, lengths."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import schedules

ENDS = [(1e-4, 0.01), (1e-4, 0.02), (0.3, 0.9)]
each_schedule = pytest.mark.parametrize('name', schedules.NAMES)


def _make_slowly(name, count, low, high):
  """The definitions, one number after the other."""
  levels = []
  for i in range(count):
    u = i / (count - 1)
    if name == 'linear':
      level = low + u * (high - low)
    elif name == 'scaled-linear':
      level = (low**0.5 + u * (high**0.5 - low**0.5)) ** 2
    else:
      ratio = _cosine(u) / _cosine(0)
      level = low + (high - low) * (1 - ratio)
    levels.append(level)
  return levels


def _cosine(u):
  return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


@each_schedule
@pytest.mark.parametrize('low,high', ENDS)
@pytest.mark.parametrize('count', [2, 10, 1000])
def test_levels_are_those_of_their_definition(name, low, high, count):
  levels = schedules.make_levels(name, count, beta_min=low, beta_max=high)
  assert levels.dtype == np.float64
  slow = _make_slowly(name, count, low, high)
  np.testing.assert_allclose(levels, slow, rtol=0, atol=1e-12)
  np.testing.assert_allclose(levels[[0, -1]], [low, high], rtol=1e-9)
  assert np.all(np.diff(levels) > 0)


def test_sums_of_levels():
  make = lambda name: schedules.make_levels(
    name, 11, beta_min=0.01, beta_max=0.25
  )
  np.testing.assert_allclose(make('linear').sum(), 11 * 0.13)
  # Roots from 0.1 to 0.5 in steps of 0.04: 11 * 0.3^2 + 0.04^2 * 110.
  np.testing.assert_allclose(make('scaled-linear').sum(), 11 * 0.09 + 0.176)


@each_schedule
def test_one_level_is_the_lowest(name):
  (level,) = schedules.make_levels(name, 1, beta_min=0.1, beta_max=0.2)
  assert level == pytest.approx(0.1)


@each_schedule
@pytest.mark.parametrize('steps', [1, 7, 1000])
def test_betas_cumulate_to_what_is_left(name, steps):
  betas = schedules.make_betas(name, steps)
  assert betas.shape == (steps,)
  assert np.all((betas > 0) & (betas <= 0.999))
  kept, slow = 1.0, []
  for beta in betas:
    kept *= 1 - beta
    slow.append(1 - kept)
  levels = schedules.cumulate_levels(betas)
  np.testing.assert_allclose(levels, slow, rtol=0, atol=1e-12)
  assert np.all(np.diff(levels) >= 0)


def test_cosine_betas_cumulate_to_the_cosine():
  levels = schedules.cumulate_levels(schedules.make_betas('cosine', 100))
  expected = [1 - _cosine((i + 1) / 100) / _cosine(0) for i in range(100)]
  # But the last step, whose level is bounded by 0.999.
  np.testing.assert_allclose(levels[:-1], expected[:-1], rtol=0, atol=1e-12)
  assert levels[-1] < 1


def test_a_sample_has_the_mean_and_the_variance_of_its_level():
  image = np.random.default_rng(0).random((4, 5, 3))
  noise = np.random.default_rng(1).normal(size=(20_000, 4, 5, 3))
  for level in (0.01, 0.5, 0.99):
    samples = schedules.q_sample(image, noise, level)
    error = 5 * np.sqrt(level / len(noise))
    mean = samples.mean(axis=0)
    assert np.all(np.abs(mean - np.sqrt(1 - level) * image) < error)
    spread = samples.var(axis=0) / level - 1
    assert np.all(np.abs(spread) < 5 * np.sqrt(2 / len(noise)))


def test_samples_at_the_ends_and_in_float32():
  rng = np.random.default_rng(0)
  image, noise = rng.random((6, 6, 3)), rng.normal(size=(6, 6, 3))
  np.testing.assert_array_equal(schedules.q_sample(image, noise, 0), image)
  np.testing.assert_array_equal(schedules.q_sample(image, noise, 1), noise)
  arrays = [jnp.asarray(x, jnp.float32) for x in (image, noise, 0.02)]
  single = schedules.q_sample(*arrays)
  assert single.dtype == jnp.float32
  double = math.sqrt(0.98) * image + math.sqrt(0.02) * noise
  np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)


def test_stage_lengths_are_the_formula():
  levels = [0, 1e-4, 0.004, 0.01, 0.02]
  steps = schedules.count_stage_steps(levels, most=1000, alpha=0.5, k=-25)
  assert steps == [500, 498, 447, 357, 175]
  expected = [int(1000 * (1 - 0.5 * np.exp(25 * beta))) for beta in levels]
  assert steps == expected


@pytest.mark.parametrize('alpha,k', [(0.5, -25), (0.1, -2), (0.9, -4)])
def test_less_noise_gets_more_steps_over_the_whole_range(alpha, k):
  # Up to where the length is zero.
  levels = np.linspace(0, min(0.999, math.log(1 / alpha) / -k - 1e-3), 500)
  steps = schedules.count_stage_steps(levels, most=10**6, alpha=alpha, k=k)
  assert np.all(np.diff(steps) < 0)
  opposite = schedules.count_stage_steps(levels, most=10**6, alpha=alpha, k=-k)
  assert np.all(np.diff(opposite) > 0)


@pytest.mark.parametrize('make', [schedules.make_levels, schedules.make_betas])
@pytest.mark.parametrize(
  'name,count,low,high,message',
  [
    ('sigmoid', 10, 0.1, 0.2, "'sigmoid' is not one of linear"),
    ('linear', 0, 0.1, 0.2, 'at least 1 level, got 0'),
    ('linear', 10, 0.0, 0.2, r'0 < beta_min <= .* got 0.0 and 0.2'),
    ('cosine', 10, 0.1, 1.0, 'got 0.1 and 1.0'),
    ('scaled-linear', 10, 0.2, 0.1, 'got 0.2 and 0.1'),
    ('linear', 10, np.nan, 0.1, 'got nan and 0.1'),
  ],
)
def test_bad_schedules_are_refused(make, name, count, low, high, message):
  with pytest.raises(ValueError, match=message):
    make(name, count, beta_min=low, beta_max=high)


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'most': 1}, 'level 0 would have 0 steps'),
    ({'alpha': 1.0}, 'would have 0 steps'),
    ({'k': -100}, 'level 0.02 would have -'),
    ({'k': -1e9}, 'level 0.02 would have -'),
    ({'alpha': np.nan}, 'must be finite'),
    ({'k': -np.inf}, 'must be finite'),
  ],
)
def test_stages_without_steps_are_refused(changes, message):
  arguments = {'most': 1000, 'alpha': 0.5, 'k': -25, **changes}
  with pytest.raises(ValueError, match=message):
    schedules.count_stage_steps([0, 0.02], **arguments)
