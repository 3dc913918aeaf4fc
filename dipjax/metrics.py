"""Scores of an image against a reference; images are [H, W, C] in [0, 1].

The only module through which a clean image may enter. Both scores clip to
[0, 1] first, as a file of 8 bits would.
"""

import dm_pix
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Array = jax.Array


def psnr(image: ArrayLike, reference: ArrayLike) -> Array:
  """Returns 10 log10(1 / mean squared error) in dB; infinite if equal.

  The mean is over all pixels and channels, after clipping both to [0, 1]. Of
  arrays of any one shape: not every measurement is an image.

  Raises:
    ValueError: two shapes.
  """
  if jnp.shape(image) != jnp.shape(reference):
    raise ValueError(f'psnr of {jnp.shape(image)} and {jnp.shape(reference)}')
  flatten = lambda x: jnp.clip(x, 0, 1).reshape(1, 1, -1)
  return dm_pix.psnr(flatten(image), flatten(reference))


def ssim(image: ArrayLike, reference: ArrayLike) -> Array:
  """Returns the structural similarity, 1 for equal images.

  Gaussian window of 11 pixels and standard deviation 1.5, dynamic range 1, mean
  over all windows inside the image and all channels (Wang et al. 2004).

  Raises:
    ValueError: an image with a side under 11 pixels.
  """
  if min(jnp.shape(image)[:2]) < 11:
    raise ValueError(
      f'ssim needs sides of at least 11 pixels, got {jnp.shape(image)}'
    )
  return dm_pix.ssim(jnp.clip(image, 0, 1), jnp.clip(reference, 0, 1))
