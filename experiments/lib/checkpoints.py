"""States on disk, to go on from; no other module knows their format."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp


def open_checkpoints(workdir: str) -> ocp.CheckpointManager:
  """Returns what keeps the latest checkpoint in workdir/checkpoints.

  To be closed, as a context manager, so that the last one is whole.
  """
  # Orbax takes no other than absolute paths.
  path = os.path.abspath(os.path.join(workdir, 'checkpoints'))
  return ocp.CheckpointManager(
    path, options=ocp.CheckpointManagerOptions(max_to_keep=1)
  )


def save(manager: ocp.CheckpointManager, step: int, state: Any) -> None:
  """Writes a state, whole or not at all; returns before it is written."""
  manager.save(step, args=ocp.args.StandardSave(state))


def restore_latest(manager: ocp.CheckpointManager, state: Any) -> Any:
  """Returns the latest state that was saved, or the given one without any."""
  step = manager.latest_step()
  if step is None:
    return state
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  return manager.restore(step, args=ocp.args.StandardRestore(like))
