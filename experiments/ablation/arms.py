"""The arms of an ablation: their configs, their budget, what they share.

This module makes all checks, so that every planned arm can run.
"""

from collections.abc import Collection, Mapping

import jax
import ml_collections

from dipjax import monitors
from dipjax.engine.fit import make_fit
from experiments.ablation import table
from experiments.ablation.table import Arm
from experiments.lib import fields, stages

_ENOUGH = 10**9  # Steps; so many that rounding to whole steps does not matter.


def plan_arms(config: ml_collections.ConfigDict) -> dict[Arm, int]:
  """Returns the most steps that each arm can take, for each seed.

  Raises:
    ValueError: arms that cannot run; one line names all of them and says why.
  """
  arms = config.arms
  crossed = table.cross_arms(
    networks=arms.networks,
    perceptual=arms.perceptual,
    references=arms.references,
    schedules=arms.schedules,
    beta_max=arms.beta_max,
  )
  planned, wrong, traced = {}, {}, set()
  for arm in crossed:
    try:
      setup = make_setup(config, arm)
      program = make_fit(setup.recipe), arm.perceptual > 0
      if program not in traced:
        _trace_fit(setup)
        stages.check_memory(setup, len(setup.seeds) * arms.together)
      traced.add(program)
      planned[arm] = count_steps(setup)
    except ValueError as error:
      wrong.setdefault(' '.join(str(error).split()), []).append(arm.name)
  if wrong:
    count = len(crossed) - len(planned)
    reasons = [f'{", ".join(who)}: {why}' for why, who in wrong.items()]
    raise ValueError(
      f'{count} of {len(crossed)} arms cannot run: {"; ".join(reasons)}'
    )
  return planned


def make_setup(config: ml_collections.ConfigDict, arm: Arm) -> stages.Setup:
  """Returns what an arm's stages share; a plain fit is one stage without noise.

  Raises:
    ValueError: an arm that cannot run.
  """
  setup = stages.make_setup(make_config(config, arm))
  marks = {'arm': arm.name, **setup.marks}
  if not arm.is_plain:
    return setup._replace(marks=marks)
  last = {table.FIXED: monitors.Last(steps=count_steps(setup))}
  recipe = setup.recipe.watch(**last)
  return setup._replace(recipe=recipe, marks=marks)


def make_config(
  config: ml_collections.ConfigDict, arm: Arm
) -> ml_collections.ConfigDict:
  """Returns the config of one arm, with the fields of configs/staged.py.

  Its fit.steps is the largest with which all stages together take at most the
  ablation's fit.steps.
  """
  case = fields.choose(config.cases, arm.network, 'arms.networks')
  own = ml_collections.ConfigDict(config.to_dict())
  # Without the ablation's sections it is a config of staged fitting.
  del own.arms, own.baselines, own.cases
  own.network = case.network
  own.fit.update(case.fit)
  own.stop.update(case.stop)
  own.fit.perceptual = arm.perceptual
  own.staged.update(reference=arm.reference, parallel=False)
  own.schedule.update(name=arm.schedule, beta_max=arm.beta_max)
  if arm.is_plain:
    plain = {'name': 'linear', 'beta_max': own.schedule.beta_min, 'stages': 1}
    own.schedule.update(plain)
    own.staged.update(code='fixed', residual=False)
  own.fit.steps = _spend_budget(own)
  return own


def _spend_budget(own):
  budget = own.fit.steps

  def count(most):
    own.fit.steps = most
    return sum(stage.steps for stage in stages.make_plan(own))

  # Stages take fixed shares of fit.steps, up to rounding. The shares give a
  # first value; rounding down may leave room for a few steps more.
  most = int(budget * _ENOUGH / count(_ENOUGH))
  while count(most + 1) <= budget:
    most += 1
  return most


def count_steps(setup: stages.Setup) -> int:
  """Returns the most steps that an arm can take, for each seed."""
  return sum(stage.steps for stage in setup.plan)


def _trace_fit(setup):
  """Raises the errors that a fit has before its first step; fits nothing."""

  def begin(key):
    recipe, problem = stages.pose_stage(setup, key, 0, setup.first_code)
    return make_fit(recipe).init(key, problem, setup.data.clean)

  jax.eval_shape(begin, setup.keys[0])


def describe_budget(
  config: ml_collections.ConfigDict,
  planned: Mapping[Arm, int],
  done: Collection[str],
) -> str:
  """Returns the number of arms and the steps they can take, in one line."""
  steps, lanes = list(planned.values()), config.lanes
  finished = sum(arm.name in done for arm in planned)
  return (
    f'{len(steps)} arms of {lanes} seed{"s" * (lanes > 1)}, a budget of '
    f'{config.fit.steps} steps for each seed of each (whole stages are '
    f'{min(steps)} to {max(steps)}): at most {lanes * sum(steps)} steps in all'
    f'; {finished} arms are finished'
  )


def group_arms(arms: Collection[Arm]) -> dict[str, list[Arm]]:
  """Returns the arms of each program, by a name of the program.

  Arms of one program differ in numbers alone: in levels, targets, and weights
  of the perceptual error above 0. Networks keep their order.
  """
  groups: dict[str, list[Arm]] = {}
  for arm in arms:
    loss = 'perceptual' if arm.perceptual else 'squared'
    kind = 'plain' if arm.is_plain else 'staged'
    groups.setdefault(f'{arm.network}-{loss}-{kind}', []).append(arm)
  return groups
