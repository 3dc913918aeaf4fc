"""Stages of a fit, from a config: what they share, their plan, their fits.

`experiments.staged` and `experiments.ablation` both fit their stages here.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from numpy.typing import ArrayLike

from dipjax import Recipe, Restoration, codes, monitors, schedules
from dipjax.engine import history, lanes, memory, staged
from dipjax.engine.fit import FitState, make_fit
from dipjax.engine.loop import collect, run_lanes
from dipjax.engine.problem import Problem
from experiments.lib import build, fields, machine, recorder, report
from experiments.lib import data as data_lib

Array = jax.Array

ORACLE = 'oracle protocol'

_LABEL = 'stage-{}'  # Of a checkpoint, by the stage's place in the plan.


class Setup(NamedTuple):
  """All that the stages of a run share."""

  config: ml_collections.ConfigDict
  recipe: Recipe  # A stage sets code and steps, then the method prepares it.
  perceptual: lanes.Perceptual | None
  data: data_lib.Data
  reference: Array  # [H, W, C], what the targets are made from.
  plan: list[staged.Stage]
  first_code: Any  # (key, (height, width)) -> [height, width, I].
  seeds: list[int]
  keys: list[Array]  # The key of each seed.
  marks: dict[str, str]  # Entries that every record has.


def make_setup(config: ml_collections.ConfigDict) -> Setup:
  """Returns what the stages of a config share.

  Raises:
    ValueError: files or fields that do not fit, a method that makes its own
      code, or a rule that needs a second measurement.
  """
  data = data_lib.load_denoising(config.data)
  channels = data.measurement.shape[-1]
  recipe = build.make_recipe(
    config, channels, own=('schedule', 'staged'), told=False
  )
  _check_recipe(recipe)
  marks, reference = {}, data.measurement
  if config.staged.reference == 'clean':
    if data.clean is None:
      raise ValueError(
        "staged.reference='clean' needs the clean image: give data.clean, or "
        'set data.sigma above 0'
      )
    marks, reference = {'protocol': ORACLE}, data.clean
  seeds = build.make_seeds(config)
  return Setup(
    config=config,
    recipe=watch_stages(recipe, config.staged.residual, data.clean is not None),
    perceptual=build.make_perceptual(config.fit),
    data=data,
    reference=jnp.asarray(reference),
    plan=make_plan(config),
    first_code=make_first_code(config, data.measurement),
    seeds=seeds,
    keys=[jax.random.key(seed) for seed in seeds],
    marks=marks,
  )


def _check_recipe(recipe):
  method, rule = recipe.method, recipe.monitors[recipe.rule]
  if method.makes_code:
    raise ValueError(
      f'the method {method.name!r} makes the measurement its code, and stages '
      'hand each image on as the next code: choose another method'
    )
  if 'reference' in rule.needs:
    raise ValueError(
      f'the rule {recipe.rule!r} needs a second measurement, and the target of '
      'a stage has none: choose another rule'
    )


def make_plan(config: ml_collections.ConfigDict) -> list[staged.Stage]:
  """Returns the stages, from the noisiest to the cleanest."""
  schedule = config.schedule
  levels = schedules.make_levels(
    schedule.name,
    schedule.stages,
    beta_min=schedule.beta_min,
    beta_max=schedule.beta_max,
  )
  return staged.plan_stages(
    levels,
    reference=config.staged.reference,
    steps=config.fit.steps,
    alpha=schedule.alpha,
    k=schedule.k,
    sigma=config.staged.sigma / 255,
  )


def watch_stages(recipe: Recipe, residual: bool, with_oracle: bool) -> Recipe:
  """Returns the recipe of every stage: one program serves them all.

  Args:
    recipe: the recipe by the config.
    residual: whether a stage whose noise is known ends where its error has come
      down to the noise; a stage whose noise is not known ends by the rule.
    with_oracle: whether the clean image is known.
  """
  if residual:
    rule = recipe.monitors[recipe.rule]
    ended = monitors.ReachNoise(otherwise=rule)
    recipe = recipe.watch(**{recipe.rule: ended})
  return recipe.watch(**monitors.ORACLES) if with_oracle else recipe


def make_first_code(config: ml_collections.ConfigDict, image: np.ndarray):
  """Returns the function that makes the first stage's code."""
  makers = {
    'measurement': codes.use_image(image),
    # The next stage's code is an image: the noise has as many channels.
    'noise': functools.partial(
      codes.draw_uniform_noise, channels=image.shape[-1]
    ),
    'fixed': build.make_code(config.network),
  }
  return fields.choose(makers, config.staged.code, 'staged.code')


def describe_plan(setup: Setup) -> str:
  """Returns the plan and its budget of steps in one line."""
  config, steps = setup.config, [stage.steps for stage in setup.plan]
  first, last = setup.plan[0].level, setup.plan[-1].level
  how = 'all at once' if config.staged.parallel else 'one after the other'
  mark = f'{ORACLE}: ' if setup.marks else ''
  return (
    f'{mark}{len(steps)} stages {how}, {config.schedule.name} levels '
    f'{first:g} to {last:g}, with targets from the {config.staged.reference}, '
    f'{min(steps)} to {max(steps)} steps each: at most {sum(steps)} steps in '
    'all for each seed'
  )


