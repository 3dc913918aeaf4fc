"""The read noise, by the likelihood of nearly black blocks.

Nearly black, photons add least to the noise. About half of the values are
clipped there, and those above black tell the rest. Each block has one
brightness. How many blocks have which is not known, nor how many have texture,
which looks like any other noise: for each read noise these shares are those
that suit all blocks best.
"""

import math
from typing import NamedTuple

import numpy as np

from dipjax.noise import photons

_SIDE = 4  # Of a block.
_LOW, _HIGH = 0.3, 0.8  # Shares of black around a block that is nearly black.
_FEWEST, _MOST = 50, 1000  # Blocks.
_FINE = 4  # Steps of the median above black, about.
_TOP = 64  # Steps; brighter values count as one.
_READS = np.geomspace(0.3, 30, 70)  # In steps.
_XS = 40  # Brightnesses.
_ROUNDS = 30
_USUAL = 0.05  # The relative error that is left where there are many blocks.


class Read(NamedTuple):
  """The variance of the read noise, and its standard error."""

  variance: float
  error: float


def find_read(cut: np.ndarray, gain: float, step: float) -> Read | None:
  """Returns the read noise, None where a picture has too little black.

  Args:
    cut: tiles of a picture whose noise was clipped at black, [..., 20, 20].
    gain: the variance that a step of 1 in brightness adds, above 0.
    step: between values.
  """
  blocks = _find_dark(cut)
  if len(blocks) < _FEWEST:
    return None
  blocks = blocks[:: math.ceil(len(blocks) / _MOST)]
  # An odd number of steps: no value lies between two.
  step *= 2 * int(np.median(blocks[blocks > 0]) / step / _FINE / 2) + 1
  values = np.minimum(np.rint(blocks / step), _TOP).astype(int)
  belief = _mix(_find_likelihood(values, gain / step))
  size = np.log(_READS)
  middle = belief @ size
  error = math.hypot(math.sqrt(belief @ (size - middle) ** 2), _USUAL)
  variance = (step * math.exp(middle)) ** 2
  return Read(variance, 2 * error * variance)


def _find_dark(cut):
  """Returns the nearly black blocks, [n, 16]."""
  side = cut.shape[-1] // _SIDE
  parts = cut.reshape(-1, side, _SIDE, side, _SIDE).swapaxes(2, 3)
  black = np.mean(parts == 0, (3, 4))
  # Blocks that are chosen by their neighbours are chosen without a bias.
  rings = np.lib.stride_tricks.sliding_window_view(black, (3, 3), (1, 2))
  around = (rings.sum((3, 4)) - black[:, 1:-1, 1:-1]) / 8
  blocks = parts[:, 1:-1, 1:-1].reshape(*around.shape, -1)
  return blocks[(around > _LOW) & (around < _HIGH)]


def _find_likelihood(values, gain):
  """Returns the likelihood of each block, [reads, n, brightnesses].

  The highest of each block is 1.

  Args:
    values: of the blocks, integers, [n, 16].
    gain: in the unit of the values.
  """
  counts = np.zeros((len(values), _TOP + 1))
  np.add.at(counts, (np.arange(len(values))[:, None], values), 1)
  # Twice the brightness of the brightest block; most are near black.
  x = np.linspace(0, math.sqrt(2 * np.mean(values, 1).max()), _XS) ** 2
  weight = photons.count_photons(x, gain)
  ends = np.arange(_TOP) + 0.5
  above = ends - gain * np.arange(weight.shape[1])[:, None]
  if not weight.size:  # Gaussian, and nearly black, so without a gain.
    weight, above = np.eye(_XS), ends - x[:, None]
  found = []
  for read in _READS:
    below = photons.find_share(above.ravel() / read).reshape(above.shape)
    below = np.pad(weight @ below, ((0, 0), (1, 1)), constant_values=(0, 1))
    chance = np.maximum(np.diff(below), 1e-12)
    found.append(counts @ np.log(chance).T)
  found = np.stack(found)
  return np.exp(found - found.max((0, 2))[:, None])


def _mix(likelihood):
  """Returns how likely each read noise is, [reads], of sum 1."""
  others = likelihood.mean((0, 2))[:, None]
  total = []
  for each in likelihood:
    kinds = np.hstack([each, others])
    shares = np.full(kinds.shape[1], 1 / kinds.shape[1])
    for _ in range(_ROUNDS):
      shares *= np.mean(kinds / (kinds @ shares)[:, None], 0)
    total.append(np.sum(np.log(kinds @ shares)))
  belief = np.exp(np.array(total) - max(total))
  return belief / belief.sum()
