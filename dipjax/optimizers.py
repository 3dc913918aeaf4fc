"""Optimisers as values: optax's, as convolutions need them, and noise on top.

`OPTIMIZERS` has each by the name that a config uses.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Shape = tuple[int, int]

# Muon's, of Jordan et al.
_MOMENTUM = 0.95
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # Of X: of X^1, X^3 and X^5.
_TURNS = 5
_TINY = 1e-8


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
  kernels = optax.chain(
    optax.trace(_MOMENTUM, nesterov=True),
    optax.stateless(lambda updates, _: orthogonalize(updates)),
    optax.scale_by_learning_rate(learning_rate),
  )
  return _join(kernels, optax.nadam(learning_rate))


def orthogonalize(kernels: Mapping[Shape, Array]) -> dict[Shape, Array]:
  """Returns matrices whose singular values are nearly one number.

  Vectors stay those of each matrix. Values become 0.68 to 1.21 times
  sqrt(max(1, b / a)), but for those that are thousands of times smaller than
  the largest, and zeros stay zeros.

  Five steps of Newton and Schulz, as in Muon, multiply X by polynomials of
  X X^T. All matrices take them at once with that small product in the place of
  X, which is multiplied by the product of the polynomials at the end: a few
  tens of operations for a whole network, and not fifteen for each kernel.

  Args:
    kernels: matrices of each shape (a, b), [n, a, b].
  """
  if not kernels:
    return {}
  side = max(min(shape) for shape in kernels)
  scaled, squares = {}, []
  for (a, b), x in kernels.items():
    x /= jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + _TINY
    square = _multiply(x, x.mT) if a <= b else _multiply(x.mT, x)
    rest = (0, side - min(a, b))
    scaled[a, b] = x
    squares.append(jnp.pad(square, ((0, 0), rest, rest)))
  factors = _multiply_polynomials(jnp.concatenate(squares))
  moved, start = {}, 0
  for (a, b), x in scaled.items():
    factor = factors[start : start + len(x), : min(a, b), : min(a, b)]
    start += len(x)
    x = _multiply(factor, x) if a <= b else _multiply(x, factor)
    moved[a, b] = max(1, b / a) ** 0.5 * x
  return moved


def _multiply_polynomials(square):
  """X X^T [n, k, k] -> what X is multiplied by in all steps together."""
  one, two, three = _POLYNOMIAL
  eye = jnp.broadcast_to(jnp.eye(square.shape[1]), square.shape)
  factors = []
  for _ in range(_TURNS):
    factor = one * eye + two * square + three * _multiply(square, square)
    factors.append(factor)
    square = _multiply(_multiply(factor, square), factor)
  return functools.reduce(_multiply, factors)


def _multiply(a, b):
  # A TPU's own precision would make small values negative.
  return jnp.matmul(a, b, precision='highest')


class _Joined(NamedTuple):
  """The parameters of a network in few arrays."""

  kernels: dict[Shape, Array]  # By shape of the matrices: [n, a, b].
  others: Array  # End to end.


def _join(kernels, others):
  """Two optimisers, of either field of `_Joined`, as one of any parameters."""

  def init(params):
    joined = _join_leaves(params)
    return kernels.init(joined.kernels), others.init(joined.others)

  def update(updates, state, params=None):
    del params
    joined = _join_leaves(updates)
    moved, first = kernels.update(joined.kernels, state[0])
    rest, second = others.update(joined.others, state[1])
    return _split_leaves(_Joined(moved, rest), updates), (first, second)

  return optax.GradientTransformation(init, update)


def _join_leaves(tree):
  kernels: dict[Shape, list[Array]] = {}
  others = [jnp.zeros(0)]
  for leaf in jax.tree.leaves(tree):
    if leaf.ndim == 4:
      matrix = leaf.reshape(-1, leaf.shape[3])
      kernels.setdefault(matrix.shape, []).append(matrix)
    else:
      others.append(leaf.ravel())
  stacked = {shape: jnp.stack(matrices) for shape, matrices in kernels.items()}
  return _Joined(stacked, jnp.concatenate(others))


def _split_leaves(joined, tree):
  """The inverse of `_join_leaves`; `tree` tells shapes and structure."""
  kernels = {shape: iter(rows) for shape, rows in joined.kernels.items()}
  start = 0

  def take(leaf):
    nonlocal start
    if leaf.ndim == 4:
      shape = leaf.size // leaf.shape[3], leaf.shape[3]
      return next(kernels[shape]).reshape(leaf.shape)
    start += leaf.size
    return joined.others[start - leaf.size : start].reshape(leaf.shape)

  return jax.tree.map(take, tree)


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
