"""Reduction against the authors' numbers, and its identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import resampling

LANCZOS = [(lobes, factor) for lobes in (2, 3) for factor in (2, 4, 8)]


@pytest.fixture(scope='module')
def golden(data_dir):
  return np.load(data_dir / 'golden' / 'downsampler.npz')


def _draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _reduce(image, factor, lobes=2):
  kernel = resampling.make_lanczos_kernel(factor, lobes=lobes)
  return resampling.reduce_image(image, kernel, factor)


@pytest.mark.parametrize('lobes,factor', LANCZOS)
def test_kernels_equal_the_authors(golden, lobes, factor):
  kernel = resampling.make_lanczos_kernel(factor, lobes=lobes)
  expected = golden[f'lanczos{lobes}_x{factor}/kernel']
  np.testing.assert_allclose(np.outer(kernel, kernel), expected, atol=1e-12)


@pytest.mark.parametrize('lobes,factor', LANCZOS)
def test_reduced_images_equal_the_authors(golden, lobes, factor):
  expected = golden[f'lanczos{lobes}_x{factor}/output']
  reduced = _reduce(golden['image'], factor, lobes)
  np.testing.assert_allclose(reduced, expected, atol=1e-5)


@pytest.mark.parametrize('lobes', [1, 2, 3])
@pytest.mark.parametrize('factor', [1, 2, 3, 8])
def test_kernels_are_symmetric_and_sum_to_one(factor, lobes):
  kernel = resampling.make_lanczos_kernel(factor, lobes=lobes)
  assert kernel.shape == (2 * lobes * factor,) and kernel.dtype == np.float64
  np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-12)
  np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-14)


@pytest.mark.parametrize('lobes', [1, 2, 3])
@pytest.mark.parametrize('factor', [2, 4])
def test_constants_are_preserved(factor, lobes):
  image = np.full((8, 12, 3), 0.7, np.float32)
  np.testing.assert_allclose(
    _reduce(image, factor, lobes),
    np.full((8 // factor, 12 // factor, 3), 0.7),
    rtol=1e-6,
  )


def test_a_reduction_is_linear():
  a, b = _draw(8, 12, 3), _draw(8, 12, 3, seed=1)
  np.testing.assert_allclose(
    _reduce(2 * a - 3 * b, 2), 2 * _reduce(a, 2) - 3 * _reduce(b, 2), atol=1e-5
  )


@pytest.mark.parametrize(
  'turn',
  [
    lambda x: x[::-1],
    lambda x: x[:, ::-1],
    lambda x: x.swapaxes(0, 1),
    lambda x: x[..., ::-1],
    lambda x: x[..., 1:2],
  ],
  ids=['upside down', 'mirror', 'transpose', 'channels', 'one channel'],
)
def test_turning_before_equals_turning_after(turn):
  image = _draw(8, 12, 3)
  np.testing.assert_allclose(
    _reduce(turn(image), 4), turn(_reduce(image, 4)), atol=1e-6
  )


def test_a_reduced_pixel_is_centred_on_its_block():
  # A ramp stays one: inside, a pixel has the value in the block's middle.
  ramp = np.arange(32, dtype=np.float32)[:, None, None].repeat(8, 1)
  reduced = _reduce(ramp, 2)
  expected = np.arange(16) * 2 + 0.5
  for column in range(4):
    np.testing.assert_allclose(
      reduced[2:-2, column, 0], expected[2:-2], rtol=1e-5
    )


@pytest.mark.parametrize('factor', [1, 2, 3])
def test_a_box_takes_the_mean_of_each_block(factor):
  image = _draw(6, 12, 3)
  kernel = np.full(factor, 1 / factor)
  blocks = image.reshape(6 // factor, factor, 12 // factor, factor, 3)
  np.testing.assert_allclose(
    resampling.reduce_image(image, kernel, factor),
    blocks.mean((1, 3)),
    rtol=1e-6,
  )


@pytest.mark.parametrize('kernel', [[1], [0, 1, 0], [0, 0, 1, 0, 0]])
def test_factor_one_with_a_pulse_is_the_identity(kernel):
  image = _draw(5, 7, 3)
  reduced = resampling.reduce_image(image, np.array(kernel), 1)
  np.testing.assert_array_equal(reduced, image)


def test_beyond_the_edge_the_edge_is_repeated():
  image = _draw(6, 4, 1)
  previous = resampling.reduce_image(image, np.array([1, 0, 0]), 1)
  expected = np.pad(image, ((1, 0), (1, 0), (0, 0)), mode='edge')[:-1, :-1]
  np.testing.assert_array_equal(previous, expected)


@pytest.mark.parametrize('factor,lobes', [(0, 2), (-1, 2), (2, 0), (2, -3)])
def test_a_kernel_of_nothing_is_refused(factor, lobes):
  with pytest.raises(ValueError, match=f'{factor}, {lobes}'):
    resampling.make_lanczos_kernel(factor, lobes=lobes)


@pytest.mark.parametrize('height,width', [(9, 8), (8, 9), (6, 8), (1, 4)])
def test_sides_that_the_factor_does_not_divide_are_refused(height, width):
  with pytest.raises(ValueError, match=f'factor 4 .*{height}, {width}'):
    _reduce(jnp.zeros((height, width, 3)), 4)
