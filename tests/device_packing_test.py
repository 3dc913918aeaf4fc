"""Packing loses nothing, and an optimiser does the same with what is packed."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dipjax.device import packing
from dipjax.networks import dncnn, pixels, skip

CODE = jnp.zeros((32, 32, 4))
NETWORKS = {
  'skip': skip.Skip(down=(8, 8), up=(8, 8), skip=(2, 0)),
  'dncnn': dncnn.DnCNN(depth=3, channels=8, residual=False),
  'pixels': pixels.Pixels(),
}


def _draw(name):
  """Parameters of a network, none of them zero."""
  init, rng = NETWORKS[name].init, np.random.default_rng(0)
  params = jax.eval_shape(init, jax.random.key(0), CODE)['params']
  draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
  return jax.tree.map(draw, params)


def _check_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('name', NETWORKS)
def test_what_is_packed_is_unpacked_as_it_was(name):
  params = _draw(name)
  _check_equal(packing.unpack(packing.pack(params)), params)


def test_lanes_are_unpacked_at_once():
  lanes = [_draw('skip'), jax.tree.map(jnp.negative, _draw('skip'))]
  packed = [packing.pack(params) for params in lanes]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *packed)
  unpacked = packing.unpack(stacked)
  for i, params in enumerate(lanes):
    _check_equal(jax.tree.map(operator.itemgetter(i), unpacked), params)
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(unpacked))


def test_a_part_keeps_its_kernels_and_one_vector():
  params = _draw('skip')
  packed = packing.pack(params)
  assert list(packed) == list(params)
  for name in ('level0', 'level1'):
    shapes = [leaf.shape for leaf in jax.tree.leaves(params[name])]
    kernels = [shape for shape in shapes if len(shape) > 1]
    vectors = sum(size for (size,) in (s for s in shapes if len(s) == 1))
    got = [leaf.shape for leaf in jax.tree.leaves(packed[name])]
    assert sorted(got) == sorted([*kernels, (vectors,)])
  assert packing.pack(_draw('pixels')).keys() == {'image'}


def test_other_numbers_stay_what_they_are():
  part = {'a': jnp.ones(2), 'b': jnp.zeros(3), 'count': jnp.arange(3)}
  packed = packing.pack({'part': part})
  assert packed['part'].vectors.shape == (5,)
  unpacked = packing.unpack(packed)['part']
  assert unpacked['count'].dtype == part['count'].dtype
  _check_equal(unpacked, part)


@pytest.mark.parametrize(
  'optimizer', [optax.adam(0.01), optax.sgd(0.1, momentum=0.9)]
)
def test_an_optimizer_moves_the_same_values_by_as_much(optimizer):
  params = _draw('skip')
  packed = packing.pack(params)
  state, packed_state = optimizer.init(params), optimizer.init(packed)
  for _ in range(3):
    gradient = jax.tree.map(jnp.sin, params)
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    updates, packed_state = optimizer.update(
      packing.pack(gradient), packed_state, packed
    )
    packed = optax.apply_updates(packed, updates)
  _check_equal(packing.unpack(packed), params)


def test_parts_are_found_by_their_names():
  network, image = _draw('skip'), _draw('pixels')['image']
  packed = packing.pack({'network': network, 'image': image})
  optimizer = optax.multi_transform(
    {'moved': optax.sgd(1.0), 'kept': optax.set_to_zero()},
    {'network': 'kept', 'image': 'moved'},
  )
  gradient = jax.tree.map(jnp.ones_like, packed)
  updates, _ = optimizer.update(gradient, optimizer.init(packed), packed)
  moved = packing.unpack(optax.apply_updates(packed, updates))
  _check_equal(moved['network'], network)
  np.testing.assert_allclose(moved['image'], image - 1)


def test_the_gradient_of_packed_parameters_is_the_packed_gradient():
  params = _draw('skip')

  def objective(params, weight):
    squares = jax.tree.map(lambda leaf: jnp.sum(weight * leaf**3), params)
    return sum(jax.tree.leaves(squares)), {'beside': weight + 1}

  plain = jax.value_and_grad(objective, has_aux=True)
  value, gradient = plain(params, 2.0)
  compute = packing.value_and_grad(objective)
  packed_value, packed_gradient = compute(packing.pack(params), 2.0)
  _check_equal(packed_value, value)
  _check_equal(packed_gradient, packing.pack(gradient))


# --- Numbers from turn to turn.


def _count(state, _):
  """A turn that reads and changes every leaf, and reports two of them."""
  after = {
    'key': jax.random.fold_in(state['key'], state['step']),
    'step': state['step'] + 1,
    'mean': 0.9 * state['mean'] + jax.random.uniform(state['key']),
    'best': jnp.maximum(state['best'], state['mean']),
    'done': state['mean'] > 3,
    'image': state['image'] + state['mean'],
    'none': None,
  }
  return after, (state['mean'], state['done'])


def _start(seed):
  return {
    'key': jax.random.key(seed),
    'step': jnp.int32(seed),
    'mean': jnp.float32(0.5),
    'best': jnp.float32(0),
    'done': jnp.array(False),
    'image': jnp.zeros((2, 3)),
    'none': None,
  }


def _unwrap(tree):
  keyed = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return jax.tree.map(
    lambda leaf: jax.random.key_data(leaf) if keyed(leaf) else leaf, tree
  )


def test_joined_numbers_are_the_same_after_many_turns():
  states = [_start(seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  run = lambda scan: jax.jit(
    jax.vmap(lambda state: scan(_count, state, length=7))
  )(stacked)
  _check_equal(*map(_unwrap, map(run, (packing.scan_joined, jax.lax.scan))))


def test_numbers_of_a_type_are_one_array_in_the_loop():
  text = str(
    jax.make_jaxpr(lambda s: packing.scan_joined(_count, s, length=2))(
      _start(0)
    )
  )
  # An image, a key, and the numbers of three types; two reports.
  assert text.count('num_carry=5') == 1
