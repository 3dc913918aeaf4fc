"""Blur of an image by a kernel, and kernels: what one bright point becomes."""

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def make_gaussian_kernel(sigma: float) -> np.ndarray:
  """Returns a round Gaussian of sum 1, [side, side], float64.

  Cut off at four standard deviations, as SciPy's `gaussian_filter`.

  Args:
    sigma: standard deviation in pixels; 0 is a point.

  Raises:
    ValueError: sigma is negative or not finite.
  """
  if not (math.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')
  if sigma == 0:
    return np.ones((1, 1))
  reach = int(4 * sigma + 0.5)
  row = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  return np.outer(row, row) / row.sum() ** 2


def make_motion_kernel(length: float, angle: float) -> np.ndarray:
  """Returns the trace of a straight motion, of sum 1, [side, side], float64.

  A line of `length` pixels through the middle, one pixel wide; a pixel's weight
  falls linearly from 1 on the line's axis to 0 at a distance of one pixel, as
  MATLAB's `fspecial('motion')`.

  Args:
    length: in pixels, at least 1, which is a point.
    angle: in degrees, counter-clockwise from the horizontal.

  Raises:
    ValueError: length under 1, or one of the two is not finite.
  """
  if not (math.isfinite(length) and length >= 1 and math.isfinite(angle)):
    raise ValueError(
      f'length must be at least 1, angle finite, got {length}, {angle}'
    )
  half = (length - 1) / 2
  reach = math.ceil(half)
  y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
  along, across = x * cos - y * sin, x * sin + y * cos
  beyond = np.maximum(np.abs(along) - half, 0)
  kernel = np.maximum(1 - np.hypot(beyond, across), 0)
  return kernel / kernel.sum()


def blur_image(image: Array, kernel: Array) -> Array:
  """Convolves each channel with a kernel; a point becomes the kernel.

  Beyond the edge the image is reflected, without repeating the edge. Linear in
  the image. By FFT, at the same cost for a kernel of any size.

  Args:
    image: [H, W, C].
    kernel: [h, w], h and w odd.

  Returns:
    [H, W, C].

  Raises:
    ValueError: an even kernel, or an image too small to be reflected.
  """
  height, width = _check_shapes(image.shape, kernel.shape)
  padded = jnp.pad(
    image, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode='reflect'
  )
  # What wraps around at the edge falls on what is cut off.
  size = padded.shape[:2]
  spectrum = jnp.fft.rfft2(padded, axes=(0, 1))
  spectrum = spectrum * jnp.fft.rfft2(kernel, size)[..., None]
  blurred = jnp.fft.irfft2(spectrum, size, axes=(0, 1))
  return blurred[height - 1 :, width - 1 :]


def _check_shapes(image, kernel):
  if len(image) != 3 or len(kernel) != 2:
    raise ValueError(
      f'blur takes an image [H, W, C] and a kernel [h, w], got {image} and '
      f'{kernel}'
    )
  if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
    raise ValueError(f'kernel sides must be odd, got {kernel}')
  if image[0] <= kernel[0] // 2 or image[1] <= kernel[1] // 2:
    raise ValueError(
      f'an image {image} is too small to be reflected by a kernel {kernel}'
    )
  return kernel
