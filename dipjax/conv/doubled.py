"""A 3x3 convolution of an image doubled first, without the doubled image.

Notation: x [h, w, C] is the small image, u [2h, 2w, C] the doubled one, y the
convolution of u. Along one axis y[2i + a], a of 0 or 1, is a sum over x[i - 1],
x[i], x[i + 1]: y in blocks of 2x2 pixels is a convolution of x with four times
as many channels, one group for each pixel of a block. This takes as many
products as the convolution of u, over an image of a quarter of the size, in a
shape that processors like more.

u is reflected at its border and x is padded by zeros, so that the outermost
blocks need a correction.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dipjax.conv import choose, grid, ways
from dipjax.device import layout

Array = jax.Array

# u[2i + p] = sum over t of _DOUBLE[mode][p][t] x[i + t], for the four pixels of
# u that a kernel on the two pixels of block i reaches.
_DOUBLE = {
  'nearest': {-1: {-1: 1.0}, 0: {0: 1.0}, 1: {0: 1.0}, 2: {1: 1.0}},
  'bilinear': {
    -1: {-1: 0.75, 0: 0.25},
    0: {-1: 0.25, 0: 0.75},
    1: {0: 0.75, 1: 0.25},
    2: {0: 0.25, 1: 0.75},
  },
}


def _make_taps(mode: str) -> np.ndarray:
  """[a, t, 0, k]: what x[i + t - 1] adds to y[2i + a] by the kernel's tap k."""
  taps = np.zeros((2, 3, 1, 3), np.float32)
  # Tap k of y[2i + a] reads the pixel a + k - 1 of u, counted from 2i.
  for a, k in np.ndindex(2, 3):
    for t, weight in _DOUBLE[mode][a + k - 1].items():
      taps[a, t + 1, 0, k] = weight
  return taps


def _make_block_taps() -> np.ndarray:
  """[a, t, b, k]: the same for pixel b of block i + t - 1 of a skip."""
  taps = np.zeros((2, 3, 2, 3), np.float32)
  for a, t, b, k in np.ndindex(2, 3, 2, 3):
    # A skip has the size of u: its pixel is read as it is, or not at all.
    taps[a, t, b, k] = 2 * (t - 1) + b == a + k - 1
  return taps


_TAPS = {mode: _make_taps(mode) for mode in _DOUBLE}
_BLOCK_TAPS = _make_block_taps()


def convolve_doubled(
  x: Array, skip: Array | None, kernel: Array, mode: str
) -> Array:
  """Returns the convolution of concat(skip, u) with a kernel, in blocks.

  The result equals `convolve(concat(skip, upsample(x, mode)), kernel)` with
  padding by reflection.

  Args:
    x: [h, w, C], h and w at least 2.
    skip: [2h, 2w, S], or the same in blocks, [h, w, 2, 2, S]; or None.
    kernel: [3, 3, S + C, O].
    mode: 'nearest' or 'bilinear'.

  Returns:
    [h, w, 2, 2, O]: `join_blocks` makes the image [2h, 2w, O] from the blocks.
  """
  height, width, _ = x.shape
  skips = 0 if skip is None else skip.shape[-1]
  x, edges = _take_edges(x)
  skip, skip_edges = _split_skip(skip)
  # The kernel is composed in its own precision, then rounded to x's precision.
  composed = _compose_kernel(kernel, skips, mode).astype(x.dtype)
  kernel = kernel.astype(x.dtype)
  # A skip comes in blocks, as further channels of the small image.
  convolve = functools.partial(ways.convolve, padding='zero')
  if skip is None:
    y = convolve(x, composed)
  elif choose.splits_channels():
    few, many = jnp.split(composed, [4 * skips], axis=2)
    y = convolve(skip, few) + convolve(x, many)
  else:
    y = convolve(jnp.concatenate([skip, x], axis=-1), composed)
  border = _make_border(edges, skip_edges, kernel, mode)
  blocks = height, width, 2, 2, y.shape[2] // 4
  if not choose.keeps_blocks():
    y = y.reshape(blocks)
  border = (lines.reshape(-1, *y.shape[2:]) for lines in border)
  return _add_border(y, *border).reshape(blocks)


