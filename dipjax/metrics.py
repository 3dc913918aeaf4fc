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


def psnr_y(image: ArrayLike, reference: ArrayLike, *, shave: int) -> Array:
  """Returns the PSNR in dB of the luma Y alone, as super-resolution reports it.

  Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255 (BT.601), after clipping to
  [0, 1].

  Args:
    image: [H, W, 3].
    reference: [H, W, 3].
    shave: pixels at each edge that are left out.

  Raises:
    ValueError: other shapes, or an edge that leaves nothing.
  """
  shape = jnp.shape(image)
  if shape != jnp.shape(reference) or len(shape) != 3 or shape[2] != 3:
    raise ValueError(f'psnr_y of {shape} and {jnp.shape(reference)}')
  if shave < 0 or 2 * shave >= min(shape[:2]):
    raise ValueError(f'shave={shave} leaves nothing of {shape}')
  weights = jnp.array([65.481, 128.553, 24.966]) / 255
  luma = lambda x: jnp.clip(x, 0, 1) @ weights + 16 / 255
  inner = slice(shave, shape[0] - shave), slice(shave, shape[1] - shave)
  return psnr(
    luma(jnp.asarray(image))[inner], luma(jnp.asarray(reference))[inner]
  )


def correlate_error(
  deviation: ArrayLike, image: ArrayLike, reference: ArrayLike
) -> Array:
  """Returns how well a standard deviation tells where an image is wrong.

  The correlation, -1 to 1, of the deviation with the absolute error over all
  pixels and channels; NaN where one of them is the same everywhere.

  Raises:
    ValueError: different shapes.
  """
  shapes = jnp.shape(deviation), jnp.shape(image), jnp.shape(reference)
  if len(set(shapes)) > 1:
    raise ValueError(f'correlate_error of {", ".join(map(str, shapes))}')
  error = jnp.abs(jnp.clip(image, 0, 1) - jnp.clip(reference, 0, 1))
  return jnp.corrcoef(jnp.ravel(jnp.asarray(deviation)), jnp.ravel(error))[0, 1]


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
