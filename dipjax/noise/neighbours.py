"""Noise that neighbours share, in the flattest blocks of a picture.

What a camera interpolated, what was enlarged or compressed has noise whose
neighbours are alike. In white noise all frequencies have the same energy; here
the high ones have less, as in texture. Noise is told from texture by its being
the same everywhere: the energies of the flattest blocks spread as chance has
it, those of texture spread more.
"""

from typing import NamedTuple

import numpy as np

from dipjax.noise import tiles

REACH = 4  # Neighbours further apart than this share no noise.
_FLATTEST = 0.05  # The share of the blocks that are taken as flat,
_FEWEST = 60  # and their number at least;
_FEWEST_OF_CHANNEL = 25  # in a channel.
_ROWS = 10  # Groups of like brightness.
_LINE = 8.0  # How much better a line has to fit than a constant.
_MATTERS = 0.1  # The relative deviation that a line must cause.
_RIDGE = 0.02  # Far neighbours are taken to share little.
_FLOOR = 0.02  # Energies below this share of the largest count alike.


class Shared(NamedTuple):
  """The noise of the flattest blocks.

  Attributes:
    covariance: [REACH + 1, REACH + 1], by the rows and columns between two
      pixels, for a variance of 1 by `constant` and `gain`.
    constant: the variance at brightness 0, and
    gain: what a brightness of 1 adds.
    slope: the energy of middle frequencies over that of high ones.
    spread: the variance of the blocks' energies over that of Gaussian noise.
    colour: the share of their energy that differs between channels, at low
      frequencies,
    fine: at high ones, and
    whole: at all but 0.
  """

  covariance: np.ndarray
  constant: float
  gain: float
  slope: float
  spread: float
  colour: float
  fine: float
  whole: float

  def find_variance(self, means: np.ndarray) -> np.ndarray:
    """Returns `constant` + `gain` x, but no less than a tenth of the mean."""
    variance = self.constant + self.gain * means
    return np.maximum(variance, 0.1 * np.mean(variance))


def _find_overlaps():
  """Returns what a covariance of 1 adds to each frequency, [8, lags]."""
  basis = tiles.BASIS
  sums = [
    np.sum(basis[:, : tiles.SIDE - lag] * basis[:, lag:], 1)
    for lag in range(REACH + 1)
  ]
  # Every lag but 0 is met in both directions.
  return np.stack([sums[0], *(2 * each for each in sums[1:])], 1)


_OVERLAPS = _find_overlaps()


def find_shared(blocks: tiles.Blocks, is_striped: bool) -> Shared | None:
  """Returns the noise of the flattest blocks, None where they are too few.

  Args:
    blocks: of a picture.
    is_striped: whether rows or columns have noise of their own.
  """
  energies = blocks.energies[:, tiles.BAND].mean(1)
  constant, gain = _fit_line(blocks, energies)
  variance = constant + gain * blocks.means
  variance = np.maximum(variance, 0.1 * np.mean(variance))
  order = np.argsort(blocks.texture / variance)
  flattest = order[: max(int(len(order) * _FLATTEST), _FEWEST)]
  found = []
  for channel in np.unique(blocks.channels):
    chosen = flattest[blocks.channels[flattest] == channel]
    if len(chosen) >= _FEWEST_OF_CHANNEL:
      normal = blocks.energies[chosen] / variance[chosen, None, None]
      found.append(_describe(normal, is_striped))
  if not found:
    return None
  covariances, slopes, spreads = zip(*found)
  return Shared(
    np.mean(covariances, 0),
    constant,
    gain,
    float(np.mean(slopes)),
    float(np.mean(spreads)),
    float(np.median(blocks.colour[flattest])),
    float(np.median(blocks.fine[flattest])),
    float(np.mean(blocks.whole[flattest])),
  )


