"""Parameters as a fit holds them: many small arrays packed into few.

A network has some twenty kernels, and a hundred biases and scales of one axis.
It takes seconds to compile what a step does with each bias and scale, with its
moments and its copies. So each part of a network holds its biases and scales
end to end.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array


class Packed(struct.PyTreeNode):
  """The parameters of one part of a network."""

  vectors: Array  # The parameters of one axis, end to end.
  others: Any  # The part, with None in place of each parameter of one axis.
  # Length of each parameter in `vectors`.
  sizes: tuple[int, ...] = struct.field(pytree_node=False)


def pack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters with the arrays of one axis joined in each part.

  An optimiser that treats values one by one moves packed values as it moves
  plain values; an optimiser that treats parts differently finds the parts by
  their names. A part with fewer than two float32 arrays of one axis stays as it
  is.

  Args:
    params: a network's parameters: arrays and, as mappings, the network's
      parts.

  Returns:
    The parameters, with a `Packed` in place of each part that changes.
  """
  return {name: _pack_part(part) for name, part in params.items()}


def _pack_part(part):
  leaves, tree = jax.tree.flatten(part)
  vectors = [leaf for leaf in leaves if _is_vector(leaf)]
  if len(vectors) < 2:
    return part
  others = [None if _is_vector(leaf) else leaf for leaf in leaves]
  return Packed(
    vectors=jnp.concatenate(vectors),
    others=jax.tree.unflatten(tree, others),
    sizes=tuple(vector.size for vector in vectors),
  )


def _is_vector(leaf):
  return leaf.ndim == 1 and leaf.dtype == jnp.float32


def unpack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters as they were before `pack`, of one lane or many.

  Args:
    params: what `pack` returned; all arrays may have the same further axes
      before their own.
  """
  return {
    name: _unpack_part(part) if isinstance(part, Packed) else part
    for name, part in params.items()
  }


def _unpack_part(packed):
  ends = np.cumsum(packed.sizes)
  vectors = iter(
    packed.vectors[..., end - size : end]
    for size, end in zip(packed.sizes, ends)
  )
  return jax.tree.map(
    lambda leaf: next(vectors) if leaf is None else leaf,
    packed.others,
    is_leaf=lambda leaf: leaf is None,
  )


def value_and_grad(
  objective: Callable[..., tuple[Array, Any]],
) -> Callable[..., tuple[tuple[Array, Any], Any]]:
  """Returns the objective and its gradient as a function of packed parameters.

  Args:
    objective: (params, *arguments) -> (loss, what comes beside the loss).

  Returns:
    (packed params, *arguments) -> ((loss, what comes beside it), packed
    gradient), as `jax.value_and_grad` with `has_aux` for plain parameters.
  """
  differentiate = jax.value_and_grad(objective, has_aux=True)

  def compute(params, *arguments):
    value, gradient = differentiate(unpack(params), *arguments)
    return value, pack(gradient)

  return compute
