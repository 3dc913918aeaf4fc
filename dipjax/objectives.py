"""What a fit minimises: `objective(params, problem, key) -> (loss, image)`."""

import functools
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
  code: Array  # [h, w, C], h and w multiples of what the network needs.
  jitter: Array  # Standard deviation of the noise on the code, each step.
  steps: Array  # A fit of this problem takes at most so many.


Objective = Callable[[Any, Problem, Array], tuple[Array, Array]]


@functools.cache
def measurement_error(network: nn.Module) -> Objective:
  """Returns the objective mean((operator(image) - measurement)^2).

  The image, [H, W, C], is the network's output for the jittered code, cropped
  to the real pixels: only these reach the operator and the loss. Equal networks
  give the same objective, so that a fit is compiled once.
  """

  def objective(params, problem, key):
    code = codes.jitter_code(key, problem.code, problem.jitter)
    image = problem.crop(network.apply({'params': params}, code))
    residual = problem.operator(image) - problem.measurement
    return jnp.mean(jnp.square(residual)), image

  return objective
