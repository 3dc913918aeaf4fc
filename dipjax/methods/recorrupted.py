"""Recorrupted-to-Recorrupted: two measurements made from one measurement."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dipjax.methods import base, known_noise

Array = jax.Array

# Mirrored, a network overfits later, and may see the measurement with less
# noise on it (benchmarks/NOTES.md).
_MIRRORED_JITTER = 0.6


@dataclasses.dataclass(frozen=True)
class Recorrupted(known_noise.KnownNoise):
  """The squared error against a measurement of independent noise.

  The network sees y + j w as its code, where w has variance 1 and is as
  correlated between neighbours as the noise of y. Its image is compared with
  y - v w / j, where v is the variance of the noise of y: sigma^2, or another at
  another brightness, or less where the noise was clipped. The two noises do
  not correlate. So the loss is the squared error against the truth, plus a
  constant, for parameters that do not depend on y: the network learns the noise
  later, and learns less noise, than from y alone.

  In half of the steps the network of an even seed sees its code mirrored, along
  each axis, and its image is mirrored back: it learns from more of the picture,
  and needs less noise on the code, 0.6 of the jitter. That of an odd seed does
  not: seeds of two kinds err elsewhere, and their mean is better.

  The noise must be known: `noise.estimate_noise`. Pang et al.,
  Recorrupted-to-Recorrupted, CVPR 2021.

  Attributes:
    ratio: see `known_noise.KnownNoise`.
    mirrored: whether the codes of even seeds are mirrored.
  """

  mirrored: bool = True

  def make_objective(
    self, network: nn.Module, penalties: tuple[base.Penalty, ...] = ()
  ) -> base.Objective:
    """See `base.Method.make_objective`."""

    def objective(params, problem, key):
      if self.mirrored:
        share = jnp.where(problem.even, _MIRRORED_JITTER, 1.0)
        problem = problem.replace(jitter=share * problem.jitter)
      code, deviation = known_noise.jitter_code(key, problem)
      mirror = _draw_mirror(key, problem) if self.mirrored else lambda x: x
      output: Any = network.apply({'params': params}, mirror(code))
      image = problem.crop(mirror(output))
      predicted = problem.operator(image)
      # The code has the noises n + j w, the expectation n - v w / j. Their
      # covariance is v - j v / j = 0: the scale v / j^2 of the added noise
      # takes the correlation away.
      added = problem.crop(code - problem.code)
      variance = known_noise.find_variance(problem, image)
      deviation = problem.crop(jnp.broadcast_to(deviation, code.shape))
      expected = problem.measurement - variance / deviation**2 * added
      loss = jnp.mean(jnp.square(predicted - expected))
      loss = base.add_terms(loss, penalties, problem, image, predicted)
      return loss, image

    return objective


def _draw_mirror(key, problem):
  """Returns a function that mirrors an image, and is its own inverse."""
  # The noise on the code is drawn from the key itself.
  drawn = jax.random.bernoulli(jax.random.fold_in(key, 3), shape=(2,))

  def mirror(image: Array) -> Array:
    for axis, turned in enumerate(drawn & problem.even):
      image = jnp.where(turned, jnp.flip(image, axis), image)
    return image

  return mirror
