"""What follows a fit: filtering, detail given back, and where it may err."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import detail, noise, operators, wiener

FIT = (0.7,)  # The `parts` of a fit, which is smoother than the image.
WINDOWS = (0.7, 1.0)  # Of one with windows, which is better once filtered.
FILTERED = (1.0,)  # Of an image that was filtered.
WIDE = 24  # The `reach` for fits with windows, whose pictures are large.
_LEAST = 8  # Pixels a side that the filter needs.
_IMPULSES = 1e-4  # A share of impulses that is none.
_SURE = 0.1  # The error of a level up to which it is taken as it is.
_NEAR = 2  # Pixels to each side that tell a deviation together.


def finish(
  image: Any,
  measurement: Any,
  model: noise.Model,
  *,
  parts: tuple[float, ...] = FIT,
  reach: int = wiener.REACH,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns a better image than the fit's, and where detail was given back.

  First the measurement is filtered with the image as the pilot
  (`wiener.refine`), in a further pass with what was filtered. Then what was
  removed is compared with the noise: where more was removed than noise alone
  is, the rest is detail, and a share of it comes back
  (`detail.return_detail`). A picture with little noise then loses nothing that
  was not noise. A level that is not sure counts as the least that it may be.

  Args:
    image: the restored image, [H, W, C].
    measurement: the noisy image, of the same shape.
    model: the noise of the measurement.
    parts: of the noise's variance, one for each pass of the filter, see
      `wiener.refine`. A fit with windows has not learned all of the picture and
      gains by a second pass, others lose by it: FIT, WINDOWS, FILTERED.
    reach: of the filter, in pixels: farther away a large picture has more that
      is alike, a crop has little (benchmarks/NOTES.md). WIDE for windows.

  Returns:
    The image, [H, W, C] in [0, 1] where the noise was clipped, and the share
    of what was removed that came back, [H, W, 1].
  """
  operator: Any = operators.make_noisy(model)
  # Where the level is not sure, there may be less noise, and more detail.
  least = 1 / (1 + max(model.error - _SURE, 0.0)) ** 2
  image, measurement = (
    jnp.asarray(x, jnp.float32) for x in (image, measurement)
  )
  if min(image.shape[:2]) >= _LEAST:
    for part in parts:
      noisy = _describe(model, operator, image)
      image = wiener.refine(measurement, image, **noisy, part=part, reach=reach)
  found = _return_detail(
    image,
    measurement,
    operator,
    jnp.float32(least),
    points=model.impulses < _IMPULSES,
  )
  return np.asarray(found[0]), np.asarray(found[1])


def find_deviation(
  images: Any, image: Any, model: noise.Model | None = None
) -> np.ndarray:
  """Returns how far the image made of a few seeds may err, [H, W, C].

  The square is a sum. One part is how far the seeds are from the image, what a
  filter changed after the fit too: the mean over the seeds and 5x5 pixels, as
  a few seeds tell little of one value. The other, where the noise is known, is
  what the filter leaves of it (`wiener.find_left`), which seeds have in common.

  Args:
    images: of the seeds, [lanes, H, W, C].
    image: made of them, [H, W, C].
    model: the noise of what was restored, where `finish` followed.

  Returns:
    A standard deviation of each value, in the units of the image.
  """
  image = jnp.asarray(image, jnp.float32)
  square = _average_seeds(images, image)
  if model is not None and min(image.shape[:2]) >= _LEAST:
    operator: Any = operators.make_noisy(model)
    square += wiener.find_left(image, **_describe(model, operator, image))
  return np.asarray(jnp.sqrt(square))


@jax.jit
def _average_seeds(images, image):
  square = jnp.mean(jnp.square(images - image[None]), axis=0)
  return jax.vmap(
    functools.partial(detail.average, radius=_NEAR), in_axes=2, out_axes=2
  )(square)


def _describe(model, operator, image) -> dict[str, Any]:
  """Returns the noise of the image, as the filter takes it."""
  white = operator.spread is None
  return {
    'sigma': _find_sigma(operator, image),
    'correlation': None if white else np.float32(model.correlation),
    'channels': np.float32(model.channels),
    'clipped': operator.black or operator.white,
  }


@jax.jit
def _find_sigma(operator, image):
  return jnp.sqrt(operator.find_unclipped(image))


@functools.partial(jax.jit, static_argnames='points')
def _return_detail(image, measurement, operator, least, *, points):
  residual = measurement - operator(image)
  image, share = detail.return_detail(
    image,
    residual,
    least * operator.find_variance(image),
    unclipped=least * operator.find_unclipped(image),
    points=points,
  )
  low = 0.0 if operator.black else None
  high = 1.0 if operator.white else None
  return jnp.clip(image, low, high), share
