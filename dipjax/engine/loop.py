"""The one host loop over the steps of all lanes, and what it gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dipjax.device import packing
from dipjax.engine import lanes
from dipjax.engine.fit import Fit, FitState, Trace
from dipjax.engine.problem import Problem
from dipjax.monitors import MonitorState

Array = jax.Array
Watch = Callable[[FitState, Trace], None]


class Restoration(NamedTuple):
  """What a restoration gives; lanes are in the order of the seeds."""

  image: np.ndarray  # [H, W, C] in [0, 1], the mean of `images`.
  deviation: np.ndarray  # [H, W, C], their standard deviation; 0 for one lane.
  images: np.ndarray  # [lanes, H, W, C], selected by `rule` without the truth.
  selected: np.ndarray  # [lanes], the step of each of these.
  stopped: np.ndarray  # [lanes], after how many steps; see Trace.returned.
  rule: str  # The monitor that selected.
  monitors: dict[str, MonitorState]  # Arrays [lanes, ...].
  trace: Trace  # Arrays [lanes, steps]; see Trace.active.
  params: Any  # Arrays [lanes, ...]; beside outliers, 'network' has its own.


def run_lanes(
  fit: Fit,
  keys: Array,
  problems: Problem,
  cleans: Array | None = None,
  *,
  start: Callable[[FitState], FitState] | None = None,
  chunk: int = 10,
  watch: Watch | None = None,
) -> tuple[FitState, Trace]:
  """Steps all lanes, chunk after chunk, until every one is finished.

  The host loop of everything: nothing else calls `lanes.advance`.

  Args:
    fit: of one lane.
    keys: [lanes].
    problems: arrays with a first axis of lanes, as `lanes.stack_lanes` makes.
    cleans: [lanes, H, W, C] or None.
    start: makes of the fresh states those to start from, see `staged.inherit`;
      None leaves them.
    chunk: steps in one call of the device.
    watch: called after each chunk with the states, which are only borrowed, and
      its trace.

  Returns:
    The states, and the trace of all steps, [lanes, steps], as NumPy arrays.
  """
  states = lanes.init(fit, keys, problems, cleans)
  states = start(states) if start else states
  traces = []
  while not np.all(lanes.find_finished(states, problems)):
    states, trace = lanes.advance(fit, chunk, states, problems)
    traces.append(jax.device_get(trace))
    if watch:
      watch(states, traces[-1])
  return states, jax.tree.map(lambda *t: np.concatenate(t, axis=1), *traces)


def collect(states: FitState, trace: Trace, rule: str) -> Restoration:
  """Returns what the monitor `rule` selected of the lanes of `run_lanes`."""
  states = jax.device_get(states.replace(opt_state=(), key=(), guard=None))
  images = np.clip(states.monitors[rule].image, 0, 1)
  return Restoration(
    image=images.mean(axis=0),
    deviation=images.std(axis=0),
    images=images,
    selected=np.asarray(states.monitors[rule].step),
    stopped=np.asarray(states.step),
    rule=rule,
    monitors=states.monitors,
    trace=trace,
    params=packing.unpack(states.params),
  )
