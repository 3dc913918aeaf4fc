"""The perceptual error: features that are compared besides the pixels.

Any method that takes terms adds the perceptual error, see `base.add_terms`. The
perceptual error is no method: its arrays are a part of the problem. Johnson et
al., Perceptual Losses for Real-Time Style Transfer and Super-Resolution, ECCV
2016.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dipjax import operators
from dipjax.engine.problem import Problem

Array = jax.Array


def share_features(features: Callable[[Array], Array]) -> operators.Shared:
  """Returns features on the device, which several problems can share."""
  if isinstance(features, operators.Shared):
    return features
  shared = operators.Shared(operators.as_operator(features))
  # NumPy arrays would go to the device again with every chunk of steps.
  return jax.tree.map(jnp.asarray, shared)


def add_features(
  problem: Problem, features: Callable[[Array], Array], weight: float
) -> Problem:
  """Returns the problem with the perceptual error added.

  The features of the measurement are computed here, and not at each step.

  Args:
    problem: the problem of one lane, without features.
    features: a function of a prediction that gives an array of floats, such as
      `features.Features`; for several problems what `share_features` returned.
    weight: weight of the perceptual error in the loss, >= 0.

  Raises:
    ValueError: a weight that is no number >= 0, or a measurement from which the
      features cannot be computed.
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
