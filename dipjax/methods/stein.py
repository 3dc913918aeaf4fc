"""Stein's unbiased estimate of the risk, in place of the error to the noise."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from dipjax.methods import base, known_noise


@dataclasses.dataclass(frozen=True)
class Stein(known_noise.KnownNoise):
  """An unbiased estimate of the denoised image's squared error to the truth.

  The estimate is mean((f(y) - y)^2) + 2 sigma^2 div f(y) / n - sigma^2 for a
  measurement y of n values with Gaussian noise of deviation problem.sigma. The
  divergence holds the parameters fixed and is taken along one random direction
  b over the code: b . (f(y + distance b) - f(y)) / distance. A step takes two
  passes of the network. Where the code had to be extended beyond y, the
  estimate leaves out what the extension depends on.

  The estimate is unbiased for parameters that do not depend on y: a network
  that is fitted long enough makes the estimate smaller than the error, and
  below 0. See `monitors.SURE`. Jo et al., Rethinking Deep Image Prior for
  Denoising, ICCV 2021.

  Attributes:
    distance: how far the two codes are apart in units of b, which is N(0, 1);
      above 0.

  Raises:
    ValueError: a ratio or a distance that is not above 0, or not finite.
  """

  takes_terms: ClassVar[bool] = False
  passes: ClassVar[int] = 2
  estimates_risk: ClassVar[bool] = True
  # Two outputs that differ by `distance` are one number in bfloat16.
  precisions: ClassVar[tuple[str, ...]] = ('float32',)

  distance: float = 1e-3

  def __post_init__(self):
    super().__post_init__()
    if not (math.isfinite(self.distance) and self.distance > 0):
      raise ValueError(f'distance must be a number > 0, got {self.distance}')

  def make_objective(
    self, network: nn.Module, penalties: tuple[base.Penalty, ...] = ()
  ) -> base.Objective:
    """See `base.Method.make_objective`; it takes no penalties."""
    if penalties:
      raise ValueError("the method 'stein' takes no penalties")

    def objective(params, problem, key):
      if problem.weights.size:
        raise ValueError("Stein's risk takes neither penalties nor features")
      if problem.code.dtype != jnp.float32:
        raise ValueError(
          f"Stein's risk needs float32, got {problem.code.dtype}"
        )
      # Both passes have the same jitter: they differ by the probe alone.
      jitter_key, probe_key = jax.random.split(key)
      code, _ = known_noise.jitter_code(jitter_key, problem)
      probe = jax.random.normal(probe_key, code.shape, code.dtype)
      denoise = lambda code: problem.crop(
        network.apply({'params': params}, code)
      )
      image = denoise(code)
      predicted = problem.operator(image)
      other = problem.operator(denoise(code + self.distance * probe))
      # A finite difference along the probe estimates the divergence, because
      # the probe's entries are independent with variance 1. Only the real
      # pixels count: elsewhere the probe stands for no noise of y.
      moved = (other - predicted) / self.distance
      divergence = problem.crop(probe) * moved
      # The terms are summed value by value: the variance of clipped noise is
      # another at each value.
      residual = jnp.square(predicted - problem.measurement)
      variance = known_noise.find_variance(problem, image)
      return jnp.mean(residual + variance * (2 * divergence - 1)), image

    return objective
