"""Detail that a fit removed with the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import detail

_RNG = np.random.default_rng(0)


def _draw(*shape):
  return _RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('channels', [1, 3])
def test_pure_noise_stays_away(channels):
  image = np.full((64, 64, channels), 0.5, np.float32)
  residual = 0.1 * _draw(64, 64, channels)
  _, share = detail.return_detail(image, residual, 0.01)
  assert share.shape == (64, 64, 1)
  assert 0 <= float(share.mean()) < 0.05


def test_what_is_far_above_the_noise_comes_back_whole():
  image, residual = np.zeros((32, 32, 1), np.float32), 0.3 * _draw(32, 32, 1)
  back, share = detail.return_detail(image, residual, 1e-6)
  assert float(share.min()) > 0.999
  np.testing.assert_allclose(back, residual, atol=1e-3)


def test_the_blend_beats_the_fit_and_the_measurement():
  # A fit that lost a texture as strong as the noise.
  texture, noise = 0.1 * _draw(96, 96, 1), 0.1 * _draw(96, 96, 1)
  image, truth = np.zeros((96, 96, 1), np.float32), texture
  back, _ = detail.return_detail(image, texture + noise, 0.01)
  error = lambda x: float(np.mean((x - truth) ** 2))
  assert error(back) < 0.6 * error(image)
  assert error(back) < 0.6 * error(texture + noise)


def test_only_the_places_that_lost_detail_change():
  residual = np.zeros((80, 80, 1), np.float32)
  residual[:40] = 0.5 * _draw(40, 80, 1)
  image = np.zeros((80, 80, 1), np.float32)
  back, share = detail.return_detail(image, residual, 0.01)
  assert float(share[:30].min()) > 0.9 and float(share[50:].max()) == 0
  np.testing.assert_array_equal(back[50:], 0)


def test_a_star_comes_back_alone():
  residual = 0.1 * np.clip(_draw(40, 40, 1), -3, 3)
  residual[20, 17] = 3.0
  image = np.zeros_like(residual)
  back, share = detail.return_detail(image, residual, 0.01, points=True)
  assert float(share[20, 17, 0]) > 0.95 and float(back[20, 17, 0]) > 2.8
  _, without = detail.return_detail(image, residual, 0.01, points=False)
  assert float(without[20, 17, 0]) < 0.8
  share = np.asarray(share).copy()
  share[20, 17] = 0
  np.testing.assert_array_less(share - np.asarray(without), 1e-6)


def test_no_residual_and_no_noise_is_the_image():
  image = _draw(5, 3, 3)
  back, share = detail.return_detail(image, 0 * image, 0.0)
  np.testing.assert_array_equal(back, image)
  np.testing.assert_array_equal(share, 0)


def test_variance_by_pixel_and_lanes():
  images, residuals = _draw(2, 24, 20, 3), _draw(2, 24, 20, 3)
  variances = np.abs(_draw(2, 24, 20, 3))
  together = jax.vmap(detail.return_detail)(images, residuals, variances)
  for lane in range(2):
    alone = detail.return_detail(
      jnp.asarray(images[lane]), residuals[lane], variances[lane]
    )
    for one, other in zip(alone, together, strict=True):
      np.testing.assert_allclose(one, other[lane], rtol=1e-5, atol=1e-6)


def test_a_far_value_of_clipped_noise_is_no_star():
  image = jnp.zeros((32, 32, 1))
  # On black, noise of deviation 0.1 has 0.058 once it is clipped.
  residual = image.at[16, 16].set(0.34)
  find = lambda **given: detail.return_detail(image, residual, 0.0034, **given)
  assert find()[1][16, 16] > 0.5
  assert find(unclipped=0.01)[1].max() == 0
