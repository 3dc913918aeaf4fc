"""The progress of many fits in one checkpoint, each under its own name."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from dipjax.engine import loop
from experiments.lib import checkpoints


class Shelf:
  """A store of `dipjax.restore_many`; as a context it completes the last save.

  Attributes:
    saved: the names in the last checkpoint that are not loaded yet.
    notes: what was noted with the last checkpoint.
  """

  def __init__(
    self,
    folder: str,
    identify: Callable[[int], tuple],
    *,
    every: str,
    **notes: Any,
  ):
    """Reads the notes of the last checkpoint.

    Args:
      folder: of the checkpoints.
      identify: the index of a picture -> its name, a tuple of JSON, and a name
        that no other data has.
      every: how often to save, see `checkpoints.parse_interval`.
      notes: what else to note with each checkpoint; a note of the last one
        takes its place.
    """
    self._identify = identify
    self._checkpoints = checkpoints.Checkpoints(folder, every=every, data=None)
    found = self._checkpoints.find_latest() or {}
    self.notes = {name: found.get(name, value) for name, value in notes.items()}
    self.saved = {
      tuple(name): (place, seconds)
      for place, (name, seconds) in enumerate(found.get('names', []))
    }
    self._begun: dict[int, float] = {}
    self._step = 0

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    self._checkpoints.close()

  def load(self, index: int, like: loop.Progress) -> loop.Progress | None:
    """Returns what the last checkpoint has of a picture; see `slots.Store`."""
    self._begun[index] = time.monotonic()
    place, seconds = self.saved.pop(self._identify(index), (-1, 0.0))
    if place < 0:
      return None
    self._begun[index] -= seconds
    found = self._checkpoints.load({str(place): like}, keep=bool(self.saved))
    return found and found[str(place)]

  def is_due(self, step: int) -> bool:
    """Returns whether to save after so many steps."""
    self._step = step
    return self._checkpoints.is_due(step)

  def save(self, progress: Mapping[int, loop.Progress]) -> None:
    """Saves the progress of all pictures that are fitted now."""
    names = [(self._identify(i), self.count_seconds(i)) for i in progress]
    tree: Any = {str(place): one for place, one in enumerate(progress.values())}
    self._checkpoints.save(tree, self._step, names=names, **self.notes)

  def count_seconds(self, index: int) -> float:
    """Returns how long a picture has been fitted, earlier starts included."""
    now = time.monotonic()
    return now - self._begun.get(index, now)
