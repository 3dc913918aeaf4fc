"""The ResNet of the deep image prior (Ulyanov et al., models/resnet.py)."""

import jax
from flax import linen as nn

from dipjax.networks import layers

Array = jax.Array


class ResNet(nn.Module):
  """Residual blocks at full size: code [H, W, C] -> image [H, W, outputs].

  The default has 54,131 parameters with a code of 32 channels. The authors'
  network for inpainting, 8 blocks of 32 channels, has 158,979 parameters with a
  code of one channel.

  Attributes:
    outputs: channels of the image.
    blocks: number of blocks; each adds the output of two convolutions to its
      own input.
    channels: of each block.
    padding: of the first and the last layer, 'reflect' or 'zero'; the layers
      between them are padded with zeros.
    activation: 'leaky_relu', 'relu', 'swish', 'elu' or 'none'.
    sigmoid: whether a sigmoid maps the image into (0, 1).
    remat: whether the gradient computes the activations of each block again
      instead of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: an argument that is none of the above.
  """

  outputs: int = 3
  blocks: int = 10
  channels: int = 16
  padding: str = 'reflect'
  activation: str = 'leaky_relu'
  sigmoid: bool = True
  remat: bool = False

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the image, at least 2x2.

    Padding can reflect 2x2 pixels, but not one.
    """
    return layers.round_up(height, width, 1, 2)

  def __post_init__(self):
    layers.check_least(self, blocks=1, channels=1)
    layers.check_choice(self.padding, layers.PADDINGS)
    layers.check_choice(self.activation, layers.ACTIVATIONS)
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]."""
    conv = lambda name, channels: layers.Conv(
      channels, padding=self.padding, name=name
    )
    x = conv('in_conv', self.channels)(code)
    x = layers.ACTIVATIONS[self.activation](x)
    for i in range(self.blocks):
      block = _Block(self.activation, name=f'block{i}')
      x = layers.call(block.__call__, x, again=self.remat)
    x = layers.Conv(
      self.channels, padding='zero', add_bias=False, name='mid_conv'
    )(x)
    x = conv('out_conv', self.outputs)(layers.Norm(name='mid_norm')(x))
    return layers.make_image(x, self.sigmoid)


class _Block(nn.Module):
  """Adds two normalised convolutions of x to x itself."""

  activation: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = x
    for i, activation in enumerate((self.activation, 'none')):
      y = layers.Conv(
        x.shape[-1], padding='zero', has_bias=False, name=f'conv{i}'
      )(y)
      y = layers.Norm(activation, name=f'norm{i}')(y)
    return x + y
