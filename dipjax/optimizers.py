"""Optimisers as values: optax's, as convolutions need them, and noise on top.

`OPTIMIZERS` has each by the name that a config uses.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

Array = jax.Array


def langevin(
  learning_rate: float = 0.01, *, weight_decay: float = 5e-8
) -> optax.GradientTransformationExtraArgs:
  """Returns Adam that adds N(0, (2 learning_rate)^2) to convolution kernels.

  The optimiser is stochastic gradient Langevin dynamics as in Cheng et al., A
  Bayesian Perspective on the Deep Image Prior, CVPR 2019 (ZezhouCheng/GP-DIP).
  After a burn-in the outputs of the network are samples of a posterior, see
  `monitors.Mean`. The update takes the `key` of the step, which `fit` gives to
  every optimiser.

  Args:
    learning_rate: of Adam.
    weight_decay: this number times the parameters is added to the gradient.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.adam(learning_rate),
    _add_kernel_noise(2 * learning_rate),
  )


def _add_kernel_noise(deviation):
  def update(updates, state, params=None, *, key: Array, **unused: Any):
    del params, unused
    leaves, tree = jax.tree.flatten(updates)
    keys = jax.random.split(key, len(leaves))
    noisy = [
      # The authors' noise is for kernels only. Kernels have more than one axis,
      # biases and norms have one.
      leaf + deviation * jax.random.normal(key, leaf.shape, leaf.dtype)
      if leaf.ndim > 1
      else leaf
      for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


def muon(learning_rate: float = 0.02) -> optax.GradientTransformation:
  """Returns Muon for convolution kernels, and Nesterov's Adam for all else.

  The update of a kernel, as a matrix of taps and inputs by outputs, is made
  orthogonal, so that no direction waits for a larger gradient (Jordan et al.,
  Muon: An optimizer for hidden layers in neural networks, 2024). With
  `methods.Recorrupted` a fit takes a third of the steps that it takes with Adam
  (docs/measured/methods.md).

  Args:
    learning_rate: of both.
  """
  return contrib.muon(
    learning_rate,
    muon_weight_dimension_numbers=_find_kernels,
    adam_learning_rate=learning_rate,
  )


def _find_kernels(params):
  as_matrix = contrib.MuonDimensionNumbers((0, 1, 2), 3)
  return jax.tree.map(lambda x: as_matrix if x.ndim == 4 else None, params)


def decay_by_cosine() -> optax.GradientTransformationExtraArgs:
  """Returns what makes updates smaller, along half a cosine, down to 0.

  The update takes the `progress` of the fit, from 0 to 1, which `fit` gives to
  every optimiser: so the number of steps compiles nothing again.
  """

  def update(updates, state, params=None, *, progress: Array, **unused: Any):
    del params, unused
    factor = (1 + jnp.cos(jnp.pi * progress)) / 2
    return jax.tree.map(lambda leaf: factor * leaf, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
  'adam': optax.adam,
  'langevin': langevin,
  'muon': muon,
}


SCHEDULES = ('constant', 'cosine')


@functools.cache
def make_optimizer(
  name: str,
  learning_rate: float = 0.01,
  clip: float = 0.0,
  schedule: str = 'constant',
) -> optax.GradientTransformation:
  """Returns the optimiser of a name; equal arguments give the same one.

  An optimiser is part of the compiled step, and optax's are equal only to
  themselves: so a fit is compiled once.

  Args:
    name: of OPTIMIZERS.
    learning_rate: of the optimiser.
    clip: largest norm of the gradient, which is shortened to it; 0 is any.
    schedule: how the learning rate changes, of SCHEDULES.

  Raises:
    ValueError: another name, or a number below 0 or not finite.
  """
  if name not in OPTIMIZERS:
    raise ValueError(
      f'optimizer {name!r} is not one of {", ".join(OPTIMIZERS)}'
    )
  for value in (learning_rate, clip):
    if not (math.isfinite(value) and value >= 0):
      raise ValueError(
        'learning_rate and clip must be numbers >= 0, got '
        f'{learning_rate}, {clip}'
      )
  if schedule not in SCHEDULES:
    raise ValueError(
      f'schedule {schedule!r} is not one of {", ".join(SCHEDULES)}'
    )
  parts = [OPTIMIZERS[name](learning_rate)]
  if clip:
    parts.insert(0, optax.clip_by_global_norm(clip))
  if schedule == 'cosine':
    parts.append(decay_by_cosine())
  return optax.chain(*parts) if len(parts) > 1 else parts[0]
