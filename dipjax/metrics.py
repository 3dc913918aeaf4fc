"""Scores of an image against a reference; images are [H, W, C] in [0, 1].

A clean image may enter dipjax only through this module. Every score first clips
the image and the reference to [0, 1], as a file of 8 bits would.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dipjax import settings, units

Array = jax.Array


def psnr(image: ArrayLike, reference: ArrayLike) -> Array:
  """Returns 10 log10(1 / mean squared error) in dB; infinite for equal arrays.

  The mean is over all values, after both arrays are clipped to [0, 1].

  Args:
    image: any shape, because not every measurement is an image.
    reference: of the same shape.

  Raises:
    ValueError: the shapes differ; or integers, or a reference that is an image
      of another unit than [0, 1].
  """
  if jnp.shape(image) != jnp.shape(reference):
    raise ValueError(f'psnr of {jnp.shape(image)} and {jnp.shape(reference)}')
  _check_units(image, reference)
  # dm_pix takes the mean over three axes: one row of all values has one mean.
  flatten = lambda x: jnp.clip(x, 0, 1).reshape(1, 1, -1)
  return dm_pix.psnr(flatten(image), flatten(reference))


def psnr_y(image: ArrayLike, reference: ArrayLike, *, shave: int) -> Array:
  """Returns the PSNR in dB of the luma Y, as papers on super-resolution do.

  Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255 (BT.601), after R, G and B
  are clipped to [0, 1].

  Args:
    image: [H, W, 3].
    reference: [H, W, 3].
    shave: how many pixels are left out at each edge.

  Raises:
    ValueError: shapes that differ or are not [H, W, 3], a shave that leaves
      nothing, or as `psnr`.
  """
  shape = jnp.shape(image)
  if shape != jnp.shape(reference) or len(shape) != 3 or shape[2] != 3:
    raise ValueError(f'psnr_y of {shape} and {jnp.shape(reference)}')
  if shave < 0 or 2 * shave >= min(shape[:2]):
    raise ValueError(f'shave={shave} leaves nothing of {shape}')
  _check_units(image, reference)
  # BT.601's luma runs from 16 to 235 of 255. The narrower range adds about
  # 1.3 dB, and published numbers contain it.
  weights = jnp.array([65.481, 128.553, 24.966], jnp.float32) / 255
  luma = lambda x: jnp.clip(x, 0, 1) @ weights + 16 / 255
  # An enlarged image is uncertain at its edge; papers leave the edge out.
  inner = slice(shave, shape[0] - shave), slice(shave, shape[1] - shave)
  return psnr(
    luma(jnp.asarray(image))[inner], luma(jnp.asarray(reference))[inner]
  )


def correlate_error(
  deviation: ArrayLike,
  image: ArrayLike,
  reference: ArrayLike,
  *,
  side: int = 0,
) -> Array:
  """Returns how well a standard deviation tells where an image is wrong.

  The score is the correlation, -1 to 1, of the deviation with the absolute
  error over all pixels and channels. With a side it is that of root mean
  squares, each over all channels of a square of the picture: a single error is
  mostly chance, that of a square is what a user sees. The score is NaN where
  the deviation or the error is the same everywhere.

  Args:
    deviation, image, reference: [H, W, C].
    side: of the squares in pixels, from the upper left corner on; what fills no
      square does not count. 0 takes single values.

  Raises:
    ValueError: the shapes differ, or the squares do not fit.
  """
  shapes = jnp.shape(deviation), jnp.shape(image), jnp.shape(reference)
  if len(set(shapes)) > 1:
    raise ValueError(f'correlate_error of {", ".join(map(str, shapes))}')
  # The absolute error: a standard deviation tells the size, not the sign.
  error = jnp.abs(jnp.clip(image, 0, 1) - jnp.clip(reference, 0, 1))
  told, true = (jnp.asarray(x) for x in (deviation, error))
  if side:
    told, true = (_pool(x, side) for x in (told, true))
  return jnp.corrcoef(jnp.ravel(told), jnp.ravel(true))[0, 1]


def _pool(x, side):
  """Returns the root mean squares of squares of pixels, [h, w]."""
  if x.ndim != 3 or not 0 < side <= min(x.shape[:2]):
    raise ValueError(f'squares of {side} pixels do not fit {x.shape}')
  down, across = (size // side for size in x.shape[:2])
  x = jnp.square(x[: down * side, : across * side])
  return jnp.sqrt(x.reshape(down, side, across, -1).mean((1, 3)))


@settings.pin()  # dm_pix makes its window in the process's precision.
def ssim(image: ArrayLike, reference: ArrayLike) -> Array:
  """Returns the structural similarity (Wang et al. 2004), 1 for equal images.

  The window is a Gaussian of 11 pixels and standard deviation 1.5, the dynamic
  range is 1, and the mean is over all windows inside the image and all
  channels.

  Raises:
    ValueError: an image with a side under 11 pixels, or as `psnr`.
  """
  if min(jnp.shape(image)[:2]) < 11:
    raise ValueError(
      f'ssim needs sides of at least 11 pixels, got {jnp.shape(image)}'
    )
  _check_units(image, reference)
  return _compare_windows(image, reference)


# One program: one by one the operations take a second to compile.
@jax.jit
def _compare_windows(image, reference):
  # dm_pix keeps the windows inside the image: padding would count pixels that
  # do not exist.
  return dm_pix.ssim(jnp.clip(image, 0, 1), jnp.clip(reference, 0, 1))


def _check_units(image, reference):
  """Refuses integers, and an image of another unit as the reference.

  What a fit gives may be any floats. Measurements that are no images may be any
  floats too, and arrays that JAX traces are not looked at.
  """
  for array, name in ((image, 'the image'), (reference, 'the reference')):
    units.check_floats(jnp.asarray(array), name)
  try:
    reference = np.asarray(reference)
  except jax.errors.TracerArrayConversionError:
    return
  if reference.ndim == 3 and reference.shape[-1] in (1, 3, 4):
    units.check_image(reference, 'the reference')
