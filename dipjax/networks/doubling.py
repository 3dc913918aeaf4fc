"""A 3x3 convolution of an image doubled first, without the doubled image.

Notation: x [h, w, C] is the small image, u [2h, 2w, C] the doubled one, y the
convolution of u. Along one axis y[2i + a], a of 0 or 1, is a sum over x[i - 1],
x[i], x[i + 1]: a convolution of x with four times as many channels, one group
for each pixel of a 2x2 block. It costs as many products as the convolution of
u, over an image of a quarter of the size, in a shape that processors like more.

Only pixels at the border, where u is reflected and x knows nothing of it, need
a correction.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dipjax import convolution
from dipjax.networks import layers

Array = jax.Array

# Of x: for smaller images composing the kernel costs more than it saves.
LEAST_PIXELS = 4096

# u[2i + p] = sum over t of _DOUBLE[mode][p][t] x[i + t].
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
  for a, k in np.ndindex(2, 3):
    for t, weight in _DOUBLE[mode][a + k - 1].items():
      taps[a, t + 1, 0, k] = weight
  return taps


def _make_block_taps() -> np.ndarray:
  """[a, t, b, k]: the same for u in blocks, u[2(i + t - 1) + b]."""
  taps = np.zeros((2, 3, 2, 3), np.float32)
  for a, t, b, k in np.ndindex(2, 3, 2, 3):
    taps[a, t, b, k] = 2 * (t - 1) + b == a + k - 1
  return taps


_TAPS = {mode: _make_taps(mode) for mode in _DOUBLE}
_BLOCK_TAPS = _make_block_taps()


def split_blocks(image: Array) -> Array:
  """[2h, 2w, C] -> [h, w, 2, 2, C]."""
  height, width, channels = image.shape
  blocks = image.reshape(height // 2, 2, width // 2, 2, channels)
  return blocks.transpose(0, 2, 1, 3, 4)


def join_blocks(blocks: Array) -> Array:
  """[h, w, p, q, C] -> [h p, w q, C], the image made of blocks of pixels."""
  h, w, p, q, channels = blocks.shape
  return blocks.transpose(0, 2, 1, 3, 4).reshape(h * p, w * q, channels)


@jax.custom_vjp
def _variance_bilinear(x: Array) -> Array:
  return _variance_bilinear_forward(x)[0]


def _variance_bilinear_forward(x):
  # |u|^2 = x . B x, with B = doubling, then its transpose: along each axis the
  # filter (3, 10, 3) / 16 with the edge replicated, for two pixels.
  centred = x - jnp.mean(x, axis=(0, 1), keepdims=True)
  filtered = _filter(_filter(centred, 0), 1)
  return jnp.mean(centred * filtered, axis=(0, 1)), filtered


def _variance_bilinear_backward(filtered, gradient):
  # B is symmetric, and the mean of `filtered` is zero as that of `centred`.
  pixels = filtered.shape[0] * filtered.shape[1]
  return (filtered * (2 / pixels * gradient)[None, None],)


_variance_bilinear.defvjp(
  _variance_bilinear_forward, _variance_bilinear_backward
)


def _filter(x, axis):
  count = x.shape[axis]
  pad = [(1, 1) if i == axis else (0, 0) for i in range(3)]
  padded = jnp.pad(x, pad, mode='edge')
  before, after = (
    lax.slice_in_dim(padded, i, i + count, axis=axis) for i in (0, 2)
  )
  return 0.625 * x + 0.1875 * (before + after)


def compute_variance(x: Array, mode: str) -> Array:
  """Returns the variance of each channel of u, [C]; their means are x's."""
  if mode == 'bilinear':
    return _variance_bilinear(layers.widen(x))
  return layers.compute_variance(x)


def convolve_doubled(
  x: Array, skip: Array | None, kernel: Array, mode: str
) -> Array:
  """Returns the convolution of concat(skip, u) with a kernel, in blocks.

  Equal to `convolve(concat(skip, upsample(x, mode)), kernel)` with padding by
  reflection.

  Args:
    x: [h, w, C], h and w at least 2.
    skip: [2h, 2w, S], or None.
    kernel: [3, 3, S + C, O].
    mode: 'nearest' or 'bilinear'.

  Returns:
    [h, w, 2, 2, O]: `join_blocks` makes the image [2h, 2w, O] of it.
  """
  height, width, _ = x.shape
  skips = 0 if skip is None else skip.shape[2]
  x, edges = _take_edges(x)
  skip, skip_edges = (None, (None,) * 4) if skip is None else _take_edges(skip)
  composed = _compose_kernel(kernel, skips, mode).astype(x.dtype)
  kernel = kernel.astype(x.dtype)
  inputs = x
  if skip is not None:
    blocks = split_blocks(skip).reshape(height, width, -1)
    inputs = jnp.concatenate([blocks, x], axis=-1)
  y = convolution.convolve(inputs, composed, padding='zero')
  y = y.reshape(height, width, 2, 2, -1)
  border = _make_border(edges, skip_edges, kernel, mode)
  return _add_border(y, *border)


