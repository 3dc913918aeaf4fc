"""Two measurements out of one."""

import numpy as np


def split_measurement(
  measurement: np.ndarray, sigma: float, *, tau: float = 0.5, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns y + tau sigma w and y - sigma w / tau, with w ~ N(0, 1).

  Where the measurement y has Gaussian noise of deviation sigma, the noises of
  the two results are independent. A fit to the first never sees the noise of
  the second, so the second tells, up to a constant, how far the fit is from the
  truth (Pang et al., Recorrupted-to-Recorrupted, CVPR 2021).

  Args:
    measurement: any shape.
    sigma: standard deviation of the noise of the measurement.
    tau: a smaller tau gives the first result less noise and the second more.
    seed: of w.

  Returns:
    Two arrays of the shape of the measurement, float32.

  Raises:
    ValueError: a negative sigma, a tau that is not positive, or either that is
      not finite.
  """
  if not (np.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')
  if not (np.isfinite(tau) and tau > 0):
    raise ValueError(f'tau must be a number > 0, got {tau}')
  # The added noises have opposite signs and the product of their deviations is
  # sigma^2, which cancels the noise that y gives to both results.
  shape = np.shape(measurement)
  noise = sigma * np.random.RandomState(seed).normal(size=shape)
  first, second = measurement + tau * noise, measurement - noise / tau
  return first.astype(np.float32), second.astype(np.float32)
