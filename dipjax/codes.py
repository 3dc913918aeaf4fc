"""Input codes: arrays [H, W, C] that a network turns into an image."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dipjax import blurring
from dipjax.noise import share_channels

Array = jax.Array


def draw_uniform_noise(
  key: Array, size: tuple[int, int], channels: int, *, scale: float = 0.1
) -> Array:
  """Returns scale * U(0, 1), [height, width, channels], fixed by the key."""
  return scale * jax.random.uniform(key, (*size, channels), jnp.float32)


def make_meshgrid(size: tuple[int, int]) -> Array:
  """Returns coordinates x and y from 0 to 1, [height, width, 2]."""
  y, x = jnp.meshgrid(
    *(jnp.linspace(0, 1, side, dtype=jnp.float32) for side in size),
    indexing='ij',
  )
  return jnp.stack([x, y], axis=-1)


@dataclasses.dataclass(frozen=True)
class UniformNoise:
  """The maker of a code of noise, see `draw_uniform_noise`.

  Attributes:
    channels: of the code.

  Raises:
    ValueError: fewer than 1 channel.
  """

  channels: int = 32

  def __post_init__(self):
    if self.channels < 1:
      raise ValueError(f'a code has channels >= 1, got {self.channels}')

  def __call__(self, key: Array, size: tuple[int, int]) -> Array:
    """Returns [height, width, channels], fixed by the key."""
    return draw_uniform_noise(key, size, self.channels)


@dataclasses.dataclass(frozen=True)
class Meshgrid:
  """The maker of a code of coordinates, see `make_meshgrid`."""

  def __call__(self, key: Array, size: tuple[int, int]) -> Array:
    """Returns [height, width, 2]; the key is not used."""
    del key
    return make_meshgrid(size)


def extend_image(image: Array, size: tuple[int, int]) -> Array:
  """Returns a code [height, width, C] with the image in its middle.

  Beyond its edge the image is reflected, and the edge itself is repeated.

  Args:
    image: [H, W, C], no larger than the code.
    size: (height, width) of the code.

  Raises:
    ValueError: the image is larger than the code.
  """
  if size[0] < image.shape[0] or size[1] < image.shape[1]:
    raise ValueError(
      f'an image of {image.shape[1]}x{image.shape[0]} is no code of '
      f'{size[1]}x{size[0]}: take a network whose code is as large as the image'
    )
  before = [(side - length) // 2 for side, length in zip(size, image.shape)]
  pads = [
    (left, side - length - left)
    for left, side, length in zip(before, size, image.shape)
  ]
  return jnp.pad(image, (*pads, (0, 0)), mode='symmetric')


@dataclasses.dataclass(frozen=True, eq=False)
class ImageCode:
  """The maker of a code that is an image; `use_image` makes it."""

  image: ArrayLike  # [H, W, C]

  def __call__(self, key: Array, size: tuple[int, int]) -> Array:
    """Returns [height, width, C]; the key is not used."""
    del key
    return extend_image(jnp.asarray(self.image), size)

  def cut(self, window: Callable[[Any], Any]) -> 'ImageCode':
    """Returns the maker for a window of the picture, an `operators.Crop`."""
    return ImageCode(window(self.image))


def use_image(image: ArrayLike) -> ImageCode:
  """Returns a maker of codes that gives the image, see `extend_image`.

  The maker is a function of (key, (height, width)), as `dipjax.restore` takes
  it.
  """
  return ImageCode(image)


def jitter_code(
  key: Array,
  code: Array,
  deviation: Array | float,
  spread: Array | None = None,
  channels: Array | None = None,
) -> Array:
  """Returns code + N(0, deviation^2), in the precision of the code.

  The noise regularises one step of a fit.

  Args:
    key: of the noise.
    code: [h, w, C].
    deviation: a number, or one for each value.
    spread: [h, w], a filter whose squares add up to 1: neighbours share the
      noise that it spreads. None: the noise is white.
    channels: the correlation between the noise of two channels. None: they have
      noise of their own.
  """
  noise = jax.random.normal(key, code.shape, jnp.float32)
  if spread is not None:
    noise = blurring.blur_image(noise, spread)
  if channels is not None:
    noise = share_channels(noise, channels)
  # Noise in float32 would promote a bfloat16 code, and the network with it.
  return (code + deviation * noise).astype(code.dtype)
