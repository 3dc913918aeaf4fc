"""The U-Net of the deep image prior (Ulyanov et al., models/unet.py).

Scales are numbered from the outside in; scale 0 has the full size. On the way
in, the maximum of 2x2 pixels halves the size between two scales. On the way
out, each scale doubles the activations of the scale below and joins them with
the activations that the way in had at the same scale.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from dipjax import conv
from dipjax.networks import layers

Array = jax.Array

UPSAMPLINGS = (*layers.UPSAMPLINGS, 'transposed')


class UNet(nn.Module):
  """The U-Net: code [H, W, C] -> image [H, W, outputs].

  The default has 2,164,899 parameters with a code of 32 channels. Only the way
  in is normalised, by the statistics of the one image. A code whose size is a
  `code_size` gives an image of exactly its own size.

  Attributes:
    outputs: channels of the image.
    channels: of each scale, from the outside in.
    upsampling: 'nearest' or 'bilinear', each with a 3x3 convolution after it,
      or 'transposed', a transposed convolution of 4x4.
    padding: 'reflect' or 'zero'.
    sigmoid: whether a sigmoid maps the image into (0, 1).
    remat: whether the gradient computes the activations of each scale again
      instead of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: an argument that is none of the above.
  """

  outputs: int = 3
  channels: tuple[int, ...] = (16, 32, 64, 128, 256)
  upsampling: str = 'bilinear'
  padding: str = 'reflect'
  sigmoid: bool = True
  remat: bool = False

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of a code that covers an image of this size.

    The sides of the code halve exactly at each scale, and padding can reflect
    them at the last.
    """
    return layers.round_up(height, width, 2 ** (len(self.channels) - 1), 2)

  def __post_init__(self):
    layers.check_least(self, channels=1)
    layers.check_choice(self.upsampling, UPSAMPLINGS)
    layers.check_choice(self.padding, layers.PADDINGS)
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]."""
    call = functools.partial(layers.call, again=self.remat)
    x, scales = code, []
    for i, channels in enumerate(self.channels):
      x = layers.downsample(x, 'max') if i else x
      level = _Down(channels, self.padding, name=f'down{i}')
      x = call(level.__call__, x)
      scales.append(x)
    for i in reversed(range(len(self.channels) - 1)):
      level = _Up(
        self.channels[i], self.upsampling, self.padding, name=f'up{i}'
      )
      x = call(level.__call__, x, scales[i])
    x = layers.Conv(self.outputs, 1, name='out_conv')(x)
    return layers.make_image(x, self.sigmoid)


class _Down(nn.Module):
  """The way in at one scale: two convolutions, each normalised."""

  channels: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(2):
      x = layers.Conv(
        self.channels, padding=self.padding, add_bias=False, name=f'conv{i}'
      )(x)
      x = layers.Norm('relu', name=f'norm{i}')(x)
    return x


class _Up(nn.Module):
  """The way out at one scale: double, join, convolve twice."""

  channels: int
  upsampling: str
  padding: str

  @nn.compact
  def __call__(self, x: Array, scale: Array) -> Array:
    make_conv = lambda name: layers.Conv(
      self.channels, padding=self.padding, name=name
    )
    if self.upsampling == 'transposed':
      x = Transposed(self.channels, name='up_conv')(x)
    else:
      x = make_conv('up_conv')(layers.upsample(x, self.upsampling))
    x = layers.concatenate(x, scale)
    for i in range(2):
      x = nn.relu(make_conv(f'conv{i}')(x))
    return x


class Transposed(nn.Module):
  """A transposed convolution of 4x4 with bias that doubles the size.

  The layer is PyTorch's with stride 2 and padding 1, and is initialised as
  PyTorch's.

  Attributes:
    features: channels of the result.
  """

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[H, W, I] -> [2H, 2W, features]."""
    shape = (4, 4, x.shape[-1], self.features)
    # PyTorch's fan in of a transposed convolution counts the channels of the
    # result, not of the input.
    init = layers.make_init(16 * self.features)
    kernel = self.param('kernel', init, shape)
    bias = self.param('bias', init, (self.features,))
    # A 3x3 convolution gives the four pixels of each doubled pixel as channels:
    # no multiplication meets the zeros of a transposed convolution.
    y = conv.convolve(x, _gather_taps(kernel).astype(x.dtype), padding='zero')
    y = conv.join_blocks(y.reshape(*x.shape[:2], 2, 2, -1))
    return y + bias[None, None].astype(x.dtype)


def _gather_taps(kernel: Array) -> Array:
  """[4, 4, I, O] -> [3, 3, I, 4 O]: the kernel that gives blocks of 2x2 pixels.

  Pixel 2i + a of the result is a sum over the pixels i - 1 + a and i + a of the
  input, so each pixel of a block sees 2 of the 3 taps along an axis.
  """
  # A convolution of JAX is a correlation, so a transposed one flips the kernel.
  inputs, outputs = kernel.shape[2:]
  taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, inputs, outputs)
  blocks = [
    jnp.pad(taps[:, a, :, b], ((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)))
    for a in range(2)
    for b in range(2)
  ]
  return jnp.concatenate(blocks, axis=-1)
