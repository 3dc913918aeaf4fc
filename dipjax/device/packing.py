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


def scan_joined(
  turn: Callable[[Any, None], tuple[Any, Any]], state: Any, *, length: int
) -> tuple[Any, Any]:
  """Returns what `jax.lax.scan(turn, state, length=length)` returns.

  From one turn to the next the single numbers of a type are one array. Where
  lanes run at once, a device would write each number by itself.

  Args:
    turn: (state, None) -> the state of the next turn, and what is stacked.
    state: a pytree of arrays.
    length: how many turns.
  """

  def joined_turn(joined, _):
    after, more = turn(_split_numbers(joined, state), None)
    return _join_numbers(after), more

  joined, more = jax.lax.scan(joined_turn, _join_numbers(state), length=length)
  return _split_numbers(joined, state), more


def _join_numbers(tree):
  """The arrays that are not single numbers, and the numbers by their type."""
  leaves = jax.tree.leaves(tree)
  groups = _group_numbers(leaves)
  numbers = {
    dtype: jnp.stack([leaves[i] for i in places])
    for dtype, places in groups.items()
  }
  return [leaf for leaf in leaves if not _is_number(leaf)], numbers


def _split_numbers(joined, tree):
  """The tree that was joined; of `tree` only types and structure matter."""
  leaves, structure = jax.tree.flatten(tree)
  others, numbers = joined
  found = iter(others)
  split = [None if _is_number(leaf) else next(found) for leaf in leaves]
  for dtype, places in _group_numbers(leaves).items():
    for place, number in zip(places, numbers[dtype]):
      split[place] = number
  return jax.tree.unflatten(structure, split)


def _group_numbers(leaves):
  groups: dict[str, list[int]] = {}
  for place, leaf in enumerate(leaves):
    if _is_number(leaf):
      groups.setdefault(leaf.dtype.name, []).append(place)
  return groups


def _is_number(leaf):
  # A key is an array, though it has no axis.
  return leaf.ndim == 0 and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
