"""The deep decoder (Heckel and Hand, 2019): too small to fit the noise.

Every convolution is 1x1, so only the upsampling mixes a pixel with its
neighbours. Source: reinhardh/supplement_deep_decoder, include/decoder.py.
"""

import jax
from flax import linen as nn

from dipjax.networks import layers

Array = jax.Array


class Decoder(nn.Module):
  """The deep decoder: code [h, w, C] -> image [2^n h, 2^n w, outputs].

  n is `doublings`: each side of the code is 2^n times smaller than the image.
  The default has 100,224 parameters with codes of 128 channels; a width of 64
  has 25,536 parameters with codes of 64 channels.

  Attributes:
    outputs: channels of the image.
    width: channels of each layer; the paper's are 32, 64 and 128.
    doublings: number of layers that double the image; one more layer keeps its
      size.
    sigmoid: whether a sigmoid maps the image into (0, 1).
    remat: whether the gradient computes the activations of each layer again
      instead of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: width below 1 or doublings below 0.
  """

  outputs: int = 3
  width: int = 128
  doublings: int = 5
  sigmoid: bool = True
  remat: bool = False

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the smallest code whose image covers this size.

    The code has at least 2x2 pixels, because a code of one pixel can only give
    a constant image.
    """
    scale = 2**self.doublings
    rows, columns = layers.round_up(height, width, scale, 2)
    return rows // scale, columns // scale

  def __post_init__(self):
    layers.check_least(self, width=1, doublings=0)
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[h, w, C] -> [2^doublings h, 2^doublings w, outputs]."""
    x = code
    for i in range(self.doublings + 1):
      layer = _Layer(self.width, i < self.doublings, name=f'layer{i}')
      x = layers.call(layer.__call__, x, again=self.remat)
    x = layers.Conv(self.outputs, 1, has_bias=False, name='out_conv')(x)
    return layers.make_image(x, self.sigmoid)


class _Layer(nn.Module):
  """Mixes the channels of each pixel, doubles the image and normalises it."""

  width: int
  doubles: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = layers.Conv(self.width, 1, has_bias=False, name='conv')(x)
    x = layers.upsample(x, 'bilinear') if self.doubles else x
    return layers.Norm(name='norm')(nn.relu(x))
