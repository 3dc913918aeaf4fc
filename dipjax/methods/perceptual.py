"""The perceptual error: features that are compared besides the pixels.

Any method that takes terms adds it, see `base.add_terms`. It is not a method of
its own: its arrays are a part of the problem. Johnson et al., Perceptual Losses
for Real-Time Style Transfer and Super-Resolution, ECCV 2016.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dipjax import operators
from dipjax.engine.problem import Problem

Array = jax.Array


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
  """Returns the problem with the perceptual error added.

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
