"""The one host loop over the steps of all lanes, and its result."""

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
  # [H, W, C], the standard deviation of `images` over lanes; 0 for one lane.
  deviation: np.ndarray
  images: np.ndarray  # [lanes, H, W, C], selected by `rule` without the truth.
  selected: np.ndarray  # [lanes], the step of each selected image.
  stopped: np.ndarray  # [lanes], steps until the end; see Trace.returned.
  rule: str  # The monitor that selected.
  monitors: dict[str, MonitorState]  # Arrays [lanes, ...].
  trace: Trace  # Arrays [lanes, steps]; see Trace.active.
  # Arrays [lanes, ...]. With the method `Outliers` the network's parameters are
  # under 'network'.
  params: Any


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
  """Steps all lanes, chunk after chunk, until every lane is finished.

  Every fit goes through this loop: nothing else calls `lanes.advance`.

  Args:
    fit: the fit of one lane.
    keys: [lanes].
    problems: arrays with a first axis of lanes, as `lanes.stack_lanes` makes.
    cleans: [lanes, H, W, C] or None.
    start: (fresh states) -> the states to start from, see `staged.inherit`;
      None starts from the fresh states.
    chunk: steps in one call of the device.
    watch: called after each chunk with the states, which are only borrowed, and
      the chunk's trace.

  Returns:
    The states, and the trace of all steps, [lanes, steps], as NumPy arrays.
  """
  lanes.make_room(fit, chunk, problems)
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
  """Returns the images that the monitor `rule` selected, one from each lane.

  Args:
    states, trace: what `run_lanes` returned.
    rule: the monitor's name.
  """
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
