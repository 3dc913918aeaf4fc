"""The grid of pixels: padding, doubling, blocks, and sums over the grid.

Notation: x [H, W, C] is an image. The blocks [h, w, p, q, C] of an image
[h p, w q, C] are its pieces of p x q pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dipjax.conv import choose, windows
from dipjax.device import recompute

Array = jax.Array
Pads = tuple[tuple[int, int], tuple[int, int]]

# By the name of a padding here, NumPy's name for the padding.
PADDINGS = {'reflect': 'reflect', 'zero': 'constant'}


def halve(kernel: Array) -> Pads:
  """Returns the pads of half a kernel [h, w, I, O] on each side."""
  vertical, horizontal = kernel.shape[0] // 2, kernel.shape[1] // 2
  return (vertical, vertical), (horizontal, horizontal)


def pad(x: Array, pads: Pads, padding: str) -> Array:
  """Returns x with further lines and columns.

  Args:
    x: [H, W, C].
    pads: how many (above, below) and (left, right).
    padding: 'reflect' (without repeating the edge) or 'zero'.
  """
  if padding == 'reflect' and choose.prefers_products(x):
    for axis, both in enumerate(pads):
      chosen = np.pad(np.arange(x.shape[axis]), both, mode='reflect')
      x = windows.multiply_axis(np.eye(x.shape[axis])[chosen], x, axis)
    return x
  return jnp.pad(x, (*pads, (0, 0)), mode=PADDINGS[padding])


def flatten(x: Array) -> Array:
  """Returns the pixels of an image line by line, [H, W, C] -> [H W, C]."""
  return x.reshape(-1, x.shape[2])


def upsample(x: Array, mode: str) -> Array:
  """Returns the doubled image, [H, W, C] -> [2H, 2W, C].

  Pixels are areas: both images have one centre, as with PyTorch's
  `align_corners=False`. Beyond the edge of x the edge is replicated.

  Args:
    x: [H, W, C].
    mode: 'nearest' or 'bilinear'.
  """
  for axis in (0, 1):
    x = double_axis(x, axis, mode)
  return x


def double_axis(x: Array, axis: int, mode: str) -> Array:
  """Returns x doubled along one axis, as `upsample` doubles both."""
  if mode == 'nearest':
    return jnp.repeat(x, 2, axis)
  count = x.shape[axis]
  if choose.doubles_by_product(x):
    return windows.multiply_axis(_make_doubling(count), x, axis)
  # The neighbours of each pixel; at an edge the pixel is its own neighbour.
  before = jnp.concatenate(
    [
      lax.slice_in_dim(x, 0, 1, axis=axis),
      lax.slice_in_dim(x, 0, count - 1, axis=axis),
    ],
    axis,
  )
  after = jnp.concatenate(
    [
      lax.slice_in_dim(x, 1, count, axis=axis),
      lax.slice_in_dim(x, count - 1, count, axis=axis),
    ],
    axis,
  )
  # Each pixel becomes two, a quarter of a pixel before and after its centre.
  pairs = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
  doubled = jnp.stack(pairs, axis + 1)
  return doubled.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])


def _make_doubling(count: int) -> np.ndarray:
  """[2 n, n]: the matrix that doubles a line of n pixels, bilinear."""
  pixels = np.arange(count)
  others = np.clip(np.stack([pixels - 1, pixels + 1], axis=1), 0, count - 1)
  near, far = np.eye(count)[:, None], np.eye(count)[others]
  return (0.75 * near + 0.25 * far).reshape(2 * count, count)


def split_blocks(image: Array) -> Array:
  """Returns the blocks of 2x2 pixels, [2h, 2w, C] -> [h, w, 2, 2, C]."""
  height, width, channels = image.shape
  blocks = image.reshape(height // 2, 2, width // 2, 2, channels)
  return blocks.transpose(0, 2, 1, 3, 4)


def join_blocks(blocks: Array) -> Array:
  """Returns the image that blocks make, [h, w, p, q, C] -> [h p, w q, C]."""
  h, w, p, q, channels = blocks.shape
  return blocks.transpose(0, 2, 1, 3, 4).reshape(h * p, w * q, channels)


def widen(x: Array) -> Array:
  """Returns x in float32, in which sums over an image keep their digits."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def compute_moments(x: Array) -> tuple[Array, Array]:
  """Returns mean and variance of each channel, [C] each, in float32."""
  if choose.sums_once():
    return _compute_once(x)
  if choose.sums_squares(x):
    x = widen(x)
    mean = jnp.mean(x, axis=(0, 1))
    variance = jnp.mean(jnp.square(x), axis=(0, 1)) - jnp.square(mean)
    return mean, jnp.maximum(variance, 0)
  x = widen(x)
  mean = jnp.mean(x, axis=(0, 1))
  return mean, jnp.mean(jnp.square(x - mean[None, None]), axis=(0, 1))


def _compute_once(x):
  """The moments from two sums that do not wait for each other."""
  # Less a pixel, since the difference of two large numbers would lose digits.
  pixel = lax.stop_gradient(widen(x[:1, :1]))
  moved = widen(x) - pixel
  pixels = x.shape[0] * x.shape[1]
  total, squares = sum_products(moved, moved)
  mean = total / pixels
  return mean + pixel[0, 0], squares / pixels - jnp.square(mean)


