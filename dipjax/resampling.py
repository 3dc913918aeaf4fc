"""Reduction of an image by an integer factor, and its kernels.

Kernels are one-dimensional: every kernel here is the outer product of one with
itself, so that an image is filtered along its rows, then along its columns.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def make_lanczos_kernel(factor: int, lobes: int = 2) -> np.ndarray:
  """Returns the Lanczos kernel that reduces by `factor`, of sum 1.

  Taps lie half a pixel off the centre (phase 0.5), so that the reduced pixel is
  centred on its factor x factor block.

  Args:
    factor: of the reduction, at least 1.
    lobes: 2 or 3, the kernel's reach in reduced pixels.

  Returns:
    [2 * lobes * factor], float64. Source: DmitryUlyanov/deep-image-prior,
    models/downsampler.py.

  Raises:
    ValueError: factor or lobes below 1.
  """
  if factor < 1 or lobes < 1:
    raise ValueError(f'factor and lobes must be >= 1, got {factor}, {lobes}')
  taps = 2 * lobes * factor
  position = (np.arange(taps) + 0.5 - taps / 2) / factor
  kernel = np.sinc(position) * np.sinc(position / lobes)
  return kernel / kernel.sum()


def reduce_image(image: Array, kernel: np.ndarray, factor: int) -> Array:
  """Filters an image with a kernel along both axes and keeps each factor-th.

  The edge is replicated. Linear in the image.

  Args:
    image: [H, W, C], H and W multiples of the factor.
    kernel: [taps], taps - factor even.
    factor: of the reduction.

  Returns:
    [H / factor, W / factor, C].

  Raises:
    ValueError: sides that the factor does not divide, or a kernel that cannot
      be centred.
  """
  if len(kernel) < factor or (len(kernel) - factor) % 2:
    raise ValueError(
      f'a kernel of {len(kernel)} taps cannot be centred on {factor} pixels'
    )
  if image.shape[0] % factor or image.shape[1] % factor:
    raise ValueError(
      f'factor {factor} does not divide the sides of {image.shape}'
    )
  rows = _reduce_rows(image, kernel, factor)
  return _reduce_rows(rows.swapaxes(0, 1), kernel, factor).swapaxes(0, 1)


def _reduce_rows(image, kernel, factor):
  reach = (len(kernel) - factor) // 2
  padded = jnp.pad(image, ((reach, reach), (0, 0), (0, 0)), mode='edge')
  last = image.shape[0] - factor + 1
  taps = jnp.stack(
    [padded[tap : tap + last : factor] for tap in range(len(kernel))]
  )
  return jnp.tensordot(np.asarray(kernel, image.dtype), taps, axes=1)
