"""The way back: what is injected, and that the fit survives it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dipjax
from dipjax import methods, monitors, operators
from dipjax.conv import choose
from dipjax.engine import fit, guard, lanes
from dipjax.engine.loop import run_lanes
from dipjax.engine.problem import Problem
from dipjax.networks import pixels, skip
from tests import fits

SIZE = (8, 9, 3)
MEASUREMENT = np.float32(np.random.RandomState(0).uniform(size=SIZE))
STEPS = 230
WATCHERS = {'last': monitors.Last(steps=STEPS), 'emv': monitors.EMV(alpha=0.5)}


@jax.custom_vjp
def _explode(image, now):
  """Zero, whose gradient is infinite now and again."""
  return 0.0 * now


def _explode_forward(image, now):
  return 0.0 * now, (image, now)


def _explode_backward(kept, upstream):
  image, now = kept
  return upstream * jnp.where(now, jnp.inf, jnp.zeros_like(image)), None


_explode.defvjp(_explode_forward, _explode_backward)

# What is added to the loss where chance wants it.
DAMAGES = {
  'loss': lambda image, now: jnp.where(now, jnp.nan, 0.0),
  'gradient': _explode,
}


@dataclasses.dataclass(frozen=True)
class _Damaged(methods.Squared):
  """The squared error, damaged with probability problem.weights[0]."""

  damage: str = 'loss'

  def make_objective(self, network, penalties=()):
    plain = super().make_objective(network, penalties)

    def objective(params, problem, key):
      loss, image = plain(params, problem, key)
      chance = jax.random.uniform(jax.random.fold_in(key, 1))
      now = chance < problem.weights[0]
      return loss + DAMAGES[self.damage](image, now), image

    return objective


def _make_fit(damage='loss', optimizer=None):
  """A fit of pixels alone, damaged."""
  return fit.make_fit(
    dipjax.Recipe(
      network=pixels.Pixels(),
      method=_Damaged(damage),
      optimizer=optimizer or optax.adam(0.02),
      monitors=WATCHERS,
      decay=0,
    )
  )


def _make_problems(*chances):
  problems = [
    Problem(
      measurement=jnp.asarray(MEASUREMENT),
      operator=operators.Identity(),
      crop=operators.Crop(0, 0, *SIZE[:2]),
      code=jnp.zeros((*SIZE[:2], 1)),
      weights=jnp.array([chance], jnp.float32),
      jitter=jnp.array(0.0),
      steps=jnp.array(STEPS),
    )
    for chance in chances
  ]
  return lanes.stack_lanes(problems)


def _run(one, *chances, chunk=10):
  keys = jnp.stack([jax.random.key(10 + seed) for seed in range(len(chances))])
  return run_lanes(one, keys, _make_problems(*chances), chunk=chunk)


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_fit_goes_on_after_a_jump_and_others_are_not_changed(damage):
  one = _make_fit(damage)
  states, trace = _run(one, 0, 0.008)
  jumped = trace.returned >= 0
  np.testing.assert_array_equal(jumped.sum(axis=1), states.guard.jumps)
  assert states.guard.jumps[0] == 0 and 1 <= states.guard.jumps[1] < guard.MOST
  assert np.all(states.step == STEPS)
  images = states.monitors['last'].image
  np.testing.assert_allclose(images[0], MEASUREMENT, atol=0.02)
  # Smaller steps: closer than at first, and not as close.
  assert np.mean(np.square(images[1] - MEASUREMENT)) < trace.loss[1, 0] / 2
  alone, _ = _run(one, 0)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[0], b[0]),
    states.replace(key=(), guard=states.guard.error),
    alone.replace(key=(), guard=alone.guard.error),
  )
  parts, other = _run(one, 0, 0.008, chunk=7)
  count = min(trace.step.shape[1], other.step.shape[1])
  for field in ('step', 'loss', 'returned'):
    np.testing.assert_array_equal(
      getattr(trace, field)[:, :count], getattr(other, field)[:, :count]
    )
  np.testing.assert_array_equal(parts.params['image'], states.params['image'])


def test_a_jump_leads_back_to_all_of_the_last_snapshot():
  one = _make_fit()
  problem = jax.tree.map(lambda leaf: leaf[0], _make_problems(0.02))
  state = jax.jit(one.init)(jax.random.key(11), problem)
  step = jax.jit(one.step)
  at_snapshot, jumps, steps = state, 0, []
  for _ in range(STEPS):
    if int(state.step) % guard.EVERY == 0:
      at_snapshot = state
    before, (state, trace) = state, step(state, problem)
    if trace.returned < 0:
      continue
    jumps += 1
    steps.append(int(before.step))
    assert int(state.guard.jumps) == jumps
    assert int(trace.returned) == int(state.step) == int(at_snapshot.step)
    assert int(state.step) % guard.EVERY == 0
    jax.tree.map(
      np.testing.assert_array_equal,
      state.replace(guard=None, key=()),
      at_snapshot.replace(guard=None, key=()),
    )
  assert len(set(steps)) > 1, 'the same chance must not come again'


def test_steps_are_half_as_large_after_each_jump():
  one = _make_fit(optimizer=optax.sgd(0.1))
  problem = jax.tree.map(lambda leaf: leaf[0], _make_problems(0))
  state = jax.jit(one.init)(jax.random.key(0), problem)
  moved = []
  for jumps in (0, 1, 2):
    guarded = state.guard.replace(jumps=jnp.array(jumps))
    after, _ = jax.jit(one.step)(state.replace(guard=guarded), problem)
    moved.append(after.params['image'] - state.params['image'])
  np.testing.assert_allclose(moved[1], moved[0] / 2, rtol=1e-3, atol=1e-7)
  np.testing.assert_allclose(moved[2], moved[0] / 4, rtol=1e-3, atol=1e-7)


def test_without_a_jump_the_guard_changes_nothing():
  """The fit is Adam's own, step by step."""
  states, trace = _run(_make_fit(), 0)
  assert np.all(trace.returned == -1)
  adam = optax.adam(0.02)
  key, params_key = jax.random.split(jax.random.key(10))
  code = jnp.zeros((*SIZE[:2], 1))
  params = pixels.Pixels().init(params_key, code)['params']
  optimum = adam.init(params)
  lose = lambda params: jnp.mean(jnp.square(params['image'] - MEASUREMENT))

  @jax.jit
  def step(params, optimum):
    updates, optimum = adam.update(jax.grad(lose)(params), optimum, params)
    return optax.apply_updates(params, updates), optimum

  for _ in range(STEPS):
    params, optimum = step(params, optimum)
  np.testing.assert_allclose(
    states.params['image'][0], params['image'], rtol=0, atol=1e-6
  )


