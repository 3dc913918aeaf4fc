"""Checkpoints: arrays on disk by orbax; no other module knows their format.

A checkpoint has the packed leaves of a tree, and notes: JSON, with the digests
of the leaves and of the data of the run. Two checkpoints are kept, so
that a damaged one has one before it.
"""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.lib import folders, records
from experiments.lib import leaves as leaves_lib

_KEEP = 2

_SPARE = 2**22  # Bytes that a disk must have beside a checkpoint.

# A save of t seconds is followed by this many times t without a save: saves
# then take at most 2 % of a run.
_REST = 50


class Interval(NamedTuple):
  """How often to save: never for 0 of both."""

  seconds: float = 0.0
  steps: int = 0


def parse_interval(text: str) -> Interval:
  """Returns the interval that '60s', seconds, or '500', steps, stands for.

  Raises:
    ValueError: neither, or a negative number.
  """
  try:
    if text.endswith('s'):
      interval = Interval(seconds=float(text[:-1]))
    else:
      interval = Interval(steps=int(text))
    if 0 <= max(interval) < float('inf') and min(interval) >= 0:
      return interval
  except (AttributeError, ValueError):
    pass
  raise ValueError(
    f"checkpoint.every must be seconds, as '60s', or steps, as '500', or '0' "
    f'for never; got {text!r}'
  )


