"""DnCNN: convolutions one after the other at full size (Zhang et al., 2017)."""

import jax
from flax import linen as nn

from dipjax import conv
from dipjax.networks import layers

Array = jax.Array


class DnCNN(nn.Module):
  """DnCNN: code [H, W, C] -> image [H, W, outputs].

  Layers, channels and biases as in cszn/DnCNN, which has 556,096 parameters for
  grey images. Its image is the noisy one minus what the layers predict
  (`residual`); a code of noise has other channels than the image, and then the
  layers give the image itself.

  Attributes:
    outputs: channels of the image.
    depth: layers, each a convolution of 3x3; at least 2.
    channels: of each layer but the last.
    padding: 'reflect' or 'zero'.
    residual: whether the image is the code minus what the layers give.
    sigmoid: whether an image that is not residual is squeezed into (0, 1).
    remat: whether the gradient computes each layer's activations again instead
      of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: an argument that is none of these; with `residual` a code whose
      channels are not those of the image.
  """

  outputs: int = 3
  depth: int = 17
  channels: int = 64
  padding: str = 'zero'
  residual: bool = False
  sigmoid: bool = True
  remat: bool = False

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size itself, at least 2x2, which can be reflected."""
    return layers.round_up(height, width, 1, 2)

  def __post_init__(self):
    layers.check_least(self, depth=2, channels=1)
    layers.check_choice(self.padding, layers.PADDINGS)
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]."""
    if self.residual and code.shape[-1] != self.outputs:
      raise ValueError(
        f'a residual DnCNN takes a code with the {self.outputs} channels of '
        f'the image, got {code.shape[-1]}: set residual=False'
      )
    layer = nn.remat(_Layer) if self.remat else _Layer
    make_conv = lambda name, channels, **fields: layers.Conv(
      channels, padding=self.padding, name=name, **fields
    )
    x = nn.relu(make_conv('in_conv', self.channels)(code))
    for i in range(self.depth - 2):
      x = layer(self.channels, self.padding, name=f'layer{i}')(x)
    x = make_conv('out_conv', self.outputs, has_bias=False)(x)
    if self.residual:
      return conv.widen(code) - conv.widen(x)
    return layers.make_image(x, self.sigmoid)


class _Layer(nn.Module):
  """A convolution, normalised."""

  channels: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = layers.Conv(
      self.channels, padding=self.padding, has_bias=False, name='conv'
    )
    return layers.Norm('relu', name='norm')(conv(x))
