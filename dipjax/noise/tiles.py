"""Small tiles of a picture, and the energies of their blocks.

A tile has 16x16 pixels of one channel, with a margin of 2, and four blocks of
8x8. The cosine transform of a block tells its texture from its noise. The other
three blocks of a tile tell how much texture there is near a block, from pixels
that share no noise with it: blocks that are chosen by their neighbours are
chosen without a bias.
"""

import math
from typing import NamedTuple

import numpy as np

SIDE = 8  # Of a block.
MARGIN = 2
TILE = 2 * SIDE
_MOST = 4096  # Tiles of each channel: bounds time and memory.
# Tiles overlap in small pictures. An odd stride meets the grid of JPEG's blocks
# and that of a camera's colours at every phase.
_LEAST_STRIDE = 9


def _make_basis():
  index = np.arange(SIDE)
  basis = np.cos(np.pi * (2 * index + 1) * index[:, None] / (2 * SIDE))
  basis[0] /= np.sqrt(2)
  return basis * np.sqrt(2 / SIDE)


BASIS = _make_basis()  # [frequency, pixel], orthonormal.

# Bands of frequencies. Noise of rows or of columns lies in the first row and
# column of a transform, which no band has.
_SUM = np.add.outer(np.arange(SIDE), np.arange(SIDE))
_INNER = np.outer(np.arange(SIDE) > 0, np.arange(SIDE) > 0)
_LOWEST = (_SUM > 0) & (_SUM < 3)
LOW = _INNER & (_SUM >= 3) & (_SUM < 6)
MIDDLE = _INNER & (_SUM >= 6) & (_SUM < 10)
HIGH = _INNER & (_SUM >= 10)
BAND = LOW | MIDDLE
# How much HIGH sees of each pixel: less of those at a border.
_SEEN = np.einsum('ij,iy,jx->yx', HIGH / HIGH.sum(), BASIS**2, BASIS**2)


class Blocks(NamedTuple):
  """What is known of n blocks.

  Attributes:
    energies: [n, 8, 8], the squares of the cosine transform.
    means: [n], the brightness, of each pixel as much as `HIGH` sees of it.
    texture: [n], the energy of the other blocks of the tile.
    slope: [n], the energy of the lowest frequencies.
    black: [n], the share of pixels at 0, likewise, and
    white: at 1.
    ends: [n], the share of both in the other blocks of the tile.
    channels: [n], integers.
    colour: [n], the share of the energy of `LOW` that differs between channels,
    fine: of `HIGH`, and
    whole: of all frequencies but 0.
    weight: the independent blocks that a block counts for, at most 1.
  """

  energies: np.ndarray
  means: np.ndarray
  texture: np.ndarray
  slope: np.ndarray
  black: np.ndarray
  white: np.ndarray
  ends: np.ndarray
  channels: np.ndarray
  colour: np.ndarray
  fine: np.ndarray
  whole: np.ndarray
  weight: float

  def select(self, chosen: np.ndarray) -> 'Blocks':
    """Returns the blocks at indices, or where a mask is true."""
    fields = {name: getattr(self, name)[chosen] for name in self._fields[:-1]}
    return self._replace(**fields)


def cut_tiles(image: np.ndarray) -> np.ndarray:
  """Returns tiles with their margins, [channels, tiles, 20, 20].

  Tiles are spread evenly; a large picture has no more of them.

  Args:
    image: [H, W, C], sides of at least 20 pixels.
  """
  height, width, _ = image.shape
  stride = math.ceil(math.sqrt(height * width / _MOST))
  stride = max(stride + 1 - stride % 2, _LEAST_STRIDE)
  side = TILE + 2 * MARGIN
  views = np.lib.stride_tricks.sliding_window_view(image, (side, side), (0, 1))
  tiles = views[::stride, ::stride].reshape(-1, *views.shape[2:])
  return np.ascontiguousarray(tiles.swapaxes(0, 1), np.float32)


def split(inner: np.ndarray) -> np.ndarray:
  """Returns [..., 16, 16] as the blocks of each tile, [tiles, 4, 8, 8]."""
  blocks = inner.reshape(-1, 2, SIDE, 2, SIDE).swapaxes(2, 3)
  return blocks.reshape(-1, 4, SIDE, SIDE)


def transform(inner: np.ndarray, shape: tuple[int, int]) -> Blocks:
  """Returns the blocks of tiles.

  Args:
    inner: [channels, tiles, 16, 16], without margins.
    shape: height and width of the picture.
  """
  channels, count = inner.shape[:2]
  blocks = split(inner)
  coefficients = BASIS @ blocks @ BASIS.T
  energies = np.square(coefficients)
  # Constants do not count as texture, and the highest frequencies are left to
  # the noise.
  own = np.sum(energies[..., ~HIGH], -1) - energies[..., 0, 0]
  see = lambda pixels: np.sum(_SEEN * pixels, (2, 3))
  black, white = (see(blocks == end) for end in (0, 1))
  by_channel = coefficients.reshape(channels, -1, SIDE, SIDE)
  colour, fine, whole = (
    _find_apart(by_channel[..., band]) for band in (LOW, HIGH, _SUM > 0)
  )
  pixels = 4 * SIDE**2 * count
  return Blocks(
    energies=energies.reshape(-1, SIDE, SIDE),
    means=see(blocks).ravel(),
    texture=_sum_others(own).ravel(),
    slope=np.sum(energies[..., _LOWEST], -1).ravel(),
    black=black.ravel(),
    white=white.ravel(),
    ends=_sum_others(black + white).ravel() / 3,
    channels=np.repeat(np.arange(channels), 4 * count),
    colour=colour,
    fine=fine,
    whole=whole,
    weight=min(1.0, shape[0] * shape[1] / pixels),
  )


def _find_apart(coefficients):
  """Returns the share of each block's energy that differs between channels."""
  apart = np.square(coefficients - coefficients.mean(0)).sum(-1)
  apart /= np.maximum(np.square(coefficients).sum(-1), 1e-12)
  return apart.ravel()


def _sum_others(values):
  """Returns the sum over the other blocks of a tile, [tiles, 4]."""
  return np.sum(values, 1, keepdims=True) - values
