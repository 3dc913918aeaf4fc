"""Estimates the noise of a picture."""

import math
from typing import NamedTuple

import numpy as np

from dipjax.noise import (
  dark,
  grid,
  impulses,
  levels,
  lines,
  neighbours,
  tiles,
  wavelets,
)
from dipjax.noise.model import Model

_FEWEST = 100  # Blocks; fewer tell too little.
_CLIPPED = 0.5  # Blocks whose neighbours have more at an end do not count.
_PILED = 1e-3  # Share of the values at an end from which noise was clipped.
_UNCLEAR = 0.05  # Shares of clipped values, or of blocks, that do not matter.
_FILLED = 0.02  # Impulses from this share on are filled in.
_HIDDEN = 0.5  # What a share of impulses adds to the error.
_AWAY = 2.2  # Deviations from an end where noise is hardly clipped, and
_ENOUGH = 0.15  # the share of the blocks that must lie there.
_LINES = 0.15  # Share of the noise that a row or a column must add.
_UNEVEN = 0.1  # The error that an uneven spread of noise adds.
_LOOKED = 200_000  # Values that are looked at for
_STEP = 1.5 / 255  # a step larger than that of 8 bits.
_DOUBTFUL = 0.15  # The error from which a level wants another witness, and
_AGREED = 0.2  # how far that may be from it, where blocks are
_EVEN = 2.5  # as even as noise is.
_APART = 0.3  # The share between colours of noise that channels share, and
_LEAST_ALIKE, _MOST_ALIKE = 0.1, 0.98  # how they correlate.
_SURE = 0.5  # Confidence.


class _Look(NamedTuple):
  """What noise that neighbours share looks like, see `neighbours.Shared`.

  Attributes:
    slope: is above this, and
    spread: below this, where texture is more uneven.
    least: the share of it that differs between colours, at least, and
    most: at most.
  """

  slope: float
  spread: float
  least: float = 0.0
  most: float = 1.0


# The colours of a texture are alike, those of noise are not, before JPEG makes
# them so. What JPEG left is as even as noise where it took little.
_COMPRESSED = _Look(1.6, 9.0), _Look(1.2, _EVEN, most=0.05)
_COLOURED = (
  _Look(1.6, 6.0, least=0.2),
  # Of JPEG whose grid is hidden by noise: of a camera, and of white noise.
  _Look(4.0, _EVEN, most=0.15),
  _Look(1.2, 2.0, most=0.05),
)
_UNCOLOURED = (_Look(2.0, 3.2),)


def estimate_sigma(image: np.ndarray) -> float:
  """Returns the standard deviation of the noise in a picture, before clipping.

  It is that of `estimate_noise` where that is sure, and otherwise that of the
  finest wavelets, which texture raises and neighbours lower.

  Args:
    image: [H, W, C], sides of at least 8 pixels.

  Raises:
    ValueError: another shape.
  """
  model = estimate_noise(image)
  if model.confidence >= _SURE:
    return float(model.sigma)
  return wavelets.estimate_by_wavelets(image)


def estimate_noise(image: np.ndarray, *, flattest: bool = False) -> Model:
  """Returns what a picture tells of its noise.

  Pictures of less than 64x64 pixels or so tell too little: the level is then
  that of the finest wavelets, and the error 1.

  Args:
    image: [H, W, C] in [0, 1], or outside where noise was not clipped; sides of
      at least 8 pixels.
    flattest: whether all that the flattest parts show counts as noise. Where it
      may be texture, that is the most noise that there can be.

  Raises:
    ValueError: another shape.
  """
  image = wavelets.check_shape(image)
  if min(image.shape[:2]) < tiles.TILE + 2 * tiles.MARGIN:
    return _guess(image)
  cut = tiles.cut_tiles(image)
  ends = () if _is_counted(cut) else (0.0, 1.0)
  seen = impulses.find_impulses(cut, ends)
  every, chosen = _transform(cut, seen, image.shape)
  blocks = every.select(chosen)
  if len(blocks.means) < _FEWEST:
    return _guess(image).replace(impulses=seen.share)
  ends = _find_piled(image, () if seen.share >= _FILLED else ends)
  level = levels.fit_levels(blocks, ends)
  read = None
  if ends.black and level.line.gain > 0:
    read = dark.find_read(cut, level.line.gain, ends.step)
  # Blocks with stripes of black and white look grey, but their noise is gone.
  own = blocks.black + blocks.white
  even = own <= 2 * level.expect_ends(blocks.means) + _UNCLEAR
  is_mixed = _FEWEST <= np.sum(even) < len(even) * (1 - _UNCLEAR)
  if is_mixed:
    blocks = blocks.select(even)
  if is_mixed or read:
    level = levels.fit_levels(blocks, ends, read)
  rows, columns = (
    lines.find_row_noise(each) for each in (image, image.swapaxes(0, 1))
  )
  is_clipped = ends.black or ends.white
  shared = _find_shared(blocks, is_clipped, rows + columns > 0)
  compressed = grid.has_grid(image)
  has_colours = image.shape[2] > 1
  if shared and (flattest or _is_noise(shared, has_colours, compressed)):
    model = _use_shared(shared, every, compressed)
  else:
    model = _use_levels(level, every)
    # JPEG takes the noise of some blocks and leaves that of others.
    model = model.replace(error=math.hypot(model.error, _UNEVEN * compressed))
    if shared and model.error > _DOUBTFUL and shared.spread < _EVEN:
      flat = _use_shared(shared, every, compressed)
      other = wavelets.estimate_by_wavelets(image)
      apart = abs(flat.sigma - other)
      # In texture the finest wavelets show far less than the flattest parts.
      if apart < _AGREED * other:
        model = flat.replace(error=apart / other)
  # A place shows the same texture in all colours.
  places = len(blocks.means) * blocks.weight / image.shape[2]
  return model.replace(
    black=ends.black,
    white=ends.white,
    impulses=seen.share,
    rows=rows if rows > _LINES * model.sigma else 0.0,
    columns=columns if columns > _LINES * model.sigma else 0.0,
    channels=_find_channels(shared, image.shape[2]),
    compressed=compressed,
    evidence=float(np.mean(chosen)),
    error=math.hypot(model.error, _HIDDEN * seen.share, 1 / math.sqrt(places)),
  )


