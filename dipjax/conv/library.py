"""XLA's convolution with the gradients that JAX makes for it.

On a GPU each of the three is one call of a library, which has kernels for
strides and for every layout.

Notation: x [H, W, I] is one image, kernel [h, w, I, O] with odd h and w, y the
result. Pads are ((above, below), (left, right)).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from dipjax.conv import grid, lanes
from dipjax.device import layout

Array = jax.Array
Bilinear = Callable[..., Array]  # Of x and a kernel.


def convolve(x: Array, kernel: Array, stride: int, padding: str) -> Array:
  """Returns y of `ways.convolve`."""
  pads = grid.halve(kernel)
  kernel = layout.keep_rows(kernel)
  if padding == 'reflect':
    x, pads = grid.pad(x, pads, padding), ((0, 0), (0, 0))
  return _make_convolution(stride, pads)(x, kernel)


@functools.cache
def _make_convolution(stride: int, pads: grid.Pads) -> Bilinear:
  return make_bilinear(lambda x, kernel: _call_library(x, kernel, stride, pads))


def make_bilinear(function: Bilinear) -> Bilinear:
  """Returns a function of (x, kernel), linear in each, for one lane or many.

  Its gradients are those that JAX makes. `vmap` makes one call for each lane.
  """
  run = lanes.unroll_lanes(function)

  @functools.cache
  def differ_x(shape):
    return lanes.unroll_lanes(
      lambda dy, kernel: transpose(lambda x: function(x, kernel), shape, dy)
    )

  @functools.cache
  def differ_kernel(shape):
    return lanes.unroll_lanes(
      lambda x, dy: transpose(lambda kernel: function(x, kernel), shape, dy)
    )

  # The parts have no derivative in reverse mode: the rule for lanes is inside,
  # `custom_vjp` is outside.
  bilinear = jax.custom_vjp(run)

  def pull_back(residuals, dy):
    x, kernel = residuals
    return differ_x(x.shape)(dy, kernel), differ_kernel(kernel.shape)(x, dy)

  bilinear.defvjp(
    lambda x, kernel: (bilinear(x, kernel), (x, kernel)), pull_back
  )
  return bilinear


def transpose(linear, shape, dy):
  """Returns the transpose, at dy, of a linear function of an array."""
  given = jax.ShapeDtypeStruct(shape, dy.dtype)
  (gradient,) = jax.linear_transpose(linear, given)(dy)
  return gradient


def _call_library(x, kernel, stride, pads) -> Any:
  return lax.conv_general_dilated(
    x[None],
    kernel,
    (stride, stride),
    pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )[0]
