"""Pixels moved by matrix products, and the windows under a kernel.

Notation: x [H, W, C] is an image; a matrix has a row for each pixel that is
made and a column for each pixel that it is made from. A matrix that picks
pixels has one 1 in a row, and the product with it is exact.

On a CPU a product is a call of a library, for which nothing is compiled. Slices
would be compiled together with all that comes before them, once for each of
their parts, which takes seconds. On a GPU slices are one kernel.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dipjax.conv import choose

Array = jax.Array


def multiply_axis(matrix: np.ndarray, x: Array, axis: int) -> Array:
  """Returns the product of a matrix and one axis of an image.

  The product is exact for a matrix that picks pixels.

  Args:
    matrix: [n, H] for axis 0, [n, W] for axis 1.
    x: [H, W, C].
    axis: 0 or 1.

  Returns:
    [n, W, C] for axis 0, [H, n, C] for axis 1.
  """
  height, width, channels = x.shape
  factors = jnp.asarray(matrix, x.dtype)
  if axis == 0:
    y = jnp.matmul(factors, x.reshape(height, -1), precision='highest')
    return y.reshape(-1, width, channels)
  if choose.multiplies_lines_at_once():
    return jnp.einsum('vw,hwc->hvc', factors, x, precision='highest')
  # One product for each line: a single one would need a transposed image.
  factors = jnp.broadcast_to(factors, (height, *factors.shape))
  return jnp.matmul(factors, x, precision='highest')


def gather_windows(
  x: Array, sides: Sequence[int], stride: int, padding: str
) -> Array:
  """Returns the pixels under a kernel at each place where it is applied.

  Args:
    x: [H, W, I].
    sides: (h, w) of the kernel, odd.
    stride: along both axes.
    padding: 'reflect' or 'zero'.

  Returns:
    [ceil(H / stride), ceil(W / stride), h w I].
  """
  if not choose.gathers_by_product():
    return _slice_windows(x, sides, stride, padding)
  places = _find_places(x.shape[0], x.shape[1], sides, stride, padding)
  # One row for each entry of each window; zero has no column, so that its row
  # is zeros.
  pixels = x.shape[0] * x.shape[1]
  matrix = np.eye(pixels + 1, pixels)[places.ravel()]
  windows = jnp.matmul(
    jnp.asarray(matrix, x.dtype),
    x.reshape(-1, x.shape[2]),
    precision='highest',
  )
  return windows.reshape(*places.shape[:2], -1)


def _slice_windows(x, sides, stride, padding):
  pads = [(side // 2, side // 2) for side in sides]
  mode = 'reflect' if padding == 'reflect' else 'constant'
  padded = jnp.pad(x, (*pads, (0, 0)), mode=mode)
  rows, columns = (-(-side // stride) for side in x.shape[:2])
  slices = [
    padded[i : i + stride * rows : stride, j : j + stride * columns : stride]
    for i in range(sides[0])
    for j in range(sides[1])
  ]
  return jnp.concatenate(slices, axis=2)


def _find_places(height, width, sides, stride, padding):
  """[H', W', h, w]: the number of the pixel at each entry of each window."""
  pads = [(side // 2, side // 2) for side in sides]
  # Pixels are numbered line by line; the number after the last stands for zero.
  places = np.arange(height * width).reshape(height, width)
  if padding == 'reflect':
    places = np.pad(places, pads, mode='reflect')
  else:
    places = np.pad(places, pads, constant_values=height * width)
  places = np.lib.stride_tricks.sliding_window_view(places, sides)
  return places[::stride, ::stride]
