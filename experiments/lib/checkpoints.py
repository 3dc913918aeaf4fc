"""Checkpoints: states on disk; no other module knows their format."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp


def open_checkpoints(workdir: str) -> ocp.CheckpointManager:
  """Returns the manager of the latest checkpoint in workdir/checkpoints.

  Use it as a context manager: closing it completes the last checkpoint.
  """
  # Orbax takes absolute paths only.
  path = os.path.abspath(os.path.join(workdir, 'checkpoints'))
  return ocp.CheckpointManager(
    path, options=ocp.CheckpointManagerOptions(max_to_keep=1)
  )


def save(manager: ocp.CheckpointManager, step: int, state: Any) -> None:
  """Writes a state, whole or not at all; returns before the disk has it."""
  manager.save(step, args=ocp.args.StandardSave(state))


def restore_latest(manager: ocp.CheckpointManager, state: Any) -> Any:
  """Returns the latest saved state, or the given state if none was saved."""
  step = manager.latest_step()
  if step is None:
    return state
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
  return manager.restore(step, args=ocp.args.StandardRestore(like))
