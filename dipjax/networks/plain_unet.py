"""A U-Net without normalisation, for fits that see a picture in windows.

Scales are numbered from the outside in, as in `unet`. A normalisation takes its
statistics from what it sees, so that one window of a picture would come out
brighter than the next: here the brightness passes through every layer.
"""

import jax
from flax import linen as nn

from dipjax import conv
from dipjax.networks import layers

Array = jax.Array

_HE = 6**0.5  # Keeps the size of activations from layer to layer.


class PlainUNet(nn.Module):
  """The plain U-Net: code [H, W, C] -> image [H, W, outputs].

  The default has 158,083 parameters with a code of 3 channels. On the way in,
  the maximum of 2x2 pixels halves the size between two scales; on the way out,
  each pixel is doubled and joined with the activations that the way in had.

  Attributes:
    outputs: channels of the image.
    channels: of each scale, from the outside in.
    residual: whether the image is the code plus the output of the layers, which
      start at zero.
    sigmoid: whether a sigmoid maps an image that is not residual into (0, 1).
    remat: whether the gradient computes the activations of each scale again
      instead of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: an argument that is none of the above; with `residual`, a code
      with other channels than the image.
  """

  outputs: int = 3
  channels: tuple[int, ...] = (32, 32, 32, 32, 32)
  residual: bool = False
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
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]."""
    layers.check_residual(self, code, 'plain U-Net')

    def convolve(x, channels, count, name):
      layer = _Convolutions(channels, count, name=name)
      return layers.call(layer.__call__, x, again=self.remat)

    x, scales = code, []
    for i, channels in enumerate(self.channels):
      x = layers.downsample(x, 'max') if i else x
      x = convolve(x, channels, 1 if i else 2, f'down{i}')
      scales.append(x)
    for i in reversed(range(len(self.channels) - 1)):
      x = layers.concatenate(layers.upsample(x, 'nearest'), scales[i])
      x = convolve(x, self.channels[i], 2, f'up{i}')
    scale = 0.0 if self.residual else 1.0
    x = layers.Conv(self.outputs, 1, scale=scale, name='out_conv')(x)
    # The noise is small: the sum keeps its digits only in float32.
    if self.residual:
      return conv.widen(code) + conv.widen(x)
    return layers.make_image(x, self.sigmoid)


class _Convolutions(nn.Module):
  """Convolutions of 3x3, each with a leaky ReLU."""

  channels: int
  count: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.count):
      x = layers.Conv(self.channels, scale=_HE, name=f'conv{i}')(x)
      # A channel that a ReLU has shut never opens again; nothing normalises it.
      x = layers.ACTIVATIONS['leaky_relu'](x)
    return x
