"""Two measurements out of one."""

import numpy as np

from dipjax.noise.model import Model

# In values of an image, where tau is 1: added noise of 0.16 sigma costs a fit
# of 128x128 pixels as much as the doubt in its best step does.
_BALANCE = 30.0


def choose_tau(values: int) -> float:
  """Returns the tau that suits a rule with a reference best.

  A larger tau costs quality, as its square. A smaller one tells the best step
  less surely: the doubt falls as the product of tau^2 and the values. The tau
  returned has the least sum of both.

  Args:
    values: how many values the measurement has.
  """
  return (_BALANCE / values) ** 0.25


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
    tau: a smaller tau gives the first result less noise and the second more;
      `choose_tau` has one for a rule that stops a fit.
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
