"""The skip network against numbers of the authors' PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from dipjax.networks import skip

# As for users, not as for the other tests, see conftest.
OPTIMISED = {'xla_backend_optimization_level': 3}
NETWORKS = {
  'skip_bilinear_reflection': skip.Skip(
    down=(8, 12), up=(8, 12), skip=(0, 4), upsampling='bilinear'
  ),
  'skip_nearest_zero': skip.Skip(
    down=(8, 8, 8),
    up=(8, 8, 8),
    skip=(4, 4, 4),
    upsampling='nearest',
    padding='zero',
  ),
}


def _loss(network, golden):
  def loss(params):
    output = network.apply({'params': params}, golden['code'])
    return jnp.mean(jnp.square(output - golden['target'])), output

  return loss


@pytest.mark.usefixtures('convolving')
@pytest.mark.parametrize('name', NETWORKS)
def test_output_and_gradients_equal_the_authors(load_golden, name):
  golden, params, expected = load_golden(name)
  step = jax.jit(
    jax.value_and_grad(_loss(NETWORKS[name], golden), has_aux=True),
    compiler_options=OPTIMISED,
  )
  (loss, output), gradients = step(params)
  np.testing.assert_allclose(output, golden['output'], rtol=0, atol=1e-5)
  np.testing.assert_allclose(loss, golden['loss'], rtol=1e-5)
  actual = traverse_util.flatten_dict(gradients, sep='/')
  expected = traverse_util.flatten_dict(expected, sep='/')
  assert actual.keys() == expected.keys()
  # What only shifts the input of a normalisation has no gradient but rounding:
  # it is held to the size of all gradients together.
  total = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
  for key, value in expected.items():
    error = np.linalg.norm(actual[key] - value)
    assert error <= 1e-4 * np.linalg.norm(value) + 1e-6 * total, key


# In float32 an activation close to zero may fall on its other side, as it did
# in another order of operations, and 20 steps of Adam then end elsewhere. In
# float64 the whole descent is that of the authors, in float32 its beginning.
@pytest.mark.parametrize('dtype,steps', [('float64', 20), ('float32', 5)])
@pytest.mark.parametrize('name', NETWORKS)
def test_adam_descends_as_the_authors(load_golden, name, dtype, steps):
  golden, params, _ = load_golden(name)
  arrays = {key: golden[key].astype(dtype) for key in ('code', 'target')}
  params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  optimizer = optax.adam(0.01)
  loss = _loss(NETWORKS[name], arrays)

  def step(carry, _):
    params, state = carry
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(params, updates), state), value

  with jax.enable_x64(dtype == 'float64'):
    descend = jax.jit(
      lambda carry: jax.lax.scan(step, carry, length=steps),
      compiler_options=OPTIMISED,
    )
    _, losses = descend((params, optimizer.init(params)))
    assert losses.dtype == dtype
  np.testing.assert_allclose(losses, golden['adam_losses'][:steps], rtol=1e-5)


@pytest.mark.parametrize(
  'network,inputs,count',
  [
    (
      skip.Skip(
        down=(8, 16, 32, 64, 128),
        up=(8, 16, 32, 64, 128),
        skip=(0, 0, 0, 4, 4),
      ),
      3,
      572_827,
    ),
    (skip.Skip(), 32, 2_217_831),
    (skip.Skip(skip=(0,) * 5), 2, 2_157_955),
    (skip.Skip(skip=(128,) * 5), 32, 3_002_627),
    (
      skip.Skip(
        down=(16, 32, 64, 128, 128, 128),
        up=(16, 32, 64, 128, 128, 128),
        skip=(0,) * 6,
        down_size=5,
        point=False,
      ),
      1,
      2_996_467,
    ),
  ],
  ids=['impedance', 'denoising', 'vase', 'kate', 'library'],
)
def test_parameter_counts_equal_the_authors(network, inputs, count):
  code = jax.ShapeDtypeStruct((192, 192, inputs), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), code)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
