"""What is known of the noise of a measurement."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dipjax.noise import channels, clipped

_NONE = 1e-6  # A sigma that is no noise.


def _make_delta():
  delta = np.zeros((9, 9))
  delta[4, 4] = 1
  return delta


class Model(struct.PyTreeNode):
  """Noise: its variance by brightness, its neighbours, its other kinds.

  The units are those of the image: white is 1, and a variance is of its square.

  Attributes:
    sigma: the standard deviation, the root of the mean variance over the
      picture, before clipping; without impulses and the noise of lines.
    constant: the variance at brightness 0, below 0 where black is not at 0.
    gain: the variance that a brightness of 1 adds: 1 / photons at white.
    least: no variance is less.
    correlation: [9, 9], between pixels so many rows and columns apart; 1 in the
      middle. White noise has 0 elsewhere.
    channels: the correlation between any two channels of a pixel: large where
      JPEG took colours, or where a camera's were interpolated from each other.
    black: whether noise was clipped at 0.
    white: whether noise was clipped at 1.
    impulses: the share of values that are salt, pepper or hot pixels.
    rows: the standard deviation of what each row adds to all its pixels.
    columns: the same of columns.
    compressed: whether the picture has the grid of JPEG's blocks.
    evidence: the share of the picture that could be judged: neither clipped nor
      constant.
    error: the relative error that sigma may have.
  """

  sigma: float
  constant: float
  least: float
  error: float
  gain: float = 0.0
  correlation: np.ndarray = struct.field(default_factory=_make_delta)
  channels: float = 0.0
  black: bool = False
  white: bool = False
  impulses: float = 0.0
  rows: float = 0.0
  columns: float = 0.0
  compressed: bool = False
  evidence: float = 0.0

  @classmethod
  def make_white(cls, sigma: float, *, clipped: bool = False) -> 'Model':
    """Returns white noise of one level, told and not estimated."""
    variance = sigma**2
    return cls(
      sigma=sigma,
      constant=variance,
      least=variance,
      error=0.0,
      black=clipped,
      white=clipped,
      evidence=1.0,
    )

  @property
  def read(self) -> float:
    """The standard deviation at brightness 0."""
    return max(self.constant, 0.0) ** 0.5

  @property
  def confidence(self) -> float:
    """How sure sigma is, in [0, 1], and 0.5 where it may be 10% wrong."""
    return 1 / (1 + (self.error / 0.1) ** 2)

  @property
  def neighbours(self) -> float:
    """The correlation between neighbours in a row and in a column."""
    middle = len(self.correlation) // 2
    right = self.correlation[middle, middle + 1]
    below = self.correlation[middle + 1, middle]
    return float(right + below) / 2

  def find_variance(self, image: jax.Array) -> jax.Array:
    """Returns the variance of the noise of each value of an image.

    Args:
      image: without noise, of any shape.
    """
    return jnp.maximum(self.constant + self.gain * image, self.least)

  def draw(
    self, measurement: np.ndarray, draw: np.random.RandomState
  ) -> np.ndarray:
    """Returns other noise like that of a measurement, without impulses.

    Where noise was clipped there is less of it.

    Args:
      measurement: tells the brightness; any shape where the noise is white, and
        [H, W, C] otherwise.
      draw: the generator.
    """
    white = np.count_nonzero(self.correlation) == 1
    shape = np.shape(measurement)
    noise = draw.normal(size=shape) if white else self._draw_shared(shape, draw)
    if self.channels:
      noise = channels.share_channels(noise, self.channels)
    image = jnp.asarray(measurement)
    variance = self.find_variance(image)
    if self.black or self.white:
      ends = {'black': self.black, 'white': self.white}
      variance = clipped.expect_variance(image, jnp.sqrt(variance), **ends)
    noise *= np.sqrt(variance)
    if self.rows:
      noise += self.rows * draw.normal(size=(shape[0], 1, 1))
    if self.columns:
      noise += self.columns * draw.normal(size=(1, shape[1], 1))
    return noise

  def _draw_shared(self, shape, draw):
    """Returns noise of variance 1 that neighbours share, [H, W, C]."""
    kernel = self.make_filter()
    height, width, channels = shape
    more = len(kernel) - 1
    white = draw.normal(size=(height + more, width + more, channels))
    windows = np.lib.stride_tricks.sliding_window_view(
      white, kernel.shape, axis=(0, 1)
    )
    return np.einsum('hwcij,ij->hwc', windows, kernel)

  def mix(self, other: 'Model') -> 'Model':
    """Returns noise whose covariance is the average of two."""
    average = lambda name: (getattr(self, name) + getattr(other, name)) / 2
    variances = self.sigma**2, other.sigma**2
    total = sum(variances)
    correlation = sum(
      variance * model.correlation
      for variance, model in zip(variances, (self, other))
    )
    return self.replace(
      sigma=(total / 2) ** 0.5,
      **{name: average(name) for name in ('constant', 'gain', 'least')},
      correlation=correlation / total if total else self.correlation,
      channels=average('channels'),
    )

  def scale(self, factor: float) -> 'Model':
    """Returns noise of `factor` times the variance."""
    deviation = factor**0.5
    return self.replace(
      sigma=deviation * self.sigma,
      constant=factor * self.constant,
      gain=factor * self.gain,
      least=factor * self.least,
      rows=deviation * self.rows,
      columns=deviation * self.columns,
    )

  def make_filter(self) -> np.ndarray:
    """Returns a filter that makes noise of this correlation from white noise.

    The filter is symmetric, [9, 9], and keeps the variance.
    """
    margin = len(self.correlation)
    padded = np.pad(self.correlation, margin)
    # What an estimate has below 0 is no spectrum.
    spectrum = np.maximum(np.fft.fft2(np.fft.ifftshift(padded)).real, 0)
    kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(spectrum)).real)
    kernel = kernel[margin:-margin, margin:-margin]
    return kernel / np.sqrt(np.sum(np.square(kernel)))

  def describe(self) -> str:
    """Returns a line for people: 'noise: white, sigma 14.9 of 255'."""
    if self.sigma < _NONE:
      return 'noise: none found'
    parts = [f'noise: {self._describe_level()}']
    if abs(self.neighbours) >= 0.05:
      parts.append(f'neighbours correlate by {self.neighbours:.2f}')
    if self.channels:
      parts.append(f'channels correlate by {self.channels:.2f}')
    for kind, level in (('rows', self.rows), ('columns', self.columns)):
      if level:
        parts.append(f'{kind} of {255 * level:.3g}')
    if self.impulses:
      parts.append(f'impulses in {self.impulses:.2%} of the values')
    if self.compressed:
      parts.append('compressed as JPEG')
    ends = [end for end in ('black', 'white') if getattr(self, end)]
    if ends:
      parts.append(f'clipped at {" and ".join(ends)}')
    if self.confidence < 0.5:
      parts.append(f'not sure: sigma may be {self.error:.0%} wrong')
    return '; '.join(parts)

  def _describe_level(self):
    sigma = f'sigma {255 * self.sigma:.3g} of 255'
    if not self.gain:
      return f'white, {sigma}' if abs(self.neighbours) < 0.05 else sigma
    if self.gain < 0:
      return f'less in bright parts, {sigma}'
    read = f'read {255 * self.read:.3g} of 255'
    return f'Poisson-like, gain {self.gain:.2g}, {read}, {sigma}'
