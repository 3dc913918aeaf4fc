"""DnCNN: convolutions one after the other at full size (Zhang et al., 2017)."""

import jax
from flax import linen as nn

from dipjax import conv
from dipjax.networks import layers

Array = jax.Array


class DnCNN(nn.Module):
  """DnCNN: code [H, W, C] -> image [H, W, outputs].

  Layers, channels and biases are those of cszn/DnCNN, which has 556,096
  parameters for grey images. There the layers predict the noise, and the image
  is the noisy image minus the prediction (`residual`). A code of noise has
  other channels than the image; without `residual` the layers give the image
  itself.

  Attributes:
    outputs: channels of the image.
    depth: number of layers, each a convolution of 3x3; at least 2.
    channels: of each layer but the last.
    padding: 'reflect' or 'zero'.
    residual: whether the image is the code minus the output of the layers.
    sigmoid: whether a sigmoid maps an image that is not residual into (0, 1).
    remat: whether the gradient computes the activations of each layer again
      instead of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: an argument that is none of the above; with `residual`, a code
      with other channels than the image.
  """

  outputs: int = 3
  depth: int = 17
  channels: int = 64
  padding: str = 'zero'
  residual: bool = False
  sigmoid: bool = True
  remat: bool = False

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the image, at least 2x2.

    Padding can reflect 2x2 pixels, but not one.
    """
    return layers.round_up(height, width, 1, 2)

  def __post_init__(self):
    layers.check_least(self, depth=2, channels=1)
    layers.check_choice(self.padding, layers.PADDINGS)
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]."""
    layers.check_residual(self, code, 'DnCNN')
    make_conv = lambda name, channels, **fields: layers.Conv(
      channels, padding=self.padding, name=name, **fields
    )
    x = nn.relu(make_conv('in_conv', self.channels)(code))
    for i in range(self.depth - 2):
      layer = _Layer(self.channels, self.padding, name=f'layer{i}')
      x = layers.call(layer.__call__, x, again=self.remat)
    x = make_conv('out_conv', self.outputs, has_bias=False)(x)
    # The noise is small: the difference keeps its digits only in float32.
    if self.residual:
      return conv.widen(code) - conv.widen(x)
    return layers.make_image(x, self.sigmoid)


class _Layer(nn.Module):
  """A convolution and a normalisation with a ReLU."""

  channels: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = layers.Conv(
      self.channels, padding=self.padding, has_bias=False, name='conv'
    )
    return layers.Norm('relu', name='norm')(conv(x))
