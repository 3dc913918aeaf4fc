"""What a gradient computes again in place of keeping it.

XLA for a CPU sees that two computations are the same and makes one of them,
whose result it keeps; it takes optimisation barriers away before. Here a
computation that comes again has arguments of which XLA cannot tell that they
are the same, and that are known only when it is the computation's turn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dipjax.conv import choose


def recompute(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function, whose gradient keeps its arguments alone.

  Values and gradients are those of the function, up to rounding. The gradient
  computes the function again, once its own turn has come.

  Args:
    function: of pytrees of floating-point arrays; returns one of arrays with an
      axis.
  """

  @jax.custom_vjp
  def computed(*arguments):
    return function(*arguments)

  def forward(*arguments):
    return function(*arguments), arguments

  def backward(arguments, gradients):
    if choose.merges_computations():
      arguments = compute_apart(gradients, arguments)
    else:
      gradients, arguments = jax.lax.optimization_barrier(
        (gradients, arguments)
      )
    _, pull = jax.vjp(function, *arguments)
    return pull(gradients)

  computed.defvjp(forward, backward)
  return computed


def compute_apart(signal: Any, tree: Any) -> Any:
  """Returns the tree; what is computed of it on a CPU shares nothing.

  It waits for the signal, and is not merged with what was computed of the tree
  before. Where the signal has an infinity or a NaN the result may be NaN. On
  other devices the function does nothing.

  Args:
    signal: a pytree of floating-point arrays with an axis.
    tree: a pytree of floating-point arrays.
  """
  if not choose.merges_computations():
    return tree
  # A number equals itself unless it is NaN, so that XLA must compute it. A sum
  # is computed once, where the one value would be read, and its array kept, for
  # as long as the tree is used.
  leaf = jax.tree.leaves(signal)[0]
  number = jnp.sum(leaf[(0,) * (leaf.ndim - 1)])
  return jax.tree.map(
    lambda leaf: jnp.where(number == number, leaf, jnp.nan), tree
  )


def hide(tree: Any) -> Any:
  """Returns the tree; what is computed of it on a GPU shares nothing.

  XLA does not see that the arrays were there before, and must know all of them
  before it goes on. One array of what is computed again is enough. The arrays
  should be small, since XLA may copy them. On a CPU, which would merge
  everything, the function does nothing.

  Args:
    tree: a pytree of arrays.
  """
  if choose.merges_computations():
    return tree
  return jax.lax.optimization_barrier(tree)
