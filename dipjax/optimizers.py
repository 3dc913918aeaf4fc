"""Optimisers that optax lacks: Langevin noise, for samples of a posterior."""

from typing import Any

import jax
import optax

Array = jax.Array


def langevin(
  learning_rate: float = 0.01, *, weight_decay: float = 5e-8
) -> optax.GradientTransformationExtraArgs:
  """Returns Adam that adds N(0, (2 learning_rate)^2) to convolution kernels.

  The optimiser is stochastic gradient Langevin dynamics as in Cheng et al., A
  Bayesian Perspective on the Deep Image Prior, CVPR 2019 (ZezhouCheng/GP-DIP).
  After a burn-in the outputs of the network are samples of a posterior, see
  `monitors.mean`. The update takes the `key` of the step, which `fit` gives to
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
