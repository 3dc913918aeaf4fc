"""The variance of white noise by brightness, in spite of texture.

In white noise all frequencies of a block have the same energy V; texture has
more at middle frequencies than at high ones. Over blocks of more and more
texture the two energies move along a line,

  high - V = alpha (middle - V),

which ends where both are V: the noise. V itself is constant + gain x for
brightness x, less where the noise was clipped: the share of pixels at black and
white tells how much less, also where a block has an edge. The fit finds alpha,
constant and gain at once, from averages over blocks of like brightness and
texture.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dipjax.noise import tiles

_STEPS = 129  # Brightness at which clipping is computed.
_FAR = 4.0  # Deviations; noise that has so far to an end is hardly clipped.
_EACH = 25  # Blocks in an average, about.
_HIGHEST = 2.0  # Medians; a block of noise hardly ever has more.
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


class Ends(NamedTuple):
  """Where noise was clipped."""

  black: bool
  white: bool


class Levels(NamedTuple):
  """The variance of noise by brightness: constant + gain x.

  Attributes:
    constant: the variance at x = 0; below 0 where black is not at 0.
    gain: the variance that a step of 1 in brightness adds.
    least: no variance is less.
    ends: where the noise was clipped.
    error: the relative standard error of the standard deviation.
    misfit: the sum of the squares of normalised residuals, each at most 9.
    brightness: a grid; on it
    seen: the means of clipped noise.
  """

  constant: float
  gain: float
  least: float
  ends: Ends
  error: float
  misfit: float
  brightness: np.ndarray
  seen: np.ndarray

  def find_variance(self, means: np.ndarray) -> np.ndarray:
    """Returns the variance before clipping, by the mean after it."""
    x = np.interp(means, self.seen, self.brightness)
    return np.maximum(self.constant + self.gain * x, self.least)

  def expect_ends(self, means: np.ndarray) -> np.ndarray:
    """Returns the share of pixels at black or white in flat blocks."""
    x, sigma = self.brightness, np.sqrt(self.find_variance(self.seen))
    share = np.zeros_like(x)
    if self.ends.black:
      share += _find_share(-x / sigma)
    if self.ends.white:
      share += _find_share((x - 1) / sigma)
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


def fit_levels(blocks: tiles.Blocks, piled: Sequence[float]) -> Levels:
  """Returns the simplest levels that fit well.

  Args:
    blocks: the more, the better.
    piled: the ends, of 0 and 1, where values pile up: noise was clipped.
  """
  averages, ends = _average(blocks), Ends(0 in piled, 1 in piled)
  plain, sloped = (_fit(averages, ends, has_gain) for has_gain in (False, True))
  variance = np.mean(sloped.find_variance(averages.means))
  matters = abs(sloped.gain) * np.std(averages.means) > _MATTERS * variance
  return sloped if matters and sloped.misfit + _GAIN < plain.misfit else plain


def _average(blocks):
  count = len(blocks.means)
  high = blocks.energies[:, tiles.HIGH].mean(1)
  middle = blocks.energies[:, tiles.MIDDLE].mean(1)
  # Edges have low frequencies, which tell nothing of white noise in high ones.
  texture = blocks.texture + blocks.slope
  rows = int(np.clip(count // 250, 2, 10))
  columns = int(np.clip(count // rows // _EACH, 3, 10))
  groups = []
  for row in np.array_split(np.argsort(blocks.means), rows):
    ordered = row[np.argsort(texture[row])]
    groups += np.array_split(ordered, columns)
  return _Averages(
    np.array([len(group) for group in groups]) * blocks.weight,
    np.array([np.mean(blocks.means[group]) for group in groups]),
    np.array([_average_most(high[group]) for group in groups]),
    np.array([_average_most(middle[group]) for group in groups]),
    np.array([np.mean(blocks.black[group]) for group in groups]),
    np.array([np.mean(blocks.white[group]) for group in groups]),
    np.arange(len(groups)) % columns == 0,
  )


def _average_most(values):
  """Returns the mean, to which a few blocks with an edge add little."""
  return np.mean(np.minimum(values, _HIGHEST * np.median(values)))


class _Line(NamedTuple):
  """What is fitted."""

  constant: float
  gain: float
  alpha: float


class _Guess(NamedTuple):
  """What a line says of averages, [groups], and how far they are from it."""

  x: np.ndarray  # The brightness.
  variance: np.ndarray  # After clipping.
  far: np.ndarray  # The texture, in variances.
  near: np.ndarray  # A weight: little texture counts most.
  residual: np.ndarray  # Squares, 1 on average.
  weight: np.ndarray


def _fit(a, ends, has_gain):
  least = max(_LEAST * float(np.median(a.high)), _TINY)
  grid = np.linspace(min(0, a.means.min()), max(1, a.means.max()), _STEPS)
  clipped = _find_left(a.black) if ends.black else np.ones_like(a.high)
  clipped -= 1 - _find_left(a.white) if ends.white else 0
  line = _start(a, has_gain)
  for _ in range(_ROUNDS):
    seen = _clip(_find_line(line, grid, least), grid, ends)
    guess = _guess(a, line, least, np.interp(a.means, seen, grid), clipped)
    solved, covariance = _solve(a, line, guess, clipped, least, has_gain)
    # Half a step: what is far depends on the solution.
    line = _Line(*((old + new) / 2 for old, new in zip(line, solved)))
  seen = _clip(_find_line(line, grid, least), grid, ends)
  # The nearest texture is some way from the noise; the line may bend there.
  bend = np.quantile(guess.far, 0.1) * _SPREAD / (1 - line.alpha)
  deviation = math.sqrt(covariance[1, 1])
  level = np.mean(_find_line(line, guess.x, least))
  misfit = np.minimum(guess.residual, _FARTHEST) @ guess.near
  return Levels(
    constant=line.constant,
    gain=line.gain,
    least=least,
    ends=ends,
    error=float(math.hypot(deviation / level, bend) / 2),
    misfit=float(misfit / guess.near.mean()),
    brightness=grid,
    seen=seen,
  )


def _start(a, has_gain):
  """Returns a line near the flattest blocks."""
  high, x = a.high[a.flattest], a.means[a.flattest]
  gain = 0.0
  if has_gain:
    # The median of the slopes between all pairs (Theil and Sen).
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] - x[i]
    slopes = (high[j] - high[i])[apart > 0] / apart[apart > 0]
    gain = float(np.median(slopes)) if slopes.size else 0.0
  return _Line(float(np.quantile(high - gain * x, 0.25)), gain, _ALPHA)


def _find_line(line, x, least):
  return np.maximum(line.constant + line.gain * x, least)


def _guess(a, line, least, x, clipped):
  variance = _find_line(line, x, least) * clipped
  texture = np.maximum(a.middle - variance, 0)
  predicted = variance + line.alpha * texture
  # Much texture is not on the line of little texture and counts less.
  far = texture / variance
  near = 1 / (1 + (far / max(1.0, np.quantile(far, 0.25))) ** 2)
  # An average of k squares has a relative variance of 2 / k.
  precision = a.count * np.sum(tiles.HIGH) / 2 / predicted**2
  residual = np.square(a.high - predicted) * precision
  weight = precision * near / np.maximum(1, np.sqrt(residual) / _USUAL)
  return _Guess(x, variance, far, near, residual, weight)


def _solve(a, line, guess, clipped, least, has_gain):
  """Returns the next line, and the covariance of (alpha, variance, gain).

  high - alpha variance is linear, around the last line, in alpha, in the
  variance at the mean brightness, and in the gain.
  """
  center = float(np.mean(a.means))
  columns = [a.middle - guess.variance, (1 - line.alpha) * clipped]
  columns += [columns[1] * (guess.x - center)] if has_gain else []
  scale = np.sqrt(guess.weight)
  belief = np.eye(1, len(columns)) / _SPREAD
  matrix = np.vstack([np.stack(columns, 1) * scale[:, None], belief])
  target = (a.high - line.alpha * guess.variance) * scale
  target = np.append(target, _ALPHA / _SPREAD)
  solved = np.linalg.lstsq(matrix, target, rcond=None)[0]
  gain = float(solved[2]) if has_gain else 0.0
  constant = max(float(solved[1]), least) - center * gain
  alpha = float(np.clip(solved[0], 0, _STEEPEST))
  return _Line(constant, gain, alpha), np.linalg.pinv(matrix.T @ matrix)


def _clip(variance, x, ends):
  """Returns the means of clipped noise around x."""
  sigma = np.sqrt(variance)
  low = -x / sigma if ends.black else np.full_like(x, -np.inf)
  high = (1 - x) / sigma if ends.white else np.full_like(x, np.inf)
  between = _find_share(high) - _find_share(low)
  moved = _find_density(low) - _find_density(high)
  return x * between + sigma * moved + 1 - _find_share(high)


def _find_left(share):
  """Returns the variance that noise has left once this share was clipped.

  It is that of max(z, -away), z ~ N(0, 1), where `share` of all z is below. A
  block with an edge has a little more, at most 0.07.

  Args:
    share: of the pixels that lie at one end.
  """
  away = np.linspace(_FAR, -_FAR, _STEPS)
  below, density = _find_share(-away), _find_density(away)
  mean = density - away * below
  square = 1 - below - away * density + away**2 * below
  return np.interp(share, below, square - mean**2)


def _find_density(z):
  return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _find_share(z):
  return np.array([(1 + math.erf(each / math.sqrt(2))) / 2 for each in z])
