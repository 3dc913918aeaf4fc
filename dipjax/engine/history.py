"""The trace of a whole fit, in host memory that does not grow without bound."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dipjax.engine.fit import FitState, Trace

# A fit of at most so many steps keeps all of them. A longer one keeps every
# second step, then every fourth and so on, and each jump.
MOST = 2**16


class History(NamedTuple):
  """The steps of a fit so far; NumPy arrays only."""

  trace: Trace  # Arrays [lanes, kept].
  places: np.ndarray  # [kept], the place of each kept step among all, from 0.
  taken: Any  # How many steps there were, an integer array.


def begin(states: FitState) -> History:
  """Returns the history before the first step."""
  lanes = len(states.step)
  make: Any = lambda dtype: np.zeros((lanes, 0), dtype)
  trace = Trace(
    step=make(np.int32),
    active=make(bool),
    loss=make(np.float32),
    psnr_measurement=make(np.float32),
    returned=make(np.int32),
    scores={
      name: make(state.score.dtype) for name, state in states.monitors.items()
    },
  )
  return History(trace, np.zeros(0, np.int32), np.int32(0))


def add(histories: list[History], trace: Trace) -> list[History]:
  """Returns the parts of a history with a chunk's trace, joined now and then.

  Args:
    histories: the parts so far, in order.
    trace: NumPy arrays [lanes, steps]. Steps at which every lane was finished
      are left out, so that the length of a chunk never shows.
  """
  steps = int(np.sum(trace.active.any(axis=0)))
  trace = jax.tree.map(lambda leaf: leaf[:, :steps], trace)
  before = histories[-1].taken
  places = np.arange(before, before + steps, dtype=np.int32)
  histories = [*histories, History(trace, places, before + np.int32(steps))]
  kept = sum(len(history.places) for history in histories)
  return [join(histories)] if kept > 2 * MOST else histories


def join(histories: Sequence[History]) -> History:
  """Returns the parts as one history, thinned."""
  trace = jax.tree.map(
    lambda *parts: np.concatenate(parts, axis=1), *(h.trace for h in histories)
  )
  places = np.concatenate([history.places for history in histories])
  taken, stride = histories[-1].taken, 1
  while -(-int(taken) // stride) > MOST:
    stride *= 2
  stays = (places % stride == 0) | np.any(trace.returned >= 0, axis=0)
  thinned = jax.tree.map(lambda leaf: leaf[:, stays], trace)
  return History(thinned, places[stays], taken)


def extend(trace: Trace, steps: int) -> Trace:
  """Returns a trace of so many steps; nothing happened at those at its end.

  Args:
    trace: NumPy arrays [lanes, kept], with at least one step.
    steps: at least as many.
  """
  more = steps - trace.active.shape[1]
  pad: Any = lambda leaf, value: np.concatenate(
    [leaf, np.repeat(value, more, axis=1).astype(leaf.dtype)], axis=1
  )
  lanes = len(trace.active)
  fill = lambda value: np.full((lanes, 1), value)
  return Trace(
    step=pad(trace.step, trace.step[:, -1:] + 1),
    active=pad(trace.active, fill(False)),
    loss=pad(trace.loss, fill(np.nan)),
    psnr_measurement=pad(trace.psnr_measurement, fill(np.nan)),
    returned=pad(trace.returned, fill(-1)),
    scores={name: pad(v, v[:, -1:]) for name, v in trace.scores.items()},
  )
