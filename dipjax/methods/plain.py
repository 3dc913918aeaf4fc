"""Methods that minimise the mean of a function of the differences."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from dipjax.methods import base

Array = jax.Array


class _Plain(base.Method):
  """The mean of `measure` over all values of operator(image) - measurement."""

  def measure(self, difference: Array) -> Array:
    """Returns the error of each difference, in the same shape."""
    raise NotImplementedError

  def make_objective(
    self, network: nn.Module, penalties: tuple[base.Penalty, ...] = ()
  ) -> base.Objective:
    """See `base.Method.make_objective`."""

    def objective(params, problem, key):
      image, _ = base.draw_image(network, params, problem, key)
      predicted = problem.operator(image)
      loss = jnp.mean(self.measure(predicted - problem.measurement))
      loss = base.add_terms(loss, penalties, problem, image, predicted)
      return loss, image

    return objective


@dataclasses.dataclass(frozen=True)
class Squared(_Plain):
  """The mean squared error: the deep image prior as published.

  Ulyanov et al., Deep Image Prior, CVPR 2018, equation 2.
  """

  def measure(self, difference: Array) -> Array:
    """Returns difference^2."""
    return jnp.square(difference)


@dataclasses.dataclass(frozen=True)
class Absolute(_Plain):
  """The mean absolute error, for values that are wrong altogether.

  A value hit by impulse noise pulls the image no harder than any other.
  """

  def measure(self, difference: Array) -> Array:
    """Returns the absolute value of the difference."""
    return jnp.abs(difference)
