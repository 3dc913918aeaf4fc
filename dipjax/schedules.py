"""Noise levels of diffusion models, and the lengths of stages made from them.

A level beta is a variance, in (0, 1): sqrt(1 - beta) x + sqrt(beta) noise. A
schedule is a rising row of levels, NumPy float64: numbers for the host to plan
with. Sources: Ho et al. 2020 (linear), Rombach et al. 2022 (scaled-linear),
Nichol and Dhariwal 2021 (cosine).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

NAMES = ('linear', 'scaled-linear', 'cosine')

# Nichol and Dhariwal's offset s, and their bound of a step's level.
_OFFSET = 0.008
_MOST = 0.999


def make_levels(
  name: str, count: int, *, beta_min: float, beta_max: float
) -> np.ndarray:
  """Returns `count` rising levels from beta_min to beta_max; one is beta_min.

  With u evenly from 0 to 1: 'linear' in u; 'scaled-linear', the square of what
  is linear in u between the roots; 'cosine', as the noise in Nichol and
  Dhariwal's samples rises, 1 - (cos((u + s) / (1 + s) pi / 2) / its start)^2.

  Raises:
    ValueError: an unknown name, fewer than one level, a beta outside of (0, 1),
      or beta_min above beta_max.
  """
  _check_name(name)
  _check_betas(count, beta_min, beta_max)
  if name == 'linear':
    return np.linspace(beta_min, beta_max, count)
  if name == 'scaled-linear':
    return np.linspace(math.sqrt(beta_min), math.sqrt(beta_max), count) ** 2
  share = 1 - _keep_by_cosine(np.linspace(0, 1, count))
  return beta_min + (beta_max - beta_min) * share


def make_betas(
  name: str, steps: int, *, beta_min: float = 1e-4, beta_max: float = 0.02
) -> np.ndarray:
  """Returns the variance that each of a diffusion's steps adds, [steps].

  As `make_levels`, but 'cosine', which takes neither end: there
  1 - keep((t + 1) / steps) / keep(t / steps), at most 0.999.

  Raises:
    ValueError: as `make_levels`.
  """
  if name != 'cosine':
    return make_levels(name, steps, beta_min=beta_min, beta_max=beta_max)
  _check_betas(steps, beta_min, beta_max)
  kept = _keep_by_cosine(np.linspace(0, 1, steps + 1))
  return np.minimum(1 - kept[1:] / kept[:-1], _MOST)


def cumulate_levels(betas: np.ndarray) -> np.ndarray:
  """Returns the level after each step, 1 - cumprod(1 - betas), [steps]."""
  return 1 - np.cumprod(1 - betas)


def q_sample(image: Any, noise: Any, level: Any) -> Any:
  """Returns sqrt(1 - level) image + sqrt(level) noise.

  Of noise N(0, 1) the forward process of a diffusion, at once: its mean is
  sqrt(1 - level) image, its variance the level. A level of 0 is the image.

  Args:
    image, noise: arrays of one shape.
    level: in [0, 1], a number or an array that broadcasts.
  """
  return (1 - level) ** 0.5 * image + level**0.5 * noise


def count_stage_steps(
  levels: Sequence[float], *, most: int, alpha: float, k: float
) -> list[int]:
  """Returns int(most * (1 - alpha * exp(-k * level))) for each level.

  The source's formula, and its words are that stages of less noise get more
  steps: true for every k below 0, as its own must have been, with alpha > 0.

  Args:
    levels: of the stages, in [0, 1).
    most: Emax, a bound of every length for alpha > 0.
    alpha: the share of `most` that a stage without noise does not get.
    k: how fast lengths change with the level.

  Raises:
    ValueError: a stage without a step, or numbers that are not finite.
  """
  if not (math.isfinite(alpha) and math.isfinite(k)):
    raise ValueError(f'alpha and k must be finite, got {alpha} and {k}')
  steps = [
    int(most * (1 - alpha * math.exp(-k * float(level)))) for level in levels
  ]
  for level, count in zip(levels, steps):
    if count < 1:
      raise ValueError(
        f'the stage of level {level:g} would have {count} steps: raise the '
        f'steps ({most}), or lower alpha ({alpha:g}) or the size of k ({k:g})'
      )
  return steps


def _keep_by_cosine(u: np.ndarray) -> np.ndarray:
  """Of the image's variance what is left at u, from 1 to 0."""
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
