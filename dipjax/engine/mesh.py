"""Lanes over the devices of this process: each device runs its share of them.

The mesh has one axis, of lanes. No lane needs another, so that no program has a
collective. With one device, or one lane, there is no mesh, and the program is
what it is on one device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dipjax import operators
from dipjax.conv import choose

Array = jax.Array

_AXIS = 'lane'


def count_each(lanes: int) -> int:
  """Returns how many lanes the busiest device has."""
  return -(-lanes // len(choose.find_devices()))


def count_used(lanes: int) -> int:
  """Returns how many devices run lanes: the fewest that take no longer."""
  return -(-lanes // count_each(lanes))


def pad(lanes: int) -> int:
  """Returns how many lanes there are once every device has as many."""
  return count_each(lanes) * count_used(lanes)


def find_mesh(lanes: int) -> Mesh | None:
  """Returns the devices that share so many lanes; None: one has all.

  Args:
    lanes: how many there are, idle ones (`pad`) included or not.
  """
  used = count_used(lanes)
  if used == 1:
    return None
  return Mesh(np.array(choose.find_devices()[:used]), (_AXIS,))


def is_shared(leaf: Any) -> bool:
  """Returns whether all lanes have this part of a tree in common."""
  return isinstance(leaf, operators.Shared)


def find_shardings(tree: Any, lanes: int) -> Any:
  """Returns where each array of a tree lies; None with one device.

  The arrays of a lane lie on the device of the lane, and what is shared on
  every device.

  Args:
    tree: arrays [lanes, ...], except in parts that are shared.
    lanes: what `pad` returned.
  """
  mesh = find_mesh(lanes)
  return mesh and jax.tree.map(
    functools.partial(NamedSharding, mesh), _spread_specs(tree)
  )


def place(tree: Any, lanes: int) -> Any:
  """Returns the tree where `find_shardings` says that it lies."""
  shardings = find_shardings(tree, lanes)
  if shardings is None:
    return tree
  # The next step overwrites its arrays, which nobody else may hold.
  return jax.device_put(tree, shardings, may_alias=False)


def place_everywhere(tree: Any, lanes: int) -> Any:
  """Returns the tree on each of the devices that share so many lanes."""
  mesh = find_mesh(lanes)
  if mesh is None:
    return tree
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def gather(tree: Any, lanes: int) -> Any:
  """Returns a tree of lanes, or of one of them, on the first device alone."""
  if find_mesh(lanes) is None:
    return tree
  return jax.device_put(tree, choose.find_devices()[0])


def share_out(function: Callable, *trees: Any) -> Any:
  """Returns function(*trees), of which each device computes its own lanes.

  Args:
    function: returns arrays [lanes, ...] for any number of lanes.
    trees: arrays [lanes, ...], except in parts that are shared.
  """
  mesh = find_mesh(_count(trees))
  if mesh is None:
    return function(*trees)
  mapped = jax.shard_map(
    function,
    mesh=mesh,
    in_specs=_spread_specs(trees),
    out_specs=_own(),
    check_vma=False,
  )
  return mapped(*trees)


def put(leaves: Sequence[Array], one: Sequence[Array], slot: Array) -> Any:
  """Returns the arrays of all lanes with another lane in a slot.

  Args:
    leaves: arrays [lanes, ...].
    one: arrays [1, ...].
    slot: the place of the lane.
  """
  mesh = find_mesh(_count(leaves))
  if mesh is None:
    return [_put(leaf, new, slot) for leaf, new in zip(leaves, one)]
  each = count_each(_count(leaves))

  # Each device puts the lane, or what was there, into its own lanes.
  def put_own(leaves, one, slot):
    place = slot - each * jax.lax.axis_index(_AXIS)
    is_here = (place >= 0) & (place < each)
    place = jnp.clip(place, 0, each - 1)
    return [
      _put(leaf, jnp.where(is_here, new, _take(leaf, place)), place)
      for leaf, new in zip(leaves, one)
    ]

  none = PartitionSpec()
  mapped = jax.shard_map(
    put_own,
    mesh=mesh,
    in_specs=(_own(), none, none),
    out_specs=_own(),
    check_vma=False,
  )
  return mapped(leaves, one, slot)


def find_part(
  leaves: Sequence[Array], slot: int
) -> tuple[Sequence[Array], int]:
  """Returns what the device of a slot has, and the place of the slot there.

  Args:
    leaves: arrays [lanes, ...].
    slot: the place of the lane among all.
  """
  lanes = _count(leaves)
  if find_mesh(lanes) is None:
    return leaves, slot
  device, place = divmod(slot, count_each(lanes))
  begin = lambda shard: shard.index[0].start or 0
  own = lambda leaf: sorted(leaf.addressable_shards, key=begin)[device].data
  return [own(leaf) for leaf in leaves], place


def take(leaves: Sequence[Array], place: Array) -> list[Array]:
  """Returns the arrays [1, ...] of the lane at a place."""
  return [_take(leaf, place) for leaf in leaves]


def _take(leaf, place):
  return jax.lax.dynamic_slice_in_dim(
    leaf, place, 1, allow_negative_indices=False
  )


def _put(leaf, new, place):
  return jax.lax.dynamic_update_slice_in_dim(
    leaf, new, place, axis=0, allow_negative_indices=False
  )


def _own():
  return PartitionSpec(_AXIS)


def _spread_specs(tree):
  """Returns how each array of a tree lies on the devices."""
  spread = lambda leaf: (
    jax.tree.map(lambda _: PartitionSpec(), leaf) if is_shared(leaf) else _own()
  )
  return jax.tree.map(spread, tree, is_leaf=is_shared)


def _count(tree):
  """Returns how many lanes the arrays of a tree have."""
  leaves = jax.tree.leaves(tree, is_leaf=is_shared)
  return next(leaf.shape[0] for leaf in leaves if not is_shared(leaf))