def _split_skip(skip):
  """The blocks of a skip, [h, w, 4 S], and its two lines at each edge."""
  if skip is None:
    return None, (None,) * 4
  if skip.ndim == 3:
    skip, edges = _take_edges(skip)
    blocks = grid.split_blocks(skip)
    return blocks.reshape(*blocks.shape[:2], -1), edges
  blocks, edges = _take_edges(skip.reshape(*skip.shape[:2], -1))
  # The outermost line of blocks is both lines of pixels.
  lines = []
  for k, edge in enumerate(edges):
    line = edge[0].reshape(-1, 2, 2, skip.shape[4])
    line = line.transpose((1, 0, 2, 3) if k < 2 else (2, 0, 1, 3))
    line = line.reshape(2, -1, skip.shape[4])
    lines.append(line if k % 2 == 0 else line[::-1])
  return blocks, tuple(lines)


def _compose_kernel(kernel, skips, mode):
  """The kernel on the blocks of the skip and on x, [3, 3, 4 S + C, 4 O]."""
  composed = _apply_taps(_TAPS[mode], kernel[:, :, skips:])
  if skips:
    blocks = _apply_taps(_BLOCK_TAPS, kernel[:, :, :skips])
    composed = jnp.concatenate([blocks, composed], axis=2)
  return composed


def _apply_taps(taps, kernel):
  """[a, t, p, k] along both axes of [3, 3, I, O] -> [3, 3, p p I, a a O]."""
  # One product for both axes, as the taps of two axes multiply: rows of the
  # matrix are (t, s, p, q, a, b), columns the taps (k, l) of the kernel.
  inputs, outputs = kernel.shape[2:]
  matrix = np.einsum('atpk,bsql->tspqabkl', taps, taps)
  both = matrix.shape[:6]
  matrix, kernel = matrix.reshape(-1, 9), kernel.reshape(9, -1)
  if choose.changes_layouts():
    # Where the kernel keeps its layout, XLA finds no way to compute a product.
    product = jnp.sum(matrix[:, :, None] * kernel[None], axis=1)
  else:
    product = jnp.matmul(matrix, kernel, precision='highest')
  product = product.reshape(*both, inputs, outputs)
  # Inputs and outputs come last among the pixels of their blocks, as
  # `split_blocks` puts them.
  return product.transpose(0, 1, 2, 3, 6, 4, 5, 7).reshape(
    3, 3, -1, 4 * outputs
  )


# The border. With zeros around x, u has wrong values on the line beyond each
# edge and on the first line within. The result lacks the convolution of what is
# missing on these two lines, which reaches the outermost blocks only.


def _make_border(edges, skip_edges, kernel, mode):
  """What the outermost blocks lack: above, below, left, right, [n, 2, 2, O]."""
  # Each edge is treated as the one above: lines come outermost first, and the
  # kernel is mirrored or transposed with the image.
  turned = kernel.swapaxes(0, 1)
  # Above and below, lines are extended by the pixels that they should have,
  # left and right by those that they had: so each corner counts once.
  above, below = _correct_edges(
    edges[:2], skip_edges[:2], (kernel, kernel[::-1]), mode, 'reflect'
  )
  left, right = _correct_edges(
    edges[2:], skip_edges[2:], (turned, turned[::-1]), mode, 'zero'
  )
  left, right = left.swapaxes(1, 2), right.swapaxes(1, 2)
  return above, below[:, ::-1], left, right[:, :, ::-1]


def _correct_edges(edges, skip_edges, kernels, mode, padding):
  """What `_correct_edge` returns, for two edges of one length."""
  correct = lambda lines, skip_lines, kernel: _correct_edge(
    lines, skip_lines, kernel, mode, padding
  )
  if choose.unrolls_products():
    return map(correct, edges, skip_edges, kernels)
  stack = lambda *arrays: jnp.stack(arrays)
  stacked = (
    jax.tree.map(stack, *both) for both in (edges, skip_edges, kernels)
  )
  return jax.vmap(correct)(*stacked)