def _compose_kernel(kernel, skips, mode):
  """The kernel on x and the blocks of the skip, [3, 3, 4 S + C, 4 O]."""
  composed = _apply_taps(_TAPS[mode], kernel[:, :, skips:])
  if skips:
    blocks = _apply_taps(_BLOCK_TAPS, kernel[:, :, :skips])
    composed = jnp.concatenate([blocks, composed], axis=2)
  return composed


def _apply_taps(taps, kernel):
  """[a, t, p, k] along both axes of [3, 3, I, O] -> [3, 3, p p I, a a O]."""
  inputs, outputs = kernel.shape[2:]
  matrix = np.einsum('atpk,bsql->tspqabkl', taps, taps)
  both = matrix.shape[:6]
  product = jnp.matmul(
    matrix.reshape(-1, 9), kernel.reshape(9, -1), precision='highest'
  ).reshape(*both, inputs, outputs)
  return product.transpose(0, 1, 2, 3, 6, 4, 5, 7).reshape(
    3, 3, -1, 4 * outputs
  )


# The border. With zeros around x, u has wrong values on the line beyond each
# edge and on the first line within; y lacks the convolution of what is missing
# there. It reaches the outermost blocks only.


def _make_border(edges, skip_edges, kernel, mode):
  """What the outermost blocks lack: above, below, left, right, [n, 2, 2, O]."""
  turned = kernel.swapaxes(0, 1)
  kernels = kernel, kernel[::-1], turned, turned[::-1]
  # Above and below the lines are extended as they should be, left and right as
  # they were: so each corner counts once.
  paddings = 'reflect', 'reflect', 'zero', 'zero'
  above, below, left, right = (
    _correct_edge(lines, skip_lines, kernel, mode, padding)
    for lines, skip_lines, kernel, padding in zip(
      edges, skip_edges, kernels, paddings
    )
  )
  left, right = left.swapaxes(1, 2), right.swapaxes(1, 2)
  return above, below[:, ::-1], left, right[:, :, ::-1]


def _correct_edge(lines, skip_lines, kernel, mode, padding):
  """What the first line of blocks lacks, [w, 2, 2, O]."""
  # The line beyond, then the first one within: what they should be, less what
  # they were.
  first, second = lines
  if mode == 'bilinear':
    lines = jnp.stack([0.5 * first + 0.25 * second, 0.25 * first])
  else:
    lines = jnp.stack([first, jnp.zeros_like(first)])
  lines = _double_lines(lines, mode, padding)
  if skip_lines is not None:
    beyond = jnp.stack([skip_lines[1], jnp.zeros_like(skip_lines[1])])
    lines = jnp.concatenate([_pad_lines(beyond, padding), lines], axis=-1)
  return _filter_lines(lines, kernel)


def _double_lines(lines, mode, padding):
  """[2, w, C] -> [2, 2w + 2, C], with one pixel beyond each end."""
  if padding == 'reflect':
    return _pad_lines(layers.double_axis(lines, 1, mode), padding)
  return layers.double_axis(_pad_lines(lines, padding), 1, mode)[:, 1:-1]


def _pad_lines(lines, padding):
  pads = ((0, 0), (1, 1), (0, 0))
  return jnp.pad(lines, pads, mode=convolution.PADDINGS[padding])


def _filter_lines(lines, kernel):
  """Two lines [2, 2w + 2, C] through a kernel onto the blocks they reach."""
  width = lines.shape[1] - 2
  columns = jnp.concatenate(
    [line[k : k + width] for line in lines for k in range(3)], axis=-1
  )
  beyond, within = kernel[0], kernel[1]
  none = jnp.zeros_like(beyond)
  # Inputs: the line beyond, the line within; outputs: the two rows of a block.
  weights = jnp.stack(
    [jnp.concatenate([beyond, within]), jnp.concatenate([none, beyond])], axis=2
  )
  weights = weights.reshape(1, 1, columns.shape[1], -1)
  rows = convolution.convolve(columns[None], weights)[0]
  return rows.reshape(width // 2, 2, 2, -1).swapaxes(1, 2)


# The edges of an image are taken and added to in place: automatic
# differentiation would make an image of zeros for each of them.


@jax.custom_vjp
def _take_edges(x):
  """x, and its two lines at each edge, the outermost first, [2, n, C]."""
  turned = x[:, :2].swapaxes(0, 1), x[:, :-3:-1].swapaxes(0, 1)
  return x, (x[:2], x[:-3:-1], *turned)


def _take_edges_forward(x):
  return _take_edges(x), None


def _take_edges_backward(_, gradients):
  dx, (above, below, left, right) = gradients
  height, width, _ = dx.shape
  dx = _add_at(dx, above, 0, 0)
  dx = _add_at(dx, below[::-1], height - 2, 0)
  dx = _add_at(dx, left.swapaxes(0, 1), 0, 0)
  return (_add_at(dx, right[::-1].swapaxes(0, 1), 0, width - 2),)


_take_edges.defvjp(_take_edges_forward, _take_edges_backward)


@jax.custom_vjp
def _add_border(y, above, below, left, right):
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
  start = (row, column, *[0] * (image.ndim - 2))
  part += lax.dynamic_slice(image, start, part.shape)
  return lax.dynamic_update_slice(image, part, start)