def fit_chain(
  setups: Sequence[Setup], record: recorder.Recorder
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


def _shape_stage(setups: Sequence[Setup]) -> Any:
  """Returns the shapes of what every finished stage keeps."""
  posed = [
    pose_stage(setup, key, 0, setup.first_code)
    for setup in setups
    for key in setup.keys
  ]
  clean = setups[0].data.clean
  states = lanes.init.eval_shape(
    make_fit(posed[0][0]),
    jnp.stack([key for setup in setups for key in setup.keys]),
    lanes.stack_lanes([problem for _, problem in posed]),
    None if clean is None else jnp.stack([jnp.asarray(clean)] * len(posed)),
  )
  return _slim(states), history.begin(states).trace


def _recall_stages(
  setups: Sequence[Setup], record: recorder.Recorder, like: Any
) -> list[Restoration]:
  kept = record.checkpoints.recall(record.label, like)
  if kept is None:
    raise ValueError(
      f'{record.checkpoints.folder!r}: {record.label} is damaged; --overwrite '
      'starts again'
    )
  states, trace = kept
  return _split(setups[0], states, trace, len(setups))


def fit_parallel(setup: Setup, record: recorder.Recorder) -> list[Restoration]:
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
  own = [(*pair, key) for pair in pairs for key in pair[0].keys]
  posed = [
    pose_stage(setup, key, index, maker)
    for (setup, index, key), maker in zip(own, makers, strict=True)
  ]
  recipe, problems = posed[0][0], [problem for _, problem in posed]
  cleans = None
  if setup.data.clean is not None:
    cleans = jnp.stack([jnp.asarray(setup.data.clean) for setup, *_ in own])
  states, trace = run_lanes(
    make_fit(recipe),
    jnp.stack([staged.make_key(key, index) for _, index, key in own]),
    lanes.stack_lanes(problems),
    cleans,
    start=start,
    chunk=min(setup.config.record.every, setup.config.fit.steps),
    watch=_make_watch(own, problems, before, record),
    store=record,
  )
  return states, trace, _split(setup, states, trace, len(pairs))


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


def pose_stage(
  setup: Setup, key: Array, index: int, maker: Any
) -> tuple[Recipe, Problem]:
  """Returns the recipe and the problem of a stage, for the key of a seed.

  Args:
    setup: what the stages share.
    key: the seed's key: a code that is drawn is the same in all stages.
    index: the stage's place in the plan.
    maker: the function that makes the code, see Setup.first_code.
  """
  stage, target = setup.plan[index], make_target(setup, key, index)
  recipe = setup.recipe.replace(code=maker, steps=stage.steps)
  recipe, operator = recipe.prepare(target)
  problem = lanes.pose_problem(
    recipe,
    key,
    target,
    operator,
    setup.reference.shape,
    sigma=math.sqrt(stage.noise),
    perceptual=setup.perceptual,
  )
  return recipe, problem


def check_memory(setup: Setup, count: int) -> None:
  """Raises a ValueError if `count` lanes of a stage do not fit into memory."""
  available = machine.find_memory()
  if available is None:
    return
  prepared = []

  def pose(key):
    recipe, problem = pose_stage(setup, key, 0, setup.first_code)
    prepared.append(recipe)
    return problem

  shapes = jax.eval_shape(pose, setup.keys[0])
  (recipe,) = prepared
  # The estimate is for a fit without oracles.
  recipe = recipe.replace(monitors={recipe.rule: recipe.monitors[recipe.rule]})
  memory.check_memory(recipe, shapes, available, lanes=count)


def make_target(setup: Setup, key: Array, index: int) -> Array:
  """Returns the target of a stage for the key of a seed, [H, W, C]."""
  key, level = staged.make_key(key, index), setup.plan[index].level
  return staged.make_target(key, setup.reference, level)


def _make_watch(own, problems, before, record):
  """Returns a watch that records each chunk with the scores of the averages.

  The scores are against the stages' targets and the clean image.
  """
  targets = [np.asarray(problem.measurement) for problem in problems]
  decay = own[0][0].recipe.decay

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
          **score_target(image, targets[lane]),
          **report.score_step(image, setup.data.clean),
          **setup.marks,
        }
      )
    shifted = trace.step + np.broadcast_to(before, len(notes))[:, None]
    return record(states, trace._replace(step=shifted), notes)

  return watch


def score_target(
  image: np.ndarray, target: np.ndarray
) -> dict[str, float | None]:
  """Returns psnr_target and ssim_target, see `report.score_step`."""
  scores = report.score_step(image, target)
  return {f'{name}_target': value for name, value in scores.items()}


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
