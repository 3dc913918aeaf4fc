"""Double over-parameterisation: wrong values are fitted beside the image.

The outliers are g^2 - h^2. The difference stays at zero where nothing forces it
away, and grows the sooner the larger the error is. Both g and h begin near zero
and descend at a rate of their own, so that the network fits the picture before
the outliers grow: no weight of a penalty decides. You et al., Robust Recovery
via Implicit Bias of Discrepant Learning Rates for Double Over-parameterization,
NeurIPS 2020 (ChongYou/robust-image-recovery).
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
# The learning rate of g and h for a sum of squares. A mean over n values
# divides the gradient by n, so that `optimize_beside` multiplies the rate by n.
_RATE = 0.01


@dataclasses.dataclass(frozen=True)
class Outliers(base.Method):
  """The mean squared error of the prediction plus outliers, fitted together.

  The method is for measurements with some values that are wrong altogether.
  """

  def prepare(self, parts: base.Parts) -> base.Parts:
    """Returns the parts with outliers beside the network, and an optimiser."""
    parts = super().prepare(parts)
    shape = parts.measurement.shape
    return parts._replace(
      network=BesideOutliers(parts.network, shape),
      optimizer=optimize_beside(parts.optimizer, parts.measurement.size),
    )

  def make_objective(
    self, network: nn.Module, penalties: tuple[base.Penalty, ...] = ()
  ) -> base.Objective:
    """See `base.Method.make_objective`; takes only the network of `prepare`."""
    if not isinstance(network, BesideOutliers):
      raise ValueError(
        "the method 'outliers' fits the network that its `prepare` returns, "
        f'got {type(network).__name__}'
      )

    def objective(params, problem, key):
      # The outliers belong to the measurement, not to the image: they are added
      # behind the operator, and the image comes without them.
      image, _ = base.draw_image(network, params, problem, key)
      predicted = problem.operator(image) + find_outliers(params)
      loss = jnp.mean(jnp.square(predicted - problem.measurement))
      loss = base.add_terms(loss, penalties, problem, image, predicted)
      return loss, image

    return objective


class BesideOutliers(nn.Module):
  """A network with the parameters of outliers, which it does not apply.

  Attributes:
    network: the network that makes the image.
    shape: the measurement's shape.
  """

  network: nn.Module
  shape: tuple[int, ...]

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the network's code for an image of this size."""
    network: Any = self.network
    return network.code_size(height, width)

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[h, w, C] -> [h, w, outputs] by the network, without the outliers."""
    # The two arrays become parameters here; the objective reads them.
    draw = nn.initializers.normal(_START)
    self.param('plus', draw, self.shape, jnp.float32)
    self.param('minus', draw, self.shape, jnp.float32)
    return self.network(code)


def find_outliers(params: Mapping[str, Any]) -> Array:
  """Returns g^2 - h^2 in the measurement's shape."""
  return params['plus'] ** 2 - params['minus'] ** 2


@functools.cache
def optimize_beside(
  optimizer: optax.GradientTransformation, count: int
) -> optax.GradientTransformation:
  """Returns the optimiser of a `BesideOutliers`.

  Equal arguments give the same optimiser, so that a fit is compiled once.

  Args:
    optimizer: moves the network's parameters. The source takes descent without
      momentum, and 150,000 steps.
    count: number of values in the measurement, over which the error is a mean.
  """
  # Plain descent moves each of g and h in proportion to itself, as the source
  # does: that keeps at zero what no error forces away.
  descent = optax.sgd(_RATE * count)
  return optax.multi_transform(
    {'network': optimizer, 'outliers': descent},
    {'network': 'network', 'plus': 'outliers', 'minus': 'outliers'},
  )
