"""Double over-parameterisation: wrong values are fitted beside the image.

The outliers are g^2 - h^2. That stays at zero where nothing forces it away, and
grows the sooner the more is missing. Both begin near zero and descend at a rate
of their own, against which the network has to be right first: no weight of a
penalty decides. You et al., Robust Recovery via Implicit Bias of Discrepant
Learning Rates for Double Over-parameterization, NeurIPS 2020
(ChongYou/robust-image-recovery).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dipjax.methods import base

Array = jax.Array

_START = 1e-5  # Standard deviation of g and h before the first step.
_RATE = 0.01  # Of each value; the mean over n values divides it by n.


@dataclasses.dataclass(frozen=True)
class Outliers(base.Method):
  """The squared error of the image with outliers, fitted together.

  For measurements of which some values are wrong altogether.
  """

  def prepare(self, parts: base.Parts) -> base.Parts:
    """Returns the parts with outliers beside the network and its optimiser."""
    parts = super().prepare(parts)
    shape = parts.measurement.shape
    return parts._replace(
      network=BesideOutliers(parts.network, shape),
      optimizer=optimize_beside(parts.optimizer, parts.measurement.size),
    )

  def make_objective(
    self, network: nn.Module, penalties: tuple[base.Penalty, ...] = ()
  ) -> base.Objective:
    """See `base.Method.make_objective`; of the network that `prepare` made."""
    if not isinstance(network, BesideOutliers):
      raise ValueError(
        "the method 'outliers' fits the network that its `prepare` returns, "
        f'got {type(network).__name__}'
      )

    def objective(params, problem, key):
      image, _ = base.draw_image(network, params, problem, key)
      predicted = problem.operator(image) + find_outliers(params)
      loss = jnp.mean(jnp.square(predicted - problem.measurement))
      loss = base.add_terms(loss, penalties, problem, image, predicted)
      return loss, image

    return objective


class BesideOutliers(nn.Module):
  """A network, and outliers that are fitted together with it.

  Attributes:
    network: all that is applied.
    shape: of the measurement.
  """

  network: nn.Module
  shape: tuple[int, ...]

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the network's code for an image of this size."""
    network: Any = self.network
    return network.code_size(height, width)

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[h, w, C] -> [h, w, outputs], of the network alone."""
    draw = nn.initializers.normal(_START)
    self.param('plus', draw, self.shape)
    self.param('minus', draw, self.shape)
    return self.network(code)


def find_outliers(params: Mapping[str, Any]) -> Array:
  """Returns g^2 - h^2, of the measurement's shape."""
  return params['plus'] ** 2 - params['minus'] ** 2


@functools.cache
def optimize_beside(
  optimizer: optax.GradientTransformation, count: int
) -> optax.GradientTransformation:
  """Returns the optimiser of a `BesideOutliers`.

  Equal arguments give the same one, so that a fit is compiled once.

  Args:
    optimizer: of the network. The source takes descent without momentum, and
      150,000 steps.
    count: values of the measurement, over which the error is a mean.
  """
  descent = optax.sgd(_RATE * count)
  return optax.multi_transform(
    {'network': optimizer, 'outliers': descent},
    {'network': 'network', 'plus': 'outliers', 'minus': 'outliers'},
  )
