"""Noise that the channels of a pixel share, as in pictures of a camera."""

from typing import Any

import jax


def share_channels(noise: Any, correlation: jax.Array | float) -> Any:
  """Returns noise of the same variance, any two channels of which correlate.

  Args:
    noise: [..., C], its channels independent and of equal variance; of NumPy or
      of JAX, as is the result.
    correlation: of two channels, in [0, 1].
  """
  own = (1 - correlation) ** 0.5
  whole = (1 + (noise.shape[-1] - 1) * correlation) ** 0.5
  return own * noise + (whole - own) * noise.mean(-1, keepdims=True)
