"""A 3x3 convolution as three along one axis, for a TPU.

Notation: x [H, W, I] is one image, kernel [3, 3, I, O], y [H', W', O] the
result. Each column of the kernel is a convolution down the columns of the
image, which are its batch: one image alone has none, and XLA would have to make
one by cutting the image up. What shifts and pads the columns is joined to the
convolution that reads them.

The gradient in x is made in the same way, as large as x. What it lacks is what
the pixels beyond the edges got, which are lines: they are added in place.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dipjax.conv import grid, lanes, library
from dipjax.device import layout

Array = jax.Array

_PADS = ((1, 1), (1, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_columns(
  x: Array, kernel: Array, stride: int, padding: str
) -> Array:
  """Returns y of `ways.convolve` for a kernel of 3x3."""
  return _make_convolution(stride, padding)(x, kernel)


def _convolve_forward(x, kernel, stride, padding):
  return convolve_columns(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(stride, padding, residuals, dy):
  x, kernel = residuals
  return (
    _make_input_gradient(stride, padding, x.shape)(dy, kernel),
    _make_kernel_gradient(stride, padding)(x, dy),
  )


convolve_columns.defvjp(_convolve_forward, _convolve_backward)


@functools.cache
def _make_convolution(stride: int, padding: str):
  """(x, kernel) -> y."""

  def convolution(x, kernel):
    if kernel.shape[3] > 2 * kernel.shape[2]:
      # A large image in float32 for each part would take more than to gather.
      gathered = jnp.concatenate(_shift_columns(x, stride, padding), axis=2)
      rows = kernel.reshape(3, -1, kernel.shape[3])
      return _correlate(gathered, rows, stride, (0, 0)).astype(x.dtype)
    parts = [
      _correlate(columns, kernel[:, k], stride, (0, 0))
      for k, columns in enumerate(_shift_columns(x, stride, padding))
    ]
    return functools.reduce(jnp.add, parts).astype(x.dtype)

  return lanes.unroll_lanes(convolution)


@functools.cache
def _make_kernel_gradient(stride: int, padding: str):
  """(x, dy) -> the gradient in the kernel."""

  def kernel_gradient(x, dy):
    shape = 3, x.shape[2], dy.shape[2]
    parts = [
      library.transpose(
        functools.partial(_call_library, columns, stride=stride), shape, dy
      )
      for columns in _shift_columns(x, stride, padding)
    ]
    return jnp.stack(parts, axis=1)

  return lanes.unroll_lanes(kernel_gradient)


@functools.cache
def _make_input_gradient(stride: int, padding: str, shape: tuple[int, ...]):
  """(dy, kernel) -> the gradient in x, which has the shape."""

  def input_gradient(dy, kernel):
    height, width, _ = shape
    # Each pixel gathers what it gave: inputs and outputs change places, rows
    # are in reverse, and dy lies `stride` pixels apart.
    turned = kernel[::-1].swapaxes(2, 3)
    pads = 1, height - stride * (dy.shape[0] - 1)
    gather = lambda columns, k: _correlate(
      columns, turned[:, k], 1, pads, dilation=stride
    )
    around = jnp.pad(dy, ((0, 0), (1, 1), (0, 0)))
    after, before = around[:, 2:], around[:, :-2]
    if stride == 1:
      dx = gather(after, 0) + gather(dy, 1) + gather(before, 2)
      dx = dx.astype(dy.dtype)
    else:
      # Every second column is under the middle of the kernel.
      even = gather(dy, 1).astype(dy.dtype)
      odd = (gather(after, 0) + gather(dy, 2)).astype(dy.dtype)
      zero = jnp.zeros((), dy.dtype)
      place = lambda part, k: lax.pad(
        part,
        zero,
        ((0, 0, 0), (k, width - k - 2 * part.shape[1] + 1, 1), (0, 0, 0)),
      )
      dx = place(even, 0) + place(odd, 1)
    return dx if padding == 'zero' else _fold(dx, dy, kernel, stride)

  return lanes.unroll_lanes(input_gradient)


def _shift_columns(x, stride, padding):
  """The columns of x under each column of the kernel, [H + 2, W', I] each."""
  padded = jnp.pad(x, (*_PADS, (0, 0)), mode=grid.PADDINGS[padding])
  return [padded[:, k : k + x.shape[1] : stride] for k in range(3)]


def _correlate(columns, kernel, stride, pads, dilation=1):
  """The sum of products in float32, in which the parts are added."""
  return _call_library(
    columns,
    kernel,
    stride=stride,
    pads=pads,
    dilation=dilation,
    preferred_element_type=jnp.promote_types(columns.dtype, jnp.float32),
  )


def _call_library(
  columns, kernel, *, stride, pads=(0, 0), dilation=1, **options
) -> Any:
  return lax.conv_general_dilated(
    columns,
    kernel,
    (stride,),
    (pads,),
    lhs_dilation=(dilation,),
    dimension_numbers=('HNC', 'HIO', 'HNC'),
    **options,
  )


# What dx lacks. A line beyond an edge of x is read by the outermost line of y
# alone, and is a copy of the second line of x.


def _fold(dx, dy, kernel, stride):
  """dx with what the lines beyond the edges of x got."""
  height, width, _ = dx.shape
  # Columns have their ends folded too, rows have not: each corner counts once.
  for column, k, end in _find_edges(width, dy.shape[1], stride):
    line = _spread(dy[:, column], kernel[:, k], stride, height)
    folded = line[1:-1].at[1].add(line[0]).at[-2].add(line[-1])
    dx = dx.at[:, end].add(folded)
  for row, k, end in _find_edges(height, dy.shape[0], stride):
    line = _spread(dy[row], kernel[k], stride, width)
    dx = dx.at[end].add(line[1:-1])
  return dx


def _find_edges(length, count, stride):
  """Of dy, of the kernel and of dx: which line meets which beyond an edge."""
  yield 0, 0, 1
  # The last line of y may end within x.
  if stride * (count - 1) + 1 == length:
    yield count - 1, 2, length - 2


def _spread(line, taps, stride, length):
  """What a line of dy gives to one of x, from one pixel before it to one after.

  Lines are [length, channels]: a TPU would hold an image of one line in blocks
  that are empty but for that line. The result has length + 2 pixels.
  """
  line = layout.keep_lines(line)
  last = stride * (len(line) - 1)
  zero = jnp.zeros((), line.dtype)
  parts = []
  for k, tap in enumerate(taps):
    pads = (k, length + 1 - last - k, stride - 1), (0, 0, 0)
    parts.append(lax.pad(line @ tap.T, zero, pads))
  return functools.reduce(jnp.add, parts)


# A 1x1 kernel, whose result is in blocks.


def multiply_into_blocks(x: Array, matrix: Array) -> Array:
  """Returns each pixel times a matrix, [2h, 2w, I], [I, O] -> [h, w, 2, 2, O].

  Few channels in blocks are a smaller image than they would be by themselves,
  since a TPU computes with 128 of them.
  """
  height, width, inputs = x.shape
  pixels = np.eye(4, dtype=matrix.dtype).reshape(2, 2, 1, 4, 1)
  kernel = (pixels * matrix[None, None, :, None]).reshape(2, 2, inputs, -1)
  blocks = _convolve_blocks(x, kernel)
  return blocks.reshape(height // 2, width // 2, 2, 2, -1)


def _sum_columns(x: Array, kernel: Array) -> Array:
  """[2h, 2w, I], [2, 2, I, O] -> [h, w, O], each block by itself."""
  parts = [_correlate(x[:, k::2], kernel[:, k], 2, (0, 0)) for k in (0, 1)]
  return functools.reduce(jnp.add, parts).astype(x.dtype)


_convolve_blocks = library.make_bilinear(_sum_columns)
