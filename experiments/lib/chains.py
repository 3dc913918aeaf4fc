"""The fits of stages: one after the other, or all at once.

The stages of a seed are a chain: each goes on where the one before ended, so
that they cannot be lanes. Chains can. Each has a slot of one program, as the
pictures of a folder and the points of a sweep have (`engine.slots`); there one
stage follows the other, whatever other chains do, and after its last stage the
slot gets the next chain. A checkpoint has all chains at one moment.
"""

import collections
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import Restoration, codes, monitors
from dipjax.device import packing
from dipjax.engine import history, lanes, staged
from dipjax.engine.fit import FitState, Trace, make_fit
from dipjax.engine.loop import Progress, collect
from dipjax.engine.slots import Slots
from experiments.lib import recorder, report, stages


class _Chain:
  """Stages of one seed, one after the other.

  Attributes:
    setup, number, lane: whose seed it is, its number, and the lane in records.
    stages: the places of the stages in the plan.
    ended: the states and the trace of each finished stage, of one lane; the
      last stage of all has its parameters too.
    begun: the progress of the next stage, where it was interrupted.
    target: of the stage in a slot.
    seconds: its share of the time so far, without compiling.
  """

  def __init__(
    self, setup: stages.Setup, number: int, own: range, *, lane: int
  ):
    self.setup, self.number, self.lane = setup, number, lane
    self.stages = own
    self.ended: list[tuple[FitState, Trace]] = []
    self.begun: Progress | None = None
    self.target: Any = None
    self.seconds = 0.0
    self._before: FitState | None = None

  @property
  def name(self) -> str:
    """What the chain is called in a checkpoint."""
    arm = self.setup.marks.get('arm', '')
    return f'{arm} stage {self.stages[0]} seed {self.number}'

  @property
  def is_finished(self) -> bool:
    """Whether no stage is left."""
    return len(self.ended) == len(self.stages)

  @property
  def stage(self) -> int:
    """The place of the next stage in the plan."""
    return self.stages[len(self.ended)]

  @property
  def taken(self) -> int:
    """The steps of the finished stages."""
    return sum(int(states.step[0]) for states, _ in self.ended)

  def pose(self) -> tuple[Any, ...]:
    """Returns the fit, the key and the problem of the next stage."""
    setup, key, maker = self.setup, self._key, self.setup.first_code
    # The image of a stage becomes the code of the next one.
    if self.ended and setup.config.staged.code != 'fixed':
      states, _ = self.ended[-1]
      image = states.monitors[setup.recipe.rule].image[0]
      maker = codes.use_image(np.clip(image, 0, 1))
    recipe, problem = stages.pose_stage(setup, key, self.stage, maker)
    return make_fit(recipe), staged.make_key(key, self.stage), problem

  @property
  def _key(self):
    return self.setup.keys[self.number]

  def enter(self, running: Slots, index: int) -> None:
    """Puts the next stage into a free slot, or what was done of it."""
    _, key, problem = self.pose()
    self.target = np.asarray(problem.measurement)
    clean = self.setup.data.clean
    running.fill(index, key, problem, clean, start=self._start)

  def _start(self, fresh):
    begun, before = self.begun, self._before
    self.begun = self._before = None
    if begun or before is None:
      return begun or fresh
    keep = self.setup.config.staged.keep_optimizer
    states = staged.inherit(fresh.states, before, keep_optimizer=keep)
    return fresh._replace(states=states)

  def end(self, states: FitState, trace: Trace) -> None:
    """Adds the stage that is finished."""
    self._before = states
    is_last = len(self.ended) + 1 == len(self.stages)
    self.ended.append((jax.device_get(_slim(states, is_last)), trace))


def _slim(states: FitState, with_params: bool) -> FitState:
  """Returns what `collect` needs of states, the parameters if wanted."""
  jumps = states.guard.replace(good=())
  states = states.replace(opt_state=(), key=(), guard=jumps)
  return states if with_params else states.replace(params={})


def fit_chains(
  setups: Sequence[stages.Setup], record: recorder.Recorder, *, slots: int
) -> Iterator[tuple[int, list[Restoration], float]]:
  """Yields each setup's place, stages and seconds, once its seeds are finished.

  Whoever gets the stages finds them in the last checkpoint too. Where the
  record says stop, the setups that have begun give the stages that all of their
  seeds have finished, or what is left of the first stage.

  Args:
    setups: have one fit, equally many seeds, and problems of the same shapes.
    record: called after each chunk.
    slots: how many chains are fitted at once, at most.
  """
  groups = [
    [
      _Chain(setup, number, range(len(setup.plan)), lane=number)
      for number in range(len(setup.keys))
    ]
    for setup in setups
  ]
  return _Chains(groups, record).fit(slots)


def fit_parallel(
  setup: stages.Setup, record: recorder.Recorder
) -> list[Restoration]:
  """Fits all stages at once, each stage with its own networks."""
  seeds = len(setup.keys)
  groups = [
    [
      _Chain(
        setup, number, range(stage, stage + 1), lane=stage * seeds + number
      )
      for number in range(seeds)
    ]
    for stage in range(len(setup.plan))
  ]
  count = seeds * len(groups)
  fitted = _Chains(groups, record).fit(count, early=False)
  return [result for _, results, _ in fitted for result in results]


