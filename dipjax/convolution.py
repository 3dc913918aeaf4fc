"""The convolution, with its own gradients and its own rule for lanes.

Notation: x [H, W, I] is one image, kernel [h, w, I, O] with odd h and w, y
[ceil(H / stride), ceil(W / stride), O] the result.

The gradients that automatic differentiation writes for a convolution have
unusual dimension numbers, which XLA rewrites into a fast form only outside of
loops, and `vmap` over kernels makes grouped convolutions, slow everywhere.
Here the gradient in x is a convolution in the one layout that is fast (NHWC,
HWIO), inside loops and outside, the gradient in the kernel a few matrix
products, and lanes are unrolled: each lane runs the same program that it would
run alone. On a CPU large images are convolved in tiles (`winograd`), the
smallest by products alone. benchmarks/NOTES.md has what else was tried.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dipjax import winograd

PADDINGS = {'reflect': 'reflect', 'zero': 'constant'}

_GROUP = 128  # Channels that a CPU's threads share out best.
_LEAST_COLUMNS = 8  # A product of fewer takes a slow path, on the CPU.
_FEW_PIXELS = 1024  # Products of more take longer than they save.
_FEW_ENTRIES = 150_000  # Of a matrix that gathers windows.
_LEAST_PIXELS, _LEAST_CHANNELS = 1024, 16  # For tiles to pay.

Array = jax.Array
Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve(
  x: Array, kernel: Array, *, stride: int = 1, padding: str = 'reflect'
) -> Array:
  """Returns the cross-correlation of one image with a kernel, as PyTorch's.

  Equal to padding x by half a kernel on each side, then a valid convolution;
  linear in both arguments, differentiable in both by reverse mode.

  Args:
    x: [H, W, I].
    kernel: [h, w, I, O], h and w odd.
    stride: 1 or 2, the same along both axes.
    padding: 'reflect' (without repeating the edge) or 'zero'.

  Returns:
    [ceil(H / stride), ceil(W / stride), O].

  Raises:
    ValueError: shapes that do not fit, an even kernel, another stride or
      padding, or an image too small to be reflected.
  """
  _check_arguments(x, kernel, stride, padding)
  if kernel.shape[:2] == (1, 1):
    return _multiply_pixels(x[::stride, ::stride], kernel[0, 0])
  if prefers_windows(x, kernel, stride):
    windows = _gather_windows(x, kernel.shape[:2], stride, padding)
    return _multiply_pixels(windows, kernel.reshape(-1, kernel.shape[3]))
  if stride == 2:
    return _convolve_stride_2(x, kernel, padding)
  if prefers_tiles(x, kernel):
    return convolve_in_tiles(x, kernel, padding)
  return convolve_directly(x, kernel, padding)


def _check_arguments(x, kernel, stride, padding):
  if x.ndim != 3 or kernel.ndim != 4 or x.shape[2] != kernel.shape[2]:
    raise ValueError(
      'convolve takes x [H, W, I] and a kernel [h, w, I, O], got '
      f'{x.shape} and {kernel.shape}'
    )
  if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
    raise ValueError(f'kernel sides must be odd, got {kernel.shape[:2]}')
  if stride not in (1, 2):
    raise ValueError(f'stride must be 1 or 2, got {stride}')
  if padding not in PADDINGS:
    raise ValueError(f'padding {padding!r} is not one of {sorted(PADDINGS)}')
  reach = (kernel.shape[0] // 2, kernel.shape[1] // 2)
  if padding == 'reflect' and (
    x.shape[0] <= reach[0] or x.shape[1] <= reach[1]
  ):
    raise ValueError(
      f'an image of {x.shape[0]}x{x.shape[1]} is too small to be reflected by '
      f'a kernel of {kernel.shape[0]}x{kernel.shape[1]}'
    )


def _half(kernel: Array) -> Pads:
  vertical, horizontal = kernel.shape[0] // 2, kernel.shape[1] // 2
  return (vertical, vertical), (horizontal, horizontal)


def _pad(x: Array, pads: Pads, padding: str) -> Array:
  if padding == 'reflect' and prefers_products(x):
    for axis, pad in enumerate(pads):
      chosen = np.pad(np.arange(x.shape[axis]), pad, mode='reflect')
      x = multiply_axis(np.eye(x.shape[axis])[chosen], x, axis)
    return x
  return jnp.pad(x, (*pads, (0, 0)), mode=PADDINGS[padding])


def prefers_products(x: Array) -> bool:
  """Returns whether pixels of x should be moved by `multiply_axis`.

  On a CPU, for small images: a product is a call of a library, for which
  nothing is compiled. What moves pixels otherwise makes programs of all that
  comes before it, one for each of its parts, that take seconds to compile.

  Args:
    x: [H, W, C].
  """
  few = x.shape[0] * x.shape[1] <= _FEW_PIXELS
  return few and jax.default_backend() == 'cpu'


def multiply_axis(matrix: np.ndarray, x: Array, axis: int) -> Array:
  """Returns the product of a matrix and one axis of an image.

  Exact for a matrix that picks pixels.

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
  # A product for each line: otherwise a transposed image would be made.
  factors = jnp.broadcast_to(factors, (height, *factors.shape))
  return jnp.matmul(factors, x, precision='highest')


