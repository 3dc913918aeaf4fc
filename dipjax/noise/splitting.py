"""Two measurements out of one."""

import numpy as np

from dipjax.noise.model import Model


def split_measurement(
  measurement: np.ndarray, model: Model, *, tau: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns y + tau w and y - w / tau, where w is noise like that of y.

  Where the measurement y has Gaussian noise of the model, the noises of the two
  results are independent. A fit to the first never sees the noise of the
  second, so the second tells, up to a constant, how far the fit is from the
  truth (Pang et al., Recorrupted-to-Recorrupted, CVPR 2021).

  Args:
    measurement: any shape; [H, W, C] for a model whose noise is not white.
    model: the noise of the measurement; its impulses do not count.
    tau: a smaller tau gives the first result less noise and the second more.
    seed: of w.

  Returns:
    Two arrays of the shape of the measurement, float32.

  Raises:
    ValueError: a tau that is not positive and finite.
  """
  if not (np.isfinite(tau) and tau > 0):
    raise ValueError(f'tau must be a number > 0, got {tau}')
  # The added noises have opposite signs and the product of their deviations is
  # that of the noise, which cancels the noise that y gives to both results.
  noise = model.draw(measurement, np.random.RandomState(seed))
  first, second = measurement + tau * noise, measurement - noise / tau
  return first.astype(np.float32), second.astype(np.float32)