class _Chains:
  """Groups of chains; the chains of a group give one result."""

  def __init__(
    self, groups: Sequence[Sequence[_Chain]], record: recorder.Recorder
  ):
    self._groups, self._record = groups, record
    self._all = [chain for group in groups for chain in group]
    self._given: set[int] = set()  # Groups whose result somebody has.

  def fit(
    self, slots: int, *, early: bool = True
  ) -> Iterator[tuple[int, list[Restoration], float]]:
    """Yields the place of each group, its stages and its seconds.

    Args:
      slots: how many chains are fitted at once, at most.
      early: whether a group is yielded as soon as it is finished; checkpoints
        have nothing of it from then on.
    """
    self._load()
    left = [n for n, chain in enumerate(self._all) if not chain.is_finished]
    waiting, running = collections.deque(left), None
    if left:
      running = self._make_slots(self._all[left[0]], min(slots, len(left)))
      self._fill(running, waiting)
    now, stopped = self._record.seconds['fit'], False
    while True:
      if early:
        yield from self._give(running)
      if stopped or running is None or not running.list_pictures():
        break
      pictures, trace = tuple(running.pictures), running.advance()
      self._watch(pictures, running.states, trace)
      before, now = now, self._record.seconds['fit']
      fitted = running.list_pictures()
      for number in fitted:
        self._all[number].seconds += (now - before) / len(fitted)
      going_on = []
      for number, states, seen in running.take_finished():
        self._all[number].end(states, seen)
        if not self._all[number].is_finished:
          going_on.append(number)
      waiting.extendleft(reversed(going_on))
      self._fill(running, waiting)
      stopped = bool(self._record.stop)
      if stopped or self._record.is_due(self._record.shown):
        self._save(running)
    yield from self._give_rest(running) if stopped else self._give(running)

  def _make_slots(self, chain, count):
    config = chain.setup.config
    chunk = min(config.record.every, config.fit.steps)
    return Slots(chain.pose()[0], count, chunk=chunk)

  def _fill(self, running, waiting):
    while running.free and waiting:
      number = waiting.popleft()
      self._all[number].enter(running, number)

  # --- Results.

  def _give(self, running):
    """Yields the groups that are finished, which a checkpoint has before."""
    finished = [
      place
      for place, group in enumerate(self._groups)
      if place not in self._given and all(c.is_finished for c in group)
    ]
    if finished and running:
      self._save(running)
      self._record.checkpoints.flush()
    for place in finished:
      group = self._groups[place]
      yield place, _join_stages(group), sum(c.seconds for c in group)
      self._given.add(place)

  def _give_rest(self, running):
    """Yields what there is of the groups that are not finished.

    The parameters are as they are now, of a later stage perhaps.
    """
    progress = running.find_progress()
    now = {
      chain.name: _find_now(chain, progress.get(number))
      for number, chain in enumerate(self._all)
    }
    for place, group in enumerate(self._groups):
      own: Any = [now[chain.name] for chain in group]
      if place in self._given or not all(own):
        continue
      # What is left of a stage that was interrupted is no result, unless there
      # is nothing else.
      results = _join_stages(group)
      if not results:
        first = [c.ended[0] if c.ended else o for c, o in zip(group, own)]
        results = [_join(group, first)]
      params = _concatenate([jax.device_get(one.params) for one, _ in own])
      results[-1] = results[-1]._replace(params=packing.unpack(params))
      yield place, results, sum(chain.seconds for chain in group)

  # --- Checkpoints.

  def _list_open(self):
    """Returns (number, chain) of each chain whose result nobody has yet."""
    given = [c for place in self._given for c in self._groups[place]]
    return [(n, c) for n, c in enumerate(self._all) if c not in given]

  def _save(self, running):
    """Saves all chains as they are now; the label says what there is."""
    progress, tree, label = running.find_progress(), {}, {}
    for number, chain in self._list_open():
      begun = progress.get(number)
      if chain.ended or begun:
        tree[chain.name] = chain.ended, begun
        label[chain.name] = len(chain.ended), bool(begun), chain.seconds
    self._record.label = label
    self._record.save_tree(tree, self._record.shown)

  def _load(self):
    """Goes back to the last checkpoint."""
    notes, like = self._record.checkpoints.find_latest(), {}
    label = notes['label'] if notes else {}
    if not isinstance(label, dict):
      raise ValueError(
        f'the checkpoint in {self._record.checkpoints.folder!r} is of another '
        'version: use another workdir, or --overwrite'
      )
    self._record.label = label
    chains = {chain.name: chain for chain in self._all}
    # A checkpoint may have chains whose result somebody has by now.
    found = {n: v for n, v in self._record.label.items() if n in chains}
    shapes: Any = self._find_shapes() if found else None
    for name, (count, is_begun, seconds) in found.items():
      chains[name].seconds = seconds
      last = len(chains[name].stages)
      ended = [
        (_slim(shapes.states, number == last), shapes.history.trace)
        for number in range(1, count + 1)
      ]
      like[name] = ended, shapes if is_begun else None
    for name, (ended, begun) in (self._record.load(like) or {}).items():
      chains[name].ended, chains[name].begun = ended, begun

  def _find_shapes(self):
    """Returns the shapes of the progress of one chain."""
    fit, key, problem = self._all[0].pose()
    clean = self._all[0].setup.data.clean
    cleans = None if clean is None else jnp.asarray(clean)[None]
    states: Any = lanes.shape(
      fit, key[None], lanes.stack_lanes([problem]), cleans
    )
    return Progress(states, history.begin(states))

  # --- Records.

  def _watch(self, pictures, states, trace):
    """Records a chunk of all slots, chain by chain.

    A chain that is finished is shown as it ended, so that the pictures of a fit
    have all seeds.
    """
    states = jax.device_get(_view(states))
    idle = jax.tree.map(lambda leaf: np.zeros_like(leaf[:1]), trace)
    chains, seen, traces = [], [], []
    for number, chain in self._list_open():
      if number in pictures:
        slot = pictures.index(number)
        take = lambda leaf, s=slot: leaf[s : s + 1]
        seen.append(jax.tree.map(take, states))
        own = jax.tree.map(take, trace)
        traces.append(own._replace(step=own.step + chain.taken))
      elif chain.is_finished:
        seen.append(_view(chain.ended[-1][0]))
        traces.append(idle)
      else:
        continue
      chains.append(chain)
    self._record.seeds = [c.setup.seeds[c.number] for c in chains]
    states, trace = _concatenate(seen), _concatenate(traces)
    notes = _make_notes(chains, states, trace)
    self._record(states, trace, notes)


