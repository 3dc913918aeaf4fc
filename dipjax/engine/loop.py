"""The one host loop over the steps of all lanes, and its result."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dipjax import preview, settings
from dipjax.device import packing
from dipjax.engine import guard, history, lanes, mesh
from dipjax.engine.fit import Fit, FitState, Trace
from dipjax.engine.history import History
from dipjax.engine.problem import Problem
from dipjax.monitors import MonitorState

Array = jax.Array
# Called after each chunk; the fit ends where the watch returns True.
Watch = Callable[[FitState, Trace], bool | None]


class Progress(NamedTuple):
  """All that a fit needs to go on; arrays only."""

  states: FitState
  history: History


class Store(Protocol):
  """Keeps a fit's progress, so that another process can go on."""

  def load(self, like: Progress) -> Progress | None:
    """Returns what was saved, its arrays like these; None for nothing.

    The history of `like` has no steps; one that was saved has any number.
    """
    ...

  def is_due(self, step: int) -> bool:
    """Returns whether to save the progress after so many steps."""
    ...

  def save(self, progress: Progress) -> None:
    """Saves the progress. The arrays are only borrowed."""
    ...


class Restoration(NamedTuple):
  """What a restoration gives; lanes are in the order of the seeds.

  A fit in tiles has a lane for each seed too, see `tiled.run`.
  """

  image: np.ndarray  #: [H, W, C] in [0, 1], the mean of `images`.
  #: [H, W, C], the standard deviation of `images` over lanes; 0 for one lane.
  deviation: np.ndarray
  images: np.ndarray  #: [lanes, H, W, C], selected by `rule` without the truth.
  selected: np.ndarray  #: [lanes], the step of each selected image.
  stopped: np.ndarray  #: [lanes], steps until the end; see Trace.returned.
  rule: str  #: The monitor that selected.
  #: [lanes], whether the lane diverged for good; then its image is the last
  #: good one.
  diverged: np.ndarray
  monitors: dict[str, MonitorState]  #: Arrays [lanes, ...].
  #: Arrays [lanes, steps]; see Trace.active. More than `history.MOST` steps are
  #: thinned.
  trace: Trace
  #: Arrays [lanes, ...]. With the method `Outliers` the network's parameters
  #: are under 'network'.
  params: Any

  def _repr_png_(self) -> bytes:
    """Returns the image, and of several lanes the deviation, for a notebook."""
    several = len(self.images) > 1
    return preview.encode(self.image, self.deviation if several else None)


@settings.pin()
def run_lanes(
  fit: Fit,
  keys: Array,
  problems: Problem,
  cleans: Array | None = None,
  *,
  start: Callable[[FitState], FitState] | None = None,
  chunk: int = 10,
  watch: Watch | None = None,
  store: Store | None = None,
) -> tuple[FitState, Trace]:
  """Steps all lanes, chunk after chunk, until every lane is finished.

  Every fit goes through this loop, or `slots`: nothing else advances lanes. A
  fit that goes on from what `store` has saved ends equal, to the last bit, to
  one that was never interrupted.

  Args:
    fit: the fit of one lane.
    keys: [lanes].
    problems: arrays with a first axis of lanes, as `lanes.stack_lanes` makes.
    cleans: [lanes, H, W, C] or None.
    start: (fresh states) -> the states to start from, see `staged.inherit`;
      None starts from the fresh states.
    chunk: steps in one call of the device.
    watch: called after each chunk with the states, which are only borrowed, and
      the chunk's trace. Where it returns True the fit ends. The states lie on
      the devices that run them.
    store: loads and saves the progress; None does neither.

  Returns:
    The states, on one device, and the trace, [lanes, steps], as NumPy arrays; a
    trace of more than `history.MOST` steps is thinned.
  """
  lanes.make_room(fit, chunk, problems)
  states = lanes.init(fit, keys, problems, cleans)
  states = start(states) if start else states
  progress = Progress(states, history.begin(states))
  progress = (store.load(progress) if store else None) or progress
  states, problems = lanes.spread(progress.states, problems)
  parts, stopped = [progress.history], False
  own = lambda tree: lanes.take_first(tree, len(keys))
  while not (stopped or np.all(lanes.find_finished(states, problems))):
    states, trace = lanes.advance(fit, chunk, states, problems)
    trace = own(jax.device_get(trace))
    parts = history.add(parts, trace)
    stopped = bool(watch and watch(own(states), trace))
    if store and store.is_due(int(parts[-1].taken)):
      store.save(Progress(own(states), history.join(parts)))
  progress = Progress(mesh.gather(own(states), len(keys)), history.join(parts))
  if store:
    store.save(progress)
  return progress.states, progress.history.trace


class DivergedError(ValueError):
  """Every lane of a fit diverged for good.

  Attributes:
    restoration: the last good images; black where no step was good.
  """

  def __init__(self, restoration: Restoration):
    self.restoration = restoration
    steps = int(restoration.stopped.max())
    super().__init__(describe_divergence(steps))


def describe_divergence(steps: int) -> str:
  """Returns what is wrong with a fit that diverged after so many steps."""
  return (
    f'the fit diverged for good at step {steps}: its loss, gradient or error '
    f'was not finite or far too large {guard.MOST} times; look for an operator '
    'or a penalty that gives NaN, or take a lower learning rate'
  )


def choose_good(images: np.ndarray, diverged: np.ndarray) -> np.ndarray:
  """Returns the images of lanes that did not diverge; all where every one did.

  Args:
    images: [lanes, H, W, C].
    diverged: [lanes], whether the lane diverged for good.
  """
  return images if diverged.all() else images[~diverged]


def collect(states: FitState, trace: Trace, rule: str) -> Restoration:
  """Returns the images that the monitor `rule` selected, one from each lane.

  Lanes that diverged for good do not count for the mean and the deviation.

  Args:
    states, trace: what `run_lanes` returned.
    rule: the monitor's name.

  Raises:
    DivergedError: every lane diverged for good; the error has the restoration.
  """
  diverged = np.asarray(guard.has_given_up(states.guard))
  states = jax.device_get(states.replace(opt_state=(), key=(), guard=None))
  images = np.clip(states.monitors[rule].image, 0, 1)
  good = choose_good(images, diverged)
  result = Restoration(
    image=good.mean(axis=0),
    deviation=good.std(axis=0),
    images=images,
    selected=np.asarray(states.monitors[rule].step),
    stopped=np.asarray(states.step),
    rule=rule,
    diverged=diverged,
    monitors=states.monitors,
    trace=trace,
    params=packing.unpack(states.params),
  )
  if diverged.all():
    raise DivergedError(result)
  return result
