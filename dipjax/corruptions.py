"""Damage to a clean image, which makes a measurement with a known truth.

Images are [H, W, C] in [0, 1]; sigma and noise have the units of the image.
NumPy's `RandomState` draws the damage, because its stream is frozen: the same
seed gives the same measurement on every machine and in every version, and the
measurement of the paper's authors where their seed is known.
"""

import numpy as np

from dipjax import units


def add_gaussian_noise(
  image: np.ndarray, sigma: float, *, seed: int, clip: bool = True
) -> np.ndarray:
  """Returns image + N(0, sigma^2), independent for each pixel and channel.

  Args:
    image: [H, W, C] in [0, 1].
    sigma: standard deviation in the units of the image (25 / 255, say).
    seed: of the noise; the same seed gives the same noise.
    clip: whether the sum is clipped to [0, 1], as a camera clips it.

  Returns:
    float32, the shape of the image.

  Raises:
    ValueError: sigma is no number in [0, 4], or the image is no floats in
      [0, 1], but for noise.
  """
  sigma = units.check_sigma(sigma)
  units.check_image(np.asarray(image), 'the image')
  # The sum is formed and clipped in float64 and rounded once, in the order of
  # the authors, so that their seed gives their measurement.
  noise = np.random.RandomState(seed).normal(scale=sigma, size=image.shape)
  noisy = image + noise
  return (np.clip(noisy, 0, 1) if clip else noisy).astype(np.float32)


def add_poisson_noise(
  image: np.ndarray, peak: float, *, seed: int, clip: bool = True
) -> np.ndarray:
  """Returns Poisson(peak * image) / peak, the noise of counted photons.

  The mean of the result, before it is clipped, is the image.

  Args:
    image: [H, W, C] in [0, 1].
    peak: photons in a pixel of value 1; fewer photons give more noise.
    seed: of the noise; the same seed gives the same noise.
    clip: whether the result is clipped to [0, 1], as a camera clips it.

  Returns:
    float32, the shape of the image.

  Raises:
    ValueError: peak is not positive and finite, or the image has values below
      0 or NaN, or is no floats in [0, 1], but for noise.
  """
  if not (np.isfinite(peak) and peak > 0):
    raise ValueError(f'peak must be a number > 0, got {peak}')
  # "Not >=" refuses NaN too, for which every comparison is false.
  if not np.min(image) >= 0:
    raise ValueError(f'no counts for a pixel of {np.min(image)}')
  units.check_image(np.asarray(image), 'the image')
  photons = np.random.RandomState(seed).poisson(peak * np.float64(image))
  noisy = np.asarray(photons / peak, np.float32)
  return np.clip(noisy, 0, 1) if clip else noisy


def add_impulse_noise(
  image: np.ndarray, fraction: float, *, seed: int
) -> np.ndarray:
  """Returns the image with some values set to 0 or 1: salt and pepper.

  Each value of each channel is replaced with probability `fraction`; 0 and 1
  are equally likely.

  Args:
    image: [H, W, C] in [0, 1].
    fraction: in [0, 1].
    seed: of the noise; the same seed gives the same noise.

  Returns:
    float32, the shape of the image.

  Raises:
    ValueError: a fraction outside of [0, 1], or an image that is no floats in
      [0, 1], but for noise.
  """
  _check_fraction(fraction)
  units.check_image(np.asarray(image), 'the image')
  # One draw decides both: below `fraction` the value is replaced, and the lower
  # half of these draws gives 1.
  chance = np.random.RandomState(seed).uniform(size=image.shape)
  noisy = np.where(chance < fraction, chance < fraction / 2, image)
  return noisy.astype(np.float32)


def draw_mask(
  size: tuple[int, int], missing_fraction: float, *, seed: int
) -> np.ndarray:
  """Returns a mask in which each pixel is missing with a given probability.

  Args:
    size: (height, width).
    missing_fraction: the probability, in [0, 1].
    seed: of the mask; with the same seed, a mask of a larger fraction misses
      every pixel that a mask of a smaller fraction misses.

  Returns:
    [height, width, 1], float32; 0 is missing, 1 is seen.

  Raises:
    ValueError: a fraction outside of [0, 1].
  """
  _check_fraction(missing_fraction)
  # A threshold on one draw nests the masks of one seed.
  chance = np.random.RandomState(seed).uniform(size=(*size, 1))
  return (chance >= missing_fraction).astype(np.float32)


def shuffle_pixels(image: np.ndarray, *, seed: int) -> np.ndarray:
  """Returns the pixels of an image [H, W, C] in a random order.

  Every pixel keeps its colour, so the values of the image stay the same; only
  the relation between neighbours is lost.
  """
  # A pixel moves as a whole: channels are not mixed.
  pixels = image.reshape(-1, image.shape[-1])
  order = np.random.RandomState(seed).permutation(len(pixels))
  return pixels[order].reshape(image.shape)


def draw_noise_image(shape: tuple[int, ...], *, seed: int) -> np.ndarray:
  """Returns an image of independent values U(0, 1), float32."""
  return np.random.RandomState(seed).uniform(size=shape).astype(np.float32)


def _check_fraction(fraction: float):
  if not 0 <= fraction <= 1:
    raise ValueError(f'a fraction lies in [0, 1], got {fraction}')
