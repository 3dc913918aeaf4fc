"""Many pictures through the lanes of one program, each lane a picture's own.

Where the lane of a picture is finished, the next picture takes its slot, on the
device and without compiling again, so that no lane waits for the slowest. A
picture gives the same result in any slot, beside any others and in any order:
the result that it gives alone, to the last bit where lanes run in turn, and up
to rounding where they run at once in a program of another number of lanes.
"""

from collections.abc import Callable, Mapping
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
  """Keeps the progress of the pictures that began and are not finished."""

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
    self._parked: dict[int, loop.Progress] = {}
    self._states: Any = None
    self._problems: Any = None

  @property
  def free(self) -> int:
    """How many slots are free."""
    return self.pictures.count(None)

  @settings.pin()
  def fill(
    self,
    index: int,
    key: Array,
    problem: Problem,
    clean: Any = None,
    *,
    start: Callable[[loop.Progress], loop.Progress] | None = None,
  ) -> None:
    """Puts a picture into a free slot.

    It goes on from where it was parked, or from what the store has of it, or
    begins.

    Args:
      index: of the picture.
      key, problem: of its lane; the problems of all pictures have one
        structure and the same shapes.
      clean: [H, W, C], for monitors named oracle, or None.
      start: (progress of no step) -> the progress to go on from, for instance
        with the parameters of another fit; None is the progress of no step.
    """
    slot = self.pictures.index(None)
    problems = lanes.stack_lanes([problem])
    if self._problems is None:
      # A slot without a picture takes no step.
      idle = problems.replace(steps=jnp.zeros_like(problems.steps))
      self._problems = self._repeat(idle)
      lanes.make_room(self._fit, self._chunk, self._problems)
    begun = self._parked.pop(index, None)
    if begun is None:
      begun = self._begin(index, key, problems, clean, start)
    self._states = lanes.put_lane(self._states, slot, begun.states)
    self._problems = lanes.put_lane(self._problems, slot, problems)
    self._histories[slot] = [begun.history]
    self.pictures[slot] = index

  def _begin(self, index, key, problems, clean, start):
    cleans = None if clean is None else jnp.asarray(clean)[None]
    states: Any = lanes.init(self._fit, key[None], problems, cleans)
    if self._states is None:
      self._states = self._repeat(states)
    begun = loop.Progress(states, history.begin(states))
    begun = start(begun) if start else begun
    if self._store:
      begun = self._store.load(index, begun) or begun
    return begun

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

  def list_pictures(self) -> list[int]:
    """Returns the indices of the pictures in slots."""
    return [index for index in self.pictures if index is not None]

  def count_taken(self, index: int) -> int:
    """Returns the steps that a picture took; 0 for one that had no slot."""
    if index in self._parked:
      return int(self._parked[index].history.taken)
    if index in self.pictures:
      return int(self._histories[self.pictures.index(index)][-1].taken)
    return 0

  @settings.pin()
  def park(self, index: int) -> None:
    """Frees the slot of a picture, whose progress waits in the host's memory.

    `fill` lets it go on, in any slot.
    """
    slot = self.pictures.index(index)
    states: Any = lanes.copy_lane(self._states, slot)
    self._parked[index] = loop.Progress(
      jax.tree.map(_move_to_host, states),
      history.join(self._histories.pop(slot)),
    )
    self.pictures[slot] = None

  @property
  def states(self) -> FitState:
    """The states of all slots, which are only borrowed."""
    return self._states

  @settings.pin()
  def save(self) -> None:
    """Saves the progress of all pictures that began and are not finished."""
    if self._store:
      self._store.save(self.find_progress())

  @settings.pin()
  def find_progress(self) -> dict[int, loop.Progress]:
    """Returns copies of the progress of all pictures that began, by index."""
    progress: Any = dict(self._parked)
    for slot, parts in self._histories.items():
      states: Any = lanes.copy_lane(self._states, slot)
      joined = history.join(parts)
      progress[self.pictures[slot]] = loop.Progress(states, joined)
    return progress


def _move_to_host(leaf: Any) -> Any:
  """Returns an array as NumPy's; NumPy has no keys, which stay."""
  is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return leaf if is_key else np.asarray(leaf)
