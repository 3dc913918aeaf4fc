"""What a fit minimises: `objective(params, problem, key) -> (loss, image)`.

A penalty is a function of the image [H, W, C] that returns a number; its weight
is a part of the problem, so that another one does not compile again and lanes
may differ in it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from dipjax import codes, operators
from dipjax.networks import outliers

Array = jax.Array


class Problem(struct.PyTreeNode):
  """One image to restore, all of it arguments of the compiled step."""

  measurement: Array  # What operator(image) should be, any shape.
  operator: Callable[[Array], Array]  # A pytree: image [H, W, C] -> prediction.
  crop: operators.Crop  # The real pixels of the network's output.
  code: Array  # [h, w, C], of the size that the network wants.
  weights: Array  # Of each penalty of the objective, then of the features.
  jitter: Array  # Standard deviation of the noise on the code, each step.
  steps: Array  # A fit of this problem takes at most so many.
  features: operators.Shared | None = None  # What else is to agree, or none:
  target: Array | None = None  # features(measurement), computed once.
  # What some stopping rules need, where it is known.
  sigma: Array | None = None  # Standard deviation of the measurement's noise.
  reference: Array | None = None  # Another measurement, independent noise.


Objective = Callable[[Any, Problem, Array], tuple[Array, Array]]
Penalty = Callable[[Array], Array]

# What is averaged over the differences to the measurement.
_MEASURES = {
  'squared': jnp.square,
  'absolute': jnp.abs,
  'outliers': jnp.square,
  'recorrupted': jnp.square,
}
ERRORS = (*_MEASURES, 'stein')
# Those of a network whose code is the measurement, of known Gaussian noise.
OF_KNOWN_NOISE = ('recorrupted', 'stein')


def make_objective(
  network: nn.Module, penalties: tuple[Penalty, ...], error: str
) -> Objective:
  """Returns `stein_risk` for 'stein', and else `measurement_error`.

  Args:
    network, penalties: as of these.
    error: of ERRORS.

  Raises:
    ValueError: another error, or penalties on Stein's risk.
  """
  if error != 'stein':
    return measurement_error(network, penalties, error)
  if penalties:
    raise ValueError("the error 'stein' takes no penalties")
  return stein_risk(network)


@functools.cache
def measurement_error(
  network: nn.Module,
  penalties: tuple[Penalty, ...] = (),
  error: str = 'squared',
) -> Objective:
  """Returns mean((operator(image) - measurement)^2) + weights . penalties.

  With problem.features, plus the perceptual error: its weight times
  mean((features(operator(image)) - target)^2), in the precision of the code.

  With the error 'recorrupted' the network sees the measurement y itself as its
  code, for which its jitter j w is more noise, and the output is compared with
  y - v / j w, where v is the variance of the noise of y, sigma^2 but where it
  was clipped. The noises of the two are independent, so that what is minimised
  is the squared error against the truth, plus a constant, for parameters that
  do not depend on y: noise is learned later and less than from y alone. For
  Gaussian noise of a known sigma, clipped or not (the operator is then
  `operators.Clipped`). Pang et al., Recorrupted-to-Recorrupted, CVPR 2021.

  The image, [H, W, C], is the network's output for the jittered code, cropped
  to the real pixels: only these reach the operator and the loss. Equal
  arguments give the same objective, so that a fit is compiled once.

  Args:
    network: whose output is the image.
    penalties: added with problem.weights, one for each in this order.
    error: of ERRORS, but for 'stein'. 'absolute' takes |difference| for its
      square: values that are wrong altogether, as by impulse noise, pull no
      harder than others. 'outliers' adds what a `BesideOutliers`, which the
      network then must be, takes for such values to what is compared.

  Raises:
    ValueError: another error, or another network; in the first step, an error
      that needs problem.sigma, and none there.
  """
  if error not in _MEASURES:
    raise ValueError(f'error {error!r} is not one of {", ".join(ERRORS)}')
  if error == 'outliers' and not isinstance(network, outliers.BesideOutliers):
    raise ValueError(
      "the error 'outliers' is not for this fit: there are no outliers beside "
      'its network, as `dipjax.restore` has them'
    )
  measure = _MEASURES[error]

  def objective(params, problem, key):
    code = codes.jitter_code(key, problem.code, problem.jitter)
    image = problem.crop(network.apply({'params': params}, code))
    predicted = problem.operator(image)
    if error == 'outliers':
      predicted += outliers.find_outliers(params)
    expected = problem.measurement
    if error == 'recorrupted':
      added = problem.crop(code - problem.code)
      expected -= _find_variance(problem, image) / problem.jitter**2 * added
    loss = jnp.mean(measure(predicted - expected))
    for i, penalty in enumerate(penalties):
      loss += problem.weights[i] * penalty(image)
    if problem.features is not None:
      features = problem.features(predicted.astype(code.dtype))
      distance = jnp.mean(jnp.square(features - problem.target))
      loss += problem.weights[len(penalties)] * distance
    return loss, image

  return objective


def _find_variance(problem, image):
  """Of the measurement's noise: of each pixel where it was clipped."""
  if problem.sigma is None:
    raise ValueError('this error needs the sigma of the measurement: got none')
  if isinstance(problem.operator, operators.Clipped):
    return problem.operator.find_variance(jax.lax.stop_gradient(image))
  return jnp.square(problem.sigma)


