"""Other units than that of an image are refused, noise of any size is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import corruptions, metrics, operators, units

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
WAVES = [0.5 + 0.4 * np.sin(6 * X), 0.3 + 0.5 * Y, 0.5 + 0.3 * np.cos(5 * X)]
PHOTO = np.clip(np.stack(WAVES, axis=-1), 0, 1)
BLACK, WHITE = np.zeros_like(PHOTO), np.ones_like(PHOTO)
RANDOM = np.random.RandomState(0)
STARS = BLACK.copy()
STARS[RANDOM.randint(HEIGHT, size=9), RANDOM.randint(WIDTH, size=9)] = 1
SCENES = {'photo': PHOTO, 'black': BLACK, 'white': WHITE, 'stars': STARS}
SEEN = RANDOM.uniform(size=(HEIGHT, WIDTH, 1)) < 0.3

NOISES = {
  **{
    f'Gaussian {sigma}': lambda image, sigma=sigma: (
      image + RANDOM.normal(scale=sigma, size=image.shape)
    )
    for sigma in (0.05, 0.3, 1.0, 2.0)
  },
  **{
    f'{peak} photons': lambda image, peak=peak: (
      RANDOM.poisson(peak * image) / peak
    )
    for peak in (0.3, 1, 10)
  },
  'Laplacian': lambda image: (
    image + RANDOM.laplace(scale=0.3, size=image.shape)
  ),
  'speckle': lambda image: image * RANDOM.exponential(size=image.shape),
  'impulses': lambda image: corruptions.add_impulse_noise(image, 0.3, seed=0),
  'blotches': lambda image: (
    image
    + 0.1
    * np.kron(
      RANDOM.normal(size=(HEIGHT // 8, WIDTH // 8, 3)), np.ones((8, 8, 1))
    )
  ),
}
UNITS = {
  '255': (lambda image: 255 * image, 'divide it by 255'),
  '65535': (lambda image: 65535 * image, 'divide it by 65535'),
  '12 bits': (lambda image: 4095 * image, 'divide it by the value of white'),
  'counts': (lambda image: RANDOM.poisson(100 * image) / 1.0, 'divide it by'),
  'few counts': (lambda image: RANDOM.poisson(8 * image) / 1.0, 'divide it by'),
  'signed': (lambda image: 2 * image - 1, r'\(1 \+ y\) / 2'),
}


@pytest.mark.parametrize('noise', NOISES.values(), ids=NOISES)
@pytest.mark.parametrize('scene', SCENES.values(), ids=SCENES)
def test_noise_is_no_other_unit(scene, noise):
  noisy = noise(scene)
  units.check_image(noisy, 'it')
  units.check_image(noisy * SEEN, 'it', SEEN)
  units.check_image(noisy.reshape(-1, 3)[RANDOM.permutation(X.size)], 'it')
  units.check_image(noisy[:5, :3], 'it')


@pytest.mark.parametrize('change,advice', UNITS.values(), ids=UNITS)
@pytest.mark.parametrize('sigma', [0, 0.1])
def test_another_unit_is_refused_with_the_way_out(sigma, change, advice):
  image = np.clip(PHOTO + RANDOM.normal(scale=sigma, size=PHOTO.shape), 0, 1)
  # Noise and the picture's own range leave the maximum near what white is.
  measured = change(image)
  for part, seen in ((measured, True), (measured * SEEN, SEEN)):
    with pytest.raises(ValueError, match=f'^it is floats of .*{advice}'):
      units.check_image(part, 'it', seen)


@pytest.mark.parametrize('white', [255, 65535])
def test_a_few_bright_points_tell_the_unit(white):
  with pytest.raises(ValueError, match=f'divide it by {white}$'):
    units.check_image(white * STARS, 'it')


def test_what_is_not_seen_is_not_looked_at():
  units.check_image(np.where(SEEN, PHOTO, 1e6), 'it', SEEN)
  units.check_image(np.full((2, 3), 255.0), 'it', np.False_)
  units.check_image(np.array(0.5), 'it')


@pytest.mark.parametrize(
  'array,advice',
  [
    (np.zeros(3, np.uint8), 'uint8: divide it by 255$'),
    (np.zeros(3, np.uint16), 'uint16: divide it by 65535$'),
    (np.zeros(3, int), 'int64: divide it by the value of white'),
    (np.zeros(3, bool), 'bool: make it floats'),
    (np.zeros(3, complex), 'real and imaginary parts'),
    (np.array(['a']), 'make it floats'),
    (np.ma.masked_array(np.zeros(3), mask=[0, 1, 0]), 'a masked array: .*fill'),
  ],
)
def test_types_that_are_no_floats_are_refused(array, advice):
  with pytest.raises(ValueError, match=advice):
    units.check_floats(array, 'it')


@pytest.mark.parametrize('dtype', [np.float16, np.float64, jnp.bfloat16])
def test_floats_of_any_length_are_taken(dtype):
  units.check_floats(np.zeros(3, dtype), 'it')


@pytest.mark.parametrize(
  'sigma', [-1, np.nan, np.inf, '0.1', None, True, [0.1], 1j]
)
def test_sigma_is_a_number(sigma):
  with pytest.raises(ValueError, match='sigma must be a number >= 0, got'):
    units.check_sigma(sigma)


def test_sigma_has_the_unit_of_the_image():
  assert units.check_sigma(np.float32(0.5)) == 0.5
  assert units.check_sigma(4) == 4
  assert units.check_sigma(jnp.float32(0.5)) == 0.5
  for sigma in (5, 25, 25.0):
    with pytest.raises(ValueError, match=f'got {sigma:g}: divide it by .*255'):
      units.check_sigma(sigma)
    assert units.check_sigma(sigma, of_image=False) == sigma


DAMAGES = {
  'Gaussian': lambda image: corruptions.add_gaussian_noise(image, 0.1, seed=0),
  'Poisson': lambda image: corruptions.add_poisson_noise(image, 30, seed=0),
  'impulses': lambda image: corruptions.add_impulse_noise(image, 0.1, seed=0),
  'psnr': lambda image: metrics.psnr(PHOTO, image),
  'psnr_y': lambda image: metrics.psnr_y(PHOTO, image, shave=1),
  'ssim': lambda image: metrics.ssim(PHOTO, image),
}


@pytest.mark.parametrize('function', DAMAGES.values(), ids=DAMAGES)
def test_functions_of_an_image_refuse_another_unit(function):
  for image in (255 * PHOTO, np.uint8(255 * PHOTO)):
    with pytest.raises(ValueError, match='divide it by'):
      function(image)
  function(PHOTO)


def test_a_sigma_of_another_unit_adds_no_noise():
  with pytest.raises(ValueError, match='sigma .* at most 4, got 25'):
    corruptions.add_gaussian_noise(PHOTO, 25, seed=0)


def test_a_score_takes_any_measurement_and_what_jax_traces():
  spectrum = np.stack([Y, X]) * 1e4
  assert metrics.psnr(spectrum, spectrum) == np.inf
  assert jax.jit(metrics.psnr)(PHOTO, 255 * PHOTO) < 20


@pytest.mark.parametrize(
  'make,advice',
  [
    (lambda: operators.make_mask(np.uint8(255 * SEEN)), 'mask > 127'),
    (lambda: operators.make_mask(255.0 * SEEN), 'divide it by'),
    (lambda: operators.make_blur(np.eye(3, dtype=np.uint8)), 'astype'),
  ],
)
def test_masks_and_kernels_of_another_unit_are_refused(make, advice):
  with pytest.raises(ValueError, match=advice):
    make()
