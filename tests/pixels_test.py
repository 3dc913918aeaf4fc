"""The image without a network: its one parameter is what it returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax.networks import pixels


@pytest.mark.parametrize('size', [(1, 1), (9, 14), (16, 3)])
@pytest.mark.parametrize('outputs', [1, 3, 4])
def test_the_image_is_the_only_parameter(size, outputs):
  network = pixels.Pixels(outputs=outputs)
  assert network.code_size(*size) == size
  params = network.init(jax.random.key(0), jnp.zeros((*size, 2)))['params']
  assert list(params) == ['image']
  image = np.random.default_rng(0).normal(size=(*size, outputs))
  returned = network.apply({'params': {'image': image}}, jnp.ones((*size, 2)))
  np.testing.assert_array_equal(returned, image)


def test_it_begins_as_faint_noise_fixed_by_the_key():
  code = jnp.zeros((64, 64, 2))
  draw = lambda seed: pixels.Pixels().init_with_output(
    jax.random.key(seed), code
  )[0]
  image = draw(0)
  assert image.shape == (64, 64, 3) and image.dtype == jnp.float32
  assert 0 <= image.min() < 0.001 and 0.099 < image.max() <= 0.1
  np.testing.assert_array_equal(draw(0), image)
  assert np.mean(draw(1) != image) > 0.99