def _is_noise(shared, has_colours, compressed):
  """Returns whether what neighbours share is noise, and not white."""
  # Noise that came after JPEG has colours of its own.
  if compressed and shared.fine < _APART:
    looks = _COMPRESSED
  else:
    looks = _COLOURED if has_colours else _UNCOLOURED
  return any(
    shared.slope > look.slope
    and shared.spread < look.spread
    and look.least <= shared.colour <= look.most
    for look in looks
  )


def _find_channels(shared, count):
  """Returns the correlation between the noise of two channels, 0 for little.

  The highest frequencies have hardly any texture: they tell whether channels
  share noise, and all frequencies of flat blocks tell how much.
  """
  if count == 1 or not shared or shared.fine > _APART:
    return 0.0
  correlation = 1 - shared.whole * count / (count - 1)
  return min(correlation, _MOST_ALIKE) if correlation > _LEAST_ALIKE else 0.0


def _guess(image):
  """Returns the noise of a picture that tells too little."""
  sigma = wavelets.estimate_by_wavelets(image)
  return Model(sigma=sigma, constant=sigma**2, least=sigma**2, error=1.0)


def _use_levels(level, blocks):
  """Returns white noise."""
  return Model(
    sigma=math.sqrt(np.mean(level.find_variance(blocks.means))),
    constant=level.line.constant,
    gain=level.line.gain,
    least=level.line.least,
    error=level.error,
  )


def _use_shared(shared, blocks, compressed):
  """Returns noise that neighbours share."""
  # The energies of what JPEG rounded are more uneven than chance has it.
  usual, spread = (
    (0.08, shared.spread / 3) if compressed else (0.05, shared.spread)
  )
  scale = shared.covariance[0, 0]
  variance = scale * shared.find_variance(blocks.means)
  # Down and up, right and left.
  half = shared.covariance / scale
  lower = np.concatenate([half[:, :0:-1], half], 1)
  return Model(
    sigma=math.sqrt(np.mean(variance)),
    constant=scale * shared.constant,
    gain=scale * shared.gain,
    least=float(np.min(variance)),
    error=math.hypot(usual, _UNEVEN * max(math.sqrt(spread) - 1, 0)),
    correlation=np.concatenate([lower[:0:-1], lower]),
  )


def _find_shared(blocks, is_clipped, is_striped):
  """Returns the noise of the flattest blocks, away from clipped ones."""
  shared = neighbours.find_shared(blocks, is_striped)
  if shared is None or not is_clipped:
    return shared
  variance = np.mean(shared.find_variance(blocks.means))
  sigma = math.sqrt(shared.covariance[0, 0] * variance)
  away = np.abs(blocks.means - 0.5) < 0.5 - _AWAY * sigma
  if np.mean(away) < _ENOUGH or np.sum(away) < _FEWEST:
    return shared
  return neighbours.find_shared(blocks.select(away), is_striped) or shared


def _is_counted(cut):
  """Returns whether the values are counts, which pile up at 0 by nature."""
  dark = cut[(cut >= 0) & (cut < 0.25)][:_LOOKED]
  values = np.unique(dark)
  return len(values) > 2 and np.median(np.diff(values)) > _STEP


def _find_piled(image, ends):
  """Returns at which of the ends values pile up: their noise was clipped."""
  inside = image.min() >= 0 and image.max() <= 1
  black, white = (
    bool(inside and end in ends and np.mean(image == end) > _PILED)
    for end in (0, 1)
  )
  steps = [np.min(image[image > 0])] if black else []
  steps += [1 - np.max(image[image < 1])] if white else []
  return levels.Ends(black, white, float(min(steps, default=0)))


def _transform(cut, seen, shape):
  """Returns all blocks, and which of them show their noise."""
  inner = cut[..., tiles.MARGIN : -tiles.MARGIN, tiles.MARGIN : -tiles.MARGIN]
  correction = 1.0
  bad = seen.found
  if seen.share >= _FILLED:
    bad = bad | (inner == 0) | (inner == 1)
    white = np.random.RandomState(0).normal(size=inner.shape)
    inner = _fill(inner, bad)
    white = tiles.transform(_fill(white, bad), shape[:2])
    correction = white.energies.mean(0)
    bad = np.zeros_like(bad)
  blocks = tiles.transform(inner, shape[:2])
  blocks = blocks._replace(energies=blocks.energies / correction)
  hit = tiles.split(bad).any((2, 3)).ravel()
  alive = blocks.energies.sum((1, 2)) - blocks.energies[:, 0, 0] > 1e-9
  chosen = alive & ~hit & (blocks.ends < _CLIPPED)
  return blocks, chosen


def _fill(values, bad):
  """Returns the values with the nearest good ones in place of bad ones."""
  values, bad = values.copy(), bad.copy()
  for axis, step in ((-1, 1), (-2, 1), (-1, -1), (-2, -1)) * 2:
    other, worse = np.roll(values, step, axis), np.roll(bad, step, axis)
    take = bad & ~worse
    values[take] = other[take]
    bad &= ~take
  return values
