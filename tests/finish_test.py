"""What follows a fit whose noise is known."""

import numpy as np
import pytest
from scipy import ndimage

from dipjax import finish, metrics, noise, wiener

_RNG = np.random.default_rng(0)


def _make(size=64, sigma=0.1, channels=3):
  """A picture of edges and waves, the same with clipped noise, and a pilot."""
  y, x = np.mgrid[:size, :size] / size
  waves = 0.5 + 0.3 * np.sin(40 * x) * (y > 0.5) + 0.15 * (x > 0.4)
  clean = np.float32(np.stack([waves] * channels, -1))
  noisy = clean + sigma * _RNG.standard_normal(clean.shape)
  noisy = np.float32(np.clip(noisy, 0, 1))
  # A fit that has lost a part of the detail.
  pilot = np.float32(ndimage.gaussian_filter(noisy, (1, 1, 0)))
  return clean, noisy, pilot


@pytest.mark.parametrize('channels', [1, 3])
def test_the_image_is_better_than_the_fits(channels):
  clean, noisy, pilot = _make(channels=channels)
  model = noise.Model.make_white(0.1, clipped=True)
  image, share = finish.finish(pilot, noisy, model)
  assert image.shape == clean.shape and share.shape == (64, 64, 1)
  assert image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
  gain = metrics.psnr(image, clean) - metrics.psnr(pilot, clean)
  assert float(gain) > 0.5


def test_a_picture_with_little_noise_does_not_get_worse():
  clean, noisy, _ = _make(sigma=0.004)
  pilot = np.float32(ndimage.gaussian_filter(clean, (1, 1, 0)))
  model = noise.Model.make_white(0.004, clipped=True)
  image, share = finish.finish(pilot, noisy, model)
  assert metrics.psnr(image, clean) > metrics.psnr(noisy, clean) - 0.1
  assert metrics.psnr(pilot, clean) < metrics.psnr(noisy, clean) - 3
  assert share.max() > 0.5


def test_a_tiny_picture_and_noise_by_brightness():
  model = noise.Model(
    sigma=0.1, constant=0.001, least=0.001, gain=0.02, error=0.0
  )
  image = np.float32(_RNG.random((5, 7, 1)))
  finished, _ = finish.finish(image, image, model)
  np.testing.assert_allclose(finished, image, atol=1e-6)


def test_the_same_program_serves_other_levels():
  _, noisy, pilot = _make(size=16)
  programs = finish._find_sigma, wiener._filter_tile, finish._return_detail
  count = lambda: np.array([each._cache_size() for each in programs])
  before = count()
  for sigma in (0.05, 0.1, 0.2):
    model = noise.Model.make_white(sigma)
    finish.finish(pilot, noisy, model, parts=(0.7, 1.0))
  assert (count() <= before + 1).all()


def test_the_deviation_of_seeds_is_of_them_and_of_what_followed():
  image = _RNG.random((12, 14, 3)).astype(np.float32)
  images = np.stack([image + 0.1, image - 0.1])
  found = finish.find_deviation(images, image)
  assert found.shape == image.shape
  np.testing.assert_allclose(found, 0.1, rtol=1e-5)
  # A change after the fit, of 0.3 in one of three channels.
  changed = image + np.float32([0.3, 0, 0])
  found = finish.find_deviation(images, changed)
  expected = np.float32([(0.1**2 + 0.3**2) ** 0.5, 0.1, 0.1])
  np.testing.assert_allclose(
    found, np.broadcast_to(expected, image.shape), rtol=1e-5
  )


@pytest.mark.parametrize('clipped', [False, True])
def test_where_the_noise_is_known_the_deviation_is_of_the_errors_size(clipped):
  """The seeds agree, and err in the same way; 1.5 on 2026-11-27."""
  clean, noisy, pilot = _make()
  model = noise.Model.make_white(0.1, clipped=clipped)
  image, _ = finish.finish(pilot, noisy, model)
  images = np.stack([image, image])
  np.testing.assert_array_equal(finish.find_deviation(images, image), 0)
  found = finish.find_deviation(images, image, model)
  size = lambda x: np.sqrt(np.mean(np.square(x)))
  assert 0.5 < size(image - clean) / size(found) < 2


def test_the_deviation_of_a_point_is_shared_with_its_neighbours():
  images = np.zeros((2, 11, 11, 1), np.float32)
  images[0, 5, 5], images[1, 5, 5] = 1, -1
  found = finish.find_deviation(images, images[0] * 0)[..., 0]
  expected = np.zeros((11, 11))
  expected[3:8, 3:8] = 0.2
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_second_pass_has_the_filtered_image_as_its_pilot():
  _, noisy, pilot = _make(size=32)
  noisy, pilot = noisy + 0.5, pilot + 0.5  # Far from where it is clipped.
  model = noise.Model.make_white(0.1)
  once = wiener.refine(noisy, pilot, 0.1)
  twice = wiener.refine(noisy, once, 0.1, part=1.0)
  image, _ = finish.finish(pilot, noisy, model, parts=(0.7, 1.0))
  expected, _ = finish.finish(twice, noisy, model, parts=())
  np.testing.assert_allclose(image, expected, atol=1e-5)
  assert np.abs(image - finish.finish(pilot, noisy, model)[0]).max() > 0.01
