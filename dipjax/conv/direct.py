"""XLA's convolution with gradients of its own, and the product of 1x1 kernels.

Notation: x [H, W, I] is one image, kernel [h, w, I, O] with odd h and w, y
[ceil(H / stride), ceil(W / stride), O] the result; dx, dy and so on are
gradients in them. Pads are ((above, below), (left, right)).

The gradients that automatic differentiation writes for a convolution have
unusual dimension numbers, which XLA for CPUs rewrites into a fast form only
outside of loops. Here the gradient in x is a convolution in the one layout that
is fast inside loops and outside (NHWC, HWIO), and the gradient in the kernel is
a few matrix products.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dipjax.conv import choose, grid, lanes
from dipjax.device import layout, recompute

Array = jax.Array


def convolve_directly(x: Array, kernel: Array, padding: str) -> Array:
  """Returns y of `ways.convolve` for a stride of 1."""
  pads = grid.halve(kernel)
  if padding == 'zero':
    return _convolve_same(x, kernel, pads)
  # A zero-padded convolution of the padded image, cropped, is several times
  # faster on the CPU than a valid one of the same image.
  (top, bottom), (left, right) = pads
  padded = grid.pad(x, pads, padding)
  y: Any = _convolve_same(padded, kernel, pads)
  return y[top : y.shape[0] - bottom, left : y.shape[1] - right]


def convolve_stride_2(x: Array, kernel: Array, padding: str) -> Array:
  """Returns y of `ways.convolve` for a stride of 2.

  It is a convolution of stride 1 over 2x2 blocks of pixels (space to depth).
  """
  padded = grid.pad(x, grid.halve(kernel), padding)
  height, width = padded.shape[:2]
  padded = grid.pad(padded, ((0, height % 2), (0, width % 2)), 'zero')
  blocks = grid.split_blocks(padded)
  blocks = blocks.reshape(*blocks.shape[:2], -1)
  # The kernel's sides 2r + 1 become 2r + 2 with zeros, which do not change the
  # sums; then the kernel is cut into blocks as the image is.
  h, w, inputs, outputs = kernel.shape
  kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  kernel = kernel.reshape(
    (h + 1) // 2, 2, (w + 1) // 2, 2, inputs, outputs
  ).transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape((h + 1) // 2, (w + 1) // 2, 4 * inputs, outputs)
  # The image is padded already, at its start: zeros at its end make the result
  # as large as the blocks, and what they reach is cropped.
  pads = ((0, kernel.shape[0] - 1), (0, kernel.shape[1] - 1))
  y: Any = _convolve_same(blocks, kernel, pads)
  return y[: (x.shape[0] + 1) // 2, : (x.shape[1] + 1) // 2]


# The convolution whose pads make y as large as x. Its parts have no derivative
# in reverse mode: the rule for lanes is inside, `custom_vjp` is outside.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_same(x: Array, kernel: Array, pads: grid.Pads) -> Array:
  return _lane_convolution(pads)(x, kernel)


def _convolve_same_forward(x, kernel, pads):
  return _convolve_same(x, kernel, pads), (x, kernel)


def _convolve_same_backward(pads, residuals, dy):
  x, kernel = residuals
  # The padded and gathered images of the forward pass are not kept.
  x, kernel = recompute.compute_apart(dy, (x, kernel))
  return (
    _lane_input_gradient(pads)(dy, kernel),
    _lane_kernel_gradient(pads)(x, dy),
  )


_convolve_same.defvjp(_convolve_same_forward, _convolve_same_backward)


@functools.cache
def _lane_convolution(pads: grid.Pads):
  """(x [H, W, I], kernel [h, w, I, O]) -> [H, W, O]; pads sum to h-1, w-1."""

  return lanes.unroll_lanes(
    lambda x, kernel: _convolve(x[None], kernel, pads)[0]
  )


@functools.cache
def _lane_input_gradient(pads: grid.Pads):
  """(dy [H, W, O], kernel [h, w, I, O]) -> dx [H, W, I]."""

  @lanes.unroll_lanes
  def input_gradient(dy, kernel):
    # Each pixel of x gathers what it gave: the kernel is turned about its
    # centre, inputs and outputs change places, and the pads change sides. The
    # swap is explicit, so that the layout stays the fast one.
    (top, bottom), (left, right) = pads
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    parts = [
      _convolve(dy[None], part, ((bottom, top), (right, left)))[0]
      for part in _split_groups(flipped, 3)
    ]
    return jnp.concatenate(parts, axis=2)

  return input_gradient


@functools.cache
def _lane_kernel_gradient(pads: grid.Pads):
  """(x [H, W, I], dy [H, W, O]) -> the gradient in the kernel [h, w, I, O]."""

  @lanes.unroll_lanes
  def kernel_gradient(x, dy):
    # Columns of pixels are gathered from the image with fewer channels, since
    # gathering copies it; rows are slices. Then there is one matrix product for
    # each row of the kernel.
    gathers_x = x.shape[2] < dy.shape[2]
    correlate = _correlate_columns if gathers_x else _correlate_spread
    return correlate(x, dy, pads)

  return kernel_gradient


def _convolve(x: Array, kernel: Array, pads: grid.Pads) -> Array:
  """[N, H, W, I], [h, w, I, O] -> [N, H', W', O], the one fast layout."""
  return lax.conv_general_dilated(
    x, kernel, (1, 1), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _split_groups(x: Array, axis: int) -> list[Array]:
  """Cuts off the channels beyond whole groups, see `choose.count_grouped`."""
  count = x.shape[axis]
  whole = choose.count_grouped(count)
  return jnp.split(x, [whole], axis=axis) if whole < count else [x]


def _correlate_columns(x: Array, dy: Array, pads: grid.Pads) -> Array:
  """Kernel gradient from the pixels of x under a row of the kernel, and dy."""
  rows, columns = (sum(pad) + 1 for pad in pads)
  # Column k of the kernel meets x shifted by k to the left.
  gathered = _gather_columns(grid.pad(x, pads, 'zero'), range(columns))
  products = _multiply_rows(gathered, dy, rows)
  return products.reshape(rows, columns, x.shape[2], dy.shape[2])


def _correlate_spread(x: Array, dy: Array, pads: grid.Pads) -> Array:
  """Kernel gradient from x, and the pixels of dy that a kernel row reaches."""
  vertical, (left, right) = pads
  rows, columns = sum(vertical) + 1, left + right + 1
  # The same sums from the side of x: column k meets dy shifted to the right, so
  # that the pads change sides and the shifts are in reverse.
  around = grid.pad(x, (vertical, (0, 0)), 'zero')
  padded = grid.pad(dy, ((0, 0), (right, left)), 'zero')
  gathered = _gather_columns(padded, range(columns)[::-1])
  products = _multiply_rows(around, gathered, rows)
  gradient = products.reshape(rows, x.shape[2], columns, dy.shape[2])
  return gradient.swapaxes(1, 2)


def _gather_columns(padded: Array, shifts: Sequence[int]) -> Array:
  """An image at n shifts to the left, [H, W + n - 1, C] -> [H, W, n C]."""
  width = padded.shape[1] - len(shifts) + 1
  return jnp.concatenate([padded[:, i : i + width] for i in shifts], axis=2)


def _multiply_rows(around: Array, image: Array, rows: int) -> Array:
  """[H + rows - 1, W, A], [H, W, B] -> [rows, A, B]: one product a row."""
  height, other = image.shape[0], grid.flatten(image)
  return jnp.stack(
    [grid.flatten(around[i : i + height]).T @ other for i in range(rows)]
  )


# The 1x1 convolution.


@jax.custom_vjp
def multiply_pixels(x: Array, matrix: Array) -> Array:
  """Returns each pixel times a matrix, [H, W, I], [I, O] -> [H, W, O]."""
  if choose.prefers_sums(x, matrix):
    return _sum_channels(x, matrix)
  return _product(grid.flatten(x), matrix).reshape(*x.shape[:2], -1)


def _multiply_pixels_forward(x, matrix):
  return multiply_pixels(x, matrix), (x, matrix)


def _multiply_pixels_backward(residuals, dy):
  x, matrix = residuals
  if choose.prefers_sums(x, matrix):
    return _sum_gradients(x, matrix, dy)
  # x is needed no more when there is its gradient, which is as large.
  dmatrix = _correlate_pixels(grid.flatten(x), grid.flatten(dy))
  matrix = recompute.compute_apart(dmatrix, matrix)
  dx = _product(grid.flatten(dy), matrix.T).reshape(x.shape)
  return dx, dmatrix


multiply_pixels.defvjp(_multiply_pixels_forward, _multiply_pixels_backward)


def _sum_channels(x, matrix):
  # One reduction of all outputs reads the image once.
  wide = grid.widen(x)
  products = [wide * column[None, None] for column in grid.widen(matrix).T]
  return jnp.stack(grid.sum_together(products, (2,)), axis=2).astype(x.dtype)


def _sum_gradients(x, matrix, dy):
  x, dy = x[:, :, None], dy[..., None]
  dx = _sum_outer(dy, matrix.T[None, None], 2)
  return dx, layout.keep_rows(_sum_outer(x, dy, (0, 1))).T


def _sum_outer(x, y, axes):
  """The sum of x y over some axes; both are broadcast to [H, W, O, I]."""
  # In another order XLA would write x once more, transposed.
  products = layout.keep_rows(grid.widen(x) * grid.widen(y))
  return jnp.sum(products, axis=axes).astype(x.dtype)


def _product(a, b):
  if choose.unrolls_products():
    return _unrolled_product(a, b)
  return a @ b


@lanes.unroll_lanes
def _unrolled_product(a, b):
  return a @ b


def _correlate_pixels(x, dy):
  """[n, I], [n, O] -> [I, O], the gradient in the matrix."""
  # Few outputs take columns of zeros with them, which are cut off again: the
  # product of more columns is the faster one.
  outputs = dy.shape[1]
  missing = choose.count_columns(outputs) - outputs
  if missing:
    dy = jnp.pad(dy, ((0, 0), (0, missing)))
  return _product(dy.T, x)[:outputs].T
