"""Stages: targets of falling noise, fitted one after the other by one network.

A plan is a row of stages, from the noisiest to the cleanest. Each stage is a
problem of its own; all stages have the same shapes, so that one compiled
program serves all of them. A stage gives the next stage its parameters, its
image as the code and, if wanted, the optimiser's state; the average and the
monitors begin anew.

Targets are made from the reference: the measurement, or, for the oracle
protocol of the literature, the clean image itself.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax

from dipjax import schedules, settings
from dipjax.engine import fit

Array = jax.Array

REFERENCES = ('measurement', 'clean')


class Stage(NamedTuple):
  """One target, and how long it is fitted."""

  level: float  # Variance of the noise that is added; 0: the reference itself.
  noise: float  # Variance of all noise known to be in the target; 0: none is.
  steps: int  # The most steps that the stage takes.


def plan_stages(
  levels: Iterable[float],
  *,
  reference: str,
  steps: int,
  alpha: float,
  k: float,
  sigma: float = 0.0,
) -> list[Stage]:
  """Returns the stages, from the noisiest to the cleanest.

  With the measurement as reference the last target is the measurement itself:
  the lowest level is replaced by 0.

  Args:
    levels: variances of the added noise, rising, see `schedules.make_levels`.
    reference: what the targets are made from, one of REFERENCES.
    steps, alpha, k: what sets the stages' lengths, see
      `schedules.count_stage_steps`.
    sigma: standard deviation of the measurement's own noise, where it is known.

  Raises:
    ValueError: another reference, or a stage without a step.
  """
  if reference not in REFERENCES:
    raise ValueError(
      f'reference {reference!r} is not one of {", ".join(REFERENCES)}'
    )
  # `make_target` scales the measurement by sqrt(1 - level), and with it the
  # variance of the measurement's own noise by 1 - level. The oracle's reference
  # has no noise of its own.
  falling = [float(level) for level in levels][::-1]
  own = 0.0
  if reference == 'measurement':
    falling[-1], own = 0.0, sigma**2
  lengths = schedules.count_stage_steps(falling, most=steps, alpha=alpha, k=k)
  return [
    Stage(level, level + (1 - level) * own, length)
    for level, length in zip(falling, lengths)
  ]


def make_key(key: Array, index: int) -> Array:
  """Returns the key of a stage; the first stage has the lane's own key."""
  # Streams 1 and 2 of a key belong to its code and to its target.
  return jax.random.fold_in(jax.random.fold_in(key, 3), index) if index else key


@settings.pin()
def make_target(key: Array, reference: Array, level: float) -> Array:
  """Returns sqrt(1 - level) reference + sqrt(level) noise, not clipped.

  Args:
    key: the stage's key; the noise is drawn from a stream of its own.
    reference: [H, W, C] in [0, 1].
    level: variance of the noise that the stage adds.
  """
  noise = jax.random.normal(jax.random.fold_in(key, 2), reference.shape)
  return schedules.q_sample(reference, noise, level)


def inherit(
  fresh: fit.FitState, before: fit.FitState, *, keep_optimizer: bool
) -> fit.FitState:
  """Returns a fresh state with the parameters of the stage before.

  Args:
    fresh: the state that `fit.init` made, of one lane or of many.
    before: the state at the end of the stage before.
    keep_optimizer: whether the stage takes over the optimiser's state as well.
  """
  state = fresh.replace(params=before.params)
  return state.replace(opt_state=before.opt_state) if keep_optimizer else state
