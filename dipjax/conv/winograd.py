"""The 3x3 convolution in tiles, with a quarter of the products (Winograd).

Notation: x [4m + 4, 4n + 4, I] is an image, kernel [3, 3, I, O], y [4m, 4n, O]
the result. Tile (i, j) of y has 4x4 pixels and depends on the 6x6 pixels of x
from (4i, 4j) on; nothing depends on the last two lines and columns of x, which
make it a whole number of blocks of 4x4.

Along one axis the pixels of a tile are coefficients of a polynomial, a
convolution is a product of polynomials, and a polynomial is known from its
values at six points. At each of the 36 pairs of points, tiles and kernel are
matrices [tiles, I] and [I, O]: their product replaces four times as many. The
gradients are the transposes of the same steps.

Rounding errors in float32 are two to four times a plain convolution's errors,
1e-6 of the result's deviation: tests/conv_winograd_test.py holds them to 2e-6.

Source: A. Lavin and S. Gray, Fast algorithms for convolutional neural networks,
2015; the points are others, which round less.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dipjax.conv import choose, grid, lanes
from dipjax.device import recompute

TILE = 4  # Pixels of y.
BORDER = 4  # What x has more than y: two that are read, two that are not.

# The sixth point is infinity, where the value is the highest coefficient. The
# points lie about 1 with their inverses and negatives, so that powers of all of
# them are of one size.
_POINTS = (0, np.sqrt(2), -np.sqrt(2), np.sqrt(0.5), -np.sqrt(0.5))

Array = jax.Array


def _evaluate(count: int) -> np.ndarray:
  """[6, count]: the values of a polynomial of `count` coefficients."""
  values = np.zeros((len(_POINTS) + 1, count))
  values[:-1] = np.array(_POINTS)[:, None] ** np.arange(count)
  values[-1, -1] = 1
  return values


def _make_transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The matrices for pixels of x [6, 6], for a kernel [6, 3], for y [4, 6]."""
  # A kernel of 3 times 4 coefficients has 6: evaluate both, multiply, and the
  # inverse matrix interpolates. A cross-correlation is the transpose of that
  # product: x goes through the transposed interpolation, y comes out of the
  # transposed evaluation.
  spread = np.linalg.inv(_evaluate(6)).T
  # Exact zeros are terms that nobody computes.
  spread[np.abs(spread) < 1e-9] = 0
  # Each point may be scaled in x and back in the kernel. A scale that is a
  # power of two rounds nothing and keeps numbers of one size.
  scale = 2 ** np.round(np.log2(np.abs(spread).max(axis=1, keepdims=True)))
  return spread / scale, scale * _evaluate(3), _evaluate(TILE).T


_SPREAD, _KERNEL, _GATHER = _make_transforms()

# Both axes at once: the kernel is small, so that one product with the matrix of
# all pairs is the shortest program.
_KERNEL_BOTH = np.einsum('qc,pr->qprc', _KERNEL, _KERNEL).reshape(36, 9)


def convolve_in_tiles(x: Array, kernel: Array, padding: str) -> Array:
  """Returns y of `ways.convolve` for a 3x3 kernel and a stride of 1."""
  height, width = x.shape[:2]
  padded = grid.pad(x, grid.halve(kernel), padding)
  # Zeros for what no tile reads, and to fill the last tiles, whose pixels
  # beyond the image are cropped.
  rest = ((0, 2 + -height % TILE), (0, 2 + -width % TILE))
  y: Any = _convolve_tiles(grid.pad(padded, rest, 'zero'), kernel)
  return y[:height, :width]


def convolve(x: Array, kernel: Array) -> Array:
  """Returns the cross-correlation of x with a kernel, without padding.

  Args:
    x: [4m + 4, 4n + 4, I].
    kernel: [3, 3, I, O].

  Returns:
    [4m, 4n, O].
  """
  values = _transform(kernel)
  height, bands = _find_bands(x.shape, BORDER)

  def make(band):
    part = _take_rows(x, band * height, height + BORDER)
    return _gather(_spread(part) @ values, part.shape)

  if bands == 1:
    return make(0)
  y = lax.map(make, jnp.arange(bands))
  return y.reshape(-1, *y.shape[2:])


