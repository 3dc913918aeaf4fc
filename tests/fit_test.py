"""What a fit computes in: precisions, and activations computed again."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dipjax
from dipjax import codes, methods, monitors, operators, recipe
from dipjax.device import packing
from dipjax.engine import fit
from dipjax.engine.problem import Problem
from dipjax.networks import skip

NETWORK = skip.Skip(down=(8,), up=(8,), skip=(4,))
ADAM = optax.adam(0.01)


def _make(network=NETWORK, precision='float32'):
  one = fit.make_fit(
    dipjax.Recipe(
      network=network,
      optimizer=ADAM,
      monitors={'last': monitors.Last(steps=10)},
      precision=precision,
    )
  )
  key = jax.random.key(0)
  problem = Problem(
    measurement=jax.random.uniform(key, (16, 24, 3)),
    operator=operators.Identity(),
    crop=operators.Crop(0, 0, 16, 24),
    code=codes.draw_uniform_noise(key, (16, 24), 4),
    weights=jnp.zeros(0),
    jitter=jnp.array(0.03),
    steps=jnp.array(10),
  )
  return one, problem, jax.jit(one.init)(key, problem)


@pytest.mark.parametrize('precision', recipe.PRECISIONS)
def test_all_that_lasts_is_float32_in_every_precision(precision):
  one, problem, state = _make(precision=precision)
  after, trace = jax.jit(one.step)(state, problem)
  before = [leaf.dtype for leaf in jax.tree.leaves(state)]
  assert [leaf.dtype for leaf in jax.tree.leaves(after)] == before
  for leaf in jax.tree.leaves((after.params, after.average, trace.loss)):
    assert leaf.dtype == jnp.float32
  _, exact = jax.jit(_make()[0].step)(state, problem)
  assert float(trace.loss) == pytest.approx(float(exact.loss), rel=0.02)


def test_products_are_in_the_precision_asked_for():
  programs = {}
  for precision in recipe.PRECISIONS:
    one, problem, state = _make(precision=precision)
    programs[precision] = str(jax.make_jaxpr(one.step)(state, problem))
  find = lambda pattern, name: re.findall(pattern, programs[name])
  convolution = r'bf16\[[\d,]+\] = conv_general_dilated'
  assert find(convolution, 'bfloat16')
  assert not find(convolution, 'float32')
  assert not find('bf16', 'tensorfloat32')
  for name, said in (('float32', 'HIGHEST'), ('tensorfloat32', 'HIGH')):
    lines = find(r'precision=([^\n]*)', name)
    assert lines and all(said in line for line in lines), lines


def test_an_unknown_precision_is_refused():
  with pytest.raises(ValueError, match="'half' is not one of float32"):
    _make(precision='half')


def test_computing_activations_again_changes_nothing():
  """But rounding, which Adam enlarges in parameters without an effect."""
  results = []
  for network in (NETWORK, NETWORK.clone(remat=True)):
    one, problem, state = _make(network)
    step = jax.jit(one.step)
    for _ in range(3):
      state, trace = step(state, problem)
    results.append((state, trace.loss))
  (kept, loss), (again, other) = results
  assert kept.step == again.step == 3
  np.testing.assert_allclose(again.average, kept.average, atol=1e-5)
  np.testing.assert_allclose(other, loss, rtol=1e-5)


@pytest.mark.parametrize('convolving', ['slices'], indirect=True)
def test_fewer_activations_are_kept_when_computed_again(convolving):
  def count(network):
    _, problem, state = _make(network)
    objective = methods.Squared().make_objective(network)
    pull = jax.eval_shape(
      lambda params: jax.vjp(
        lambda params: objective(params, problem, state.key)[0], params
      )[1],
      packing.unpack(state.params),
    )
    return sum(leaf.size for leaf in jax.tree.leaves(pull))

  assert count(NETWORK.clone(remat=True)) < 0.5 * count(NETWORK)
