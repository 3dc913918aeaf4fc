"""Input codes: ranges, moments, coordinates, keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import codes

SIZE = (48, 32)


@pytest.mark.parametrize('scale', [0.1, 1.0, 3.0])
def test_uniform_noise_fills_its_range(scale):
  code = codes.draw_uniform_noise(jax.random.key(0), SIZE, 4, scale=scale)
  assert code.shape == (*SIZE, 4) and code.dtype == jnp.float32
  unit = np.asarray(code, np.float64) / scale
  assert 0 <= unit.min() < 0.01 and 0.99 < unit.max() <= 1
  # Five standard errors of each estimate.
  assert abs(unit.mean() - 1 / 2) < 5 / np.sqrt(12 * unit.size)
  assert abs(unit.var() - 1 / 12) < 5 / np.sqrt(180 * unit.size)


def test_uniform_noise_is_a_tenth_by_default():
  draw = lambda **options: codes.draw_uniform_noise(
    jax.random.key(1), (3, 5), 2, **options
  )
  np.testing.assert_allclose(draw(), draw(scale=1.0) / 10, rtol=1e-6)


def test_a_meshgrid_is_x_then_y_from_edge_to_edge():
  grid = codes.make_meshgrid((5, 9))
  assert grid.shape == (5, 9, 2) and grid.dtype == jnp.float32
  for row in range(5):
    for column in range(9):
      np.testing.assert_allclose(
        grid[row, column], [column / 8, row / 4], atol=1e-6
      )


def test_a_meshgrid_transposes_with_its_axes():
  wide, high = codes.make_meshgrid((4, 7)), codes.make_meshgrid((7, 4))
  np.testing.assert_allclose(wide, high.transpose(1, 0, 2)[..., ::-1])


def test_jitter_is_normal_of_the_deviation_asked_for():
  code = jax.random.uniform(jax.random.key(0), (*SIZE, 4))
  noise = codes.jitter_code(jax.random.key(1), code, 1 / 30) - code
  unit = 30 * np.asarray(noise, np.float64)
  assert noise.dtype == jnp.float32
  assert abs(unit.mean()) < 5 / np.sqrt(unit.size)
  assert abs(unit.var() - 1) < 5 * np.sqrt(2 / unit.size)
  assert abs((unit**4).mean() - 3) < 5 * np.sqrt(96 / unit.size)


def test_no_jitter_changes_nothing():
  code = jax.random.uniform(jax.random.key(0), (4, 5, 2))
  for deviation in (0, 0.0, jnp.array(0.0)):
    jittered = codes.jitter_code(jax.random.key(1), code, deviation)
    np.testing.assert_array_equal(jittered, code)


def test_jitter_may_differ_from_lane_to_lane():
  code, key = jnp.zeros((4, 5, 2)), jax.random.key(1)
  deviations = jnp.array([0.0, 0.5, 2.0])
  lanes = jax.vmap(lambda d: codes.jitter_code(key, code, d))(deviations)
  unit = codes.jitter_code(key, code, 1.0)
  expected = jnp.stack([d * unit for d in deviations])
  np.testing.assert_allclose(lanes, expected, rtol=1e-6)


@pytest.mark.parametrize(
  'draw',
  [
    lambda key: codes.draw_uniform_noise(key, (4, 5), 2),
    lambda key: codes.jitter_code(key, jnp.zeros((4, 5, 2)), 1.0),
  ],
  ids=['uniform', 'jitter'],
)
def test_the_key_alone_decides(draw):
  first = draw(jax.random.key(3))
  np.testing.assert_array_equal(draw(jax.random.key(3)), first)
  assert (draw(jax.random.key(4)) != first).all()


@pytest.mark.parametrize('channels', [0, -1])
def test_a_code_without_channels_is_refused(channels):
  with pytest.raises(ValueError, match='channels >= 1, got'):
    codes.UniformNoise(channels)
