"""The level of noise, and two measurements out of one."""

import numpy as np
import pytest

from dipjax import corruptions, noise


def _make_picture(height, width, channels=3):
  """Smooth, with an edge."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  image = 0.5 + 0.2 * np.sin(6 * x + 4 * y) + 0.2 * (x > y)
  return np.float32(image[..., None] * np.linspace(0.6, 1, channels))


@pytest.mark.parametrize('sigma', [5 / 255, 25 / 255, 50 / 255])
@pytest.mark.parametrize('shape', [(64, 96, 3), (97, 65, 1)])
def test_the_noise_of_a_picture_is_found(shape, sigma):
  noisy = corruptions.add_gaussian_noise(
    _make_picture(*shape), sigma, seed=0, clip=False
  )
  assert noise.estimate_sigma(noisy) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize('sigma', [0.02, 0.1, 0.4])
def test_the_square_of_clipped_noise(sigma):
  rng = np.random.RandomState(0)
  for level in (0.0, 0.05, 0.3, 0.97, 1.0):
    image = np.full((200, 200, 5), level)
    noisy = np.clip(image + sigma * rng.normal(size=image.shape), 0, 1)
    drawn = np.square(noisy - image)
    expected = float(noise.expect_square(image[:1], sigma))
    error = 5 * drawn.std() / np.sqrt(drawn.size)
    assert abs(expected - drawn.mean()) < error + 1e-7
  assert noise.expect_square(np.zeros(3), 0.0) == 0


@pytest.mark.parametrize('sigma', [15 / 255, 25 / 255, 50 / 255])
def test_clipped_noise_is_found_as_it_was_before(sigma):
  image = 1.5 * _make_picture(96, 128) - 0.4
  noisy = corruptions.add_gaussian_noise(np.clip(image, 0, 1), sigma, seed=0)
  assert 0.05 < np.mean((noisy == 0) | (noisy == 1)) < 0.5
  assert noise.estimate_sigma(noisy) == pytest.approx(sigma, rel=0.12)


def test_where_nearly_all_is_clipped_all_counts():
  drawn = np.random.RandomState(0).normal(0.5, 5, (64, 64, 1))
  noisy = np.clip(drawn, 0, 1)
  assert 0.3 < noise.estimate_sigma(noisy) < 0.8


@pytest.mark.parametrize('sigma', [0.02, 0.1, 0.4])
def test_the_mean_and_the_variance_of_clipped_noise(sigma):
  rng = np.random.RandomState(0)
  for level in (0.0, 0.05, 0.3, 0.97, 1.0):
    drawn = np.clip(level + sigma * rng.normal(size=10**6), 0, 1)
    expected = float(noise.expect_clipped(np.float32(level), sigma))
    error = 5 * drawn.std() / 1000
    assert abs(expected - drawn.mean()) < error + 1e-6
    variance = float(noise.expect_variance(np.float32(level), sigma))
    assert variance == pytest.approx(drawn.var(), rel=0.01, abs=1e-8)


def test_missing_pixels_do_not_count():
  noisy = corruptions.add_gaussian_noise(
    _make_picture(64, 64), 0.1, seed=0, clip=False
  )
  noisy[:40] = 0
  assert noise.estimate_sigma(noisy) == pytest.approx(0.1, rel=0.15)
  assert noise.estimate_sigma(np.zeros((9, 9, 1))) == 0


def test_it_scales_with_the_contrast_and_ignores_gradients():
  drawn = np.random.RandomState(0).normal(size=(40, 50, 1))
  sigma = noise.estimate_sigma(drawn)
  assert noise.estimate_sigma(3 * drawn) == pytest.approx(3 * sigma)
  y, x = np.mgrid[:40, :50]
  slope = (2 * x + 5 * y + 0.1 * x * y + 7)[..., None]
  assert noise.estimate_sigma(drawn + slope) == pytest.approx(sigma)


@pytest.mark.parametrize('name', ['astronaut', 'coffee', 'chelsea'])
@pytest.mark.parametrize('sigma', [15 / 255, 25 / 255])
def test_it_equals_that_of_scikit_image_on_photographs(name, sigma):
  pytest.importorskip('pywt')
  skimage = pytest.importorskip('skimage')
  photograph = getattr(skimage.data, name)()[:200, :256] / 255
  noisy = corruptions.add_gaussian_noise(photograph, sigma, seed=0, clip=False)
  expected = skimage.restoration.estimate_sigma(
    noisy, channel_axis=-1, average_sigmas=True
  )
  found = noise.estimate_by_wavelets(noisy)
  assert found == pytest.approx(expected, rel=0.02)
  # The texture of coffee raises it; the model leaves the texture out.
  assert noise.estimate_sigma(noisy) == pytest.approx(sigma, rel=0.05)


def test_the_two_halves_have_independent_noises_of_the_known_sizes():
  sigma, tau = 0.1, 0.5
  own = sigma * np.random.RandomState(1).normal(size=(200, 200, 1))
  model = noise.Model.make_white(sigma)
  first, second = noise.split_measurement(own, model, tau=tau, seed=2)
  assert first.dtype == second.dtype == np.float32
  size = own.size
  products = np.mean(first * second)
  deviations = sigma * np.sqrt([1 + tau**2, 1 + tau**-2])
  assert abs(products) < 5 * np.prod(deviations) / np.sqrt(size)
  np.testing.assert_allclose(
    [first.std(), second.std()], deviations, rtol=5 / np.sqrt(2 * size)
  )
  # Together they are the measurement again.
  whole = (first + tau**2 * second) / (1 + tau**2)
  np.testing.assert_allclose(whole, own, atol=1e-6)
  again = noise.split_measurement(own, model, tau=tau, seed=2)
  np.testing.assert_array_equal(again, (first, second))


def test_noise_that_neighbours_share_is_split_too():
  tau, shape = 0.5, (200, 200, 1)
  model = noise.Model.make_white(0.1)
  apart = np.abs(np.arange(9) - 4)
  model = model.replace(correlation=0.6 ** np.add.outer(apart, apart))
  own = model.draw(np.zeros(shape), np.random.RandomState(1))
  first, second = noise.split_measurement(own, model, tau=tau, seed=2)
  deviations = 0.1 * np.sqrt([1 + tau**2, 1 + tau**-2])
  # White noise in its place would leave 0.6 of the variance between neighbours.
  for lag in range(4):
    right = np.mean(first[:, lag:] * second[:, : 200 - lag])
    below = np.mean(first[lag:] * second[: 200 - lag])
    assert abs(right) < 0.04 * np.prod(deviations)
    assert abs(below) < 0.04 * np.prod(deviations)


def test_a_larger_measurement_takes_less_of_the_noise():
  taus = [noise.choose_tau(16**k) for k in (1, 2, 3, 4)]
  np.testing.assert_allclose(np.divide(taus[:-1], taus[1:]), 2)
  assert noise.choose_tau(3 * 128**2) == pytest.approx(0.16, abs=0.005)


def _split(tau):
  model = noise.Model.make_white(0.1)
  return noise.split_measurement(np.ones(3), model, tau=tau, seed=0)


@pytest.mark.parametrize(
  'call,message',
  [
    (lambda: noise.estimate_sigma(np.zeros((7, 9, 3))), r'\(7, 9, 3\)'),
    (lambda: noise.estimate_sigma(np.zeros((9, 9))), r'\(9, 9\)'),
    (lambda: _split(tau=0.0), 'tau .*0'),
    (lambda: _split(tau=np.inf), 'tau .*inf'),
  ],
)
def test_bad_arguments_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
