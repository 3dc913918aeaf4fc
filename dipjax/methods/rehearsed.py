"""Pairs to learn from, made of a restored image: the image, and noise on it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from dipjax import operators
from dipjax.methods import base, known_noise


@dataclasses.dataclass(frozen=True)
class Rehearsed(known_noise.KnownNoise):
  """The squared error against a restored image that was made noisy again.

  The measurement is a restored image, and the noise is that of the picture it
  was restored from. The network sees the image with new noise of that kind,
  clipped where the picture's was, and is compared with the image itself. Such a
  target has no noise, so that a gradient tells far more than one of
  `Recorrupted`; but the network learns no detail that the image lacks. A fit
  that has already learned goes on so for a few steps: `rehearsal.rehearse`.

  The idea is that of iterative data refinement (Zhang et al., IDR:
  Self-Supervised Image Denoising via Iterative Data Refinement, CVPR 2022).

  Attributes:
    ratio: see `known_noise.KnownNoise`; 1 is the noise of the picture.
  """

  ratio: float = 1.0

  def make_objective(
    self, network: nn.Module, penalties: tuple[base.Penalty, ...] = ()
  ) -> base.Objective:
    """See `base.Method.make_objective`."""

    def objective(params, problem, key):
      code, _ = known_noise.jitter_code(key, problem)
      # Only the end that clipped the picture clips here.
      if isinstance(problem.operator, operators.Noisy):
        code = jnp.maximum(code, 0) if problem.operator.black else code
        code = jnp.minimum(code, 1) if problem.operator.white else code
      output: Any = network.apply({'params': params}, code)
      image = problem.crop(output)
      loss = jnp.mean(jnp.square(image - problem.measurement))
      predicted = problem.operator(image)
      return base.add_terms(loss, penalties, problem, image, predicted), image

    return objective
