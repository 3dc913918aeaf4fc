"""Noise levels of diffusion models, and the lengths of stages made from them.

A level is a variance in (0, 1): the image x at a level beta is
sqrt(1 - beta) x + sqrt(beta) noise. A schedule is a row of levels that never
falls. A schedule is NumPy float64, because the host plans with it and no
compiled step reads it. u runs from 0 (first level) to 1 (last level).

Sources: Ho et al. 2020 (linear), Rombach et al. 2022 (scaled-linear), Nichol
and Dhariwal 2021 (cosine).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NAMES = ('linear', 'scaled-linear', 'cosine')

# Nichol and Dhariwal's offset s keeps the first steps from adding almost no
# noise; their bound keeps the last step from adding only noise.
_OFFSET = 0.008
_MOST = 0.999
# The exponent of a number that any number of steps can be multiplied with.
_LARGEST = 500


def make_levels(
  name: str, count: int, *, beta_min: float, beta_max: float
) -> np.ndarray:
  """Returns `count` levels that rise from beta_min to beta_max.

  u takes `count` evenly spaced values from 0 to 1. The schedules are:

  - 'linear': the level is linear in u.
  - 'scaled-linear': the root of the level is linear in u.
  - 'cosine': the level rises as the noise in Nichol and Dhariwal's samples
    does, 1 - (cos((u + s) / (1 + s) pi / 2) / cos(s / (1 + s) pi / 2))^2,
    stretched to run from beta_min to beta_max.

  A schedule of one level is [beta_min].

  Returns:
    [count], float64.

  Raises:
    ValueError: an unknown name, fewer than one level, a beta outside of (0, 1),
      or beta_min above beta_max.
  """
  _check_name(name)
  _check_betas(count, beta_min, beta_max)
  if name == 'linear':
    return np.linspace(beta_min, beta_max, count)
  if name == 'scaled-linear':
    # Rombach et al. space the standard deviations evenly, not the variances.
    return np.linspace(math.sqrt(beta_min), math.sqrt(beta_max), count) ** 2
  # A stage needs its own two ends, so the cosine gives only the shape between
  # them; `make_betas` takes the cosine as it is.
  share = 1 - _keep_by_cosine(np.linspace(0, 1, count))
  return beta_min + (beta_max - beta_min) * share


def make_betas(
  name: str, steps: int, *, beta_min: float = 1e-4, beta_max: float = 0.02
) -> np.ndarray:
  """Returns the variance that each step of a diffusion adds, [steps].

  'linear' and 'scaled-linear' are the levels of `make_levels`. 'cosine' uses
  neither beta_min nor beta_max: the variance of step t, counted from 0, is
  1 - keep((t + 1) / steps) / keep(t / steps), at most 0.999, where keep(u) is
  the share of the image's variance that is left at u.

  Raises:
    ValueError: as `make_levels`.
  """
  if name != 'cosine':
    return make_levels(name, steps, beta_min=beta_min, beta_max=beta_max)
  _check_betas(steps, beta_min, beta_max)
  # Ratios of neighbours make the product of 1 - beta the cosine itself. The
  # last ratio would be 0, a step that forgets the image; the bound avoids it.
  kept = _keep_by_cosine(np.linspace(0, 1, steps + 1))
  return np.minimum(1 - kept[1:] / kept[:-1], _MOST)


def cumulate_levels(betas: np.ndarray) -> np.ndarray:
  """Returns the level after each step, 1 - cumprod(1 - betas), [steps]."""
  return 1 - np.cumprod(1 - betas)


def q_sample(image: Any, noise: Any, level: Any) -> Any:
  """Returns sqrt(1 - level) image + sqrt(level) noise.

  With noise N(0, 1), the result is a sample of the forward process of a
  diffusion, drawn in one step: the mean is sqrt(1 - level) image, the variance
  is the level. At level 0 the result is the image.

  Args:
    image, noise: arrays of one shape.
    level: in [0, 1], a number or an array that broadcasts.
  """
  # Powers, not np.sqrt: the function takes numbers, NumPy's and JAX's arrays.
  return (1 - level) ** 0.5 * image + level**0.5 * noise


def count_stage_steps(
  levels: Sequence[float], *, most: int, alpha: float, k: float
) -> list[int]:
  """Returns int(most * (1 - alpha * exp(-k * level))) for each level.

  The formula is the source's. The source also says that a stage with less noise
  gets more steps. With alpha > 0 that holds for every k below 0, so the
  source's own k must have been below 0.

  Args:
    levels: the noise level of each stage, in [0, 1).
    most: Emax; with alpha > 0 no stage has more steps.
    alpha: the share of `most` that a stage at level 0 does not get.
    k: how fast the number of steps changes with the level.

  Raises:
    ValueError: a stage with fewer than 1 step, or an alpha or k that is not
      finite.
  """
  if not (math.isfinite(alpha) and math.isfinite(k)):
    raise ValueError(f'alpha and k must be finite, got {alpha} and {k}')
  # A power so large that it overflows leaves no steps either way.
  shrink = lambda level: math.exp(min(-k * float(level), _LARGEST))
  steps = [int(most * (1 - alpha * shrink(level))) for level in levels]
  for level, count in zip(levels, steps):
    if count < 1:
      raise ValueError(
        f'the stage of level {level:g} would have {count} steps: raise the '
        f'steps ({most}), or lower alpha ({alpha:g}) or the size of k ({k:g})'
      )
  return steps


def _keep_by_cosine(u: np.ndarray) -> np.ndarray:
  """Returns the share of the image's variance left at u, from 1 to 0."""
  # Nichol and Dhariwal's squared cosine, divided by its value at u = 0: the
  # offset s would otherwise leave less than the whole image there.
  angle = (u + _OFFSET) / (1 + _OFFSET) * math.pi / 2
  return (np.cos(angle) / np.cos(_OFFSET / (1 + _OFFSET) * math.pi / 2)) ** 2


def _check_name(name: str) -> None:
  if name not in NAMES:
    raise ValueError(f'schedule {name!r} is not one of {", ".join(NAMES)}')


def _check_betas(count: int, beta_min: float, beta_max: float) -> None:
  if count < 1:
    raise ValueError(f'a schedule needs at least 1 level, got {count}')
  if not 0 < beta_min <= beta_max < 1:
    raise ValueError(
      'a schedule needs 0 < beta_min <= beta_max < 1, got '
      f'{beta_min} and {beta_max}'
    )
