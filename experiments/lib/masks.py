"""Masks as users bring them: which pixels of a picture were seen.

Only near-white is seen. A pixel that is half covered by a scratch has half of
the scratch's colour: taken as seen, it would bring the scratch back.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dipjax import corruptions
from experiments.lib import images, reading
from experiments.lib.reading import Picture

# The word for the picture's own alpha channel, in place of a file.
ALPHA = 'alpha'

# White is 250 of 255 or more: at most 2 % of the pixel are covered.
_WHITE = 249.5 / 255
# These containers mix a pixel's value with its neighbours': beside a stroke,
# what is covered may be white. So a neighbour of what is darker than _DARK is
# missing too. tests/masks_test.py measures both numbers.
_LOSSY = ('JPEG', 'WEBP')
_DARK = 220 / 255
# How alike neighbours are: 0 where pixels are missing at random.
_ALIKE = 0.1

_MOST = 'most of the picture is missing'


class Mask(NamedTuple):
  """Which pixels were seen, and what to tell the user about it."""

  seen: np.ndarray  # bool [H, W, 1].
  line: str  # As 'mask: 12.3 % of the pixels are missing'.

  @property
  def missing(self) -> float:
    """The share of the pixels that is missing."""
    return float(np.mean(~self.seen))


def read_mask(
  source: str,
  picture: Picture,
  *,
  crop: Sequence[int] = (),
  invert: bool = False,
) -> Mask:
  """Returns which pixels of a picture were seen.

  In a file, what is near white in all channels, and opaque, is seen. The larger
  one of only two values is white too, as in a mask of zeros and ones. Where the
  colours of a file with transparent pixels say nothing, its alpha channel is
  the mask. Pixels without a value in the picture are missing in any case.

  Args:
    source: a file of the size of the whole picture; ALPHA or '' for the
      picture's own: what is transparent, blank or not finite is missing.
    picture: the whole picture.
    crop: the part of the picture that counts, see `images.crop_image`.
    invert: whether black is seen in the file, not white.

  Raises:
    ValueError: in one line: no such mask, another size, a mask that fits in two
      ways, or one that misses nothing or everything.
  """
  name = f'data.mask {source!r}' if source else 'data.image'
  if source in ('', ALPHA):
    if picture.mask is None:
      raise ValueError(f'{name}: the picture has no transparent pixels')
    if invert:
      raise ValueError(
        'data.invert needs a mask file: the colours of the transparent pixels '
        'of the picture are not read'
      )
    seen, notes, question = picture.mask, [], _MOST
  else:
    seen, notes, question = _read_file(source, picture, invert)
  if picture.mask is not None:
    seen = seen & picture.mask
    notes.append(f'what is {picture.missing} in the picture is missing')
  seen = images.crop_image(seen[..., None], crop)
  if seen.all():
    where = ' in data.crop' if len(crop) else ''
    raise ValueError(f'{name} misses nothing{where}: {_explain(notes)}')
  if not seen.any():
    raise ValueError(f'{name} misses everything: {_explain(notes)}')
  if seen.mean() < 0.5 and _find_likeness(seen[..., 0]) > _ALIKE:
    notes.append(question)
  return _make(seen, notes)


def draw_mask(size: tuple[int, int], missing: float, *, seed: int) -> Mask:
  """Returns a mask that misses pixels at random.

  Args:
    size: (height, width).
    missing: the share of the pixels that is missing, in (0, 1).
    seed: of the pixels.
  """
  if not 0 < missing < 1:
    raise ValueError(f'data.missing must be in (0, 1), got {missing}')
  seen = corruptions.draw_mask(size, missing, seed=seed)
  return _make(seen.astype(bool), ['drawn at random'])


def _explain(notes):
  return '; '.join(notes) or 'only near-white is seen'


def _make(seen, notes):
  mask = Mask(seen, '')
  share = f'mask: {100 * mask.missing:.3g} % of the pixels are missing'
  return mask._replace(line='; '.join([share, *notes]))


def _read_file(source, picture, invert):
  """Returns what is seen, notes, and what to ask if most is missing."""
  found = reading.read(source)
  turn = _find_turn(source, found, picture)
  notes = ['turned as the EXIF of the picture turns it'] if turn > 1 else []
  hint = 'is it not' if invert else 'is the mask'
  question = f'{_MOST}: {hint} inverted? (data.invert={not invert})'
  if invert:
    light = 1 - _spread(found.pixels.max(axis=2))
    notes.append('white is missing')
  else:
    light = _spread(found.pixels.min(axis=2))
  transparent = found.mask is not None and 'transparent' in found.missing
  if transparent and invert:
    raise ValueError(
      f'data.mask {source!r} has transparent pixels: for data.invert=True '
      'flatten it onto a background first'
    )
  if transparent and not _is_drawn(light[found.mask]):
    seen = found.mask
    notes.append('its transparent pixels are missing')
    question = f'{_MOST}: flatten strokes on a transparent layer onto white'
    return reading.TURNS[turn](seen), notes, question
  seen = light > _WHITE
  if found.container in _LOSSY:
    seen &= ~_grow(light < _DARK)
    notes.append(
      f'what {found.container} mixed with strokes is missing, PNG keeps more'
    )
  if found.mask is not None:
    seen &= found.mask
  return reading.TURNS[turn](seen), notes, question


def _find_turn(source, found, picture):
  """Returns the orientation, as EXIF numbers it, that the mask needs."""
  size, upright = found.pixels.shape[:2], picture.pixels.shape[:2]
  # EXIF turned the mask file itself: its maker knew of EXIF.
  turn = 1 if found.turn else picture.turn or 1
  stored = upright[::-1] if turn >= 5 else upright
  if size not in (upright, stored):
    raise ValueError(
      f'data.mask {source!r} is {size[1]}x{size[0]}, the picture is '
      f'{upright[1]}x{upright[0]}: they must be of one size'
    )
  if turn > 1 and stored == upright:
    raise ValueError(
      f'data.mask {source!r} fits the picture as it is stored and as its EXIF '
      'turns it: save the picture upright, without EXIF, and draw the mask on '
      'that'
    )
  return 1 if size == upright else turn


def _spread(light):
  """Returns two values without a white one as 0 and 1, others as they are."""
  low, high = light.min(), light.max()
  two = low < high <= _WHITE and np.all((light == low) | (light == high))
  return (light - low) / (high - low) if two else light


def _is_drawn(light):
  """Returns whether opaque pixels hold a mask: white, black, little else."""
  white, black = np.mean(light > _WHITE), np.mean(light < 1 - _WHITE)
  return min(white, black) > 0 and white + black > 0.9


def _grow(pixels):
  """Returns the pixels and their eight neighbours."""
  padded = np.pad(pixels, 1)
  return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any((2, 3))


def _find_likeness(seen):
  """Returns the correlation of neighbours of [H, W]: strokes have much."""
  pairs = [
    (seen[:, 1:], seen[:, :-1]),
    (seen[1:], seen[:-1]),
    (seen[1:, 1:], seen[:-1, :-1]),
    (seen[1:, :-1], seen[:-1, 1:]),
  ]
  count = sum(one.size for one, _ in pairs)
  both = sum(np.count_nonzero(one & other) for one, other in pairs) / count
  share = seen.mean()
  return (both - share**2) / (share - share**2)