class Checkpoints:
  """The checkpoints of a run.

  A checkpoint that cannot be written never ends a run: the run says so once.
  Use as a context manager: closing completes the last checkpoint.
  """

  def __init__(self, folder: str, *, every: str = '60s', data: str | None = ''):
    """Reads and writes nothing yet.

    Args:
      folder: the folder of the checkpoints alone.
      every: see `parse_interval`.
      data: the digest of the run's data; a checkpoint of other data is an
        error. None takes any.
    """
    # Orbax takes absolute paths only.
    self.folder = os.path.abspath(folder)
    self._interval, self._data = parse_interval(every), data
    self._manager, self._failed, self._latest = None, False, None
    self._writing: futures.Future | None = None
    # One thread, so that a checkpoint is whole before the next begins.
    self._worker = futures.ThreadPoolExecutor(max_workers=1)
    self._saved_at, self._saved_step, self._rest = time.monotonic(), 0, 0.0

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self.close()

  def close(self) -> None:
    """Completes the last checkpoint."""
    self.flush()
    self._worker.shutdown()
    if self._manager is not None:
      self._manager.close()
      self._manager = None

  def is_due(self, step: int) -> bool:
    """Returns whether it is time to save a state of this step."""
    seconds, steps = self._interval
    if steps:
      # A next fit of the run counts from 0 again.
      before = self._saved_step if step >= self._saved_step else 0
      return step - before >= steps
    passed = time.monotonic() - self._saved_at
    return bool(seconds) and passed >= max(seconds, self._rest)

  def save(self, tree: Any, step: int, **notes: Any) -> None:
    """Writes a checkpoint, whole or not at all; the disk has it later.

    Args:
      tree: arrays, which are copied before the function returns.
      step: what `is_due` counts.
      notes: what else to remember, of JSON.
    """
    if not any(self._interval):
      return
    self.flush()
    leaves = leaves_lib.pack_leaves(tree)
    self._saved_at, self._saved_step = time.monotonic(), step
    notes = {'step': step, 'data': self._data, **notes}
    self._writing = self._worker.submit(self._save, leaves, notes)

  def _save(self, leaves, notes):
    begin = time.monotonic()
    self._check_space(leaves)
    notes['digests'] = leaves_lib.digest_leaves(leaves)
    # Somebody may have removed the folder under the run.
    if not os.path.isdir(self.folder):
      self._manager = None
    manager = self._open()
    number = max(manager.all_steps(), default=-1) + 1
    manager.save(number, args=_save_args(leaves, notes))
    # Writing goes on beside the fit, and on a CPU it takes the fit's cores.
    self._rest = _REST * (time.monotonic() - begin)

  def _check_space(self, leaves):
    """Raises the system's own error where the disk would not take a save.

    Orbax meets such an error in several threads, whose tracebacks nobody wants.
    """
    os.makedirs(self.folder, exist_ok=True)
    needed = sum(leaf.nbytes for leaf in leaves.values()) + _SPARE
    with tempfile.TemporaryFile(dir=self.folder) as file:
      if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(file.fileno(), 0, needed)

  def flush(self) -> None:
    """Returns once the disk has what was saved."""
    writing, self._writing = self._writing, None
    if writing is None:
      return
    # Orbax raises nearly anything where the disk takes no more.
    try:
      writing.result()
    except Exception as error:
      self._manager = None
      self._say_failed(error)

  def _say_failed(self, error):
    if not self._failed:
      reason = ' '.join(str(error).split())[:200] or type(error).__name__
      records.say(
        f'{folders.show(self.folder)}: no checkpoint was written ({reason}); '
        'the run goes on'
      )
    self._failed = True

  def find_latest(self) -> dict[str, Any] | None:
    """Returns the notes of the latest good checkpoint, None for no checkpoint.

    A damaged checkpoint is passed over, which the run says.

    Raises:
      ValueError: all checkpoints are damaged, or the data is not the data of
        the checkpoint.
    """
    if self._latest is None and os.path.isdir(self.folder):
      self._latest = self._find_latest()
    return self._latest and self._latest[1]

  def _find_latest(self):
    manager = self._open()
    numbers = sorted(manager.all_steps(), reverse=True)
    for number in numbers:
      notes = _read_notes(manager, number)
      leaves = notes and _read_leaves(manager, number, notes['digests'])
      if notes and leaves is not None:
        if self._data not in (None, notes['data']):
          raise ValueError(
            f'the data has changed since the checkpoint in {self.folder!r}: '
            'use another workdir, or --overwrite'
          )
        return leaves, notes
      records.say(
        f'{folders.show(self.folder)}: checkpoint {number} is damaged, the one '
        'before it is taken'
      )
    if numbers:
      raise ValueError(
        f'{self.folder!r}: all checkpoints are damaged; --overwrite starts '
        'again'
      )
    return None

  def load(self, like: Any, *, keep: bool = False) -> Any:
    """Returns the tree of the latest good checkpoint, None for no checkpoint.

    Args:
      like: a tree of arrays or shapes; a size of 0 stands for any size. It may
        be a part of what was saved.
      keep: whether the other parts stay in memory, to be loaded later.

    Raises:
      ValueError: see `find_latest`, or the checkpoint does not fit `like`.
    """
    notes = self.find_latest()
    if self._latest is None or notes is None:
      return None
    # The memory of the leaves is the caller's from here on.
    leaves = self._latest[0]
    self._latest = self._latest if keep else None
    self._saved_step = notes['step']
    return self._fill(like, leaves)

  def keep(self, name: str, tree: Any) -> None:
    """Writes arrays under a name until the run is finished.

    What was saved before is on the disk before.
    """
    self.flush()
    if any(self._interval):
      self._writing = self._worker.submit(
        self._keep, name, leaves_lib.pack_leaves(tree)
      )
      self.flush()

  def _keep(self, name, leaves):
    self._check_space(leaves)
    notes = {'data': self._data, 'digests': leaves_lib.digest_leaves(leaves)}
    path = os.path.join(self.folder, 'kept', name)
    with _make_checkpointer() as writer:
      writer.save(path, args=_save_args(leaves, notes), force=True)

  def recall(self, name: str, like: Any) -> Any:
    """Returns what `keep` has written, None where there is nothing good."""
    path = os.path.join(self.folder, 'kept', name)
    if not os.path.isdir(path):
      return None
    with _make_checkpointer() as reader:
      found = _read_notes(reader, path)
      if found is None or found['data'] != self._data:
        return None
      leaves = _read_leaves(reader, path, found['digests'])
      return None if leaves is None else self._fill(like, leaves)

  def _fill(self, like, leaves):
    try:
      return leaves_lib.fill_tree(like, leaves)
    except ValueError:
      raise ValueError(
        f'the checkpoint in {self.folder!r} is of another network or version: '
        'use another workdir, or --overwrite'
      ) from None

  def finish(self) -> None:
    """Removes all but the last checkpoint: the run is finished."""
    self.flush()
    shutil.rmtree(os.path.join(self.folder, 'kept'), ignore_errors=True)
    if os.path.isdir(self.folder):
      numbers = sorted(int(n) for n in os.listdir(self.folder) if n.isdigit())
      for number in numbers[:-1]:
        path = os.path.join(self.folder, str(number))
        shutil.rmtree(path, ignore_errors=True)

  def _open(self) -> ocp.CheckpointManager:
    if self._manager is None:
      os.makedirs(self.folder, exist_ok=True)
      options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP,
        cleanup_tmp_directories=True,
        create=False,  # Orbax does not for one process among several.
        multiprocessing_options=_name_process(),
        # The worker is beside the fit already.
        enable_async_checkpointing=False,
      )
      self._manager = ocp.CheckpointManager(
        self.folder, options=options, item_handlers=_make_handlers()
      )
    return self._manager


