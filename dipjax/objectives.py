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
  noise: Array | float = 0.0  # Variance of the measurement's; 0: not known.


Objective = Callable[[Any, Problem, Array], tuple[Array, Array]]
Penalty = Callable[[Array], Array]


@functools.cache
def measurement_error(
  network: nn.Module, penalties: tuple[Penalty, ...] = ()
) -> Objective:
  """Returns mean((operator(image) - measurement)^2) + weights . penalties.

  With problem.features, plus the perceptual error: its weight times
  mean((features(operator(image)) - target)^2), in the precision of the code.

  The image, [H, W, C], is the network's output for the jittered code, cropped
  to the real pixels: only these reach the operator and the loss. Equal networks
  and penalties give the same objective, so that a fit is compiled once.

  Args:
    network: whose output is the image.
    penalties: added with problem.weights, one for each in this order.
  """

  def objective(params, problem, key):
    code = codes.jitter_code(key, problem.code, problem.jitter)
    image = problem.crop(network.apply({'params': params}, code))
    predicted = problem.operator(image)
    loss = jnp.mean(jnp.square(predicted - problem.measurement))
    for i, penalty in enumerate(penalties):
      loss += problem.weights[i] * penalty(image)
    if problem.features is not None:
      features = problem.features(predicted.astype(code.dtype))
      error = jnp.mean(jnp.square(features - problem.target))
      loss += problem.weights[len(penalties)] * error
    return loss, image

  return objective


def add_features(
  problem: Problem, features: Callable[[Array], Array], weight: float
) -> Problem:
  """Returns the problem with the perceptual error added (Johnson et al. 2016).

  The features of the measurement are computed here, and not at each step.

  Args:
    problem: of one lane, without features.
    features: a function of a prediction that gives an array of floats, such as
      `features.Features`; all lanes share one.
    weight: of the error, >= 0.

  Raises:
    ValueError: a weight that is none, a measurement without such features.
  """
  if not (math.isfinite(weight) and weight >= 0):
    raise ValueError(
      f'the weight of the perceptual error must be a number >= 0, got {weight}'
    )
  # Arrays of NumPy would go to the device again with every chunk.
  shared = jax.tree.map(
    jnp.asarray, operators.Shared(operators.as_operator(features))
  )
  return problem.replace(
    weights=jnp.append(problem.weights, weight),
    features=shared,
    target=_apply(shared, problem.measurement),
  )


@jax.jit
def _apply(operator, image):
  return operator(image)


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