def _correct_edge(lines, skip_lines, kernel, mode, padding):
  """What the first line of blocks lacks, [w, 2, 2, O]."""
  # The line of u beyond the edge, then the first one within: what each should
  # be, less what it was. Bilinear, reflection puts u[1] = 0.75 x[0] + 0.25 x[1]
  # beyond, where 0.25 x[0] was, and u[0] = x[0] within, where 0.75 x[0] was.
  first, second = layout.keep_lines(lines)
  if mode == 'bilinear':
    lines = jnp.stack([0.5 * first + 0.25 * second, 0.25 * first])
  else:
    lines = jnp.stack([first, jnp.zeros_like(first)])
  lines = _double_lines(lines, mode, padding)
  # A skip is reflected too; its line within was right.
  if skip_lines is not None:
    beyond = jnp.stack([skip_lines[1], jnp.zeros_like(skip_lines[1])])
    lines = jnp.concatenate([_pad_lines(beyond, padding), lines], axis=-1)
  return _filter_lines(layout.keep_lines(lines), kernel)


def _double_lines(lines, mode, padding):
  """[2, w, C] -> [2, 2w + 2, C], with one pixel beyond each end."""
  if padding == 'reflect':
    return _pad_lines(grid.double_axis(lines, 1, mode), padding)
  # Zeros around the small line, as around x: doubled with it they make the two
  # pixels beyond each end that u had, and the outer of the two is cut off.
  return grid.double_axis(_pad_lines(lines, padding), 1, mode)[:, 1:-1]


def _pad_lines(lines, padding):
  """[2, n, C] -> [2, n + 2, C], with one pixel more at each end."""
  pads = ((0, 0), (1, 1), (0, 0))
  return jnp.pad(lines, pads, mode=grid.PADDINGS[padding])


def _filter_lines(lines, kernel):
  """Two lines [2, 2w + 2, C] through a kernel onto the blocks they reach."""
  # The three pixels under the kernel, from both lines.
  width = lines.shape[1] - 2
  columns = jnp.concatenate(
    [line[k : k + width] for line in lines for k in range(3)], axis=-1
  )
  # Inputs are the lines beyond and within, outputs the two rows of a block: the
  # first row has both lines under the kernel's rows 0 and 1, the second row has
  # the line within under row 0 and does not reach the line beyond.
  beyond, within = kernel[0], kernel[1]
  none = jnp.zeros_like(beyond)
  weights = jnp.stack(
    [jnp.concatenate([beyond, within]), jnp.concatenate([none, beyond])], axis=2
  )
  weights = weights.reshape(1, 1, columns.shape[1], -1)
  rows = ways.convolve(columns[None], weights)[0]
  return rows.reshape(width // 2, 2, 2, -1).swapaxes(1, 2)


# Edges are taken from an image, and added to it, in place: automatic
# differentiation would make an image of zeros for each of them.


@jax.custom_vjp
def _take_edges(x):
  """x, and its two lines at each edge, the outermost first, [2, n, C]."""
  left = layout.keep_lines(x[:, :2]).swapaxes(0, 1)
  right = layout.keep_lines(x[:, -2:])[:, ::-1].swapaxes(0, 1)
  return x, (x[:2], x[:-3:-1], left, right)


def _take_edges_forward(x):
  return _take_edges(x), None


def _take_edges_backward(_, gradients):
  dx, (above, below, left, right) = gradients
  # Lines come outermost first: those from the far sides are turned back.
  height, width, _ = dx.shape
  dx = _add_at(dx, above, 0, 0)
  dx = _add_at(dx, below[::-1], height - 2, 0)
  dx = _add_at(dx, left.swapaxes(0, 1), 0, 0)
  return (_add_at(dx, right[::-1].swapaxes(0, 1), 0, width - 2),)


_take_edges.defvjp(_take_edges_forward, _take_edges_backward)


@jax.custom_vjp
def _add_border(y, above, below, left, right):
  """y in blocks, of any shape, with a correction of each edge added to it."""
  height, width = y.shape[:2]
  y = _add_at(y, above[None], 0, 0)
  y = _add_at(y, below[None], height - 1, 0)
  y = _add_at(y, left[:, None], 0, 0)
  return _add_at(y, right[:, None], 0, width - 1)


def _add_border_forward(*arguments):
  return _add_border(*arguments), None


def _add_border_backward(_, dy):
  return dy, dy[0], dy[-1], dy[:, 0], dy[:, -1]


_add_border.defvjp(_add_border_forward, _add_border_backward)


def _add_at(image, part, row, column):
  """The image with a part added from (row, column) on."""
  start = (row, column, *[0] * (image.ndim - 2))
  part += lax.dynamic_slice(image, start, part.shape)
  return lax.dynamic_update_slice(image, part, start)