class _Own(ocp.CheckpointHandler):
  """The leaves of one process among several.

  Orbax itself saves what all processes have in common: it writes arrays of
  NumPy in the first process alone, and refuses arrays of one process's devices.
  """

  def save(self, directory, args):
    """Writes a file for each leaf."""
    for name, leaf in args.leaves.items():
      np.save(directory / f'{name}.npy', leaf, allow_pickle=False)

  def restore(self, directory, args):
    """Returns the leaves by name."""
    del args
    return {
      path.stem: np.load(path, allow_pickle=False)
      for path in directory.glob('*.npy')
    }


@ocp.args.register_with_handler(_Own, for_save=True, for_restore=True)
@dataclasses.dataclass
class _OwnArgs(ocp.args.CheckpointArgs):
  leaves: Any = None


def _name_process() -> ocp.options.MultiprocessingOptions:
  """Returns that this process saves what is its own, and waits for no other."""
  if not jax.distributed.is_initialized():
    return ocp.options.MultiprocessingOptions()
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own,
    active_processes={own},
    barrier_sync_key_prefix=f'process{own}',
  )


class _Way(NamedTuple):
  """How leaves are kept."""

  handler: Callable[[], ocp.CheckpointHandler]
  save: Callable[[Any], ocp.args.CheckpointArgs]
  restore: Callable[[], ocp.args.CheckpointArgs]


_ALONE = _Way(
  ocp.StandardCheckpointHandler,
  ocp.args.StandardSave,
  ocp.args.StandardRestore,
)
_AMONG_OTHERS = _Way(_Own, _OwnArgs, _OwnArgs)


def _find_way() -> _Way:
  return _AMONG_OTHERS if jax.distributed.is_initialized() else _ALONE


def _make_handlers() -> dict[str, ocp.CheckpointHandler]:
  process = _name_process()
  return {
    'leaves': _find_way().handler(),
    'notes': ocp.JsonCheckpointHandler(multiprocessing_options=process),
  }


def _make_checkpointer() -> ocp.Checkpointer:
  process = _name_process()
  options = ocp.CompositeOptions(multiprocessing_options=process)
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(
      composite_options=options, **_make_handlers()
    ),
    multiprocessing_options=process,
  )


def _save_args(leaves, notes):
  return ocp.args.Composite(
    leaves=_find_way().save(leaves), notes=ocp.args.JsonSave(notes)
  )


def _read_notes(source, where) -> dict[str, Any] | None:
  """Returns the notes of a checkpoint, None for a damaged one."""
  # Damage gives nearly any error.
  try:
    wanted = ocp.args.Composite(notes=ocp.args.JsonRestore())
    notes = source.restore(where, args=wanted).notes
    return notes if {'data', 'digests'} <= notes.keys() else None
  except Exception:
    return None


def _read_leaves(source, where, digests) -> dict[str, np.ndarray] | None:
  """Returns the leaves of a checkpoint, None for a damaged one."""
  try:
    wanted = ocp.args.Composite(leaves=_find_way().restore())
    leaves = source.restore(where, args=wanted).leaves
    return leaves if leaves_lib.digest_leaves(leaves) == digests else None
  except Exception:
    return None
