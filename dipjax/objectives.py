"""What a fit minimises: `objective(params, problem, key) -> (loss, image)`.

A penalty is a function of the image [H, W, C] that returns a number; its weight
is a part of the problem, so that another one does not compile again and lanes
may differ in it.
"""

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
  weights: Array  # [penalties], of each penalty of the objective.
  jitter: Array  # Standard deviation of the noise on the code, each step.
  steps: Array  # A fit of this problem takes at most so many.
  noise: Array | float = 0.0  # Variance of the measurement's; 0: not known.


Objective = Callable[[Any, Problem, Array], tuple[Array, Array]]
Penalty = Callable[[Array], Array]


@functools.cache
def measurement_error(
  network: nn.Module, penalties: tuple[Penalty, ...] = ()
) -> Objective:
  """Returns mean((operator(image) - measurement)^2) + weights . penalties.

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
    residual = problem.operator(image) - problem.measurement
    loss = jnp.mean(jnp.square(residual))
    for i, penalty in enumerate(penalties):
      loss += problem.weights[i] * penalty(image)
    return loss, image

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
