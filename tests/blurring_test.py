"""Blur: kernels, SciPy's numbers, and the identities of a convolution."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from dipjax import blurring


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def _draw_pulse(height, width):
  image = np.zeros((height, width, 1), np.float32)
  image[height // 2, width // 2] = 1
  return image


@pytest.mark.parametrize('sides', [(1, 1), (3, 3), (5, 3), (1, 7), (9, 9)])
@pytest.mark.parametrize('size', [(8, 9), (17, 5), (16, 16)])
def test_a_blur_equals_scipys(size, sides):
  image, kernel = _draw(*size, 3), _draw(*sides, seed=1) - 0.3
  expected = ndimage.convolve(
    image.astype(np.float64), kernel[..., None], mode='mirror'
  )
  blurred = blurring.blur_image(image, kernel)
  assert blurred.dtype == jnp.float32
  np.testing.assert_allclose(blurred, expected, atol=1e-5)


@pytest.mark.parametrize('sides', [(3, 3), (5, 3), (1, 7)])
def test_a_point_becomes_the_kernel(sides):
  kernel = _draw(*sides)
  blurred = blurring.blur_image(_draw_pulse(17, 17), kernel)
  expected = np.zeros((17, 17))
  top, left = (8 - side // 2 for side in sides)
  expected[top : top + sides[0], left : left + sides[1]] = kernel
  np.testing.assert_allclose(blurred[..., 0], expected, atol=1e-6)


def test_an_outer_product_is_a_column_then_a_row():
  image, column, row = _draw(12, 10, 3), _draw(5, 1), _draw(1, 7)
  np.testing.assert_allclose(
    blurring.blur_image(image, column * row),
    blurring.blur_image(blurring.blur_image(image, column), row),
    rtol=1e-5,
  )


def test_what_does_not_reach_further_is_not_blurred_further():
  image = _draw(12, 10, 1)
  changed = image.copy()
  changed[4, 4] += 1
  kernel = np.ones((3, 5), np.float32)
  difference = blurring.blur_image(changed, kernel) - blurring.blur_image(
    image, kernel
  )
  expected = np.zeros((12, 10, 1))
  expected[3:6, 2:7] = 1
  np.testing.assert_allclose(difference, expected, atol=1e-5)


@pytest.mark.parametrize('sigma', [0.3, 1, 1.7, 2.1, 5])
def test_a_gaussian_is_round_and_has_its_deviation(sigma):
  kernel = blurring.make_gaussian_kernel(sigma)
  assert kernel.dtype == np.float64 and kernel.shape[0] % 2
  np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-12)
  for turned in (kernel.T, kernel[::-1], kernel[:, ::-1]):
    np.testing.assert_allclose(kernel, turned, atol=1e-16)
  pulse = np.zeros((kernel.shape[0],) * 2)
  pulse[kernel.shape[0] // 2, kernel.shape[0] // 2] = 1
  expected = ndimage.gaussian_filter(pulse, sigma)
  np.testing.assert_allclose(kernel, expected, atol=1e-12)


def test_the_variances_of_gaussians_add_up():
  image = _draw(40, 40, 1)
  blur = lambda x, sigma: blurring.blur_image(
    x, blurring.make_gaussian_kernel(sigma)
  )
  np.testing.assert_allclose(blur(blur(image, 3), 4), blur(image, 5), atol=2e-3)


@pytest.mark.parametrize('length', [1, 2, 3.5, 4, 9])
@pytest.mark.parametrize('angle', [-30, 0, 20, 45, 90, 200])
def test_a_motion_passes_through_the_middle_and_sums_to_one(length, angle):
  kernel = blurring.make_motion_kernel(length, angle)
  assert kernel.dtype == np.float64 and kernel.shape[0] % 2
  np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-12)
  assert kernel.min() >= 0
  # There and back is the same trace.
  np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
  np.testing.assert_allclose(
    kernel, blurring.make_motion_kernel(length, angle + 180), atol=1e-12
  )


@pytest.mark.parametrize('angle', [0, 20, 45, 70])
def test_a_quarter_turn_of_the_motion_turns_the_kernel(angle):
  np.testing.assert_allclose(
    np.rot90(blurring.make_motion_kernel(7, angle)),
    blurring.make_motion_kernel(7, angle + 90),
    atol=1e-12,
  )


def test_a_horizontal_motion_is_a_row():
  kernel = blurring.make_motion_kernel(5, 0)
  expected = np.zeros((5, 5))
  expected[2] = 0.2
  np.testing.assert_allclose(kernel, expected, atol=1e-12)
  even = blurring.make_motion_kernel(4, 0)[2]
  np.testing.assert_allclose(even, [0.125, 0.25, 0.25, 0.25, 0.125])


def test_a_motion_goes_up_to_the_right():
  kernel = blurring.make_motion_kernel(9, 30)
  assert kernel[:4, 5:].sum() > 0.3 and kernel[:4, :4].sum() < 1e-6


@pytest.mark.parametrize('sigma', [-1, np.nan, np.inf])
def test_a_bad_sigma_is_refused(sigma):
  with pytest.raises(ValueError, match='sigma must be'):
    blurring.make_gaussian_kernel(sigma)


@pytest.mark.parametrize(
  'length,angle',
  [(0.5, 0), (0, 0), (-3, 0), (np.nan, 0), (np.inf, 0), (5, np.nan)],
)
def test_a_bad_motion_is_refused(length, angle):
  with pytest.raises(ValueError, match='length must be'):
    blurring.make_motion_kernel(length, angle)


@pytest.mark.parametrize(
  'image,kernel,says',
  [
    ((8, 8, 3), (2, 3), 'odd'),
    ((8, 8, 3), (3, 2), 'odd'),
    ((8, 8), (3, 3), r'\[H, W, C\]'),
    ((8, 8, 3), (3,), r'\[h, w\]'),
    ((3, 8, 3), (7, 1), 'too small'),
    ((8, 3, 3), (1, 7), 'too small'),
  ],
)
def test_shapes_that_do_not_fit_are_refused(image, kernel, says):
  with pytest.raises(ValueError, match=says):
    blurring.blur_image(jnp.zeros(image), jnp.zeros(kernel))
