"""Parameters as a fit holds them: the many small ones in few arrays.

A network has some twenty kernels, and a hundred biases and scales of one axis.
To compile what a step does with each of these, with its moments and its copies
takes seconds, so that the parts of a network hold them end to end.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

Array = jax.Array


class Packed(struct.PyTreeNode):
  """The parameters of one part of a network."""

  vectors: Array  # Those of one axis, end to end.
  others: Any  # The part, with None for each of these.
  sizes: tuple[int, ...] = struct.field(pytree_node=False)


def pack(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the parameters with the arrays of one axis joined in each part.

  An optimiser that treats values one by one makes the same of them; one that
  treats parts differently finds these by their names. A part with fewer than
  two such arrays of float32 stays as it is.

  Args:
    params: of a network: arrays and, as mappings, its parts.

  Returns:
    The same with a `Packed` for each other part.
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
  """Returns the parameters that were packed, of one lane or of many.

  Args:
    params: as of `pack`, or with the same further axes before all others.
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
