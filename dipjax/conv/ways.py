"""`convolve` computes a convolution by the way that is fast on the target.

Notation: x [H, W, I] is one image, kernel [h, w, I, O] with odd h and w, y
[ceil(H / stride), ceil(W / stride), O] the result.

The ways have the same value up to rounding: a 1x1 kernel is one product;
`windows` gathers the pixels under the kernel and makes one product of them;
`winograd` computes in tiles; `library` and `direct` call XLA's convolution,
with JAX's gradients and with others. `choose` decides between the ways.
benchmarks/NOTES.md tells what else was tried.
"""

import jax

from dipjax.conv import (
  choose,
  columns,
  direct,
  grid,
  library,
  windows,
  winograd,
)

Array = jax.Array


def convolve(
  x: Array, kernel: Array, *, stride: int = 1, padding: str = 'reflect'
) -> Array:
  """Returns the cross-correlation of one image with a kernel, as PyTorch's.

  The result equals padding x by half a kernel on each side, then a valid
  convolution. It is linear in both arguments and differentiable in both by
  reverse mode. Under `vmap` each lane runs the program that it runs alone.

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
    return direct.multiply_pixels(x[::stride, ::stride], kernel[0, 0])
  if choose.prefers_windows(x, kernel, stride):
    gathered = windows.gather_windows(x, kernel.shape[:2], stride, padding)
    return direct.multiply_pixels(gathered, kernel.reshape(-1, kernel.shape[3]))
  if choose.prefers_columns(x, kernel):
    return columns.convolve_columns(x, kernel, stride, padding)
  if choose.prefers_library():
    return library.convolve(x, kernel, stride, padding)
  if stride == 2:
    return direct.convolve_stride_2(x, kernel, padding)
  if choose.prefers_tiles(x, kernel):
    return winograd.convolve_in_tiles(x, kernel, padding)
  return direct.convolve_directly(x, kernel, padding)


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
  if padding not in grid.PADDINGS:
    raise ValueError(
      f'padding {padding!r} is not one of {sorted(grid.PADDINGS)}'
    )
  reach = (kernel.shape[0] // 2, kernel.shape[1] // 2)
  if padding == 'reflect' and (
    x.shape[0] <= reach[0] or x.shape[1] <= reach[1]
  ):
    raise ValueError(
      f'an image of {x.shape[0]}x{x.shape[1]} is too small to be reflected by '
      f'a kernel of {kernel.shape[0]}x{kernel.shape[1]}'
    )
