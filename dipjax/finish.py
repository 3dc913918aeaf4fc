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

  Returns:
    The image, [H, W, C] in [0, 1] where the noise was clipped, and the share
    of what was removed that came back, [H, W, 1].
  """
  operator: Any = operators.make_noisy(model)
  white = operator.spread is None
  correlation = None if white else np.float32(model.correlation)
  # Where the level is not sure, there may be less noise, and more detail.
  least = 1 / (1 + max(model.error - _SURE, 0.0)) ** 2
  found = _finish(
    image,
    measurement,
    operator,
    correlation,
    jnp.float32(least),
    np.asarray(parts, np.float32),
    points=model.impulses < _IMPULSES,
  )
  return np.asarray(found[0]), np.asarray(found[1])


def find_deviation(images: Any, image: Any) -> np.ndarray:
  """Returns how far seeds are from the image made of them, where it may err.

  A few seeds tell a deviation badly for one value and well for a neighbourhood:
  the deviation is the root of the mean square over the seeds, the channels and
  5x5 pixels, and the same for all channels. What a filter changed after the fit
  is a part of it.

  Args:
    images: of the seeds, [lanes, H, W, C].
    image: made of them, [H, W, C].

  Returns:
    [H, W, C], in the units of the image.
  """
  return np.asarray(_find_deviation(images, image))


@jax.jit
def _find_deviation(images, image):
  square = jnp.mean(jnp.square(images - image[None]), axis=(0, 3))
  deviation = jnp.sqrt(detail.average(square, _NEAR))
  return jnp.broadcast_to(deviation[..., None], image.shape)


@functools.partial(jax.jit, static_argnames='points')
def _finish(image, measurement, operator, correlation, least, parts, *, points):
  image, measurement = (
    jnp.asarray(x, jnp.float32) for x in (image, measurement)
  )
  if min(image.shape[:2]) >= _LEAST:
    # One program of the filter serves all passes.
    refine = lambda image, part: wiener.refine(
      measurement,
      image,
      jnp.sqrt(operator.find_unclipped(image)),
      correlation=correlation,
      clipped=operator.black or operator.white,
      part=part,
    )
    image, _ = jax.lax.scan(
      lambda image, part: (refine(image, part), None), image, parts
    )
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
