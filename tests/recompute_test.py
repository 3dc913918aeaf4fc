"""What a gradient computes again: the same values, in less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax.conv import choose
from dipjax.device import recompute
from dipjax.networks import skip

SIZE = (64, 64, 8)


def _block(matrix, x):
  for _ in range(6):
    x = jnp.tanh(x @ matrix)
  return x


def _lose(matrix, x, again):
  block = recompute.recompute(_block) if again else _block
  for _ in range(4):
    x = block(matrix, x)
  return jnp.sum(jnp.square(x))


def _draw(lanes=()):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return draw(*lanes, 8, 8), draw(*lanes, *SIZE)


def _differentiate(again):
  return jax.value_and_grad(
    lambda matrix, x: _lose(matrix, x, again), argnums=(0, 1)
  )


def _assert_close(actual, expected):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize('platform', choose.PLATFORMS)
def test_values_and_gradients_are_the_same(platform):
  arguments = _draw()
  expected = jax.jit(_differentiate(False))(*arguments)
  with choose.aim(choose.Target(platform)):
    actual = jax.jit(_differentiate(True))(*arguments)
  _assert_close(actual, expected)


def test_lanes_are_the_same():
  arguments = _draw((3,))
  expected = jax.jit(jax.vmap(_differentiate(False)))(*arguments)
  actual = jax.jit(jax.vmap(_differentiate(True)))(*arguments)
  _assert_close(actual, expected)


def _plan(function, *arguments):
  """Bytes of the arrays that XLA plans beside arguments and results."""
  compiled: Any = jax.jit(function).lower(*arguments).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_a_cpu_takes_less_memory():
  """What XLA makes of it: nothing is merged, and all waits for its turn."""
  kept, again = (_plan(_differentiate(a), *_draw()) for a in (False, True))
  image = 4 * np.prod(SIZE)
  assert kept > 20 * image  # The 24 layers.
  assert again < 14 * image  # Four inputs, and six layers of one block.


def test_a_network_takes_less_memory():
  network = skip.Skip(down=(16, 16), up=(16, 16), skip=(4, 4))
  code = jax.ShapeDtypeStruct((64, 64, 8), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), code)

  def lose(network):
    return lambda params, code: jnp.sum(jnp.square(network.apply(params, code)))

  kept, again = (
    _plan(jax.grad(lose(network.clone(remat=remat))), params, code)
    for remat in (False, True)
  )
  assert again < 0.8 * kept


def test_what_is_computed_apart_is_a_second_time():
  """XLA merges neither the two nor takes the choice between them away."""

  def compute(apart):
    def function(x, signal):
      again = recompute.compute_apart(signal, x) if apart else x
      return jnp.sort(x, axis=0), jnp.sort(again, axis=0) + signal

    x = jnp.ones((32, 4))
    compiled: Any = jax.jit(function).lower(x, x).compile()
    return compiled.as_text().count(' sort(')

  assert compute(False) == 1
  assert compute(True) == 2


@pytest.mark.parametrize('platform', choose.PLATFORMS)
def test_what_is_hidden_is_the_same_and_merged_on_a_cpu_alone(platform):
  hide = jax.jit(lambda x: recompute.hide((x, 2 * x)))
  x = jnp.arange(3.0)
  with choose.aim(choose.Target(platform)):
    once, twice = hide(x)
    barriers = hide.lower(x).as_text().count('optimization_barrier')
  np.testing.assert_array_equal(twice, 2 * once)
  assert barriers == (platform != 'cpu')