def _view(states: FitState) -> FitState:
  """Returns what a recorder sees of states."""
  return states.replace(params={}, opt_state=(), key=(), guard=())


def _make_notes(chains, states, trace) -> list[dict[str, Any]]:
  """Returns what the records of chains say of their stages.

  The scores are those of the averages, against the stages' targets and the
  clean image.
  """
  estimates = monitors.unbias_average(
    jnp.asarray(states.average),
    jnp.asarray(states.step)[:, None, None, None],
    decay=chains[0].setup.recipe.decay,
  )
  notes = []
  for place, (chain, image) in enumerate(zip(chains, np.asarray(estimates))):
    # A chain that is finished has no record.
    note = {}
    if trace.active[place].any():
      note = {
        'lane': chain.lane,
        'stage': chain.stage,
        'stage_step': int(states.step[place]) - 1,
        **stages.score_target(image, chain.target),
        **report.score_step(image, chain.setup.data.clean),
        **chain.setup.marks,
      }
    notes.append(note)
  return notes


def _concatenate(trees: Sequence[Any]) -> Any:
  """Returns one tree of all lanes, of NumPy arrays."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)


def _find_now(chain: _Chain, begun: Progress | None) -> Any:
  """Returns the last states and trace of a chain, None before its first step.

  Args:
    chain: of a seed.
    begun: its stage in a slot, if there is one.
  """
  if begun and (begun.history.taken or chain.ended):
    return begun.states, begun.history.trace
  return chain.ended[-1] if chain.ended else None


def _join(group: Sequence[_Chain], seeds: Sequence[Any]) -> Restoration:
  """Returns the result of one stage, of the states and traces of its seeds."""
  states, traces = zip(*seeds, strict=True)
  ended = all(one.params for one in states)
  states = [jax.device_get(_slim(one, ended)) for one in states]
  longest = max(trace.active.shape[1] for trace in traces)
  trace = _concatenate([history.extend(one, longest) for one in traces])
  return collect(_concatenate(states), trace, group[0].setup.recipe.rule)


def _join_stages(group: Sequence[_Chain]) -> list[Restoration]:
  """Returns the results of the stages that all chains of a group ended."""
  together = zip(*(chain.ended for chain in group))
  return [_join(group, seeds) for seeds in together]


def join_stages(
  results: Sequence[Restoration], *, chained: bool
) -> Restoration:
  """Returns the cleanest stage's result, with the best oracles of all stages.

  Args:
    results: one Restoration for each stage, the cleanest stage last.
    chained: whether steps count on from stage to stage.
  """
  # Each lane's oracle is the best one of all its stages, at a step that counts
  # the steps of the stages before.
  last = results[-1]
  stopped = np.stack([result.stopped for result in results])
  before = (np.cumsum(stopped, axis=0) - stopped) * chained
  watchers = dict(last.monitors)
  for name in watchers.keys() & {'oracle', 'oracle_output'}:
    seen = lanes.stack_lanes([result.monitors[name] for result in results])
    seen = seen.replace(step=seen.step + before)
    best = np.argmax(seen.best, axis=0), np.arange(stopped.shape[1])
    watchers[name] = jax.tree.map(lambda leaf, best=best: leaf[best], seen)
  return last._replace(
    selected=last.selected + before[-1],
    stopped=last.stopped + before[-1],
    monitors=watchers,
  )
