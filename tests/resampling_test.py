"""Reduction against the authors' numbers, and its identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dipjax import resampling

LANCZOS = [
  (name, factor) for name in ('lanczos2', 'lanczos3') for factor in (2, 4, 8)
]
each_filter = pytest.mark.parametrize('name', resampling.FILTERS)


def _draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _reduce(image, factor, name='lanczos2'):
  kernel = resampling.make_kernel(name, factor)
  return resampling.reduce_image(image, kernel, factor)


@pytest.mark.parametrize('name,factor', LANCZOS)
def test_kernels_equal_the_authors(downsampler, name, factor):
  kernel = resampling.make_kernel(name, factor)
  expected = downsampler[f'{name}_x{factor}/kernel']
  np.testing.assert_allclose(np.outer(kernel, kernel), expected, atol=1e-12)


@pytest.mark.parametrize('name,factor', LANCZOS)
def test_reduced_images_equal_the_authors(downsampler, name, factor):
  expected = downsampler[f'{name}_x{factor}/output']
  reduced = _reduce(downsampler['image'], factor, name)
  np.testing.assert_allclose(reduced, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('factor', [2, 3, 4, 7])
def test_the_bicubic_kernel_is_pillows(factor):
  row = _draw(1, 16 * factor)
  expected = Image.fromarray(np.asarray(row)).resize(
    (16, 1), Image.Resampling.BICUBIC
  )
  reduced = _reduce(row.repeat(factor, 0)[..., None], factor, 'bicubic')
  # At the edge Pillow cuts taps off.
  np.testing.assert_allclose(
    reduced[0, 2:-2, 0], np.asarray(expected)[0, 2:-2], rtol=1e-5
  )


@each_filter
@pytest.mark.parametrize('factor', [1, 2, 3, 8, np.int64(4)])
def test_kernels_are_centred_symmetric_and_sum_to_one(factor, name):
  kernel = resampling.make_kernel(name, factor)
  assert kernel.dtype == np.float64
  assert len(kernel) >= factor and (len(kernel) - factor) % 2 == 0
  np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-12)
  np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-14)


@each_filter
@pytest.mark.parametrize('factor', [2, 3])
def test_constants_are_preserved(factor, name):
  image = np.full((6, 12, 3), 0.7, np.float32)
  np.testing.assert_allclose(
    _reduce(image, factor, name),
    np.full((6 // factor, 12 // factor, 3), 0.7),
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


@each_filter
@pytest.mark.parametrize('factor', [2, 3])
def test_a_reduced_pixel_is_centred_on_its_block(factor, name):
  # A ramp stays one: inside, a pixel has the value in the block's middle.
  ramp = np.arange(16 * factor, dtype=np.float32)[:, None, None]
  reduced = _reduce(ramp.repeat(4 * factor, 1), factor, name)
  expected = np.arange(16) * factor + (factor - 1) / 2
  for column in range(4):
    np.testing.assert_allclose(
      reduced[3:-3, column, 0], expected[3:-3], rtol=1e-5
    )


@pytest.mark.parametrize('factor', [1, 2, 3])
def test_a_box_takes_the_mean_of_each_block(factor):
  image = _draw(6, 12, 3)
  kernel = resampling.make_kernel('box', factor)
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


@pytest.mark.parametrize('factor', [0, -1, 1.5, 2.0, np.nan])
def test_a_factor_that_is_no_number_of_pixels_is_refused(factor):
  with pytest.raises(ValueError, match=f'factor .*got {factor}'):
    resampling.make_kernel('lanczos2', factor)


def test_an_unknown_filter_is_refused():
  with pytest.raises(ValueError, match="'lanczos' is not one of .*bicubic"):
    resampling.make_kernel('lanczos', 2)


@pytest.mark.parametrize('height,width', [(9, 8), (8, 9), (6, 8), (1, 4)])
def test_sides_that_the_factor_does_not_divide_are_refused(height, width):
  with pytest.raises(ValueError, match=f'factor 4 .*{height}, {width}'):
    _reduce(jnp.zeros((height, width, 3)), 4)
