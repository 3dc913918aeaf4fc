"""XLA's convolution with the gradients that JAX makes for it.

On a GPU each of the three is one call of a library, which has kernels for
strides and for every layout.

Notation: x [H, W, I] is one image, kernel [h, w, I, O] with odd h and w, y the
result. Pads are ((above, below), (left, right)).
"""

import functools
from typing import Any

import jax
from jax import lax

from dipjax.conv import grid, lanes
from dipjax.device import layout

Array = jax.Array


def convolve(x: Array, kernel: Array, stride: int, padding: str) -> Array:
  """Returns y of `ways.convolve`."""
  pads = grid.halve(kernel)
  kernel = layout.keep_rows(kernel)
  if padding == 'reflect':
    x, pads = grid.pad(x, pads, padding), ((0, 0), (0, 0))
  return _convolve(x, kernel, stride, pads)


# The parts have no derivative in reverse mode: the rule for lanes is inside,
# `custom_vjp` is outside.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, pads: grid.Pads) -> Array:
  return _make_convolution(stride, pads)(x, kernel)


def _convolve_forward(x, kernel, stride, pads):
  return _convolve(x, kernel, stride, pads), (x, kernel)


def _convolve_backward(stride, pads, residuals, dy):
  x, kernel = residuals
  return (
    _make_input_gradient(stride, pads, x.shape)(dy, kernel),
    _make_kernel_gradient(stride, pads, kernel.shape)(x, dy),
  )


_convolve.defvjp(_convolve_forward, _convolve_backward)


@functools.cache
def _make_convolution(stride: int, pads: grid.Pads):
  """(x, kernel) -> y."""
  return lanes.unroll_lanes(
    lambda x, kernel: _call_library(x, kernel, stride, pads)
  )


@functools.cache
def _make_input_gradient(stride: int, pads: grid.Pads, shape: tuple[int, ...]):
  """(dy, kernel) -> the gradient in x, which has the shape."""
  return lanes.unroll_lanes(
    lambda dy, kernel: transpose(
      lambda x: _call_library(x, kernel, stride, pads), shape, dy
    )
  )


@functools.cache
def _make_kernel_gradient(stride: int, pads: grid.Pads, shape: tuple[int, ...]):
  """(x, dy) -> the gradient in the kernel, which has the shape."""
  return lanes.unroll_lanes(
    lambda x, dy: transpose(
      lambda kernel: _call_library(x, kernel, stride, pads), shape, dy
    )
  )


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
