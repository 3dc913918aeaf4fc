"""Many pictures through the lanes of one program, each lane a picture's own.

Where the lane of a picture is finished, the next picture takes its slot, on the
device and without compiling again, so that no lane waits for the slowest. A
picture gives the same result in any slot, beside any others and in any order:
the result that it gives alone, to the last bit where lanes run in turn, and up
to rounding where they run at once in a program of another number of lanes.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import settings
from dipjax.engine import history, lanes, loop, mesh
from dipjax.engine.fit import Fit, FitState, Trace
from dipjax.engine.problem import Problem

Array = jax.Array


class Store(Protocol):
  """Keeps the progress of the pictures that are in slots."""

  def load(self, index: int, like: loop.Progress) -> loop.Progress | None:
    """Returns what was saved of a picture; None for nothing.

    The history of `like` has no steps; one that was saved has any number.
    """
    ...

  def is_due(self, step: int) -> bool:
    """Returns whether to save after so many steps of all slots together."""
    ...

  def save(self, progress: Mapping[int, loop.Progress]) -> None:
    """Saves the progress of all pictures, by index, in place of the last."""
    ...


class Slots:
  """The lanes of one program, each of which is free or has a picture.

  Attributes:
    pictures: the index of the picture in each slot; None: the slot is free.
    steps: how many steps were taken by all slots at once.
  """

  def __init__(
    self, fit: Fit, count: int, *, chunk: int = 10, store: Store | None = None
  ):
    """Computes nothing yet.

    Args:
      fit: the fit of one lane.
      count: how many slots there are.
      chunk: steps of one call of `advance`; never changes a result.
      store: is asked for the progress of each picture before it begins.
    """
    self._fit, self._chunk, self._store = fit, chunk, store
    self.pictures: list[int | None] = [None] * count
    # With several devices there may be more, which stay free.
    self._count = mesh.pad(count)
    self.steps = 0
    self._histories: dict[int, list[history.History]] = {}
    self._states: Any = None
    self._problems: Any = None

  @property
  def free(self) -> int:
    """How many slots are free."""
    return self.pictures.count(None)

  @settings.pin()
  def fill(
    self, index: int, key: Array, problem: Problem, clean: Any = None
  ) -> None:
    """Puts a picture into a free slot, as it begins or as the store has it.

    Args:
      index: of the picture.
      key, problem: of its lane; the problems of all pictures have one
        structure and the same shapes.
      clean: [H, W, C], for monitors named oracle, or None.
    """
    slot = self.pictures.index(None)
    problems = lanes.stack_lanes([problem])
    if self._problems is None:
      # A slot without a picture takes no step.
      idle = problems.replace(steps=jnp.zeros_like(problems.steps))
      self._problems = self._repeat(idle)
      lanes.make_room(self._fit, self._chunk, self._problems)
    cleans = None if clean is None else jnp.asarray(clean)[None]
    states: Any = lanes.init(self._fit, key[None], problems, cleans)
    begun = loop.Progress(states, history.begin(states))
    if self._store:
      begun = self._store.load(index, begun) or begun
    if self._states is None:
      self._states = self._repeat(states)
    self._states = lanes.put_lane(self._states, slot, begun.states)
    self._problems = lanes.put_lane(self._problems, slot, problems)
    self._histories[slot] = [begun.history]
    self.pictures[slot] = index

  def _repeat(self, one):
    return mesh.place(lanes.repeat_lane(one, self._count), self._count)

  @settings.pin()
  def advance(self) -> Trace:
    """Takes a chunk of steps in all slots, and returns its trace.

    The trace has arrays [slots, steps]. A slot is not active where it is free
    or finished.
    """
    self._states, trace = lanes.advance(
      self._fit, self._chunk, self._states, self._problems
    )
    trace: Any = lanes.take_first(jax.device_get(trace), len(self.pictures))
    for slot, parts in self._histories.items():
      one = jax.tree.map(lambda leaf, s=slot: leaf[s : s + 1], trace)
      self._histories[slot] = history.add(parts, one)
    self.steps += int(trace.active.any(axis=0).sum())
    if self._store and self._store.is_due(self.steps):
      self.save()
    return trace

  @settings.pin()
  def take_finished(self) -> list[tuple[int, FitState, Trace]]:
    """Frees the slots of all finished pictures, and returns the pictures.

    Returns:
      The index of each picture, its states and its trace, for `loop.collect`;
      their arrays have one lane.
    """
    if self._states is None:
      return []
    taken = []
    finished = np.asarray(lanes.find_finished(self._states, self._problems))
    for slot in [s for s in self._histories if finished[s]]:
      states = lanes.copy_lane(self._states, slot)
      parts = self._histories.pop(slot)
      taken.append((self.pictures[slot], states, history.join(parts).trace))
      self.pictures[slot] = None
    return taken

  @settings.pin()
  def save(self) -> None:
    """Saves the progress of all pictures that are in slots."""
    if not self._store:
      return
    progress = {}
    for slot, parts in self._histories.items():
      states: Any = lanes.copy_lane(self._states, slot)
      joined = history.join(parts)
      progress[self.pictures[slot]] = loop.Progress(states, joined)
    self._store.save(progress)