def pull(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
  """Returns the gradients of sum(y * dy) in x and in the kernel."""
  # Of the forward pass neither tiles are kept nor the kernel at the points.
  kernel = recompute.compute_apart(dy, kernel)
  values = _transform(kernel).swapaxes(1, 2)
  height, bands = _find_bands(dy.shape, 0)

  def pull_band(band):
    """What the band gives to x, and to the kernel at the points."""
    start = band * height
    points = _gather_back(_take_rows(dy, start, height))
    seen = _take_rows(x, start, height + BORDER)
    tiles = _spread(recompute.compute_apart(dy, seen))
    dx = _spread_back(points @ values, (height, *dy.shape[1:]))
    return dx, tiles.swapaxes(1, 2) @ points

  def add(band, sums):
    dx, products = sums
    part, more = pull_band(band)
    part += _take_rows(dx, band * height, height + BORDER)
    dx = lax.dynamic_update_slice_in_dim(dx, part, band * height, 0)
    return dx, products + more

  if bands == 1:
    dx, products = pull_band(0)
  else:
    zeros = jnp.zeros_like(x), jnp.zeros_like(values.swapaxes(1, 2))
    # XLA would make zeros long before they are needed.
    zeros = recompute.compute_apart(dy, zeros)
    dx, products = lax.fori_loop(0, bands, add, zeros)
  dkernel = _multiply(_KERNEL_BOTH.T, products)
  return dx, dkernel.reshape(kernel.shape)


def _find_bands(shape, border):
  """Lines of y in each band, and how many bands there are."""
  m, n = _count_tiles(shape, border)
  bands = choose.count_bands(m, n)
  return TILE * (m // bands), bands


def _take_rows(image, start, count):
  return lax.dynamic_slice_in_dim(image, start, count, 0)


# The two above have no derivative: the rule for lanes goes around each of them,
# and `custom_vjp` around both.

_lane_convolution = lanes.unroll_lanes(convolve)
_lane_gradients = lanes.unroll_lanes(pull)


@jax.custom_vjp
def _convolve_tiles(x: Array, kernel: Array) -> Array:
  return _lane_convolution(x, kernel)


def _convolve_tiles_forward(x, kernel):
  return _convolve_tiles(x, kernel), (x, kernel)


def _convolve_tiles_backward(residuals, dy):
  return _lane_gradients(*residuals, dy)


_convolve_tiles.defvjp(_convolve_tiles_forward, _convolve_tiles_backward)


def _transform(kernel):
  """[3, 3, I, O] -> [36, I, O]: the values of the kernel at the points."""
  return _multiply(_KERNEL_BOTH, kernel.reshape(9, *kernel.shape[2:]))


def _multiply(matrix, x):
  """[a, b], [b, ...] -> [a, ...]."""
  matrix = jnp.asarray(matrix, x.dtype)
  product = jnp.matmul(matrix, x.reshape(len(x), -1), precision='highest')
  return product.reshape(-1, *x.shape[1:])


# Images go to the points and back by rows first, then by columns. The pairs of
# points are (column, row).


def _spread(x):
  """[4m + 4, 4n + 4, C] -> [36, m n, C]: the tiles of x at the points."""
  channels = x.shape[2]
  m, n = _count_tiles(x.shape, BORDER)
  # Row k of every tile is a slice of the rows in blocks of four: rows 4 and 5
  # are rows 0 and 1 of the next block.
  rows = x.reshape(m + 1, TILE, -1, channels)
  x = _combine(_SPREAD, [rows[k // 4 : k // 4 + m, k % 4] for k in range(6)])
  # The same for columns, at each point of the rows.
  x = x.reshape(6, m, n + 1, TILE, channels)
  columns = [x[:, :, k // 4 : k // 4 + n, k % 4] for k in range(6)]
  return _combine(_SPREAD, columns).reshape(36, m * n, channels)


def _spread_back(points, shape):
  """[36, m n, C] -> [4m + 4, 4n + 4, C]: the transpose of `_spread`."""
  m, n = _count_tiles(shape, 0)
  channels = points.shape[2]
  points = points.reshape(6, 6, m, n, channels)
  # Columns first, as the transpose of rows first. Tiles overlap by two pixels,
  # which receive from both.
  x = _overlap(_combine(_SPREAD.T, list(points)), 3)
  x = _overlap(_combine(_SPREAD.T, [x[:, p] for p in range(6)]), 2)
  return _join_tiles(x)


def _gather(points, shape):
  """[36, m n, C] -> [4m, 4n, C]: y from its tiles at the points."""
  m, n = _count_tiles(shape, BORDER)
  # A product takes as long as `_combine` here, since the points are one array
  # already, and nothing is compiled for it.
  y = _multiply(_GATHER, points.reshape(6, 6, -1))
  y = y.reshape(TILE, 6, m, n, -1)
  return _join_tiles(_combine(_GATHER, [y[:, p] for p in range(6)]))


def _gather_back(dy):
  """[4m, 4n, C] -> [36, m n, C]: the transpose of `_gather`."""
  m, n = _count_tiles(dy.shape, 0)
  channels = dy.shape[2]
  # Tiles of y do not overlap: row k of every tile is one slice.
  rows = dy.reshape(m, TILE, -1, channels)
  dy = _combine(_GATHER.T, [rows[:, k] for k in range(TILE)])
  columns = dy.reshape(6, m, n, TILE, channels)
  points = _combine(_GATHER.T, [columns[:, :, :, k] for k in range(TILE)])
  return points.reshape(36, m * n, channels)


def _count_tiles(shape, border):
  """(m, n) of an image that has so many pixels more than whole tiles."""
  return (shape[0] - border) // TILE, (shape[1] - border) // TILE


def _combine(matrix: np.ndarray, parts: Sequence[Array]) -> Array:
  """[k, n] of weights, n parts -> [k, ...], a weighted sum for each row."""
  # Sums, not a product, for which the parts would be copied into one array.
  rows = []
  for weights in matrix:
    terms = [float(w) * part for w, part in zip(weights, parts) if w]
    rows.append(sum(terms[1:], terms[0]))
  return jnp.stack(rows)


def _overlap(windows, axis):
  """Six pixels of each of n tiles -> four of each of n + 1, along one axis."""
  # Pixels 4 and 5 of a tile are pixels 0 and 1 of the next one. There is one
  # tile more at the end for pixels 4 and 5 of the last, none before the first.
  own, next_ = windows[:TILE], windows[TILE:]
  pad = [(0, 0)] * windows.ndim
  pad[axis] = (0, 1)
  own = jnp.pad(own, pad)
  pad[axis], pad[0] = (1, 0), (0, TILE - len(next_))
  return own + jnp.pad(next_, pad)


def _join_tiles(tiles):
  """[4, 4, m, n, C], the rows of a tile first -> [4m, 4n, C]."""
  m, n, channels = tiles.shape[2:]
  image = tiles.transpose(2, 0, 3, 1, 4)
  return image.reshape(TILE * m, TILE * n, channels)
