"""What is updated in place: the values, and the program of each device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax.conv import choose
from dipjax.device import in_place

each_platform = pytest.mark.parametrize('platform', choose.PLATFORMS)


def _move(params, moments):
  return {'x': params['x'] - moments}


def _remember(params, moments):
  return 0.5 * moments + params['x']


def _update(condition, params, moments):
  return in_place.update_in_turn(
    condition, [_move, _remember], [params, moments]
  )


@each_platform
@pytest.mark.parametrize('condition', [True, False])
def test_a_tree_is_changed_where_the_condition_holds(platform, condition):
  tree = {'a': jnp.arange(3.0), 'b': (jnp.int32(4),)}
  function = lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree)
  with choose.aim(choose.Target(platform)):
    actual = jax.jit(
      lambda condition, tree: in_place.perform_if(condition, function, tree)
    )(condition, tree)
  expected = function(tree) if condition else tree
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@each_platform
@pytest.mark.parametrize('condition', [True, False])
def test_each_tree_becomes_its_function_of_all_old_trees(platform, condition):
  params, moments = {'x': jnp.array([1.0, 2.0])}, jnp.array([3.0, 5.0])
  with choose.aim(choose.Target(platform)):
    actual = jax.jit(_update)(condition, params, moments)
  expected = [params, moments]
  if condition:
    expected = [_move(params, moments), _remember(params, moments)]
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@each_platform
def test_lanes_have_conditions_of_their_own(platform):
  params = {'x': jnp.array([1.0, 2.0])}
  moments, conditions = jnp.array([3.0, 5.0]), jnp.array([True, False])
  with choose.aim(choose.Target(platform)):
    update = jax.jit(jax.vmap(_update))
    params, moments = update(conditions, params, moments)
  np.testing.assert_array_equal(params['x'], [-2, 2])
  np.testing.assert_array_equal(moments, [2.5, 5])


@each_platform
def test_a_program_branches_on_a_gpu_and_loops_elsewhere(platform):
  def perform(condition, x):
    return in_place.perform_if(condition, lambda x: 2 * x, x)

  with choose.aim(choose.Target(platform)):
    program = jax.jit(perform).lower(True, 1.0).as_text()
  assert ('stablehlo.while' in program) == (platform != 'gpu')
  assert ('stablehlo.case' in program) == (platform == 'gpu')


def test_a_cpu_copies_neither_tree():
  """A copy would be the size of a tree, among the temporaries of XLA."""
  count = 10_000
  moments = jnp.ones(count)
  # As with Adam: the moments need no parameters.
  update = lambda condition, params, moments: in_place.update_in_turn(
    condition,
    [_move, lambda params, moments: 0.5 * moments],
    [params, moments],
  )
  with choose.aim(choose.Target('cpu')):
    compiled = (
      jax.jit(update, donate_argnums=(1, 2))
      .lower(True, {'x': jnp.ones(count)}, moments)
      .compile()
    )
  assert compiled.memory_analysis().temp_size_in_bytes < count
