"""Langevin noise: its size, where it goes, and that its key decides it."""

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
