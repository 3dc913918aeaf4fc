"""`restore_many` restores a stream of pictures, several at once."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dipjax import api, settings
from dipjax import noise as noise_lib
from dipjax.conv import choose
from dipjax.engine import loop, slots
from dipjax.engine import memory as memory_lib
from dipjax.engine.fit import Fit, Trace, make_fit
from dipjax.engine.lanes import Perceptual
from dipjax.methods import perceptual as perceptual_lib
from dipjax.recipe import Recipe

# Called after each chunk with the index of the picture in each slot, None for a
# slot that is free, and the trace [slots, steps]; True ends the restoration.
Watch = Callable[[Sequence[int | None], Trace], bool | None]

_MOST_BYTES = 2**28  # Of measurements that wait.
_NEAR = 3  # Rounds of pictures that are counted before a kind begins.
_LOOK = 32  # Pictures that are read for the sake of counting, at most.
_TURN = 100  # Steps by which a picture may be ahead of one that waits.


class Case(NamedTuple):
  """One picture of many; the arguments of `dipjax.restore` with one seed."""

  measurement: Any
  operator: Any = None
  recipe: Recipe | None = None  #: None is that of all pictures.
  size: Sequence[int] | None = None
  seed: int = 0
  clean: Any = None
  sigma: float | None = None
  noise: noise_lib.Model | None = None
  reference: Any = None


class Finished(NamedTuple):
  """What became of one picture."""

  index: int  #: Of the picture among all, from 0.
  restoration: loop.Restoration | None  #: None if it was refused.
  #: Why the picture was refused, or a `DivergedError`, whose restoration is
  #: the last good image; None if all is well.
  error: ValueError | None


def restore_many(
  pictures: Iterable[Any],
  recipe: Recipe = api.DEFAULT,
  *,
  lanes: int = 4,
  ahead: int = 128,
  perceptual: Perceptual | None = None,
  memory: int | None = None,
  chunk: int = 10,
  watch: Watch | None = None,
  store: slots.Store | None = None,
  tell: Callable[[str], None] | None = None,
) -> Iterator[Finished]:
  """Yields pictures as they are restored, several being fitted at once.

  Pictures of one shape, kind of operator and program share the lanes of one
  compiled program. Where a picture is finished, the next one takes its lane,
  without compiling and without waiting for the others. Each restoration is the
  one that `dipjax.restore` gives for the picture alone, whatever the order of
  the pictures and the number of lanes: to the last bit where lanes run in turn,
  as on a CPU, and up to rounding where they run at once. A picture that is
  refused, or whose fit diverges, stops no other.

  Where lanes run at once, the last pictures of a shape take turns, so that no
  picture goes on alone beside free lanes for long.

  Pictures with windows, with tiles, or too large for the memory beside a second
  one are fitted one by one, as `dipjax.restore` does.

  Args:
    pictures: each a `Case`, or a measurement for denoising; may be a generator,
      which is asked for a picture when there is room for it.
    recipe: how to fit the pictures that have no recipe of their own.
    lanes: how many pictures are fitted at once, at most. Where few of a shape
      are left, there are as many lanes as leave none of them free.
    ahead: how many pictures wait for others of their shape, at most; their
      measurements have 256 MB at most. More of them keep lanes from being empty
      where shapes are mixed.
    perceptual, memory, chunk: see `dipjax.restore`.
    watch: called after each chunk of steps with the index of the picture in
      each slot and the traces; where it returns True, nothing more is yielded.
    store: saves the progress of the pictures that began, and loads it by the
      index of a picture; see `engine.slots.Store`.
    tell: called with a line where less memory than `lanes` need makes them
      fewer, or makes tiles of a picture; None warns.

  Raises:
    ValueError: numbers that are out of range. What is wrong with a picture is
      not raised, but yielded.

  Examples:
    Here `photos` are images, NumPy floats [H, W, 3] in [0, 1].

    >>> import dipjax
    >>> from dipjax import corruptions
    >>> noisy = (
    ...   corruptions.add_gaussian_noise(photo, 0.1, seed=0) for photo in photos
    ... )
    >>> for index, restoration, error in dipjax.restore_many(noisy, lanes=2):
    ...   image = restoration.image if error is None else None
  """
  api.check_chunk(chunk)
  for name, number in (('lanes', lanes), ('ahead', ahead)):
    if not isinstance(number, int | np.integer) or number < 1:
      raise ValueError(
        f'{name} must be a whole number, at least 1, got {number!r}'
      )
  if perceptual:
    perceptual = perceptual_lib.share_features(perceptual[0]), perceptual[1]
  run = _Run(
    _Waiting(pictures, recipe, perceptual, ahead),
    lanes,
    memory,
    chunk,
    watch,
    store,
    tell or (lambda line: warnings.warn(line, stacklevel=2)),
  )
  return run.perform()


class _Job(NamedTuple):
  """A picture that waits for a slot."""

  index: int
  ready: api.Ready
  seed: int
  fit: Fit
  kind: int  # Pictures of one kind share a program.


class _Waiting:
  """The pictures that were taken from the iterable, and are not begun."""

  def __init__(self, pictures, recipe, perceptual, ahead):
    self._pictures, self._recipe = enumerate(pictures), recipe
    self._perceptual, self._ahead = perceptual, ahead
    self._jobs: list[_Job] = []
    self._kinds: dict[Hashable, int] = {}
    self.refused: list[Finished] = []

  def find_first(self) -> _Job | None:
    """Returns the picture that has waited longest, None for none."""
    while not self._jobs and self._pull():
      pass
    return self._jobs[0] if self._jobs else None

  def take(
    self, kind: int, count_taken: Callable[[int], int] = lambda index: 0
  ) -> _Job | None:
    """Returns the next picture of a kind, None where none is near.

    Args:
      kind: of the picture.
      count_taken: the index of a picture -> the steps that it took; the picture
        with the fewest is next, and of several the first one.
    """
    while not (found := self.find_next(kind, count_taken)):
      if self._is_full() or not self._pull():
        return None
    self._jobs = [job for job in self._jobs if job is not found]
    return found

  def find_next(
    self, kind: int, count_taken: Callable[[int], int]
  ) -> _Job | None:
    """Returns what `take` would return of the pictures that are here."""
    own = (job for job in self._jobs if job.kind == kind)
    return min(own, key=lambda job: count_taken(job.index), default=None)

  def put_back(self, job: _Job) -> None:
    """Lets a picture wait once more."""
    self._jobs.append(job)

  def count(self, kind: int, most: int) -> int:
    """Returns how many pictures of a kind are near, up to `most`."""
    while True:
      found = sum(job.kind == kind for job in self._jobs)
      full = len(self._jobs) >= _LOOK or self._is_full()
      if found >= most or full or not self._pull():
        return min(found, most)

  def _is_full(self):
    held = sum(job.ready.task.measurement.nbytes for job in self._jobs)
    return len(self._jobs) >= self._ahead or held > _MOST_BYTES

  def _pull(self):
    """Takes one more picture; returns whether there was one."""
    index, picture = next(self._pictures, (-1, None))
    if index < 0:
      return False
    try:
      self._jobs.append(self._prepare(index, picture))
    except ValueError as error:
      self.refused.append(Finished(index, None, error))
    return True

  @settings.pin()
  def _prepare(self, index, picture):
    case = picture if isinstance(picture, Case) else Case(picture)
    (seed,) = api.find_seeds((case.seed,))
    ready = api.prepare(
      case.measurement,
      case.operator,
      case.recipe or self._recipe,
      size=case.size,
      clean=case.clean,
      sigma=case.sigma,
      noise=case.noise,
      reference=case.reference,
      perceptual=self._perceptual,
    )
    recipe, clean = api.watch_clean(ready)
    leaves, structure = jax.tree.flatten((ready.shapes, clean))
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    fit = make_fit(recipe)
    # With windows or tiles pictures of several sizes have problems of one size.
    alike = fit, structure, shapes, ready.task.size, ready.task.recipe.tile
    kind = self._kinds.setdefault(alike, len(self._kinds))
    return _Job(index, ready, seed, fit, kind)


class _Run:
  """The arguments of `restore_many`, and what it does with them."""

  def __init__(self, waiting, most, memory, chunk, watch, store, tell):
    self._waiting, self._most, self._memory = waiting, most, memory
    self._chunk, self._watch, self._store = chunk, watch, store
    self._tell = tell
    # Slots of each kind: as many as fit into memory, and as there are.
    self._capacities: dict[int, int] = {}
    self._counts: dict[int, int] = {}

  def perform(self) -> Iterator[Finished]:
    """Yields all pictures, one kind after the other."""
    stopped = False
    while not stopped and (first := self._waiting.find_first()):
      count = self._count_slots(first)
      if count:
        stopped = yield from self._fill_slots(first, count)
      else:
        stopped = yield from self._fit_alone(first.kind)
    yield from self._list_refused()

  def _list_refused(self):
    refused, self._waiting.refused = self._waiting.refused, []
    return refused

  def _count_slots(self, job):
    """Returns how many slots the kind of a picture gets; 0: it stands alone."""
    recipe, kind, size = job.ready.recipe, job.kind, job.ready.task.size
    if recipe.window or recipe.tile:
      return 0
    if kind not in self._capacities:
      self._capacities[kind] = memory_lib.count_slots(
        recipe, job.ready.shapes, self._memory, self._most
      )
    # A slot that stays free may cost as much as one that does not: where few
    # pictures are near, as many slots as all of their rounds fill. Fewer than
    # before would be another program.
    capacity, before = self._capacities[kind], self._counts.get(kind, 0)
    near = self._waiting.count(kind, _NEAR * self._most)
    wanted = max(before, -(-near // -(-near // self._most)))
    if 0 < capacity < wanted and before < capacity:
      self._tell(
        f'{size[1]}x{size[0]}: {capacity} at once, because no {wanted} fit '
        'into memory'
      )
    self._counts[kind] = min(capacity, wanted)
    return self._counts[kind]

  def _fill_slots(self, first, count):
    """Yields the pictures of a kind; returns whether the watch said stop."""
    running = slots.Slots(
      first.fit, count, chunk=self._chunk, store=self._store
    )
    jobs, stopped, few = {}, False, False
    take = lambda: self._waiting.take(first.kind, running.count_taken)
    # A lane that is free costs nothing where lanes run in turn.
    takes_turns = count > 1 and not choose.runs_in_turn()
    while not stopped:
      while running.free and (job := take()):
        jobs[job.index] = job
        refused = self._begin(running, job)
        if refused:
          yield refused
        few = (
          takes_turns and self._waiting.count(first.kind, count + 1) <= count
        )
      yield from self._list_refused()
      if running.free == count:
        return False
      if few:
        yield from self._take_turns(running, jobs)
      pictures, trace = tuple(running.pictures), running.advance()
      stopped = bool(self._watch and self._watch(pictures, trace))
      for index, states, history in running.take_finished():
        collect = lambda s=states, h=history, i=index: loop.collect(
          s, h, jobs.pop(i).ready.recipe.rule
        )
        yield _finish(index, collect)
    running.save()
    return True

  def _take_turns(self, running, jobs):
    """Lets pictures that wait go on in the slots of those that are ahead.

    The last pictures of a kind take their steps side by side in this way: else
    one that began last would go on alone, beside lanes that are free. Yields
    those that are refused.
    """
    kind = jobs[running.list_pictures()[0]].kind
    taken = running.count_taken
    while job := self._waiting.find_next(kind, taken):
      ahead = max(running.list_pictures(), key=taken, default=job.index)
      if taken(ahead) - taken(job.index) < _TURN:
        return
      running.park(ahead)
      self._waiting.put_back(jobs[ahead])
      jobs[job.index] = self._waiting.take(kind, taken)
      refused = self._begin(running, job)
      if refused:
        yield refused

  @settings.pin()
  def _begin(self, running, job):
    """Puts a picture into a slot; returns why it was refused, or None."""
    ready = job.ready
    try:
      api.check_units(ready)
    except ValueError as error:
      return Finished(job.index, None, error)
    key = jax.random.key(job.seed)
    problem = ready.pose(key, ready.task.measurement)
    running.fill(job.index, key, problem, api.watch_clean(ready)[1])
    return None

  def _fit_alone(self, kind):
    """Yields one picture of a kind; returns whether the watch said stop."""
    job = self._waiting.take(kind)
    view = _View(job.index, self._watch, self._store)
    finished = _finish(job.index, lambda: self._fit(job, view))
    if not view.stopped:
      yield finished
    return view.stopped

  @settings.pin()
  def _fit(self, job, view):
    plan = api.plan_tiles(job.ready, seeds=1, memory=self._memory)
    if plan and plan.reason:
      self._tell(plan.describe())
    return api.fit_ready(
      job.ready,
      plan,
      jax.random.key(job.seed)[None],
      chunk=self._chunk,
      watch=view,
      store=view if self._store else None,
    )


def _finish(index: int, fit: Callable[[], loop.Restoration]) -> Finished:
  """Returns what became of a picture whose restoration `fit` returns."""
  try:
    return Finished(index, fit(), None)
  except loop.DivergedError as error:
    return Finished(index, error.restoration, error)
  except ValueError as error:
    return Finished(index, None, error)


class _View:
  """The watch and the store of a picture that is fitted alone."""

  def __init__(self, index: int, watch: Watch | None, store: Any):
    self._index, self._watch, self._store = index, watch, store
    self.stopped, self._due = False, False

  def __call__(self, states, trace):
    del states
    self.stopped = bool(self._watch and self._watch((self._index,), trace))
    return self.stopped

  def load(self, like):
    return self._store.load(self._index, like)

  def is_due(self, step):
    self._due = self._store.is_due(step)
    return self._due

  def save(self, progress):
    # The end of a picture is no reason to save.
    if self._due or self.stopped:
      self._store.save({self._index: progress})
      self._due = False
