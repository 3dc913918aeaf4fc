"""The network of a diffusion model: a small U-Net that is told the step."""

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array


class Denoiser(nn.Module):
  """Noisy images [B, H, W, C] and steps [B] -> the noise in them.

  The network is a small version of the U-Net of Ho et al. 2020. Each level has
  one residual block on the way in and one on the way out; the lowest level has
  attention between its two blocks. Every block adds a sinusoidal embedding of
  the step. The last layer begins at zero. H and W are multiples of
  2^(levels - 1).

  Attributes:
    outputs: channels of the images.
    channels: of each level, from the outside in; multiples of 8.

  Raises:
    ValueError: other channels, or none.
  """

  outputs: int = 3
  channels: tuple[int, ...] = (32, 64, 96)

  def __post_init__(self):
    if not self.channels or any(n < 8 or n % 8 for n in self.channels):
      raise ValueError(f'channels must be multiples of 8, got {self.channels}')
    super().__post_init__()

  @nn.compact
  def __call__(self, images: Array, steps: Array) -> Array:
    """[B, H, W, C], [B] -> [B, H, W, outputs]."""
    *outer, _ = self.channels
    embedding = nn.Dense(4 * self.channels[0])(_embed(steps, 64))
    embedding = nn.swish(embedding)
    x = nn.Conv(self.channels[0], (3, 3))(images)
    skips = []
    for features in outer:
      x = _Block(features)(x, embedding)
      skips.append(x)
      x = nn.Conv(features, (3, 3), strides=(2, 2))(x)
    x = _Block(self.channels[-1])(x, embedding)
    x = _attend(x)
    x = _Block(self.channels[-1])(x, embedding)
    for features, skip in zip(reversed(outer), reversed(skips)):
      x = x.repeat(2, axis=1).repeat(2, axis=2)
      x = jnp.concatenate([nn.Conv(features, (3, 3))(x), skip], axis=-1)
      x = _Block(features)(x, embedding)
    x = nn.swish(_normalize(x))
    # Noise of mean 0 is best predicted by 0 before anything is learned.
    zeros = nn.initializers.zeros
    return nn.Conv(self.outputs, (3, 3), kernel_init=zeros)(x)


class _Block(nn.Module):
  """Two convolutions beside a shortcut, with the embedding between them."""

  features: int

  @nn.compact
  def __call__(self, x: Array, embedding: Array) -> Array:
    shortcut = nn.Conv(self.features, (1, 1))(x)
    x = nn.Conv(self.features, (3, 3))(nn.swish(_normalize(x)))
    x = x + nn.Dense(self.features)(embedding)[:, None, None, :]
    x = nn.Conv(self.features, (3, 3))(nn.swish(_normalize(x)))
    return x + shortcut


def _normalize(x):
  """Returns x normalised over groups of 8 channels.

  Only the network's own channels, multiples of 8, are normalised; the channels
  of the image never are.
  """
  return nn.GroupNorm(num_groups=None, group_size=8, use_fast_variance=False)(x)


def _attend(x):
  """Returns x plus self-attention between all pixels, with one head."""
  batch, height, width, features = x.shape
  pixels = _normalize(x).reshape(batch, height * width, features)
  read = nn.MultiHeadDotProductAttention(num_heads=1)(pixels)
  return x + read.reshape(x.shape)


def _embed(steps, size):
  """Returns sines and cosines of the step, [B, size], at rising wavelengths.

  The wavelengths rise geometrically from 2 pi to 20,000 pi steps: short ones
  tell neighbouring steps apart, long ones the beginning from the end.
  """
  rates = jnp.exp(jnp.linspace(0, -jnp.log(10_000.0), size // 2))
  angles = steps[:, None].astype(jnp.float32) * rates[None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
