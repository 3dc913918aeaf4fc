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


# --- The others: photons, impulses, masks, shuffles, noise alone.

IMAGE = np.random.default_rng(0).random((64, 48, 3), np.float32)
DRAWS = {
  'poisson': lambda seed: corruptions.add_poisson_noise(IMAGE, 30, seed=seed),
  'impulse': lambda seed: corruptions.add_impulse_noise(IMAGE, 0.5, seed=seed),
  'mask': lambda seed: corruptions.draw_mask((64, 48), 0.5, seed=seed),
  'shuffle': lambda seed: corruptions.shuffle_pixels(IMAGE, seed=seed),
  'noise': lambda seed: corruptions.draw_noise_image((64, 48, 3), seed=seed),
}


@pytest.mark.parametrize('draw', DRAWS.values(), ids=DRAWS)
def test_every_draw_is_float32_and_fixed_by_its_seed(draw):
  before = IMAGE.copy()
  first = draw(5)
  assert first.dtype == np.float32
  np.random.seed(0)
  np.testing.assert_array_equal(draw(5), first)
  assert np.mean(draw(6) != first) > 0.2
  np.testing.assert_array_equal(IMAGE, before)


@pytest.mark.parametrize('peak', [0.5, 10, 1000])
def test_photons_are_counted_with_their_mean_and_variance(peak):
  image = np.full((64, 64, 3), 0.4, np.float32)
  noisy = corruptions.add_poisson_noise(image, peak, seed=0, clip=False)
  counts = noisy.astype(np.float64) * peak
  np.testing.assert_allclose(counts, counts.round(), rtol=1e-5)
  # Five standard errors; the fourth moment of a Poisson is 3 m^2 + m.
  mean, count = 0.4 * peak, counts.size
  assert abs(counts.mean() - mean) < 5 * np.sqrt(mean / count)
  error = np.sqrt((2 * mean**2 + mean) / count)
  assert abs(counts.var() - mean) < 5 * error


def test_no_light_gives_no_photons_and_clipping_only_clips():
  dark = corruptions.add_poisson_noise(np.zeros((8, 8, 3)), 2, seed=0)
  np.testing.assert_array_equal(dark, np.zeros((8, 8, 3)))
  clipped, free = (
    corruptions.add_poisson_noise(IMAGE, 2, seed=0, clip=clip)
    for clip in (True, False)
  )
  assert free.max() > 1
  np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))


@pytest.mark.parametrize('fraction', [0.1, 0.5, 0.9])
def test_impulses_are_as_often_black_as_white_and_leave_the_rest(fraction):
  image = 0.25 + IMAGE / 2
  noisy = corruptions.add_impulse_noise(image, fraction, seed=0)
  black, white = noisy == 0, noisy == 1
  error = 5 * np.sqrt(fraction / image.size)
  assert abs(black.mean() - fraction / 2) < error
  assert abs(white.mean() - fraction / 2) < error
  kept = ~black & ~white
  np.testing.assert_array_equal(noisy[kept], image[kept])


def test_no_impulses_change_nothing_and_all_leave_nothing():
  none = corruptions.add_impulse_noise(IMAGE, 0, seed=0)
  np.testing.assert_array_equal(none, IMAGE)
  every = corruptions.add_impulse_noise(IMAGE, 1, seed=0)
  assert set(np.unique(every)) == {0, 1}


def test_masks_miss_their_fraction_and_grow_with_it():
  fractions = (0, 0.1, 0.5, 0.9, 1)
  masks = [corruptions.draw_mask((64, 48), f, seed=0) for f in fractions]
  for fraction, mask in zip(fractions, masks):
    assert mask.shape == (64, 48, 1)
    assert set(np.unique(mask)) <= {0, 1}
    error = 5 * np.sqrt(fraction * (1 - fraction) / mask.size)
    assert abs((1 - mask).mean() - fraction) <= error
  for more, less in zip(masks, masks[1:]):
    assert np.all(less <= more)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_shuffled_pixels_are_the_same_in_another_order(channels):
  image = np.random.default_rng(0).random((7, 9, channels), np.float32)
  shuffled = corruptions.shuffle_pixels(image, seed=0)
  assert shuffled.shape == image.shape
  sort = lambda x: sorted(map(tuple, x.reshape(-1, channels)))
  assert sort(shuffled) == sort(image)
  assert np.mean(shuffled != image) > 0.8


def test_the_noise_image_fills_the_range_evenly():
  noise = corruptions.draw_noise_image((64, 48, 3), seed=0)
  assert noise.shape == (64, 48, 3) and noise.min() >= 0 and noise.max() <= 1
  counts, _ = np.histogram(noise, bins=10, range=(0, 1))
  expected = noise.size / 10
  assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize('peak', [0, -1, np.nan, np.inf])
def test_a_bad_peak_is_refused(peak):
  with pytest.raises(ValueError, match='peak must be'):
    corruptions.add_poisson_noise(IMAGE, peak, seed=0)


@pytest.mark.parametrize('value', [-0.1, np.nan])
def test_pixels_that_hold_no_light_are_refused(value):
  with pytest.raises(ValueError, match=f'a pixel of {value}'):
    corruptions.add_poisson_noise(np.full((2, 2, 3), value), 10, seed=0)


@pytest.mark.parametrize('fraction', [-0.1, 1.1, np.nan])
def test_a_bad_fraction_is_refused(fraction):
  with pytest.raises(ValueError, match=r'in \[0, 1\], got'):
    corruptions.draw_mask((4, 4), fraction, seed=0)
  with pytest.raises(ValueError, match=r'in \[0, 1\], got'):
    corruptions.add_impulse_noise(IMAGE, fraction, seed=0)
