"""The fits of stages: one after the other, or all at once.

A chain goes on where it was interrupted: what `collect` needs of each finished
stage is kept, and the checkpoint has the stage in progress.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dipjax import Restoration, codes, monitors
from dipjax.engine import history, lanes, staged
from dipjax.engine.fit import FitState, make_fit
from dipjax.engine.loop import collect, run_lanes
from experiments.lib import recorder, report, stages

_LABEL = 'stage-{}'  # Of a checkpoint, by the stage's place in the plan.


def fit_chain(
  setups: Sequence[stages.Setup], record: recorder.Recorder
) -> list[list[Restoration]]:
  """Fits one stage after the other; returns each stage's result, by setup.

  Args:
    setups: all are fitted at once, in lanes setup by setup, and seed by seed in
      each setup. The setups have one fit, equally many stages and seeds, and
      problems of the same shapes.
    record: called after each chunk.

  Returns:
    For each setup a list with a Restoration for each stage.
  """
  config = setups[0].config.staged
  makers = [setup.first_code for setup in setups for _ in setup.keys]
  results, states = [[] for _ in setups], None
  taken = np.zeros(len(makers), int)
  first = _find_stage(record)
  like = _shape_stage(setups) if first else None
  for index in range(len(setups[0].plan)):
    record.label = _LABEL.format(index)
    if index < first:
      fitted = _recall_stages(setups, record, like)
    else:
      inherit = states and functools.partial(
        staged.inherit, before=states, keep_optimizer=config.keep_optimizer
      )
      states, trace, fitted = _fit_stages(
        [(setup, index) for setup in setups],
        makers,
        record,
        before=taken,
        start=inherit,
      )
      # What is left of a stage that was interrupted is no result, unless there
      # is nothing else.
      if record.stop and index:
        break
      record.checkpoints.keep(record.label, (_slim(states), trace))
    for own, result in zip(results, fitted, strict=True):
      own.append(result)
    if record.stop:
      break
    # Records count steps on from stage to stage. Each lane's image becomes the
    # code of its next stage, unless the code is fixed.
    taken = taken + np.concatenate([result.stopped for result in fitted])
    if config.code != 'fixed':
      makers = [
        codes.use_image(image) for result in fitted for image in result.images
      ]
  return results


def _find_stage(record: recorder.Recorder) -> int:
  """Returns the stage of the last checkpoint: all before it are finished."""
  notes = record.checkpoints.find_latest()
  return int(notes['label'].removeprefix(_LABEL.format(''))) if notes else 0


def _slim(states: FitState) -> FitState:
  """Returns what `collect` needs of states, but for the parameters."""
  jumps = states.guard.replace(good=())
  return states.replace(params={}, opt_state=(), key=(), guard=jumps)


def _shape_stage(setups: Sequence[stages.Setup]) -> Any:
  """Returns the shapes of what every finished stage keeps."""
  makers = [setup.first_code for setup in setups for _ in setup.keys]
  posed, _ = _pose_stages([(setup, 0) for setup in setups], makers)
  states = lanes.shape(*posed)
  return _slim(states), history.begin(states).trace


def _recall_stages(
  setups: Sequence[stages.Setup], record: recorder.Recorder, like: Any
) -> list[Restoration]:
  kept = record.checkpoints.recall(record.label, like)
  if kept is None:
    raise ValueError(
      f'{record.checkpoints.folder!r}: {record.label} is damaged; --overwrite '
      'starts again'
    )
  states, trace = kept
  return _split(setups[0], states, trace, len(setups))


def fit_parallel(
  setup: stages.Setup, record: recorder.Recorder
) -> list[Restoration]:
  """Fits all stages at once, each stage with its own networks."""
  pairs = [(setup, index) for index in range(len(setup.plan))]
  makers = [setup.first_code] * len(pairs) * len(setup.keys)
  return _fit_stages(pairs, makers, record)[2]


def _fit_stages(pairs, makers, record, *, before: ArrayLike = 0, start=None):
  """Fits some stages at once, in lanes pair by pair, seed by seed in a pair.

  Args:
    pairs: (setup, index of a stage) for each stage.
    makers: functions that make the code, one for each lane.
    before: steps that each lane has taken in earlier stages.
    start: see `run_lanes`.

  Returns:
    The states and the trace of all lanes, and a Restoration for each pair.
  """
  setup = pairs[0][0]
  posed, own = _pose_stages(pairs, makers)
  states, trace = run_lanes(
    *posed,
    start=start,
    chunk=min(setup.config.record.every, setup.config.fit.steps),
    watch=_make_watch(own, posed[2].measurement, before, record),
    store=record,
  )
  return states, trace, _split(setup, states, trace, len(pairs))


def _pose_stages(pairs, makers):
  """Returns what `run_lanes` takes for some stages, and each lane's stage.

  A lane's stage is its setup, the stage's index and the key of the seed.
  """
  own = [(*pair, key) for pair in pairs for key in pair[0].keys]
  recipes, problems = zip(
    *(
      stages.pose_stage(setup, key, index, maker)
      for (setup, index, key), maker in zip(own, makers, strict=True)
    )
  )
  cleans = None
  if own[0][0].data.clean is not None:
    cleans = jnp.stack([jnp.asarray(setup.data.clean) for setup, *_ in own])
  keys = jnp.stack([staged.make_key(key, index) for _, index, key in own])
  fit, problems = make_fit(recipes[0]), lanes.stack_lanes(problems)
  return (fit, keys, problems, cleans), own


def _split(setup, states, trace, count) -> list[Restoration]:
  """Returns the results of `count` stages, seed by seed in each."""
  seeds = len(setup.keys)
  part = lambda tree, i: jax.tree.map(
    lambda leaf: leaf[i * seeds : (i + 1) * seeds], tree
  )
  return [
    collect(part(states, i), part(trace, i), setup.recipe.rule)
    for i in range(count)
  ]


def _make_watch(own, targets, before, record):
  """Returns a watch that records each chunk with the scores of the averages.

  The scores are against the stages' targets and the clean image.
  """
  targets, decay = np.asarray(targets), own[0][0].recipe.decay

  def watch(states, trace):
    estimates = monitors.unbias_average(
      states.average, states.step[:, None, None, None], decay=decay
    )
    notes = []
    for lane, image in enumerate(np.asarray(estimates)):
      setup, index, _ = own[lane]
      notes.append(
        {
          'stage': index,
          'stage_step': int(states.step[lane]) - 1,
          **stages.score_target(image, targets[lane]),
          **report.score_step(image, setup.data.clean),
          **setup.marks,
        }
      )
    shifted = trace.step + np.broadcast_to(before, len(notes))[:, None]
    return record(states, trace._replace(step=shifted), notes)

  return watch


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
