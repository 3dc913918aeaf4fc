"""What a fit removed besides the noise, given back.

A fit removes the noise, and detail that it has not learned: fine texture, or
all of it where there is little noise. What was removed is then larger than the
noise. Where r = measurement - image has a mean square e, and the noise has the
variance v, the blend image + (1 - s) r with s = min(1, v / e) has the least
expected error, if the fit has learned none of the noise: the errors are
(1 - s)^2 v for the noise and s^2 (e - v) for the detail. Less comes back where
e is not far enough from v to be sure. A point that is far beyond the noise,
such as a star, is detail by itself.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

# Pixels to each side over which mean squares are taken: 17 x 17 values are
# enough that their mean square is known to 8 %, or 5 % in colour.
_RADIUS = 8

# In deviations of such a mean square: what chance and a level that is a little
# wrong explain is no detail, and twice as much is.
_CHANCE = 2.0

# In deviations: 6 of 100,000 values of noise are farther from the truth.
_FAR = 4.0


def return_detail(
  image: Array,
  residual: Array,
  variance: Array | float,
  *,
  unclipped: Array | float | None = None,
  points: bool = True,
) -> tuple[Array, Array]:
  """Returns the image with lost detail, and where how much was given back.

  Args:
    image: the restored image, [H, W, C].
    residual: the measurement less what it is expected to be for this image, of
      the same shape.
    variance: of the measurement's noise, broadcast to the image.
    unclipped: the variance before the noise was clipped, which tells how far a
      value may be from the truth by chance; None: it was not clipped.
    points: whether single pixels come back too; not where some are impulses.

  Returns:
    The image [H, W, C], and the share of the residual that came back, in
    [0, 1], [H, W, 1]: 0 where nothing but noise was removed.
  """
  variance = jnp.broadcast_to(jnp.asarray(variance, image.dtype), image.shape)
  removed = average(jnp.mean(jnp.square(residual), axis=2))
  expected = average(jnp.mean(variance, axis=2))
  chance = (2 / (image.shape[2] * (2 * _RADIUS + 1) ** 2)) ** 0.5
  excess = jnp.maximum(removed - expected, 0)
  sure = excess / jnp.maximum(_CHANCE * chance * expected, 1e-30) - 1
  share = find_share(removed, expected) * jnp.clip(sure, 0, 1)
  if points:
    # At black and white the variance of clipped noise is small, and its largest
    # values are as far away as any others.
    far = variance if unclipped is None else unclipped
    square = jnp.max(jnp.square(residual) - _FAR**2 * far, axis=2)
    whole = jnp.max(jnp.square(residual), axis=2)
    share = jnp.maximum(share, square / jnp.maximum(whole, 1e-30))
  share = share[..., None]
  return image + share * residual, share


def find_share(square: Array, expected: Array) -> Array:
  """Returns the share of a mean square beyond what is expected, in [0, 1]."""
  # Nothing there, nothing to share: 0, not 0 / 0.
  return jnp.maximum(square - expected, 0) / jnp.maximum(square, 1e-30)


def average(values: Array, radius: int = _RADIUS) -> Array:
  """Returns the mean of the pixels around each, edges reflected, [H, W].

  Args:
    values: [H, W].
    radius: pixels to each side; 8 are a mean of 17x17 pixels.
  """
  for axis, side in enumerate(values.shape):
    reach = min(radius, side - 1)
    pads = [(0, 0), (0, 0)]
    pads[axis] = (reach, reach)
    padded = jnp.pad(values, pads, mode='reflect')
    moved = [
      jax.lax.slice_in_dim(padded, k, k + side, axis=axis)
      for k in range(2 * reach + 1)
    ]
    values = sum(moved[1:], moved[0]) / len(moved)
  return values