def _fit_line(blocks, energies):
  """Returns the energy of flat blocks as constant + gain brightness."""
  levels, brightness = [], []
  for row in np.array_split(np.argsort(blocks.means), _ROWS):
    flat = row[np.argsort(blocks.texture[row])][: max(len(row) // 10, 10)]
    levels.append(np.median(energies[flat]))
    brightness.append(np.mean(blocks.means[flat]))
  level, x = np.array(levels), np.array(brightness)
  fits = [_fit_envelope(level, x, has_gain) for has_gain in (False, True)]
  (constant, misfit), (line, better) = fits
  # Noise grows with brightness. Texture may do anything.
  level = line[0] + line[1] * np.mean(x)
  grows = line[1] * np.std(x) > _MATTERS * level
  return line if grows and misfit - better > _LINE else constant


def _fit_envelope(level, x, has_gain):
  """Returns (constant, gain) and its misfit.

  A brightness that has no flat blocks has too high a level, and counts less.
  """
  columns = [np.ones_like(x), x] if has_gain else [np.ones_like(x)]
  matrix = np.stack(columns, 1)
  start = np.quantile(level, 0.25)
  predicted = np.full_like(level, start)
  solved = np.array([start, 0.0])
  for _ in range(20):
    above = np.maximum(level / predicted - 1, 0)
    weight = 1 / predicted / (1 + (above / 0.2) ** 2)
    solution = np.linalg.lstsq(
      matrix * weight[:, None], level * weight, rcond=None
    )[0]
    solved = np.append(solution, 0.0)[:2]
    predicted = np.maximum(matrix @ solution, 0.1 * start)
  misfit = np.sum(np.minimum(np.square((level / predicted - 1) / 0.1), 9))
  return (float(solved[0]), float(solved[1])), float(misfit)


def _describe(energies, is_striped):
  """Returns covariance, slope and spread of normalised blocks of a channel."""
  spectrum = energies.mean(0)
  sums = (energies / spectrum)[:, tiles.BAND].mean(1)
  # A few blocks of edges would stand for all.
  spectrum = energies[sums < 2 * np.median(sums)].mean(0)
  sums = (energies / spectrum)[:, tiles.BAND].mean(1)
  covariance = _fit_covariance(spectrum, is_striped)
  middle = np.median(sums)
  deviation = np.median(np.abs(sums - middle)) / 0.6745 / middle
  slope = spectrum[tiles.MIDDLE].mean() / spectrum[tiles.HIGH].mean()
  return covariance, slope, deviation**2 / _expect_spread(covariance)


def _fit_covariance(spectrum, is_striped):
  """Returns the covariance of noise, [lags, lags], by its spectrum [8, 8].

  The least squares of relative errors. Brightness does not count, and the
  lowest frequencies, which have slopes of the picture, count less. Stripes lie
  in the first row and column alone.
  """
  matrix = np.kron(_OVERLAPS, _OVERLAPS)
  trust = np.ones_like(spectrum)
  trust[0, 0], trust[0, 1], trust[1, 0] = 0, 0.1, 0.1
  trust[1, 1] = trust[0, 2] = trust[2, 0] = 0.3
  if is_striped:
    trust[0], trust[:, 0] = 0, 0
  others = spectrum[trust > 0]
  weight = (trust / (spectrum + _FLOOR * others.max())).ravel()
  lags = np.arange(REACH + 1) ** 2
  ridge = np.diag(np.add.outer(lags, lags).ravel()) * _RIDGE / others.mean()
  matrix = np.vstack([matrix * weight[:, None], ridge])
  target = np.append(spectrum.ravel() * weight, np.zeros(len(ridge)))
  solved = np.linalg.lstsq(matrix, target, rcond=None)[0]
  return solved.reshape(REACH + 1, REACH + 1)


def _expect_spread(covariance):
  """Returns the variance of the mean energy of a block of Gaussian noise."""
  index = np.arange(tiles.SIDE)
  apart = np.abs(index[:, None] - index)
  lags = np.pad(covariance, (0, tiles.SIDE - REACH - 1))
  pixels = lags[apart[:, None, :, None], apart[None, :, None, :]]
  basis = np.kron(tiles.BASIS, tiles.BASIS)
  frequencies = basis @ pixels.reshape(basis.shape) @ basis.T
  frequencies = frequencies[tiles.BAND.ravel()][:, tiles.BAND.ravel()]
  scale = np.sqrt(np.maximum(np.diag(frequencies), 1e-12))
  correlation = frequencies / scale / scale[:, None]
  return 2 * np.mean(np.square(correlation))