def sum_products(x: Array, y: Array) -> tuple[Array, Array]:
  """Returns the sums over the pixels of x and of x * y, [C] each.

  Args:
    x, y: [H, W, C].
  """
  if not choose.sums_once():
    return jnp.sum(x, axis=(0, 1)), jnp.sum(x * y, axis=(0, 1))
  return _sum_once(x, y)


# JAX would differentiate a reduction of two arrays by a tree of slices.


@jax.custom_vjp
def _sum_once(x: Array, y: Array) -> tuple[Array, Array]:
  total, products = sum_together((x, x * y), (0, 1))
  return total, products


def _sum_once_forward(x, y):
  return _sum_once(x, y), (x, y)


def _sum_once_backward(residuals, gradients):
  x, y = residuals
  total, products = (gradient[None, None] for gradient in gradients)
  return total + products * y, products * x


_sum_once.defvjp(_sum_once_forward, _sum_once_backward)


def sum_together(
  images: Sequence[Array], axes: Sequence[int]
) -> tuple[Array, ...]:
  """Returns the sum of each image over some axes, from one reduction.

  Where many reductions would be a kernel each, one of many arrays is one.

  Args:
    images: of one shape and type.
    axes: which are summed over.
  """
  zeros = (jnp.zeros((), images[0].dtype),) * len(images)
  add = lambda sums, more: tuple(map(jnp.add, sums, more))
  return tuple(lax.reduce(tuple(images), zeros, add, tuple(axes)))


def compute_doubled_variance(x: Array, mode: str) -> Array:
  """Returns the variance of each channel of upsample(x, mode), [C], in float32.

  The mean of the doubled image equals the mean of x.
  """
  if mode == 'bilinear':
    return _variance_bilinear(x)
  return compute_moments(x)[1]


# With u the doubled image, its sum of squares is x . B x, where B is doubling,
# then its transpose. Along each axis B is the filter (3, 10, 3) / 8 with the
# edge replicated; u has twice as many pixels, which makes it (3, 10, 3) / 16.


@jax.custom_vjp
def _variance_bilinear(x: Array) -> Array:
  return _variance_bilinear_forward(x)[0]


def _variance_bilinear_forward(x):
  if choose.sums_once():
    return _sum_filtered(x)
  mean = jnp.mean(widen(x), axis=(0, 1))
  centred, filtered = _filter_centred(x, mean)
  return jnp.mean(centred * filtered, axis=(0, 1)), (x, mean)


def _sum_filtered(x):
  # Hidden, the image is read as it is kept; else XLA would make it again for
  # each of its neighbours, and write them.
  x = recompute.hide(x)
  # Less a pixel, as in `_compute_once`; B keeps constants and means.
  pixel = widen(x[:1, :1])
  moved = widen(x) - pixel
  products = moved * (_filter_both(x) - pixel)
  pixels = x.shape[0] * x.shape[1]
  total, squares = sum_together((moved, products), (0, 1))
  mean = total / pixels
  return squares / pixels - jnp.square(mean), (x, mean + pixel[0, 0])


def _variance_bilinear_backward(residuals, gradient):
  # B is symmetric, so that the gradient is 2 B x. The mean of `filtered` is
  # zero, as the mean of `centred` is: centring adds nothing to the gradient.
  x, mean = residuals
  # The filtered image is computed again, in place of being kept.
  mean, gradient = recompute.hide((mean, gradient))
  if choose.sums_once():
    filtered = _filter_both(recompute.hide(x)) - mean[None, None]
  else:
    _, filtered = _filter_centred(x, mean)
  pixels = x.shape[0] * x.shape[1]
  x_gradient = filtered * (2 / pixels * gradient)[None, None]
  return (x_gradient.astype(x.dtype),)


def _filter_centred(x, mean):
  """x less its mean, and B of that, in float32."""
  # Centred first: the difference of two large numbers would lose digits.
  centred = widen(x) - mean[None, None]
  return centred, _filter(_filter(centred, 0), 1)


_variance_bilinear.defvjp(
  _variance_bilinear_forward, _variance_bilinear_backward
)


def _filter(x, axis):
  """The filter (3, 10, 3) / 16 along one axis, with the edge replicated."""
  count = x.shape[axis]
  pads = [(1, 1) if i == axis else (0, 0) for i in range(3)]
  padded = jnp.pad(x, pads, mode='edge')
  before, after = (
    lax.slice_in_dim(padded, i, i + count, axis=axis) for i in (0, 2)
  )
  return 0.625 * x + 0.1875 * (before + after)


def _filter_both(x):
  """B of x in float32, as a sum of x moved by a pixel or not."""
  # No image but x is made, as `_filter` would make one for its first axis.
  weights = 0.1875, 0.625, 0.1875
  rows = [_move(x, 0, -1), x, _move(x, 0, 1)]
  return sum(
    v * w * widen(moved)
    for v, row in zip(weights, rows)
    for w, moved in zip(weights, [_move(row, 1, -1), row, _move(row, 1, 1)])
  )


def _move(x, axis, step):
  """The next pixel, or for -1 the one before; an edge is replicated."""
  pads = [(-step, step, 0) if i == axis else (0, 0, 0) for i in range(3)]
  moved = lax.pad(x, jnp.zeros((), x.dtype), pads)
  edge = np.arange(x.shape[axis]) == (x.shape[axis] - 1 if step > 0 else 0)
  return jnp.where(np.expand_dims(edge, (1 - axis, 2)), x, moved)