def share_features(features: Callable[[Array], Array]) -> operators.Shared:
  """Returns features on the device, once for all problems that get them."""
  if isinstance(features, operators.Shared):
    return features
  shared = operators.Shared(operators.as_operator(features))
  # Arrays of NumPy would go to the device again with every chunk.
  return jax.tree.map(jnp.asarray, shared)


def add_features(
  problem: Problem, features: Callable[[Array], Array], weight: float
) -> Problem:
  """Returns the problem with the perceptual error added (Johnson et al. 2016).

  The features of the measurement are computed here, and not at each step.

  Args:
    problem: of one lane, without features.
    features: a function of a prediction that gives an array of floats, such as
      `features.Features`; for several problems one of `share_features`.
    weight: of the error, >= 0.

  Raises:
    ValueError: a weight that is none, a measurement without such features.
  """
  if not (math.isfinite(weight) and weight >= 0):
    raise ValueError(
      f'the weight of the perceptual error must be a number >= 0, got {weight}'
    )
  shared = share_features(features)
  return problem.replace(
    weights=jnp.append(problem.weights, weight),
    features=shared,
    target=_apply(shared, problem.measurement),
  )


@jax.jit
def _apply(operator, image):
  return operator(image)


@functools.cache
def stein_risk(network: nn.Module, *, distance: float = 1e-3) -> Objective:
  """Returns Stein's unbiased estimate of the denoised image's squared error.

  mean((f(y) - y)^2) + 2 sigma^2 div f(y) / n - sigma^2 for a measurement y with
  Gaussian noise of deviation problem.sigma. The network must be a function of
  what it denoises, so that problem.code must be y itself, extended to the size
  that the network needs; of a code that does not depend on y the divergence is
  0. The divergence is that of fixed parameters, along one random direction b
  over the code: b . (f(y + distance b) - f(y)) / distance. Of denoising only,
  without the operator, and in float32; where the code had to be extended, what
  the extension depends on is left out.

  It is unbiased for parameters that do not depend on y: a network that is
  fitted long enough makes it smaller than the error, and below 0. See
  `monitors.sure`. Jo et al., Rethinking Deep Image Prior for Denoising, ICCV
  2021.

  Args:
    network: of as many outputs as the code has channels.
    distance: of the two codes in units of b, which is N(0, 1).
  """

  def objective(params, problem, key):
    if problem.weights.size:
      raise ValueError("Stein's risk takes neither penalties nor features")
    if problem.code.dtype != jnp.float32:
      raise ValueError(f"Stein's risk needs float32, got {problem.code.dtype}")
    jitter_key, probe_key = jax.random.split(key)
    code = codes.jitter_code(jitter_key, problem.code, problem.jitter)
    probe = jax.random.normal(probe_key, code.shape, code.dtype)
    denoise = lambda code: problem.crop(network.apply({'params': params}, code))
    image = denoise(code)
    predicted = problem.operator(image)
    other = problem.operator(denoise(code + distance * probe))
    # Only the real pixels count: elsewhere the probe is no noise of y.
    moved = (other - predicted) / distance
    divergence = problem.crop(probe) * moved
    residual = jnp.square(predicted - problem.measurement)
    variance = _find_variance(problem, image)
    return jnp.mean(residual + variance * (2 * divergence - 1)), image

  return objective


def total_variation(image: Array) -> Array:
  """Returns the sum of the lengths of the image's gradients; a penalty.

  Sum over channels and over all pixels but the last row and column of
  sqrt((below - pixel)^2 + (right - pixel)^2): DmitryUlyanov/deep-image-prior,
  utils/sr_utils.py, tv_loss with beta 0.5. Where both differences are 0, so is
  its derivative.
  """
  corner = image[:-1, :-1]
  square = (image[1:, :-1] - corner) ** 2 + (image[:-1, 1:] - corner) ** 2
  # The root has no finite slope at 0, which `where` alone would not hide.
  flat = square == 0
  return jnp.sum(jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, square))))
