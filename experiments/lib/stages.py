"""Stages of a fit, from a config: what they share, their plan, their problems.

`chains` fits them.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import Recipe, codes, monitors, schedules
from dipjax.engine import lanes, memory, staged
from dipjax.engine.problem import Problem
from experiments.lib import build, fields, machine, report
from experiments.lib import data as data_lib

Array = jax.Array

ORACLE = 'oracle protocol'


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
  prepared = []

  def pose(key):
    recipe, problem = pose_stage(setup, key, 0, setup.first_code)
    prepared.append(recipe)
    return problem

  shapes = jax.eval_shape(pose, setup.keys[0])
  (recipe,) = prepared
  # The estimate is for a fit without oracles.
  recipe = recipe.replace(monitors={recipe.rule: recipe.monitors[recipe.rule]})
  memory.check_memory(recipe, shapes, machine.find_memory(), lanes=count)


def make_target(setup: Setup, key: Array, index: int) -> Array:
  """Returns the target of a stage for the key of a seed, [H, W, C]."""
  key, level = staged.make_key(key, index), setup.plan[index].level
  return staged.make_target(key, setup.reference, level)


def score_target(
  image: np.ndarray, target: np.ndarray
) -> dict[str, float | None]:
  """Returns psnr_target and ssim_target, see `report.score_step`."""
  scores = report.score_step(image, target)
  return {f'{name}_target': value for name, value in scores.items()}
