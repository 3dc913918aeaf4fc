"""Reduction of an image by an integer factor, and its kernels.

Kernels are one-dimensional: every kernel here is the outer product of one with
itself, so that an image is filtered along its rows, then along its columns.
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
  """Keys' cubic with a = -1/2, the one of Pillow and of MATLAB's imresize."""
  x = np.abs(x)
  inner = (1.5 * x - 2.5) * x**2 + 1
  outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
  return np.where(x < 1, inner, outer)


def _lanczos2(x: np.ndarray) -> np.ndarray:
  return np.sinc(x) * np.sinc(x / 2)


def _lanczos3(x: np.ndarray) -> np.ndarray:
  return np.sinc(x) * np.sinc(x / 3)


# By name: the reach on each side and the value at x, both in reduced pixels.
FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
  'box': (0.5, _box),
  'bicubic': (2, _bicubic),
  'lanczos2': (2, _lanczos2),
  'lanczos3': (3, _lanczos3),
}


def make_kernel(name: str, factor: int) -> np.ndarray:
  """Returns the kernel of a filter that reduces by `factor`, of sum 1.

  Its middle is that of a factor x factor block, so that a reduced pixel is
  centred on its block: between two taps where the factor is even (the authors'
  phase 0.5), on a tap where it is odd. Factor 1 is a pulse: the identity.

  Args:
    name: of the filter, 'lanczos2', 'lanczos3', 'bicubic' or 'box'.
    factor: of the reduction, an integer of at least 1.

  Returns:
    [taps], float64; taps - factor is even. Source of Lanczos:
    DmitryUlyanov/deep-image-prior, models/downsampler.py.

  Raises:
    ValueError: an unknown filter, or a factor that is none of these.
  """
  if name not in FILTERS:
    raise ValueError(f'filter {name!r} is not one of {", ".join(FILTERS)}')
  if not isinstance(factor, int | np.integer) or factor < 1:
    raise ValueError(f'factor must be an integer >= 1, got {factor}')
  reach, value = FILTERS[name]
  taps = round(2 * reach * factor)
  taps -= (taps - factor) % 2
  kernel = value((np.arange(taps) - (taps - 1) / 2) / factor)
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
  rows = _make_matrix(image.shape[0], kernel, factor).astype(image.dtype)
  columns = _make_matrix(image.shape[1], kernel, factor).astype(image.dtype)
  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  return multiply('vx,hxc->hvc', columns, multiply('hy,yxc->hxc', rows, image))


def _make_matrix(side: int, kernel: np.ndarray, factor: int) -> np.ndarray:
  """Returns the reduction of one axis, [side / factor, side], float64.

  Its product is many times faster than sums over shifted images, compiled and
  differentiated, where an image has few channels.
  """
  pixels = np.arange(side // factor)[:, None]
  taps = pixels * factor + np.arange(len(kernel)) - (len(kernel) - factor) // 2
  matrix = np.zeros((side // factor, side))
  np.add.at(matrix, (pixels, np.clip(taps, 0, side - 1)), kernel)
  return matrix
