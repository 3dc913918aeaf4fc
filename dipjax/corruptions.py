"""What damages a clean image, to make a measurement of known quality.

Drawn with NumPy's `RandomState`, whose stream is frozen: the same seed gives
the same measurement on every machine and in every version, and the measurement
of the paper's authors where their seed is known.
"""

import numpy as np


def add_gaussian_noise(
  image: np.ndarray, sigma: float, *, seed: int, clip: bool = True
) -> np.ndarray:
  """Returns image + N(0, sigma^2), independent for each pixel and channel.

  Args:
    image: [H, W, C] in [0, 1].
    sigma: standard deviation in the units of the image (25 / 255, say).
    seed: of the noise; the same seed gives the same noise.
    clip: whether the sum is clipped to [0, 1], as a camera would.

  Returns:
    float32, the shape of the image.

  Raises:
    ValueError: sigma is negative or not finite.
  """
  if not (np.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')
  noise = np.random.RandomState(seed).normal(scale=sigma, size=image.shape)
  noisy = image + noise
  return (np.clip(noisy, 0, 1) if clip else noisy).astype(np.float32)
