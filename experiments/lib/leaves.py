"""The leaves of a tree by their names: copied, digested, put back in place."""

import collections
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Beside the leaves: the name, type and shape of each, as JSON.
_TABLE = 'table'


def pack_leaves(tree: Any) -> dict[str, np.ndarray]:
  """Returns copies of all leaves, joined to one array for each type.

  Orbax takes time and keeps some memory for each array that it saves, so that
  it gets few. `fill_tree` takes them apart. Keys become their data.
  """
  pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
  groups, table = collections.defaultdict(list), []
  for path, leaf in pairs:
    leaf = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    groups[leaf.dtype.name].append(leaf.ravel())
    table.append((_name(path), leaf.dtype.name, leaf.shape))
  # The next step overwrites the state in place: to join the leaves copies them.
  packed = {kind: np.concatenate(group) for kind, group in groups.items()}
  text = json.dumps(table).encode()
  return packed | {_TABLE: np.frombuffer(text, np.uint8)}


def _unpack(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns all leaves by their names."""
  leaves, ends = {}, collections.Counter()
  for name, kind, shape in json.loads(packed[_TABLE].tobytes()):
    begin, ends[kind] = ends[kind], ends[kind] + math.prod(shape)
    leaves[name] = packed[kind][begin : ends[kind]].reshape(shape)
  return leaves


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def digest_leaves(leaves: Mapping[str, np.ndarray]) -> dict[str, str]:
  """Returns the digest of each leaf by its name."""
  return {name: digest_arrays(leaf) for name, leaf in leaves.items()}


def digest_arrays(*arrays: Any) -> str:
  """Returns a digest of the types, shapes and values of arrays."""
  digest = hashlib.sha256()
  for array in map(np.asarray, arrays):
    digest.update(f'{array.dtype.str} {array.shape} '.encode())
    values: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    digest.update(values)
  return digest.hexdigest()


def fill_tree(like: Any, packed: Mapping[str, np.ndarray]) -> Any:
  """Returns a tree like `like` of what `pack_leaves` has packed.

  Args:
    like: a tree of arrays or shapes; a size of 0 stands for any size.
    packed: arrays by name.

  Raises:
    ValueError: a leaf is missing, or has another shape or type.
  """
  leaves = _unpack(packed) if _TABLE in packed else {}
  pairs, structure = jax.tree_util.tree_flatten_with_path(like)
  missing = {_name(path) for path, _ in pairs} - leaves.keys()
  if missing:
    raise ValueError(f'the leaves {sorted(missing)} are missing')
  filled = [_fit(leaves[_name(path)], one) for path, one in pairs]
  return jax.tree_util.tree_unflatten(structure, filled)


def _fit(leaf: np.ndarray, like: Any) -> Any:
  """Returns a leaf as `like` has it; NumPy arrays, so that jit finds its way.

  An array of orbax that is bound to a device would compile the step again.
  """
  if _is_key(like):
    # A shape of a key does not name its kind.
    return jax.random.wrap_key_data(jnp.asarray(leaf))
  sizes = zip(leaf.shape, like.shape, strict=True)
  if leaf.dtype != like.dtype or any(a != b for a, b in sizes if b):
    raise ValueError(
      f'a leaf is {leaf.dtype} {leaf.shape}, not {like.dtype} {like.shape}'
    )
  return leaf