def test_a_fit_that_always_fails_ends_with_a_finite_image():
  states, trace = _run(_make_fit(), 1.0)
  assert int(states.guard.jumps[0]) == guard.MOST
  assert trace.active.sum() == guard.MOST
  assert np.all(np.isfinite(states.monitors['last'].image))


def test_a_jump_is_what_is_not_finite_or_five_decibels_worse():
  state = guard.start({'x': jnp.zeros(2)}).replace(error=jnp.array(0.01))
  gradient = {'x': jnp.ones(2)}
  good = jnp.array(0.01)
  jumps = lambda loss, gradient, error: bool(
    guard.has_jumped(state, loss, gradient, error)
  )
  assert not jumps(good, gradient, good)
  assert not jumps(good, gradient, 0.01 * 10**0.49)
  assert jumps(good, gradient, 0.01 * 10**0.51)
  for bad in (jnp.nan, jnp.inf):
    assert jumps(jnp.array(bad), gradient, good)
    assert jumps(good, {'x': jnp.array([0, bad])}, good)
    assert jumps(good, gradient, jnp.array(bad))
  # A measurement that is fitted to the last bit is no reason to return.
  exact = state.replace(error=jnp.array(0.0))
  assert not guard.has_jumped(exact, good, gradient, jnp.array(1e-6))


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_one_entry_that_is_not_finite_is_a_jump_wherever_it_is(platform):
  state = guard.start({}).replace(error=jnp.array(0.01))
  # Two arrays have one shape, as the kernels of two levels do.
  shapes = {'a': (2, 3), 'b': (2, 3), 'c': (4,), 'd': ()}
  gradient = {
    name: np.ones(shape, np.float32) for name, shape in shapes.items()
  }
  good = jnp.array(0.01)
  with choose.aim(choose.Target(platform)):
    assert not guard.has_jumped(state, good, gradient, good)
    for name, leaf in gradient.items():
      for bad in (np.nan, np.inf, -np.inf):
        damaged = leaf.copy()
        damaged.flat[-1] = bad
        assert guard.has_jumped(state, good, gradient | {name: damaged}, good)


def test_a_learning_rate_of_one_ends_with_a_sensible_image():
  y, x = np.mgrid[:16, :16] / 16
  picture = np.float32(0.5 + 0.3 * np.sin(6 * x + 4 * y))[..., None]
  result = fits.restore(
    picture * np.ones(3, np.float32),
    network=skip.Skip(down=(8,), up=(8,), skip=(4,)),
    # Well at first, so that there is something to lose.
    optimizer=optax.adam(lambda step: jnp.where(step < 120, 0.01, 1.0)),
    monitors={'last': monitors.Last(steps=200)},
    decay=0.9,
    chunk=20,
  )
  errors = np.mean(np.square(result.images - picture))
  assert np.all(np.isfinite(result.images)) and errors < 0.01
  returned = result.trace.returned
  assert set(returned[returned >= 0]) <= {100, 150}
  assert np.any(returned >= 0)
