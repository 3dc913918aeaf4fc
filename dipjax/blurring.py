"""Blur of an image by a kernel, and the kernels.

A kernel [h, w] is the picture that the camera makes of one bright point. The
sides h and w are odd, so that a kernel has a middle pixel; the makers here give
kernels of sum 1, which keep the brightness of an image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def make_gaussian_kernel(sigma: float) -> np.ndarray:
  """Returns a round Gaussian of sum 1, [side, side], float64.

  The Gaussian is cut off at four standard deviations, as SciPy's
  `gaussian_filter` does.

  Args:
    sigma: standard deviation in pixels; 0 gives a single point.

  Raises:
    ValueError: sigma is negative or not finite.
  """
  if not (math.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')
  if sigma == 0:
    return np.ones((1, 1))
  # A round Gaussian is the outer product of a row with itself. Its tails are
  # cut off, so the kernel is divided by the sum that is left.
  reach = int(4 * sigma + 0.5)
  row = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
  return np.outer(row, row) / row.sum() ** 2


def make_motion_kernel(length: float, angle: float) -> np.ndarray:
  """Returns the trace of a straight motion, sum 1, [side, side], float64.

  The trace is a line of `length` pixels through the middle, one pixel wide. The
  weight of a pixel falls linearly from 1 on the axis of the line to 0 at a
  distance of one pixel, as in MATLAB's `fspecial('motion')`.

  Args:
    length: in pixels, at least 1; a length of 1 gives a single point.
    angle: in degrees, counter-clockwise from the horizontal.

  Raises:
    ValueError: a length under 1, or a length or angle that is not finite.
  """
  if not (math.isfinite(length) and length >= 1 and math.isfinite(angle)):
    raise ValueError(
      f'length must be at least 1, angle finite, got {length}, {angle}'
    )
  # A line between the centres of its first and last pixel is `length` pixels
  # long with the two half pixels at its ends.
  half = (length - 1) / 2
  reach = math.ceil(half)
  y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
  # Coordinates along and across the line. Rows count downwards, so y enters
  # with the sign that makes the angle counter-clockwise.
  cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
  along, across = x * cos - y * sin, x * sin + y * cos
  # The weight is 1 minus the distance to the line segment. A partial weight
  # keeps a slanted line smooth.
  beyond = np.maximum(np.abs(along) - half, 0)
  kernel = np.maximum(1 - np.hypot(beyond, across), 0)
  return kernel / kernel.sum()


def blur_image(image: Array, kernel: Array) -> Array:
  """Returns the image with each channel convolved with the kernel.

  A bright point becomes the kernel, not its mirror image. Beyond its edge the
  image is reflected without repeating the edge. The result is linear in the
  image. The convolution is an FFT, which costs nearly the same for kernels of
  all sizes.

  Args:
    image: [H, W, C].
    kernel: [h, w], h and w odd.

  Returns:
    [H, W, C].

  Raises:
    ValueError: a kernel with an even side, an image that is too small to be
      reflected, or other numbers of axes.
  """
  height, width = _check_shapes(image.shape, kernel.shape)
  # Photographs go on beyond their edge; zeros there would darken the edge.
  padded = jnp.pad(
    image, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode='reflect'
  )
  # The FFT convolves around the edge, which spoils the first h - 1 rows and
  # w - 1 columns. They are cut off: what is left has the size of the image.
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
