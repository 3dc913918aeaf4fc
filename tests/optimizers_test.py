"""Langevin noise: its size, where it goes, its key; and Muon's kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dipjax import optimizers


def _update(optimizer, params, key):
  gradient = jax.tree.map(jnp.ones_like, params)
  given = {'key': key} if key is not None else {}
  return optimizer.update(gradient, optimizer.init(params), params, **given)[0]


def test_kernels_alone_get_noise_of_twice_the_learning_rate():
  params = {'kernel': jnp.ones((3, 3, 40, 50)), 'bias': jnp.ones(50)}
  langevin = optimizers.langevin(0.01, weight_decay=0.0)
  drawn = [_update(langevin, params, jax.random.key(i)) for i in (0, 0, 1)]
  plain = _update(optax.adam(0.01), params, None)
  np.testing.assert_array_equal(drawn[0]['bias'], plain['bias'])
  noise = np.asarray(drawn[0]['kernel'] - plain['kernel'])
  assert noise.std() == pytest.approx(0.02, rel=0.03)
  assert abs(noise.mean()) < 5 * 0.02 / np.sqrt(noise.size)
  np.testing.assert_array_equal(drawn[0]['kernel'], drawn[1]['kernel'])
  assert np.all(drawn[0]['kernel'] != drawn[2]['kernel'])


def test_updates_of_kernels_are_orthogonal():
  draw = np.random.RandomState(0).normal
  params = {'kernel': jnp.zeros((3, 3, 4, 8)), 'bias': jnp.zeros(8)}
  # One direction of the gradient is a hundred times the others.
  gradient = draw(size=(36, 8)) + 100 * np.outer(draw(size=36), draw(size=8))
  gradients = {
    'kernel': jnp.float32(gradient).reshape(3, 3, 4, 8),
    'bias': jnp.float32(draw(size=8)),
  }
  known = {
    'muon': optimizers.make_optimizer('muon', 0.02),
    'adam': optax.nadam(0.02),
  }
  moved = {
    name: optimizer.update(gradients, optimizer.init(params), params)[0]
    for name, optimizer in known.items()
  }
  np.testing.assert_allclose(
    moved['muon']['bias'], moved['adam']['bias'], rtol=1e-5
  )
  find_spread = lambda kernel: np.ptp(
    np.log(np.linalg.svd(np.reshape(kernel, (36, 8)), compute_uv=False))
  )
  assert find_spread(gradients['kernel']) > np.log(50)
  assert find_spread(moved['muon']['kernel']) < np.log(3)


def test_weights_decay():
  params = {'bias': jnp.array([1.0, -1.0])}
  langevin = optimizers.langevin(0.01, weight_decay=10.0)
  moved = _update(langevin, params, jax.random.key(0))['bias']
  np.testing.assert_allclose(moved, [-0.01, 0.01], rtol=1e-3)


@pytest.mark.parametrize(
  'numbers', [(-1.0, 0.0), (np.nan, 0.0), (0.1, -1.0), (0.1, np.inf)]
)
def test_numbers_that_nothing_can_descend_with_are_refused(numbers):
  with pytest.raises(ValueError, match='must be numbers >= 0, got'):
    optimizers.make_optimizer('adam', *numbers)
