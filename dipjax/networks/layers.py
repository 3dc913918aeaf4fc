"""Layers that the networks share; linen modules over one image [H, W, C]."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dipjax import conv, resampling
from dipjax.conv import choose
from dipjax.device import layout, recompute

Array = jax.Array


# Written as a choice by the sign, XLA would keep the sign for the gradient.
@jax.custom_vjp
def _leaky_relu(x: Array) -> Array:
  return jnp.maximum(x, 0.2 * x)


def _leaky_relu_backward(x, gradient):
  if choose.computes_slopes():
    # At 0 the slope is PyTorch's 0.2, not JAX's 1.
    return (gradient * jnp.maximum(jnp.sign(x), 0.2),)
  return (jnp.where(x >= 0, gradient, 0.2 * gradient),)


_leaky_relu.defvjp(lambda x: (_leaky_relu(x), x), _leaky_relu_backward)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'leaky_relu': _leaky_relu,
  'relu': jax.nn.relu,
  'swish': jax.nn.swish,
  'elu': jax.nn.elu,
  'none': lambda x: x,
}
DOWNSAMPLINGS = ('stride', 'average', 'max', 'lanczos2')
UPSAMPLINGS = ('nearest', 'bilinear')
PADDINGS = tuple(conv.PADDINGS)

upsample = conv.upsample  # Networks find it here, beside `downsample`.


class Conv(nn.Module):
  """A convolution with bias that keeps the size, or halves it (rounded up).

  Kernel and bias start as in PyTorch, U(-b, b) with b = 1 / sqrt(fan in), times
  `scale`.

  Attributes:
    features: channels of the result.
    size: side of the kernel, odd.
    stride: 1 or 2.
    padding: 'reflect' or 'zero'.
    add_bias: False where a normalisation follows, which takes every constant
      away. Then the bias is a parameter, as in the paper, without effect.
    has_bias: whether the bias is a parameter at all.
    scale: factor of the first values.
  """

  features: int
  size: int = 3
  stride: int = 1
  padding: str = 'reflect'
  add_bias: bool = True
  has_bias: bool = True
  scale: float = 1.0

  @nn.compact
  def make_params(self, inputs: int) -> tuple[Array, Array | None]:
    """Returns kernel [size, size, inputs, features], bias [features] if any."""
    shape = (self.size, self.size, inputs, self.features)
    init = make_init(math.prod(shape[:3]), self.scale)
    kernel = self.param('kernel', init, shape)
    if not self.has_bias:
      return kernel, None
    return kernel, self.param('bias', init, (self.features,))

  def __call__(self, x: Array, count: int = 1) -> Array:
    """[H, W, I] -> [ceil(H / stride), ceil(W / stride), features].

    With a count, channels are those of so many images side by side, and the
    kernel is 1x1.
    """
    kernel, bias = self.make_params(x.shape[-1] // count)
    convolve = lambda x: conv.convolve(
      x, kernel.astype(x.dtype), stride=self.stride, padding=self.padding
    )
    if count == 1:
      y = convolve(x)
    else:
      y = jnp.concatenate([*map(convolve, jnp.split(x, count, -1))], -1)
    if bias is None or not self.add_bias:
      return y
    if count == 1:
      return y + bias[None, None].astype(x.dtype)
    # What the bias gets is a sum over a few channels, which an order of its own
    # would slow down.
    bias = jnp.tile(bias, count).astype(x.dtype)
    return layout.keep_lines(y + bias[None, None])

  def make_blocks(self, x: Array) -> Array:
    """[2h, 2w, I] -> [h, w, 2, 2, features], of a 1x1 kernel without a bias."""
    kernel, _ = self.make_params(x.shape[-1])
    return conv.multiply_into_blocks(x, kernel[0, 0].astype(x.dtype))


def make_init(fan_in: int, scale: float = 1.0) -> Callable[..., Array]:
  """Returns (key, shape) -> U(-b, b), b = scale / sqrt(fan in).

  A scale of 1 is PyTorch's.
  """
  bound = scale / math.sqrt(fan_in)
  return lambda key, shape: jax.random.uniform(
    key, shape, jnp.float32, minval=-bound, maxval=bound
  )


class Norm(nn.Module):
  """Normalises each channel, then applies scale, bias and an activation.

  A normalised channel has mean 0 and variance 1. The layer is batch
  normalisation in training mode for a batch of one image, with statistics over
  the image's pixels in float32.

  Attributes:
    activation: a name of ACTIVATIONS.
    epsilon: added to the variance.
  """

  activation: str = 'none'
  epsilon: float = 1e-5

  @nn.compact
  def make_params(self, channels: int) -> tuple[Array, Array]:
    """Returns scale and bias, [channels] each."""
    shape = (channels,), jnp.float32
    scale = self.param('scale', nn.initializers.ones, *shape)
    return scale, self.param('bias', nn.initializers.zeros, *shape)

  def __call__(self, x: Array, count: int = 1) -> Array:
    """[H, W, C] -> [H, W, C].

    With a count, channels are those of so many images side by side, whose
    pixels are those of one image.
    """
    scale, bias = self.make_params(x.shape[-1] // count)
    if count > 1:
      scale, bias = jnp.tile(scale, count), jnp.tile(bias, count)
    return _normalize(x, scale, bias, self.epsilon, self.activation, count)


def make_image(x: Array, sigmoid: bool) -> Array:
  """Returns x in float32, squeezed into (0, 1) if `sigmoid`.

  It is the last layer of a network.
  """
  x = layout.keep_rows(conv.widen(x))
  return jax.nn.sigmoid(x) if sigmoid else x


# The normalisation has gradients of its own, because automatic differentiation
# would read and write the image twice as often.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _normalize(x, scale, bias, epsilon, activation, count):
  return _normalize_forward(x, scale, bias, epsilon, activation, count)[0]


def _normalize_forward(x, scale, bias, epsilon, activation, count):
  # The backward pass keeps x alone: the other images are cheap to make again.
  mean, variance = _compute_moments(x, count)
  if count > 1:
    mean, variance = jnp.tile(mean, count), jnp.tile(variance, count)
  residuals = x, mean, jax.lax.rsqrt(variance + epsilon), scale, bias
  _, affine = _whiten(residuals)
  return ACTIVATIONS[activation](affine).astype(x.dtype), residuals


def _whiten(residuals):
  """Returns x with mean 0 and variance 1, and the same with scale and bias."""
  x, mean, factor, scale, bias = residuals
  whitened = (conv.widen(x) - mean[None, None]) * factor[None, None]
  # The order of operations is PyTorch's, so that rounding agrees with the
  # authors' numbers.
  return whitened, whitened * scale[None, None] + bias[None, None]


def _compute_moments(x, count):
  """Mean and variance of each channel, of images side by side, [C] each."""
  mean, variance = conv.compute_moments(x)
  if count == 1:
    return mean, variance
  each, variances = mean.reshape(count, -1), variance.reshape(count, -1)
  mean = jnp.mean(each, axis=0)
  return mean, jnp.mean(variances + jnp.square(each - mean[None]), axis=0)


def _share(vector, count):
  """The mean over images side by side, [count C], for each of them."""
  return jnp.tile(jnp.mean(vector.reshape(count, -1), axis=0), count)


def _normalize_backward(epsilon, activation, count, residuals, gradient):
  del epsilon
  x, mean, factor, scale, bias = residuals
  # The whitened image of the forward pass is not kept.
  mean, factor = recompute.compute_apart(gradient, (mean, factor))
  pull_back = lambda mean: _pull_back(
    activation, (x, mean, factor, scale, bias), gradient
  )
  # The two sums over the image are the gradients of the parameters. The sums
  # also give the gradient in x its dependence on mean and variance: neither a
  # constant nor a factor in x changes the result, so that the gradient in x is
  # centred and has no part along the whitened image.
  bias_gradient, scale_gradient = conv.sum_products(*pull_back(mean))
  # What the sums were made of is computed again, in place of being kept.
  mean, bias_gradient, scale_gradient = recompute.hide(
    (mean, bias_gradient, scale_gradient)
  )
  given, whitened = pull_back(mean)
  pixels = x.shape[0] * x.shape[1]
  sums = bias_gradient, scale_gradient
  if count > 1:
    sums = _share(bias_gradient, count), _share(scale_gradient, count)
  centred = given - (sums[0] / pixels)[None, None]
  centred -= whitened * (sums[1] / pixels)[None, None]
  x_gradient = centred * (factor * scale)[None, None]
  return x_gradient.astype(x.dtype), scale_gradient, bias_gradient


def _pull_back(activation, residuals, gradient):
  """The gradient before the activation, in float32, and the whitened image."""
  whitened, affine = _whiten(residuals)
  _, pull_back = jax.vjp(ACTIVATIONS[activation], affine)
  (gradient,) = pull_back(conv.widen(gradient))
  return gradient, whitened


_normalize.defvjp(_normalize_forward, _normalize_backward)


def call(method: Callable[..., Any], *arguments: Any, again: bool) -> Any:
  """Returns method(*arguments), which the gradient keeps or computes again.

  Args:
    method: of a module inside of a network, whose variables are parameters.
    *arguments: images; an argument may be None.
    again: whether the gradient computes again what the method computes, instead
      of keeping it.
  """
  bound: Any = method
  module = bound.__self__
  if not again or module.is_initializing():
    return method(*arguments)
  unbound, variables = module.unbind()
  run = lambda variables, *arguments: unbound.apply(
    variables, *arguments, method=bound.__name__
  )
  return recompute.recompute(run)(variables, *arguments)


def apply_to_pixels(
  function: Callable[[Array, int], Array], blocks: Array
) -> Array:
  """Applies a function of single pixels to blocks [h, w, p, q, C].

  Args:
    function: of an image, and of how many lie side by side in its channels.
    blocks: of pixels.
  """
  height, width, *sides, _ = blocks.shape
  if choose.keeps_blocks():
    count = math.prod(sides)
    return function(blocks.reshape(height, width, -1), count).reshape(
      height, width, *sides, -1
    )
  pixels = blocks.reshape(blocks.shape[0], -1, blocks.shape[-1])
  return function(pixels, 1).reshape(*blocks.shape[:-1], -1)


def merge_doubled(
  norm: Norm, convolution: Conv, skip: Array | None, x: Array, mode: str
) -> Array:
  """Returns convolution(norm(concat(skip, upsample(x, mode)))), in blocks.

  A normalisation must follow. A large image is never doubled, see
  `choose.prefers_blocks`; the result of a large image lacks a constant in each
  channel, which the normalisation that follows takes away.

  Args:
    norm: a normalisation without an activation.
    convolution: a convolution with a stride of 1 that adds no bias.
    skip: [H, W, S], or the same in blocks [H / 2, W / 2, 2, 2, S]; or None.
      Both images are cropped as `concatenate` does.
    x: [h, w, C].
    mode: a name of UPSAMPLINGS.

  Returns:
    [h', w', p, q, features]; `conv.join_blocks` makes the image from it.

  Raises:
    ValueError: an activation, an added bias, or a stride other than 1.
  """
  if norm.activation != 'none' or convolution.add_bias:
    raise ValueError('merge_doubled takes no activation and adds no bias')
  if convolution.stride != 1:
    raise ValueError(
      f'merge_doubled: stride must be 1, not {convolution.stride}'
    )
  size, padding = convolution.size, convolution.padding
  joined = jax.eval_shape(_join_skip, skip)
  if not choose.prefers_blocks(x, joined, size, padding):
    skip = _join_skip(skip)
    x = upsample(x, mode)
    x = x if skip is None else concatenate(skip, x)
    return convolution(norm(x))[:, :, None, None]
  variance = conv.compute_doubled_variance(x, mode)
  if skip is not None:
    pixels = skip.reshape(*skip.shape[:2], -1)
    count = pixels.shape[-1] // skip.shape[-1]
    skip_variance = _compute_moments(pixels, count)[1]
    variance = jnp.append(skip_variance, variance)
  # The normalisation is a factor and a constant for each channel. The factor
  # goes into the kernel. The constant, reflected as the image is, stays a
  # constant behind the convolution, and is left out.
  scale, _ = norm.make_params(variance.size)
  kernel, _ = convolution.make_params(variance.size)
  factor = scale * jax.lax.rsqrt(variance + norm.epsilon)
  kernel = kernel * factor[None, None, :, None]
  return conv.convolve_doubled(x, skip, kernel, mode)


def _join_skip(skip):
  if skip is None or skip.ndim == 3:
    return skip
  return conv.join_blocks(skip)


def crop_center(x: Array, height: int, width: int) -> Array:
  """[H, W, C] -> [height, width, C], the window in the middle."""
  top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
  return x[top : top + height, left : left + width]


def concatenate(a: Array, b: Array) -> Array:
  """Joins channels; both are centre-cropped to the smaller of each side."""
  height = min(a.shape[0], b.shape[0])
  width = min(a.shape[1], b.shape[1])
  crops = [crop_center(x, height, width) for x in (a, b)]
  return jnp.concatenate(crops, axis=-1)


def downsample(x: Array, mode: str) -> Array:
  """[H, W, C] -> [H // 2, W // 2, C] by 'average', 'max' or 'lanczos2'."""
  if mode == 'average':
    return nn.avg_pool(x, (2, 2), (2, 2))
  if mode == 'max':
    height, width = (side // 2 * 2 for side in x.shape[:2])
    rows = jnp.maximum(x[0:height:2], x[1:height:2])
    return jnp.maximum(rows[:, 0:width:2], rows[:, 1:width:2])
  kernel = resampling.make_kernel('lanczos2', 2)
  return resampling.reduce_image(x, kernel, 2)


# Checks and sizes that all networks share.


def round_up(
  height: int, width: int, multiple: int, least: int = 1
) -> tuple[int, int]:
  """Returns the smallest size that covers an image and can be halved exactly.

  Args:
    height, width: the image's sides, in pixels.
    multiple: divides each side of the result.
    least: each side of the result is at least `least` times `multiple`.
  """
  up = lambda side: multiple * max(-(-side // multiple), least)
  return up(height), up(width)


def check_residual(module: Any, code: Array, name: str) -> None:
  """Raises a ValueError for a code that a residual image cannot be added to.

  Args:
    module: a network with the fields `residual` and `outputs`.
    code: [H, W, C].
    name: of the network, in the error.
  """
  if module.residual and code.shape[-1] != module.outputs:
    raise ValueError(
      f'a residual {name} takes a code with the {module.outputs} channels of '
      f'the image, got {code.shape[-1]}: set residual=False'
    )


def check_choice(name: str, known: Iterable[str]) -> None:
  """Raises a ValueError with the known names if `name` is none of them."""
  if name not in known:
    raise ValueError(f'{name!r} is not one of {", ".join(known)}')


def check_least(network: nn.Module, **least: int) -> None:
  """Raises a ValueError for a field, or an entry of a tuple, below its least.

  Args:
    network: whose fields are checked.
    **least: the least value of each field, by name.
  """
  for name, value in least.items():
    given = getattr(network, name)
    numbers = given if isinstance(given, (tuple, list)) else (given,)
    if not numbers or min(numbers) < value:
      raise ValueError(f'{name} must be at least {value}, got {given}')
