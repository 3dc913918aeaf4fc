"""Reduction of an image by an integer factor, and the kernels for it.

The filter of a reduction is the outer product of a one-dimensional kernel
[taps] with itself, so an image is filtered along one axis, then along the
other. x is a distance in pixels of the reduced image; a tap is a pixel of the
image before the reduction.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def _box(x: np.ndarray) -> np.ndarray:
  return np.ones_like(x)


def _bicubic(x: np.ndarray) -> np.ndarray:
  """Returns Keys' cubic with a = -1/2, as in Pillow and MATLAB's imresize."""
  x = np.abs(x)
  inner = (1.5 * x - 2.5) * x**2 + 1
  outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x < 1, inner, outer)


def _lanczos2(x: np.ndarray) -> np.ndarray:
  return np.sinc(x) * np.sinc(x / 2)


def _lanczos3(x: np.ndarray) -> np.ndarray:
  return np.sinc(x) * np.sinc(x / 3)


# Each filter by its name: how far it reaches on each side, in reduced pixels,
# and its value at x.
FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
  'box': (0.5, _box),
  'bicubic': (2, _bicubic),
  'lanczos2': (2, _lanczos2),
  'lanczos3': (3, _lanczos3),
}


def make_kernel(name: str, factor: int) -> np.ndarray:
  """Returns the kernel of a filter that reduces by `factor`, of sum 1.

  A reduced pixel lies in the middle of its block of factor x factor pixels, and
  so does the middle of the kernel: between two taps where the factor is even
  (the authors' phase 0.5), on a tap where the factor is odd. A factor of 1
  gives a pulse, the identity.

  Args:
    name: the filter, 'lanczos2', 'lanczos3', 'bicubic' or 'box'.
    factor: of the reduction, an integer of at least 1.

  Returns:
    [taps], float64; taps - factor is even. Lanczos is that of
    DmitryUlyanov/deep-image-prior, models/downsampler.py.

  Raises:
    ValueError: an unknown filter, or a factor that is not an integer >= 1.
  """
  if name not in FILTERS:
    raise ValueError(f'filter {name!r} is not one of {", ".join(FILTERS)}')
  if not isinstance(factor, int | np.integer) or factor < 1:
    raise ValueError(f'factor must be an integer >= 1, got {factor}')
  # The filter is as wide as `factor` pixels for each reduced pixel: it removes
  # the frequencies that the reduced image would show as aliases.
  reach, value = FILTERS[name]
  taps = round(2 * reach * factor)
  # Only a kernel as even or odd as the factor can be centred on a block.
  taps -= (taps - factor) % 2
  # The samples of a filter do not sum to 1 by themselves, and a flat image must
  # keep its brightness.
  kernel = value((np.arange(taps) - (taps - 1) / 2) / factor)
  return kernel / kernel.sum()


def reduce_image(image: Array, kernel: np.ndarray, factor: int) -> Array:
  """Returns the image filtered along both axes, with every factor-th pixel.

  Beyond its edge the image repeats the edge. The result is linear in the image.

  Args:
    image: [H, W, C], H and W multiples of the factor.
    kernel: [taps], taps - factor even.
    factor: of the reduction.

  Returns:
    [H / factor, W / factor, C].

  Raises:
    ValueError: a side that the factor does not divide, or a kernel that cannot
      be centred on a block.
  """
  if len(kernel) < factor or (len(kernel) - factor) % 2:
    raise ValueError(
      f'a kernel of {len(kernel)} taps cannot be centred on {factor} pixels'
    )
  if image.shape[0] % factor or image.shape[1] % factor:
    raise ValueError(
      f'factor {factor} does not divide the sides of {image.shape}'
    )
  # Rows and columns are reduced one after the other, each by a matrix. In the
  # precision that an accelerator prefers, the products would lose digits.
  rows = _make_matrix(image.shape[0], kernel, factor).astype(image.dtype)
  columns = _make_matrix(image.shape[1], kernel, factor).astype(image.dtype)
  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  return multiply('vx,hxc->hvc', columns, multiply('hy,yxc->hxc', rows, image))


def _make_matrix(side: int, kernel: np.ndarray, factor: int) -> np.ndarray:
  """Returns the matrix that reduces one axis, [side / factor, side], float64.

  Where an image has few channels, the product with a matrix is many times
  faster than a sum of shifted images, both compiled and differentiated.
  """
  pixels = np.arange(side // factor)[:, None]
  taps = pixels * factor + np.arange(len(kernel)) - (len(kernel) - factor) // 2
  # Taps beyond the edge fall on the edge pixel. Several taps then share a
  # place; plain indexing would keep only the last of them, np.add.at sums.
  matrix = np.zeros((side // factor, side))
  np.add.at(matrix, (pixels, np.clip(taps, 0, side - 1)), kernel)
  return matrix
