"""A picture in tiles, each a fit of its own, for pictures of any size.

All tiles have one size, so that one compiled program serves all of them. A tile
has its part of the measurement and of the operator, and a code of its own. As
many tiles as memory allows are lanes of one fit, a batch, and batches run one
after the other. Where tiles overlap they are blended, see `cover`.

A measured value near the end of a tile may depend on pixels beyond it. Such
values are left out, and the pixels that only they tell of have no weight: they
belong to the neighbour.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import codes, operators
from dipjax import noise as noise_lib
from dipjax.conv import choose
from dipjax.engine import cover, history, lanes, loop
from dipjax.engine import memory as memory_lib
from dipjax.engine.fit import FitState, Trace, make_fit
from dipjax.engine.problem import Problem
from dipjax.recipe import Recipe

Array = jax.Array

SIDES = (512, 256, 128, 64)  # Of tiles that nobody asked for, if memory allows.
_SHARE = 8  # A ramp from one tile to the next is this part of a tile, or more.
_MULTIPLE = 32  # Of a tile's side, so that few networks extend a tile.
_NEAR = 1e-3  # Rounding of what an operator makes of a tile.
_MOST = 16  # Tiles at once on a device: more make no step faster.


class Task(NamedTuple):
  """What is to be restored, and how: arguments of `dipjax.restore`."""

  recipe: Recipe  # Not prepared yet; has a network.
  measurement: Any  # NumPy array, float32.
  operator: Any  # As it was given; None is the identity.
  size: tuple[int, ...]  # (H, W, C)
  noise: noise_lib.Model | None
  reference: Any  # As the measurement; None: there is none.
  perceptual: lanes.Perceptual | None


@dataclasses.dataclass(frozen=True)
class Plan:
  """The tiles of a picture.

  Attributes:
    size: (height, width) of the picture.
    side: the most that a side of a tile may have.
    tile: (height, width) of a tile.
    tops, lefts: where the tiles begin.
    reach: of the operator.
    together: how many tiles are fitted at once.
    reason: why the picture is fitted in tiles, '' where somebody asked for it.
  """

  size: tuple[int, int]
  side: int
  tile: tuple[int, int]
  tops: tuple[int, ...]
  lefts: tuple[int, ...]
  reach: operators.Reach
  together: int = 1
  reason: str = ''

  @property
  def corners(self) -> list[tuple[int, int]]:
    """(top, left) of each tile, row by row."""
    return list(itertools.product(self.tops, self.lefts))

  @property
  def batches(self) -> list[range]:
    """The tiles of each batch, in order; all batches have the same length.

    The last batch may have tiles of the batch before once more.
    """
    count = len(self.corners)
    begins = range(0, count, self.together)
    last = count - self.together
    return [range(min(b, last), min(b, last) + self.together) for b in begins]

  def weigh(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights of tiles along rows and columns, see `cover`."""
    margin = _find_margin(self.reach)
    rows, columns = (
      cover.weigh(length, side, list(places), max(side // _SHARE, 1), margin)
      for length, side, places in zip(
        self.size, self.tile, (self.tops, self.lefts)
      )
    )
    return rows, columns

  def describe(self) -> str:
    """Returns one line for people."""
    (height, width), tiles = self.tile, len(self.corners)
    what = self.reason or f'{self.size[1]}x{self.size[0]}'
    return f'{what}: fitted in {tiles} tiles of {width}x{height}'


def make_plan(task: Task, side: int) -> Plan | None:
  """Returns the tiles of at most side x side pixels; None for a single one.

  Raises:
    ValueError: an operator that does not say its reach, a measurement that is
      not cut as it says, or a side that is too small for it.
  """
  reach = operators.find_reach(task.operator)
  if reach is None:
    raise ValueError(
      f'{_name(task.operator)} sees the whole picture at once: leave out the '
      'tiles, or say how far it sees, as operators.make_local does'
    )
  step, overlap = reach.step, _find_overlap(side, reach)
  most = side - side % step
  if most <= overlap:
    raise ValueError(
      f'tiles of {side} pixels are too small: {_name(task.operator)} sees '
      f'{reach.pixels} pixels around, and two neighbours must share {overlap}'
    )
  height, width, _ = task.size
  seen = task.measurement.shape
  places = tuple(step * length for length in seen[:2])
  if places != (height, width) or (reach.pixels and len(seen) != 3):
    raise ValueError(
      f'{_name(task.operator)} says that it measures each {step}x{step} pixels '
      f'of an image {task.size}, with channels: the measurement is {seen}'
    )
  multiple = step * -(-_MULTIPLE // step)
  tile = [
    cover.find_side(length, most, overlap, multiple)
    for length in (height, width)
  ]
  tops, lefts = (
    cover.place(length, one, overlap, step)
    for length, one in zip((height, width), tile)
  )
  if len(tops) * len(lefts) == 1:
    return None
  return Plan(
    (height, width), side, (tile[0], tile[1]), (*tops,), (*lefts,), reach
  )


def _find_overlap(side: int, reach: operators.Reach) -> int:
  """Returns the least number of pixels that two tiles share.

  They are two margins, and between them the ramp from one tile to the other.
  """
  return 2 * _find_margin(reach) + reach.step * -(
    -side // (_SHARE * reach.step)
  )


def _find_margin(reach: operators.Reach) -> int:
  """Returns the pixels at a tile's end of which it has no whole value."""
  return reach.step * -(-reach.pixels // reach.step)


def _name(operator: Any) -> str:
  if isinstance(operator, operators.Function):
    operator = operator.function
  own = getattr(operator, '__name__', type(operator).__name__)
  return f'the operator {own}'


# --- The problem of a tile.


def pose(
  task: Task, plan: Plan, index: int, key: Array
) -> tuple[Recipe, Problem]:
  """Returns the prepared recipe and the problem of one tile.

  Args:
    task, plan: of the picture.
    index: the tile's place in `plan.corners`.
    key: of the seed; each tile has a stream of its own.
  """
  top, left = plan.corners[index]
  window = operators.Crop(top, left, *plan.tile)
  operator = operators.cut(task.operator, window)
  seen = _find_seen(plan, window)
  if seen is not None:
    operator = operators.compose(operator, operators.make_mask(seen))
  recipe = task.recipe
  own = getattr(recipe.code, 'cut', None)
  recipe = recipe.replace(code=own(window)) if own else recipe
  measurement = _cut_measurement(task.measurement, plan, window, seen)
  reference = task.reference
  if reference is not None:
    reference = _cut_measurement(reference, plan, window, seen)
  recipe, operator = recipe.prepare(measurement, operator, noise=task.noise)
  problem = lanes.pose_problem(
    recipe,
    make_key(key, index),
    measurement,
    operator,
    (*plan.tile, task.size[-1]),
    sigma=None if task.noise is None else task.noise.sigma,
    reference=reference,
    perceptual=task.perceptual,
  )
  return recipe, problem


def make_key(key: Array, index: int) -> Array:
  """Returns the key of a tile, of the key of a seed."""
  # Streams 1 to 3 belong to the code and to stages.
  return jax.random.fold_in(jax.random.fold_in(key, 4), index)


def _find_seen(plan, window):
  """Returns which measured values depend on the tile alone, [h, w, 1].

  None where all do.
  """
  if not plan.reach.pixels:
    return None
  rows, columns = (
    _find_seen_along(begin, side, length, plan.reach)
    for begin, side, length in zip(
      (window.top, window.left), plan.tile, plan.size
    )
  )
  return np.logical_and.outer(rows, columns)[..., None]


def _find_seen_along(begin, side, length, reach):
  pixels, step = reach
  first = begin + step * np.arange(side // step)
  # Beyond the picture's own end there is nothing that the tile has not.
  low, high = first - pixels, first + step + pixels
  return ((low >= begin) | (begin == 0)) & (
    (high <= begin + side) | (begin + side == length)
  )


def _cut_measurement(measurement, plan, window, seen):
  step = plan.reach.step
  rows, columns = (
    slice(begin // step, (begin + side) // step)
    for begin, side in zip((window.top, window.left), plan.tile)
  )
  part = measurement[rows, columns]
  return part if seen is None else part * np.float32(seen)


def check_cut(task: Task, plan: Plan) -> None:
  """Raises a ValueError if the operator measures tiles unlike the whole.

  An operator that reaches farther than it says, or that is not the same
  everywhere and does not say how it is cut, would leave seams.
  """
  if task.operator is None:
    return
  image = jnp.asarray(np.random.default_rng(0).random(task.size, np.float32))
  whole = np.asarray(task.operator(image))
  count = len(plan.corners)
  for index in {count // 2, count - 1}:
    window = operators.Crop(*plan.corners[index], *plan.tile)
    part = operators.cut(task.operator, window)(window(image))
    seen = _find_seen(plan, window)
    part = np.asarray(part) if seen is None else np.asarray(part) * seen
    expected = _cut_measurement(whole, plan, window, seen)
    if not np.abs(part - expected).max() <= _NEAR * np.abs(whole).max():
      raise ValueError(
        f'{_name(task.operator)} says that it sees {plan.reach.pixels} pixels '
        'around, but it measures a tile unlike the whole: say a larger reach, '
        'or how it is cut, see dipjax.operators'
      )


# --- Memory.


def plan_fit(
  task: Task,
  shapes: Problem,
  recipe: Recipe,
  *,
  seeds: int,
  memory: int | None,
  check: Callable[[Problem, tuple[int, ...]], None],
) -> Plan | None:
  """Returns the tiles of a fit; None fits the whole picture.

  A picture is fitted in tiles where the recipe asks for them, or where the
  whole does not fit into memory.

  Args:
    task: of the picture.
    shapes: the problem of the whole; its shapes are enough.
    recipe: the task's, prepared for the whole.
    seeds: how many there are.
    memory: see `dipjax.restore`.
    check: refuses the problem of a tile whose operator gives other shapes.

  Raises:
    ValueError: what does not fit, with what would fit.
  """
  left = None if memory is None else memory - _count_pictures(task, seeds)
  if task.recipe.tile:
    plan = make_plan(task, task.recipe.tile)
    if plan is not None:
      prepared, tile = _shape(task, plan, check)
      memory_lib.check_memory(prepared, tile, left, lanes=seeds)
      return _join(plan, prepared, tile, left, seeds)
  try:
    memory_lib.check_memory(recipe, shapes, memory, lanes=seeds)
    return None
  except ValueError as error:
    if task.recipe.window:
      raise
    reach = operators.find_reach(task.operator)
    if reach is None:
      advice = _advise(task, recipe, shapes, memory, seeds)
      raise ValueError(
        f'{error}; {_name(task.operator)} sees the whole picture at once, so '
        f'that it is not fitted in tiles: {advice}'
      ) from error
    sides = [side for side in SIDES if side > 2 * _find_overlap(side, reach)]
    for plan in filter(None, (make_plan(task, side) for side in sides)):
      prepared, tile = _shape(task, plan, check)
      if _fits(prepared, tile, left, seeds):
        plan = _join(plan, prepared, tile, left, seeds)
        # The settings that would save memory follow behind a semicolon.
        reason = str(error).partition(';')[0]
        return dataclasses.replace(plan, reason=reason)
    raise


def _shape(task, plan, check):
  """Returns the prepared recipe of a tile, and its problem as shapes."""
  prepared = []

  def shape(key):
    recipe, problem = pose(task, plan, 0, key)
    prepared.append(recipe)
    return problem

  problem = jax.eval_shape(shape, jax.random.key(0))
  check(problem, (*plan.tile, task.size[-1]))
  return prepared[0], problem


def _fits(recipe, problem, memory, count):
  try:
    memory_lib.check_memory(recipe, problem, memory, lanes=count)
    return True
  except ValueError:
    return False


def _join(plan, recipe, problem, memory, seeds):
  """Returns the plan with as many tiles at once as memory allows."""
  # A CPU fits one lane after the other, and gains nothing by keeping many.
  if choose.runs_in_turn():
    return plan
  count, together = len(plan.corners), 1
  most = min(count, _MOST * len(choose.find_devices()))
  while 2 * together <= most and _fits(
    recipe, problem, memory, 2 * together * seeds
  ):
    together *= 2
  batches = -(-count // together)
  return dataclasses.replace(plan, together=-(-count // batches))


def _count_pictures(task, seeds):
  """Returns the bytes of the arrays that are as large as the picture."""
  own = 2 * len(task.recipe.monitors) + 2
  return 4 * math.prod(task.size) * (2 + own * seeds)


def _advise(task, recipe, shapes, memory, seeds):
  """Returns the size of a picture that would fit, as advice."""
  available: Any = memory_lib.find_available(memory)
  needed = memory_lib.estimate_bytes(recipe, shapes, lanes=seeds)
  # What does not grow with the picture is what a picture of no size takes.
  least: Any = np.zeros((8, 8, task.size[-1]), np.float32)
  small = task.recipe.replace(code=codes.UniformNoise(shapes.code.shape[-1]))
  small, operator = small.prepare(least, noise=task.noise)
  problem = jax.eval_shape(
    lambda key: lanes.pose_problem(small, key, least, operator, least.shape),
    jax.random.key(0),
  )
  fixed = memory_lib.estimate_bytes(small, problem, lanes=seeds)
  share = (available - fixed) / (needed - fixed)
  height, width = (int(math.sqrt(max(share, 0)) * n) for n in task.size[:2])
  if min(height, width) < 1:
    return 'take a smaller network'
  return (
    f'about {width}x{height} would fit, or say how far it sees, as '
    'operators.make_local does'
  )


# --- The fits.


class Whole(NamedTuple):
  """What finished tiles have made; arrays only."""

  # Of one lane for each seed, without parameters. Images are blended, [seeds,
  # H, W, C]; all other arrays are the largest of all tiles.
  states: FitState
  history: history.History  # Steps count on from batch to batch.


class Progress(NamedTuple):
  """All that a fit in tiles needs to go on; see `loop.Progress`."""

  states: FitState  # Of the batch in progress.
  history: history.History  # Of that batch; its number of steps is of all.
  batch: Any  # How many batches are finished, an integer array.
  whole: Whole


def run(
  task: Task,
  plan: Plan,
  keys: Array,
  *,
  chunk: int = 10,
  watch: loop.Watch | None = None,
  store: loop.Store | None = None,
) -> tuple[FitState, Trace]:
  """Fits all tiles, batch after batch.

  A run that goes on from what `store` has saved ends equal, to the last bit, to
  one that was never interrupted.

  Args:
    task, plan: of the picture.
    keys: [seeds].
    chunk, watch, store: see `loop.run_lanes`. The watch gets the states of the
      first tile of a batch, and a trace with a lane for each seed, see
      `_reduce`. The store gets the `Progress` of all tiles.

  Returns:
    What `loop.run_lanes` returns of one lane for each seed. Images are those of
    the whole picture, where tiles that were never begun are black; other
    numbers are the largest of all tiles; the parameters are the last tile's.
  """
  seeds, batch = len(keys), 0
  posed, going = _pose_batch(task, plan, batch, keys), None
  whole, shapes = _start(plan, *posed, seeds)
  if store:
    like = Progress(shapes, history.begin(shapes), np.int32(0), whole)
    found: Any = store.load(like)  # pyright: ignore[reportArgumentType]
    if found is not None:
      batch, whole = int(found.batch), jax.tree.map(np.array, found.whole)
      posed = _pose_batch(task, plan, batch, keys)
      going = loop.Progress(found.states, _shift(found.history, whole, -1))
  while True:
    view = _View(plan, batch, whole, going, watch, store, seeds)
    states, trace = loop.run_lanes(
      *posed, chunk=chunk, watch=view, store=view if store else None
    )
    whole = _add(plan, batch, whole, states, trace)
    batch, going = batch + 1, None
    if view.stopped or batch == len(plan.batches):
      break
    posed = _pose_batch(task, plan, batch, keys)
  params = jax.tree.map(lambda leaf: leaf[-seeds:], states.params)
  return whole.states.replace(params=params), whole.history.trace


class _View:
  """The watch and the store of one batch, which see the whole picture."""

  def __init__(self, plan, batch, whole, going, watch, store, seeds):
    self._batch, self._whole, self._going = batch, whole, going
    self._is_last = batch + 1 == len(plan.batches)
    self._watch, self._store, self._seeds = watch, store, seeds
    self.stopped, self._due = False, False

  def __call__(self, states, trace):
    if self._watch:
      # One tile alone is not copied.
      if len(states.step) > self._seeds:
        states = jax.tree.map(lambda leaf: leaf[: self._seeds], states)
      trace = _reduce(trace, self._seeds, self._whole)
      self.stopped = bool(self._watch(states, trace))
    return self.stopped

  def load(self, like):
    del like
    return self._going

  def is_due(self, step):
    self._due = self._store.is_due(int(self._whole.history.taken) + step)
    return self._due

  def save(self, progress):
    # The end of a batch is no reason to save, unless it is the end of all.
    due, self._due = self._due, False
    step = int(progress.history.taken)
    if due or self.stopped or self._is_last or self.is_due(step):
      shifted = _shift(progress.history, self._whole, 1)
      batch = np.int32(self._batch)
      self._store.save(Progress(progress.states, shifted, batch, self._whole))


def _shift(one, whole, sign):
  return one._replace(taken=one.taken + sign * whole.history.taken)


def _pose_batch(task, plan, batch, keys):
  """Returns the fit, the keys and the problems of a batch.

  Lanes are tile by tile, and seed by seed in each.
  """
  own = [(index, key) for index in plan.batches[batch] for key in keys]
  recipes, problems = zip(*(pose(task, plan, *one) for one in own))
  return (
    make_fit(recipes[0]),
    jnp.stack([make_key(key, index) for index, key in own]),
    lanes.stack_lanes(problems),
  )


def _start(plan, fit, keys, problems, seeds):
  """Returns the whole before the first tile, and a batch's states as shapes."""
  shapes: Any = lanes.shape(fit, keys, problems)

  def begin(leaf):
    if _is_image(plan, leaf):
      shape = (seeds, *plan.size, leaf.shape[-1])
      return np.zeros(shape, leaf.dtype)
    least = np.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
    return np.full((seeds, *leaf.shape[1:]), least, leaf.dtype)

  states = jax.tree.map(begin, _slim(shapes))
  return Whole(states, history.begin(states)), shapes


def _is_image(plan, leaf):
  return leaf.ndim == 4 and leaf.shape[1:3] == plan.tile


def _slim(states):
  """Returns what is kept of states: what the monitors and the guard saw."""
  jumps = states.guard.replace(good=())
  return states.replace(
    params={}, opt_state=(), key=(), average=(), smooth=None, guard=jumps
  )


def _add(plan, batch, whole, states, trace):
  """Returns the whole with the tiles of a batch; it changes its images."""
  (height, width), together = plan.tile, plan.together
  seeds = len(whole.states.step)
  rows, columns = plan.weigh()

  def add(total, leaf):
    tiles = np.asarray(leaf).reshape(together, seeds, *leaf.shape[1:])
    if not _is_image(plan, leaf):
      return np.fmax(total, np.fmax.reduce(tiles, axis=0))
    for index, tile in zip(plan.batches[batch], tiles):
      # The batch before may have had this tile.
      if index < batch * together:
        continue
      row, column = divmod(index, len(plan.lefts))
      top, left = plan.tops[row], plan.lefts[column]
      weights = np.outer(rows[row], columns[column])[..., None]
      total[:, top : top + height, left : left + width] += weights * tile
    return total

  parts = history.add([whole.history], _reduce(trace, seeds, whole))
  return Whole(
    jax.tree.map(add, whole.states, _slim(states)), history.join(parts)
  )


def _reduce(trace, seeds, whole):
  """Returns the trace of a batch with one lane for each seed.

  Steps count on from batch to batch. A number is the mean of the tiles that
  took the step; a jump of any tile is a jump.
  """
  split = lambda leaf: np.asarray(leaf).reshape(-1, seeds, *leaf.shape[1:])
  trace = jax.tree.map(split, trace)
  active, base = trace.active, int(whole.history.taken)
  count = np.maximum(active.sum(axis=0), 1)
  some, returned = active.any(axis=0), trace.returned.max(axis=0)

  def mean(leaf) -> Any:
    total = np.where(active, leaf, 0).sum(axis=0) / count
    return np.where(some, total, np.nan).astype(np.float32)

  return Trace(
    step=base + trace.step.max(axis=0),
    active=some,
    loss=mean(trace.loss),
    psnr_measurement=mean(trace.psnr_measurement),
    returned=np.where(returned < 0, returned, base + returned),
    scores=jax.tree.map(mean, trace.scores),
  )
