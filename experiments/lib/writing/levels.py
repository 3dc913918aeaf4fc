"""The values of a file: the nearest levels, and the old ones where masked."""

from typing import NamedTuple

import numpy as np

from experiments.lib.reading import Notes, Picture
from experiments.lib.writing.plan import Plan

_BLOCK = 1 << 20  # Values at a time, so that memory stays bounded.


class Content(NamedTuple):
  """What an encoder makes a file of."""

  values: np.ndarray  # [H, W, C], in the type of the plan.
  alpha: np.ndarray | None  # [H, W], of that type.
  plan: Plan
  like: Picture
  notes: Notes

  def join(self) -> np.ndarray:
    """Returns [H, W, C] with alpha as the last channel, [H, W] for grey."""
    if self.alpha is not None:
      return np.dstack([self.values, self.alpha])
    return self.values[..., 0] if self.plan.channels == 1 else self.values


def find_values(pixels: np.ndarray, plan: Plan, like: Picture) -> np.ndarray:
  """Returns the values of pixels [H, W, C] whose white is 1.

  Integers are the nearest level, between 0 and white. Floats are not rounded.
  Masked pixels have the values of the input.
  """
  values = np.empty(pixels.shape, plan.dtype)
  rows = max(1, _BLOCK // pixels[0].size)
  for start in range(0, len(pixels), rows):
    block = slice(start, start + rows)
    values[block] = _scale(pixels[block], plan)
  if like.mask is not None:
    values[~like.mask] = _find_masked(plan, like)
  return values


def find_alpha(plan: Plan, like: Picture) -> np.ndarray | None:
  """Returns the alpha of the input, at the depth of the file."""
  if like.alpha is None:
    return None
  if plan.full == like.full:
    return like.alpha.astype(plan.dtype)
  alpha = like.alpha / np.float64(like.full or 1)
  return _scale(alpha, plan._replace(white=plan.full or 1))


def _find_masked(plan, like):
  # Only TIFF holds colours that are multiplied by alpha.
  alpha = like.alpha if like.associated and plan.container != 'TIFF' else None
  if plan.same and alpha is None:
    return like.stored.astype(plan.dtype)
  if like.alpha is None and plan.full is None:
    return np.full(like.stored.shape, np.nan)
  colours = like.stored / np.float64(like.white)
  if alpha is not None:
    share = alpha[~like.mask][:, None] / np.float64(like.full or 1)
    colours = np.divide(colours, share, out=0 * colours, where=share > 0)
  return _scale(colours, plan)


def _scale(pixels, plan):
  if plan.full is None:
    return (pixels.astype(np.float64) * plan.white).astype(plan.dtype)
  levels = np.rint(np.clip(pixels.astype(np.float64), 0, 1) * plan.white)
  # The largest integers of 64 bits are no doubles: the next one is too large.
  top = np.iinfo(plan.dtype).max
  largest = levels >= float(top)
  levels[largest] = 0
  values = levels.astype(plan.dtype)
  values[largest] = top
  return values
