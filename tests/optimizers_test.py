"""Langevin noise: its size, where it goes, its key; and the steps of Muon."""

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


def test_steps_are_those_of_the_paper():
  """Jordan et al.'s, each kernel by itself and in 64 bits."""
  shapes = (3, 3, 2, 8), (1, 1, 4, 8), (3, 3, 1, 16), (3, 3, 2, 8), (1, 1, 6, 6)
  draw = np.random.RandomState(0).normal
  params = [jnp.zeros(shape) for shape in shapes]
  muon = optimizers.muon(0.5)
  state = muon.init(params)
  momenta = [np.zeros(shape).reshape(-1, shape[3]) for shape in shapes]
  for _ in range(3):
    gradients = [jnp.float32(draw(size=shape)) for shape in shapes]
    moved, state = muon.update(gradients, state, params)
    for k, gradient in enumerate(gradients):
      gradient = np.float64(gradient).reshape(-1, shapes[k][3])
      momenta[k] = 0.95 * momenta[k] + 0.05 * gradient
      x = 0.95 * momenta[k] + 0.05 * gradient
      x /= np.linalg.norm(x)
      for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
      rows, columns = x.shape
      expected = -0.5 * max(1, columns / rows) ** 0.5 * x
      np.testing.assert_allclose(
        moved[k].reshape(x.shape), expected, atol=2e-3 * abs(expected).max()
      )


def test_small_directions_of_a_kernel_stay_where_they_are():
  """Rounding leaves nothing negative, which five steps would make large."""
  draw = np.random.RandomState(1).normal
  left, right = (np.linalg.qr(draw(size=(n, 8)))[0] for n in (24, 8))
  x = jnp.float32((left * np.logspace(0, -7, 8)) @ right.T)
  moved = optimizers.orthogonalize({(24, 8): x[None]})[24, 8][0]
  values = np.diag(left.T @ np.asarray(moved) @ right)
  assert values[0] == pytest.approx(0.7, abs=0.05)
  assert np.all(values > -1e-4) and values.max() < 1.25


def test_zeros_do_not_move():
  params = {'kernel': jnp.zeros((3, 3, 2, 4)), 'bias': jnp.zeros(4)}
  muon = optimizers.muon(0.1)
  moved, _ = muon.update(params, muon.init(params), params)
  for leaf in jax.tree.leaves(moved):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.mark.parametrize('shape', [(5,), (3, 4), (2, 3, 4)])
def test_what_is_no_kernel_moves_as_by_adam(shape):
  params = {'a': jnp.zeros(shape), 'b': {'c': jnp.zeros(2)}}
  draw = np.random.RandomState(0).normal
  muon, adam = optimizers.muon(0.02), optax.nadam(0.02)
  states = muon.init(params), adam.init(params)
  for _ in range(2):
    gradients = jax.tree.map(lambda x: jnp.float32(draw(size=x.shape)), params)
    ours, first = muon.update(gradients, states[0], params)
    theirs, second = adam.update(gradients, states[1], params)
    states = first, second
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), ours, theirs
  )


def test_kernels_of_one_shape_share_their_products():
  def count(kernels):
    muon = optimizers.muon(0.1)
    params = [jnp.zeros((3, 3, 2, 4))] * kernels
    update = lambda state: muon.update(params, state, params)
    return str(jax.make_jaxpr(update)(muon.init(params))).count('dot_general')

  assert count(9) == count(1) > 2


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
