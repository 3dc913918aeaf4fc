"""The variance of white noise by brightness, in spite of texture.

In white noise all frequencies of a block have the same energy V; texture has
more at middle frequencies than at high ones. Over blocks of more and more
texture the two energies move along a line,

  high - V = alpha (middle - V),

which ends where both are V: the noise. V itself is constant + gain x for
brightness x, less where the noise was clipped: the share of pixels at black and
white tells how much less, also where a block has an edge (`photons`). The fit
finds alpha, constant and gain at once, from averages over blocks of like
brightness and texture.
"""

import math
from typing import NamedTuple

import numpy as np

from dipjax.noise import dark, photons, tiles

_STEPS = 129  # Brightness at which clipping is computed.
_LEFT = 0.1  # Clipping leaves so much of the variance, at least.
_EACH = 25  # Blocks in an average, about.
_HIGHEST = 2.0  # Medians; a block of noise hardly ever has more.
_ALIKE = 100  # Blocks, about, whose median is the usual energy of a brightness.
_ALPHA = 0.3  # What alpha is without evidence, and
_SPREAD = 0.15  # how far from it.
_STEEPEST = 0.7
_ROUNDS = 16
_LEAST = 0.02  # No variance is below this share of the median energy.
_USUAL = 2.5  # Normalised residuals above this count less, and
_FARTHEST = 9.0  # The square of a normalised residual counts at most so much.
_TINY = 1e-10
_GAIN = 12.0  # How much smaller a misfit must be for a gain, and
_MATTERS = 0.1  # the relative deviation of the variance that it must cause.
_TELLS = 2.0  # Brightness must vary so many times as much as by noise alone.


class Ends(NamedTuple):
  """Where noise was clipped, and the step between rounded values."""

  black: bool
  white: bool
  step: float = 0.0


class Levels(NamedTuple):
  """The variance of noise by brightness.

  Attributes:
    line: the variance before clipping.
    ends: where the noise was clipped.
    error: the relative standard error of the standard deviation.
    misfit: the sum of the squares of normalised residuals, each at most 9.
    brightness: a grid; on it
    seen: the means of clipped noise.
  """

  line: photons.Line
  ends: Ends
  error: float
  misfit: float
  brightness: np.ndarray
  seen: np.ndarray

  def find_variance(self, means: np.ndarray) -> np.ndarray:
    """Returns the variance before clipping, by the mean after it."""
    x = np.interp(means, self.seen, self.brightness)
    return self.line.find_variance(x)

  def expect_ends(self, means: np.ndarray) -> np.ndarray:
    """Returns the share of pixels at black or white in flat blocks."""
    share = np.zeros_like(self.brightness)
    for _, clipped in _clip(self.line, self.brightness, self.ends):
      share += clipped.share
    return np.interp(means, self.seen, share)


class _Averages(NamedTuple):
  """Averages of blocks of like brightness and texture, [groups]."""

  count: np.ndarray  # Independent blocks.
  means: np.ndarray
  high: np.ndarray
  middle: np.ndarray
  black: np.ndarray  # Shares of pixels.
  white: np.ndarray
  flattest: np.ndarray  # Whether the texture is the least of its brightness.


def fit_levels(
  blocks: tiles.Blocks, ends: Ends, read: dark.Read | None = None
) -> Levels:
  """Returns the simplest levels that fit well.

  Args:
    blocks: the more, the better.
    ends: where noise was clipped.
    read: what is known of the constant; there is a gain then.
  """
  averages = _average(blocks)
  sloped = _fit(averages, ends, read, has_gain=True)
  if read is not None:
    return sloped
  plain = _fit(averages, ends, read, has_gain=False)
  variance = np.mean(sloped.find_variance(averages.means))
  spread = np.std(averages.means)
  # Flat blocks differ in brightness by their noise, which tells no gain.
  tells = spread > _TELLS * math.sqrt(variance) / tiles.SIDE
  matters = abs(sloped.line.gain) * spread > _MATTERS * variance
  is_better = sloped.misfit + _GAIN < plain.misfit
  return sloped if tells and matters and is_better else plain


