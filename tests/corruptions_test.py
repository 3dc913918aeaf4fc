"""Noise: the numbers of the sources, its moments, its seed."""

import numpy as np
import pytest
from PIL import Image

from dipjax import corruptions

SIGMA = 25 / 255
# The first normal numbers of NumPy's RandomState(0).
FIRST = [1.76405235, 0.40015721, 0.97873798, 2.2408932, 1.86755799, -0.97727788]


@pytest.fixture(scope='module')
def f16(data_dir):
  return np.asarray(Image.open(data_dir / 'denoise' / 'F16.png')) / 255


def _psnr(image, reference):
  return -10 * np.log10(np.mean((image.astype(np.float64) - reference) ** 2))


@pytest.mark.parametrize('seed', [0, 1])
def test_noise_on_f16_has_the_psnr_of_the_sources(f16, seed):
  noisy = corruptions.add_gaussian_noise(f16, SIGMA, seed=seed)
  # One seed differs from another by 0.003 dB (standard deviation).
  assert abs(_psnr(noisy, f16) - 20.364) < 0.01


def test_noise_on_the_crop_is_that_of_the_authors_run(f16):
  crop = f16[128:256, 192:320]
  noisy = corruptions.add_gaussian_noise(crop, SIGMA, seed=0)
  assert f'{_psnr(noisy, crop):.2f}' == '20.34'
  noise = np.random.RandomState(0).normal(scale=SIGMA, size=(128, 128, 3))
  expected = np.minimum(np.maximum(crop + noise, 0), 1)
  np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-7)


def test_noise_is_the_frozen_stream_in_the_order_of_the_array():
  image = np.full((1, 2, 3), 0.25, np.float32)
  noisy = corruptions.add_gaussian_noise(image, 0.5, seed=0, clip=False)
  np.testing.assert_allclose((noisy - 0.25).ravel() / 0.5, FIRST, rtol=1e-6)


def test_unclipped_noise_has_the_moments_asked_for():
  image = np.random.default_rng(0).random((64, 64, 3), np.float32)
  noisy = corruptions.add_gaussian_noise(image, SIGMA, seed=3, clip=False)
  noise = (noisy.astype(np.float64) - image) / SIGMA
  # Five standard errors of each estimate.
  count = noise.size
  assert abs(noise.mean()) < 5 / np.sqrt(count)
  assert abs(noise.var() - 1) < 5 * np.sqrt(2 / count)
  for axis in range(3):
    neighbours = noise * np.roll(noise, 1, axis)
    assert abs(neighbours.mean()) < 5 / np.sqrt(count)


def test_clipping_only_clips():
  image = np.random.default_rng(0).random((16, 16, 3))
  clipped, free = (
    corruptions.add_gaussian_noise(image, 0.5, seed=0, clip=clip)
    for clip in (True, False)
  )
  assert free.min() < 0 and free.max() > 1
  np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))


@pytest.mark.parametrize('clip', [True, False])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_the_result_is_float32_and_the_image_is_kept(dtype, clip):
  image = np.random.default_rng(0).random((4, 5, 1)).astype(dtype)
  before = image.copy()
  noisy = corruptions.add_gaussian_noise(image, SIGMA, seed=0, clip=clip)
  assert noisy.dtype == np.float32 and noisy.shape == image.shape
  np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize('clip', [True, False])
def test_no_noise_changes_nothing(clip):
  image = np.random.default_rng(0).random((4, 5, 3), np.float32)
  noisy = corruptions.add_gaussian_noise(image, 0, seed=0, clip=clip)
  np.testing.assert_array_equal(noisy, image)


def test_the_seed_alone_decides():
  image = np.random.default_rng(0).random((8, 8, 3), np.float32)
  draw = lambda seed: corruptions.add_gaussian_noise(image, SIGMA, seed=seed)
  first = draw(5)
  np.random.seed(0)
  np.testing.assert_array_equal(draw(5), first)
  assert np.mean(draw(6) != first) > 0.9


@pytest.mark.parametrize('sigma', [-1e-9, -1, np.nan, np.inf, -np.inf])
def test_a_bad_sigma_is_refused(sigma):
  with pytest.raises(ValueError, match='sigma must be'):
    corruptions.add_gaussian_noise(np.zeros((2, 2, 3)), sigma, seed=0)
