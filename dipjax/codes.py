"""Input codes of the network: what it turns into an image; [H, W, C]."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


def draw_uniform_noise(
  key: Array, size: tuple[int, int], channels: int, *, scale: float = 0.1
) -> Array:
  """Returns scale * U(0, 1), [height, width, channels], fixed by the key."""
  return scale * jax.random.uniform(key, (*size, channels))


def make_meshgrid(size: tuple[int, int]) -> Array:
  """Returns [height, width, 2]: x, then y, each from 0 to 1 edge to edge."""
  y, x = jnp.meshgrid(
    jnp.linspace(0, 1, size[0]), jnp.linspace(0, 1, size[1]), indexing='ij'
  )
  return jnp.stack([x, y], axis=-1)


@dataclasses.dataclass(frozen=True)
class UniformNoise:
  """The maker of a code of noise, see `draw_uniform_noise`.

  Attributes:
    channels: of the code.
  """

  channels: int = 32

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
  """Returns an image [H, W, C] as a code: in its middle, reflected beyond.

  Args:
    image: no larger than the code.
    size: (height, width) of the code.

  Raises:
    ValueError: an image that is larger.
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


def use_image(image: ArrayLike) -> Callable[[Array, tuple[int, int]], Array]:
  """Returns the maker of a code that is an image, see `extend_image`.

  Of (key, (height, width)), as `dipjax.restore` takes it; the key is not used.
  """
  return lambda key, size: extend_image(jnp.asarray(image), size)


def jitter_code(key: Array, code: Array, deviation: Array | float) -> Array:
  """Returns code + N(0, deviation^2), in the precision of the code.

  The regularising noise of one step.
  """
  noisy = code + deviation * jax.random.normal(key, code.shape)
  return noisy.astype(code.dtype)
