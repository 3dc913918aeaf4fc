"""Monitors against slow references, and what every one of them promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import metrics, monitors

SHAPE = (6, 5, 3)
MONITORS = {
  'last': monitors.last(30),
  'wmv': monitors.wmv(of='output', window=5, patience=8, pixels=1000),
  'wmv_subset': monitors.wmv(window=5, patience=8, pixels=7),
  'oracle': monitors.oracle(),
  'oracle_output': monitors.oracle(of='output'),
}


def _make_fit(seed, steps=40):
  """Outputs that approach a picture, stay there, then learn noise."""
  rng = np.random.RandomState(seed)
  clean = rng.uniform(size=SHAPE)
  time = np.arange(steps)[:, None, None, None]
  speed = 0.5 * np.exp(-time / 5) + 0.02 * np.maximum(time - 15, 0) / steps
  outputs = clean + speed * rng.normal(size=(steps, *SHAPE))
  estimates = clean + 0.5 * speed * rng.normal(size=(steps, *SHAPE))
  return tuple(np.float32(a) for a in (clean, outputs, estimates))


def _watch(monitor, clean, outputs, estimates):
  """Returns the states after each step, stacked."""

  def step(state, seen):
    state = monitor.update(state, monitors.Observation(*seen))
    return state, state

  steps = jnp.arange(len(outputs))
  state = monitor.init(outputs[0], clean)
  return jax.lax.scan(step, state, (steps, 0.0 * steps, outputs, estimates))[1]


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


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('of', ['output', 'estimate'])
@pytest.mark.parametrize('warmup', [0, 12])
def test_wmv_equals_the_slow_reference(seed, warmup, of):
  clean, outputs, estimates = _make_fit(seed)
  monitor = monitors.wmv(
    of=of, window=5, patience=8, warmup=warmup, pixels=1000
  )
  states = jax.jit(lambda: _watch(monitor, None, outputs, estimates))()
  watched = {'output': outputs, 'estimate': estimates}[of]
  selected, end, variances = _find_valley(watched, 5, 8, warmup)
  assert end is not None, 'the reference must find a valley here'
  assert int(np.argmax(states.done)) == end
  assert int(states.step[end]) == selected
  np.testing.assert_array_equal(states.image[end], estimates[selected])
  np.testing.assert_allclose(
    states.score[:end], variances[:end], rtol=1e-4, equal_nan=True
  )


def test_wmv_survives_a_large_mean():
  outputs = 0.9 + 1e-4 * np.random.RandomState(0).normal(size=(20, *SHAPE))
  outputs = np.float32(outputs)
  monitor = monitors.wmv(window=5, patience=100)
  states = _watch(monitor, None, outputs, outputs)
  _, _, variances = _find_valley(outputs, 5, 100)
  np.testing.assert_allclose(states.score[5:], variances[5:], rtol=1e-3)


def test_oracle_finds_the_best_image():
  clean, outputs, estimates = _make_fit(0)
  for of, images in (('estimate', estimates), ('output', outputs)):
    states = _watch(monitors.oracle(of=of), clean, outputs, estimates)
    scores = [float(metrics.psnr(image, clean)) for image in images]
    np.testing.assert_allclose(states.score, scores, rtol=1e-5)
    assert int(states.step[-1]) == int(np.argmax(scores))
    np.testing.assert_array_equal(states.image[-1], images[np.argmax(scores)])


def test_last_returns_the_last_estimate():
  clean, outputs, estimates = _make_fit(0)
  states = _watch(monitors.last(30), None, outputs, estimates)
  assert int(np.argmax(states.done)) == 29
  np.testing.assert_array_equal(states.image[29], estimates[29])


@pytest.mark.parametrize('name', MONITORS)
def test_lanes_equal_single_fits(name):
  fits = [_make_fit(seed) for seed in range(3)]
  watch = jax.jit(lambda *fit: _watch(MONITORS[name], *fit))
  together = jax.jit(jax.vmap(watch))(*map(jnp.stack, zip(*fits, strict=True)))
  for lane, fit in enumerate(fits):
    alone = watch(*fit)
    for field in ('done', 'step', 'image', 'score'):
      np.testing.assert_allclose(
        getattr(together, field)[lane], getattr(alone, field), rtol=1e-4
      )


@pytest.mark.parametrize('name', [n for n in MONITORS if 'oracle' not in n])
def test_only_the_oracle_sees_the_clean_image(name):
  clean, outputs, estimates = _make_fit(0)
  with_it = _watch(MONITORS[name], clean, outputs, estimates)
  without = _watch(MONITORS[name], None, outputs, estimates)
  jax.tree.map(np.testing.assert_array_equal, with_it, without)


def test_oracle_never_asks_for_a_step():
  clean, outputs, estimates = _make_fit(0)
  states = _watch(monitors.oracle(), clean, outputs, estimates)
  assert np.all(states.done)


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
    lambda: monitors.last(0),
    lambda: monitors.wmv(window=1),
    lambda: monitors.wmv(patience=0),
    lambda: monitors.wmv(warmup=-1),
    lambda: monitors.wmv(pixels=0),
    lambda: monitors.oracle(of='loss'),
    lambda: monitors.oracle().init(jnp.zeros(SHAPE), None),
  ],
)
def test_impossible_arguments_are_refused(make):
  with pytest.raises(ValueError, match=r'got|needs'):
    make()


def test_equal_arguments_give_the_same_monitor():
  assert monitors.wmv(window=7) is monitors.wmv(window=7)
  assert monitors.wmv(window=7) is not monitors.wmv(window=8)
