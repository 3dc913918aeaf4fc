"""Scores against their closed forms and scikit-image's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import metrics as skimage_metrics

from dipjax import metrics

PSNR, SSIM = jax.jit(metrics.psnr), jax.jit(metrics.ssim)


def _draw_pair(channels, height=24, width=17):
  rng = np.random.default_rng(channels)
  clean = rng.random((height, width, channels), np.float32)
  noise = rng.normal(scale=0.1, size=clean.shape)
  return np.clip(clean + noise, 0, 1).astype(np.float32), clean


@pytest.fixture(params=['house', 'grey house', 'random', 'grey random'])
def pair(request):
  """An image and its reference, real or not, of three channels or one."""
  channels = 1 if 'grey' in request.param else 3
  if 'random' in request.param:
    return _draw_pair(channels)
  folder = request.getfixturevalue('data_dir') / 'denoise'
  return tuple(
    np.asarray(Image.open(folder / name), np.float32)[..., :channels] / 255
    for name in ('house_noisy25.png', 'house.png')
  )


def test_psnr_equals_that_of_scikit_image(pair):
  expected = skimage_metrics.peak_signal_noise_ratio(
    pair[1].astype(np.float64), pair[0].astype(np.float64), data_range=1
  )
  np.testing.assert_allclose(PSNR(*pair), expected, atol=1e-4)


def test_ssim_equals_that_of_scikit_image(pair):
  full: Any = skimage_metrics.structural_similarity(
    *(image.astype(np.float64) for image in pair),
    gaussian_weights=True,
    sigma=1.5,
    use_sample_covariance=False,
    data_range=1,
    channel_axis=-1,
    full=True,
  )
  # Only the windows that lie inside the image count.
  expected = full[1][5:-5, 5:-5].mean()
  np.testing.assert_allclose(SSIM(*pair), expected, atol=1e-4)


@pytest.mark.parametrize('error', [1.0, 0.5, 0.1, 0.01, 0.001])
def test_psnr_of_a_constant_error_is_its_size_in_decibels(error):
  image = jnp.full((4, 5, 3), error)
  np.testing.assert_allclose(
    PSNR(image, jnp.zeros_like(image)),
    -20 * np.log10(error),
    atol=1e-4,
  )


def test_psnr_averages_errors_before_the_logarithm():
  reference = jnp.zeros((2, 2, 1))
  image = reference.at[0, 0, 0].set(1)
  np.testing.assert_allclose(
    PSNR(image, reference), 10 * np.log10(4), rtol=1e-5
  )


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('score', [PSNR, SSIM])
def test_both_are_clipped(score, channels):
  image, reference = _draw_pair(channels)
  wide, wider = 3 * image - 1, 2 * reference - 0.5
  expected = score(np.clip(wide, 0, 1), np.clip(wider, 0, 1))
  np.testing.assert_allclose(score(wide, wider), expected, rtol=1e-6)
  # The clipping above did something.
  assert abs(expected - score(image, reference)) > 1e-3


@pytest.mark.parametrize('score', [PSNR, SSIM])
def test_the_order_of_the_two_does_not_matter(score):
  image, reference = _draw_pair(3)
  np.testing.assert_allclose(
    score(image, reference), score(reference, image), rtol=1e-6
  )


@pytest.mark.parametrize('score,best', [(PSNR, np.inf), (SSIM, 1)])
@pytest.mark.parametrize('channels', [1, 3])
def test_equal_images_have_the_best_score(score, best, channels):
  image, _ = _draw_pair(channels)
  np.testing.assert_allclose(score(image, image), best, rtol=1e-6)
  # Beyond the range of a file nothing differs.
  white, whiter = (np.where(image > 0.5, top, image) for top in (1, 2))
  np.testing.assert_allclose(score(whiter, white), best, rtol=1e-6)


@pytest.mark.parametrize('height,width', [(10, 11), (11, 10), (1, 64)])
def test_ssim_refuses_an_image_without_a_window(height, width):
  image = jnp.zeros((height, width, 3))
  with pytest.raises(ValueError, match=f'{height}, {width}'):
    metrics.ssim(image, image)


def test_ssim_takes_the_smallest_image():
  image, reference = _draw_pair(1, 11, 11)
  assert 0 < SSIM(image, reference) < 1


@pytest.mark.parametrize('shape', [(48,), (24, 2), (2, 4, 2, 3)])
def test_psnr_takes_measurements_of_any_shape(shape):
  a, b = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
  np.testing.assert_allclose(
    PSNR(a.reshape(shape), b.reshape(shape)), PSNR(a, b), rtol=1e-6
  )


def test_a_deviation_is_as_good_as_it_tells_the_error():
  image, reference = _draw_pair(3)
  error = np.abs(np.clip(image, 0, 1) - np.clip(reference, 0, 1))
  correlate = lambda deviation: metrics.correlate_error(
    deviation, image, reference
  )
  assert correlate(2 * error + 1) == pytest.approx(1)
  assert correlate(-error) == pytest.approx(-1)
  noise = np.random.RandomState(0).normal(size=error.shape)
  expected = np.corrcoef(noise.ravel(), error.ravel())[0, 1]
  assert correlate(noise) == pytest.approx(expected, abs=1e-5)
  with pytest.raises(ValueError, match='correlate_error of'):
    correlate(error[1:])


def test_a_deviation_is_compared_in_squares():
  """Where in a square a value is wrong does not matter, how much does."""
  levels = np.random.default_rng(0).uniform(0.01, 0.1, (2, 3))
  # Two squares by three, and pixels that fill none.
  deviation = np.zeros((11, 13, 3))
  deviation[:8, :12] = np.kron(levels, np.ones((4, 4)))[..., None]
  image, reference = np.zeros((2, 11, 13, 3))
  image[1:8:4, 2:12:4, 1] = levels * 48**0.5  # All that a square has.
  image[8:] = image[:, 12:] = 0.7
  score = lambda **options: metrics.correlate_error(
    deviation, image, reference, **options
  )
  assert score(side=4) == pytest.approx(1, abs=1e-5)
  assert score() < 0.2
  for side in (-1, 12):
    with pytest.raises(ValueError, match=f'squares of {side} pixels'):
      score(side=side)


@pytest.mark.parametrize('shape', [(4, 3, 4), (4, 4), (1, 4, 3)])
def test_psnr_of_two_shapes_is_refused(shape):
  with pytest.raises(ValueError, match='psnr of'):
    metrics.psnr(np.zeros((4, 4, 3)), np.zeros(shape))
