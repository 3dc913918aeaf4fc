"""What a camera makes of light: photons counted, read with noise, clipped.

A value of brightness x is gain k + read z, where k is drawn from the Poisson
distribution of mean x / gain and z from N(0, 1). Its variance is
read^2 + gain x. Where few photons are counted the noise is far from Gaussian,
and clipping takes another part of its variance.
"""

import math
from typing import NamedTuple

import numpy as np

_MOST = 1000  # Photons; noise of more of them is Gaussian.
_FAR = 6.0  # Deviations that a count hardly ever reaches.


class Line(NamedTuple):
  """The variance of noise by brightness: constant + gain x, at least `least`.

  Attributes:
    constant: the variance at x = 0; below 0 where black is not at 0.
    gain: the variance that a step of 1 in brightness adds.
    least: no variance is less; above 0.
  """

  constant: float
  gain: float
  least: float

  def find_variance(self, x: np.ndarray) -> np.ndarray:
    """Returns the variance before clipping, by the brightness."""
    return np.maximum(self.constant + self.gain * x, self.least)


class Clipped(NamedTuple):
  """What clipping at one end does to values, by their brightness, [n].

  Attributes:
    share: of the values that lie at the end.
    bias: what the mean gains.
    loss: what the variance loses.
  """

  share: np.ndarray
  bias: np.ndarray
  loss: np.ndarray


def clip(x: np.ndarray, line: Line, step: float) -> tuple[Clipped, Clipped]:
  """Returns what clipping does at black, 0, and at white, 1.

  Args:
    x: the brightness, [n].
    line: the noise.
    step: between rounded values; less than half of it from an end is the end.
  """
  # The noise of each count is Gaussian. Gaussian noise has a level and a
  # deviation for each brightness.
  counts = count_photons(x, line.gain)
  level = line.gain * np.arange(counts.shape[1]) if counts.size else x
  sigma = np.sqrt(line.find_variance(0 * level if counts.size else x))
  found = []
  for sign, away, own in ((1, level, x), (-1, 1 - level, 1 - x)):
    z = (away - step / 2) / sigma
    share = find_share(-z)
    density = sigma * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    # The mean and the mean square of what is not clipped, less those of all.
    bias = density - away * share
    square = (away + step / 2) * density - (away**2 + sigma**2) * share
    if counts.size:
      share, bias, square = (counts @ each for each in (share, bias, square))
    loss = bias**2 + 2 * own * bias - square
    found.append(Clipped(share, sign * bias, loss))
  return found[0], found[1]


def count_photons(x: np.ndarray, gain: float) -> np.ndarray:
  """Returns the probability of each count at each brightness, [n, counts].

  It is empty where there is no gain or more than 1000 photons may be counted.
  """
  most = max(float(np.max(x)), gain)
  if gain <= 0 or most + _FAR * math.sqrt(most * gain) > _MOST * gain:
    return np.zeros((len(x), 0))
  k = np.arange(math.ceil(most / gain + _FAR * math.sqrt(most / gain)) + 1)
  rate = np.maximum(x, 1e-12)[:, None] / gain
  return np.exp(k * np.log(rate) - rate - [math.lgamma(i + 1) for i in k])


def find_share(z: np.ndarray) -> np.ndarray:
  """Returns the probability that a draw from N(0, 1) is below z, [n]."""
  return np.array([math.erfc(-each / math.sqrt(2)) / 2 for each in z])
