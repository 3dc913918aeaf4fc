"""Layers that the networks share; linen modules over one image [H, W, C]."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from dipjax import convolution, resampling

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'leaky_relu': lambda x: jax.nn.leaky_relu(x, 0.2),
  'swish': jax.nn.swish,
  'elu': jax.nn.elu,
  'none': lambda x: x,
}
DOWNSAMPLINGS = ('stride', 'average', 'max', 'lanczos2')
UPSAMPLINGS = ('nearest', 'bilinear')


class Conv(nn.Module):
  """A convolution with bias that keeps the size, or halves it (rounded up).

  Initialised as PyTorch's: kernel and bias U(-b, b), b = 1 / sqrt(fan in).
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: str = 'reflect'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[H, W, I] -> [ceil(H / stride), ceil(W / stride), features]."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    init = _uniform(1 / math.sqrt(math.prod(shape[:3])))
    kernel = self.param('kernel', init, shape)
    bias = self.param('bias', init, (self.features,))
    y = convolution.convolve(
      x, kernel, stride=self.stride, padding=self.padding
    )
    return y + bias[None, None]


def _uniform(bound: float) -> Callable[..., Array]:
  return lambda key, shape: jax.random.uniform(
    key, shape, minval=-bound, maxval=bound
  )


class Norm(nn.Module):
  """Each channel to mean 0 and variance 1 over the image, then scale and bias.

  Batch normalisation in training mode for a batch of one image.
  """

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[H, W, C] -> [H, W, C]."""
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    mean = jnp.mean(x, axis=(0, 1), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 1), keepdims=True)
    # In this order, PyTorch's, rounding agrees with the authors' numbers.
    whitened = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
    return whitened * scale[None, None] + bias[None, None]


def crop_center(x: Array, height: int, width: int) -> Array:
  """[H, W, C] -> [height, width, C], the window in the middle."""
  top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
  return x[top : top + height, left : left + width]


def downsample(x: Array, mode: str) -> Array:
  """[H, W, C] -> [H // 2, W // 2, C] by 'average', 'max' or 'lanczos2'."""
  if mode == 'average':
    return nn.avg_pool(x, (2, 2), (2, 2))
  if mode == 'max':
    return nn.max_pool(x, (2, 2), (2, 2))
  kernel = resampling.make_lanczos_kernel(2, lobes=2)
  return resampling.reduce_image(x, kernel, 2)


def upsample(x: Array, mode: str) -> Array:
  """[H, W, C] -> [2H, 2W, C] by 'nearest' or 'bilinear' interpolation.

  Pixels are areas: both are centred on the same image, as PyTorch's
  `align_corners=False`; beyond the edge the edge is replicated.
  """
  for axis in (0, 1):
    x = _double_axis(x, axis, mode)
  return x


def _double_axis(x: Array, axis: int, mode: str) -> Array:
  if mode == 'nearest':
    return jnp.repeat(x, 2, axis)
  count = x.shape[axis]
  before = jnp.concatenate(
    [
      jax.lax.slice_in_dim(x, 0, 1, axis=axis),
      jax.lax.slice_in_dim(x, 0, count - 1, axis=axis),
    ],
    axis,
  )
  after = jnp.concatenate(
    [
      jax.lax.slice_in_dim(x, 1, count, axis=axis),
      jax.lax.slice_in_dim(x, count - 1, count, axis=axis),
    ],
    axis,
  )
  pairs = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
  doubled = jnp.stack(pairs, axis + 1)
  return doubled.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])