def prefers_windows(x: Array, kernel: Array, stride: int) -> bool:
  """Returns whether a convolution should be products alone.

  On a CPU, for the smallest images, for the reason of `prefers_products`.

  Args:
    x: [H, W, I].
    kernel: [h, w, I, O].
    stride: of the convolution.
  """
  pixels = x.shape[0] * x.shape[1]
  entries = pixels * pixels * kernel.shape[0] * kernel.shape[1] // stride**2
  return entries <= _FEW_ENTRIES and jax.default_backend() == 'cpu'


def _gather_windows(
  x: Array, sides: Sequence[int], stride: int, padding: str
) -> Array:
  """The pixels under a kernel of h x w, [H', W', h w I]."""
  height, width, _ = x.shape
  pads = [(side // 2, side // 2) for side in sides]
  # Where each pixel of a window comes from; one more place holds zero.
  places = np.arange(height * width).reshape(height, width)
  if padding == 'reflect':
    places = np.pad(places, pads, mode='reflect')
  else:
    places = np.pad(places, pads, constant_values=height * width)
  places = np.lib.stride_tricks.sliding_window_view(places, sides)
  places = places[::stride, ::stride]
  matrix = np.eye(height * width + 1, height * width)[places.ravel()]
  windows = jnp.matmul(
    jnp.asarray(matrix, x.dtype), _flatten(x), precision='highest'
  )
  return windows.reshape(*places.shape[:2], -1)


def prefers_tiles(x: Array, kernel: Array) -> bool:
  """Returns whether `winograd` should convolve.

  On a CPU in float32, where the products that are saved are worth more than
  tiles cost: not for few pixels, nor for few channels.

  Args:
    x: [H, W, I].
    kernel: [h, w, I, O].
  """
  return (
    kernel.shape[:2] == (3, 3)
    and x.dtype == jnp.float32
    and x.shape[0] * x.shape[1] >= _LEAST_PIXELS
    and min(kernel.shape[2:]) >= _LEAST_CHANNELS
    and jax.default_backend() == 'cpu'
  )


def convolve_in_tiles(x: Array, kernel: Array, padding: str) -> Array:
  """As `convolve`, by `winograd`; for a 3x3 kernel and a stride of 1."""
  height, width = x.shape[:2]
  padded = _pad(x, _half(kernel), padding)
  # What is not read, and what makes whole tiles.
  rest = ((0, 2 + -height % winograd.TILE), (0, 2 + -width % winograd.TILE))
  y: Any = _convolve_tiles(_pad(padded, rest, 'zero'), kernel)
  return y[:height, :width]


def convolve_directly(x: Array, kernel: Array, padding: str) -> Array:
  """As `convolve`, by XLA's convolution; for a stride of 1."""
  if padding == 'zero':
    return _convolve_same(x, kernel, _half(kernel))
  # A zero-padded convolution of the padded image, cropped, is several times
  # faster on the CPU than a valid one of the same image.
  (top, bottom), (left, right) = _half(kernel)
  padded = _pad(x, _half(kernel), padding)
  y: Any = _convolve_same(padded, kernel, _half(kernel))
  return y[top : y.shape[0] - bottom, left : y.shape[1] - right]


def _convolve_stride_2(x: Array, kernel: Array, padding: str) -> Array:
  """A stride of 2 as a stride of 1 over 2x2 blocks of pixels (space to depth).

  With the kernel's side 2r + 1 padded to 2r + 2 the sums are the same.
  """
  padded = _pad(x, _half(kernel), padding)
  height, width = padded.shape[:2]
  padded = _pad(padded, ((0, height % 2), (0, width % 2)), 'zero')
  blocks = _gather_blocks(padded)
  h, w, inputs, outputs = kernel.shape
  kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
  kernel = kernel.reshape(
    (h + 1) // 2, 2, (w + 1) // 2, 2, inputs, outputs
  ).transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape((h + 1) // 2, (w + 1) // 2, 4 * inputs, outputs)
  pads = ((0, kernel.shape[0] - 1), (0, kernel.shape[1] - 1))
  y: Any = _convolve_same(blocks, kernel, pads)
  return y[: (x.shape[0] + 1) // 2, : (x.shape[1] + 1) // 2]


def _gather_blocks(x: Array) -> Array:
  """[2H, 2W, C] -> [H, W, 4C]."""
  height, width, channels = x.shape
  x = x.reshape(height // 2, 2, width // 2, 2, channels)
  x = x.transpose(0, 2, 1, 3, 4)
  return x.reshape(height // 2, width // 2, 4 * channels)


def _unroll_lanes(function: Callable) -> Callable:
  """Gives `function` the rule for lanes: under vmap, one call for each lane."""
  function = jax.custom_batching.custom_vmap(function)

  @function.def_vmap
  def _rule(lanes, batched, *arguments):
    calls = [
      function(*(a[i] if b else a for a, b in zip(arguments, batched)))
      for i in range(lanes)
    ]
    return jnp.stack(calls), True

  return function


# Primitives, each without a derivative of its own: `custom_vmap` inside,
# `custom_vjp` outside. The pads make the result as large as x.


@functools.cache
def _lane_convolution(pads: Pads):
  """(x [H, W, I], kernel [h, w, I, O]) -> [H, W, O]; pads sum to h-1, w-1."""

  return _unroll_lanes(lambda x, kernel: _convolve(x[None], kernel, pads)[0])


def _convolve(x: Array, kernel: Array, pads: Pads) -> Array:
  """[N, H, W, I], [h, w, I, O] -> [N, H', W', O], the one fast layout."""
  return lax.conv_general_dilated(
    x, kernel, (1, 1), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@functools.cache
def _lane_input_gradient(pads: Pads):
  """(gradient of y [H, W, O], kernel [h, w, I, O]) -> gradient of x."""

  @_unroll_lanes
  def input_gradient(dy, kernel):
    (top, bottom), (left, right) = pads
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    parts = [
      _convolve(dy[None], part, ((bottom, top), (right, left)))[0]
      for part in _split_groups(flipped, 3)
    ]
    return jnp.concatenate(parts, axis=2)

  return input_gradient


@functools.cache
def _lane_kernel_gradient(pads: Pads):
  """(x [H, W, I], gradient of y [H, W, O]) -> gradient of the kernel."""

  @_unroll_lanes
  def kernel_gradient(x, dy):
    # Columns of pixels are gathered of the one with fewer channels, rows are
    # slices; then it is one matrix product for each row of the kernel.
    gathers_x = x.shape[2] < dy.shape[2]
    correlate = _correlate_columns if gathers_x else _correlate_spread
    return correlate(x, dy, pads)

  return kernel_gradient


def _correlate_columns(x: Array, dy: Array, pads: Pads) -> Array:
  """Kernel gradient from the pixels of x under a row of the kernel, and dy."""
  rows, columns = (sum(pad) + 1 for pad in pads)
  gathered = _gather_columns(_pad(x, pads, 'zero'), range(columns))
  products = _multiply_rows(gathered, dy, rows)
  return products.reshape(rows, columns, x.shape[2], dy.shape[2])


def _correlate_spread(x: Array, dy: Array, pads: Pads) -> Array:
  """Kernel gradient from x, and the pixels of dy that a row of it reaches."""
  vertical, (left, right) = pads
  rows, columns = sum(vertical) + 1, left + right + 1
  around = _pad(x, (vertical, (0, 0)), 'zero')
  padded = _pad(dy, ((0, 0), (right, left)), 'zero')
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
  height, other = image.shape[0], _flatten(image)
  return jnp.stack(
    [_flatten(around[i : i + height]).T @ other for i in range(rows)]
  )


def _flatten(x: Array) -> Array:
  """[H, W, C] -> [H W, C]."""
  return x.reshape(-1, x.shape[2])


def _split_groups(x: Array, axis: int) -> list[Array]:
  """Cuts off the channels beyond a multiple of the group.

  The CPU's threads share out whole groups: with a few channels more, one of
  them works while the others wait.
  """
  count = x.shape[axis]
  whole = count - count % _GROUP
  return jnp.split(x, [whole], axis=axis) if 0 < whole < count else [x]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_same(x: Array, kernel: Array, pads: Pads) -> Array:
  return _lane_convolution(pads)(x, kernel)


def _convolve_same_forward(x, kernel, pads):
  return _convolve_same(x, kernel, pads), (x, kernel)


def _convolve_same_backward(pads, residuals, dy):
  x, kernel = residuals
  return (
    _lane_input_gradient(pads)(dy, kernel),
    _lane_kernel_gradient(pads)(x, dy),
  )


_convolve_same.defvjp(_convolve_same_forward, _convolve_same_backward)


_tiles_convolution = _unroll_lanes(winograd.convolve)
_tiles_input_gradient = _unroll_lanes(winograd.pull_image)
_tiles_kernel_gradient = _unroll_lanes(winograd.pull_kernel)


@jax.custom_vjp
def _convolve_tiles(x: Array, kernel: Array) -> Array:
  return _tiles_convolution(x, kernel)


def _convolve_tiles_forward(x, kernel):
  return _convolve_tiles(x, kernel), (x, kernel)


def _convolve_tiles_backward(residuals, dy):
  x, kernel = residuals
  return _tiles_input_gradient(dy, kernel), _tiles_kernel_gradient(x, dy)


_convolve_tiles.defvjp(_convolve_tiles_forward, _convolve_tiles_backward)


@_unroll_lanes
def _product(a, b):
  return a @ b


@jax.custom_vjp
def _multiply_pixels(x: Array, matrix: Array) -> Array:
  """[H, W, I], [I, O] -> [H, W, O]: the 1x1 convolution."""
  return _product(_flatten(x), matrix).reshape(*x.shape[:2], -1)


def _multiply_pixels_forward(x, matrix):
  return _multiply_pixels(x, matrix), (x, matrix)


def _multiply_pixels_backward(residuals, dy):
  x, matrix = residuals
  dx = _product(_flatten(dy), matrix.T).reshape(x.shape)
  return dx, _correlate_pixels(_flatten(x), _flatten(dy))


def _correlate_pixels(x, dy):
  """[n, I], [n, O] -> [I, O], with columns of zeros where O is small."""
  outputs = dy.shape[1]
  if outputs < _LEAST_COLUMNS:
    dy = jnp.pad(dy, ((0, 0), (0, _LEAST_COLUMNS - outputs)))
  return _product(dy.T, x)[:outputs].T


_multiply_pixels.defvjp(_multiply_pixels_forward, _multiply_pixels_backward)