def _average(blocks):
  count = len(blocks.means)
  high = blocks.energies[:, tiles.HIGH].mean(1)
  middle = blocks.energies[:, tiles.MIDDLE].mean(1)
  # Edges have low frequencies, which tell nothing of white noise in high ones.
  texture = blocks.texture + blocks.slope
  rows = int(np.clip(count // 250, 2, 10))
  columns = int(np.clip(count // rows // _EACH, 3, 10))
  # Blocks of a row differ in brightness; what is much for one is not for all.
  alike = np.array_split(np.argsort(blocks.means), max(count // _ALIKE, 1))
  usual = np.interp(
    blocks.means,
    [np.mean(blocks.means[each]) for each in alike],
    [np.median(high[each]) for each in alike],
  )
  groups = []
  for row in np.array_split(np.argsort(blocks.means), rows):
    ordered = row[np.argsort(texture[row])]
    groups += np.array_split(ordered, columns)
  return _Averages(
    np.array([len(group) for group in groups]) * blocks.weight,
    np.array([np.mean(blocks.means[group]) for group in groups]),
    np.array([_average_most(high[group], usual[group]) for group in groups]),
    np.array([_average_most(middle[group], usual[group]) for group in groups]),
    np.array([np.mean(blocks.black[group]) for group in groups]),
    np.array([np.mean(blocks.white[group]) for group in groups]),
    np.arange(len(groups)) % columns == 0,
  )


def _average_most(values, usual):
  """Returns the mean, to which a few blocks with an edge add little."""
  most = _HIGHEST * np.median(values / usual) * usual
  return np.mean(np.minimum(values, most))


class _Guess(NamedTuple):
  """What a line says of averages, [groups], and how far they are from it."""

  x: np.ndarray  # The brightness.
  left: np.ndarray  # The share of the variance that clipping leaves.
  variance: np.ndarray  # After clipping.
  far: np.ndarray  # The texture, in variances.
  near: np.ndarray  # A weight: little texture counts most.
  residual: np.ndarray  # Squares, 1 on average.
  weight: np.ndarray


def _fit(a, ends, read, *, has_gain):
  least = max(_LEAST * float(np.median(a.high)), _TINY)
  grid = np.linspace(min(0, a.means.min()), max(1, a.means.max()), _STEPS)
  line, alpha = _start(a, least, has_gain), _ALPHA
  for _ in range(_ROUNDS):
    guess = _guess(a, line, alpha, grid, ends)
    solved, covariance = _solve(a, line, alpha, guess, read, has_gain)
    # Half a step: what is far depends on the solution.
    constant, gain, alpha = (
      (old + new) / 2 for old, new in zip((*line[:2], alpha), solved)
    )
    line = photons.Line(constant, gain, least)
  # The nearest texture is some way from the noise; the line may bend there.
  bend = np.quantile(guess.far, 0.1) * _SPREAD / (1 - alpha)
  deviation = math.sqrt(covariance[1, 1])
  level = np.mean(line.find_variance(guess.x))
  misfit = np.minimum(guess.residual, _FARTHEST) @ guess.near
  bias = sum(clipped.bias for _, clipped in _clip(line, grid, ends))
  return Levels(
    line=line,
    ends=ends,
    error=float(math.hypot(deviation / level, bend) / 2),
    misfit=float(misfit / guess.near.mean()),
    brightness=grid,
    seen=grid + bias,
  )


def _start(a, least, has_gain):
  """Returns a line near the flattest blocks."""
  high, x = a.high[a.flattest], a.means[a.flattest]
  gain = 0.0
  if has_gain:
    # The median of the slopes between all pairs (Theil and Sen).
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] - x[i]
    slopes = (high[j] - high[i])[apart > 0] / apart[apart > 0]
    gain = float(np.median(slopes)) if slopes.size else 0.0
  return photons.Line(float(np.quantile(high - gain * x, 0.25)), gain, least)


def _guess(a, line, alpha, grid, ends):
  # The share of a group's pixels at an end tells what they lost there, also
  # where bright and dark pixels lie side by side.
  bias, loss = np.zeros_like(a.means), np.zeros_like(a.means)
  for name, clipped in _clip(line, grid, ends):
    order, share = np.argsort(clipped.share), getattr(a, name)
    bias += np.interp(share, clipped.share[order], clipped.bias[order])
    # By chance a group has more at an end than any brightness; all of it there
    # would have lost all of its variance.
    shares = np.append(clipped.share[order], 1)
    most = line.find_variance(np.array([float(name == 'white')]))
    losses = np.append(clipped.loss[order], most)
    loss += np.interp(share, shares, losses)
  x = np.clip(a.means - bias, grid[0], grid[-1])
  whole = line.find_variance(x)
  left = np.maximum(1 - loss / whole, _LEFT)
  variance = whole * left
  texture = np.maximum(a.middle - variance, 0)
  predicted = variance + alpha * texture
  # Much texture is not on the line of little texture and counts less.
  far = texture / variance
  near = 1 / (1 + (far / max(1.0, np.quantile(far, 0.25))) ** 2)
  # An average of k squares has a relative variance of 2 / k.
  precision = a.count * np.sum(tiles.HIGH) / 2 / predicted**2
  residual = np.square(a.high - predicted) * precision
  weight = precision * near / np.maximum(1, np.sqrt(residual) / _USUAL)
  return _Guess(x, left, variance, far, near, residual, weight)


def _solve(a, line, alpha, guess, read, has_gain):
  """Returns the next (constant, gain, alpha), and a covariance.

  high - alpha variance is linear, around the last line, in alpha, in the
  variance at the mean brightness, and in the gain: the covariance is of these.
  """
  center = float(np.mean(a.means))
  columns = [a.middle - guess.variance, (1 - alpha) * guess.left]
  columns += [columns[1] * (guess.x - center)] if has_gain else []
  scale = np.sqrt(guess.weight)
  belief = np.eye(1, len(columns)) / _SPREAD
  matrix = np.vstack([np.stack(columns, 1) * scale[:, None], belief])
  target = (a.high - alpha * guess.variance) * scale
  target = np.append(target, _ALPHA / _SPREAD)
  if read is not None:
    matrix = np.vstack([matrix, np.array([0, 1, -center]) / read.error])
    target = np.append(target, read.variance / read.error)
  solved = np.linalg.lstsq(matrix, target, rcond=None)[0]
  gain = float(solved[2]) if has_gain else 0.0
  constant = max(float(solved[1]), line.least) - center * gain
  alpha = float(np.clip(solved[0], 0, _STEEPEST))
  return (constant, gain, alpha), np.linalg.pinv(matrix.T @ matrix)


def _clip(line, x, ends):
  """Returns the name of each end that clips, and what it does."""
  both = zip(('black', 'white'), photons.clip(x, line, ends.step))
  return [(name, clipped) for name, clipped in both if getattr(ends, name)]
