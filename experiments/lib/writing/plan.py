"""What a file will be: its container, depth and white, chosen before a fit."""

import importlib
import os
from typing import NamedTuple

import numpy as np

from experiments.lib.reading import Picture
from experiments.lib.reading.notes import XMP
from experiments.lib.writing.formats import (
  DEPTHS,
  FORMATS,
  PACKED,
  choose_depth,
  count_bits,
)
from experiments.lib.writing.notes import clean_notes

# Bytes of a marker of JPEG, less its name.
_MAX_MARKERS = {'EXIF': 65_527, XMP: 65_504, 'Comment': 65_533}
_MAX_TIFF = (1 << 32) - (32 << 20)  # Bytes, with room for what is kept.


class Plan(NamedTuple):
  """What will be written."""

  ending: str  # As '.png'.
  container: str
  depth: str  # As 'uint16'.
  dtype: np.dtype  # The values, before they are packed.
  channels: int  # Without alpha.
  alpha: bool
  white: float  # The stored value of 1.
  full: float | None  # The largest of the depth; None: floats.
  same: bool  # The stored values mean what those of the input mean.
  profile: bytes | None  # ICC.
  notes: tuple[str, ...]  # What differs from the input.

  def describe(self) -> str:
    """Returns one line that says what is written."""
    parts = [
      self.container,
      f'{self.channels} channel{"s" * (self.channels > 1)}'
      + ' and alpha' * self.alpha,
      self.depth,
      f'white {self.white:.6g}',
      *self.notes,
    ]
    return ', '.join(parts)


def make_plan(
  path: str, like: Picture, shape: tuple[int, ...], depth: str | None
) -> Plan:
  """Returns what `path` will be; see `writing.check`.

  Raises:
    ValueError: the format of the path cannot hold the picture.
  """
  ending = os.path.splitext(path)[1].lower()
  kind = FORMATS.get(ending)
  if kind is None:
    raise ValueError(
      f'{path!r} ends in none of {", ".join(FORMATS)}; name one of them'
    )
  if depth and depth not in DEPTHS:
    raise ValueError(f'depth is {depth!r}; it must be {", ".join(DEPTHS)}')
  _check_size(path, like, shape)
  alpha, channels = like.alpha is not None, shape[2]
  refused = _find_reason(kind, like, shape)
  if refused:
    raise ValueError(f'{path!r}: {kind.container} {refused}; name a .tif')
  wanted = depth or like.depth
  chosen = choose_depth(kind, wanted, channels, alpha)
  full = _find_full(chosen, like, kind.container)
  white = _find_white(full, like)
  profile = _find_profile(kind, like, channels)
  plan = Plan(
    ending=ending,
    container=kind.container,
    depth=chosen,
    dtype=_find_type(chosen),
    channels=channels,
    alpha=alpha,
    white=white,
    full=full,
    same=(chosen, white) == (like.depth, like.white),
    profile=profile,
    notes=tuple(_find_changes(kind, like, shape, chosen, profile)),
  )
  _check_blank(path, plan, like)
  _check_bytes(path, plan, shape)
  _check_packages(path, plan, like)
  return plan


def has_blank(like: Picture) -> bool:
  """Says whether pixels hold no number, as blank ones and NaN do."""
  if like.stored is None:
    return False
  return like.alpha is None or not np.isfinite(like.stored).all()


def _check_size(path, like, shape):
  bound = like.alpha is not None or like.mask is not None
  if bound and shape[:2] != like.pixels.shape[:2]:
    height, width, _ = like.pixels.shape
    raise ValueError(
      f'{path!r}: a picture {shape[1]} x {shape[0]} has not the alpha or the '
      f'masked pixels of an input {width} x {height}; give one without them'
    )


def _find_reason(kind, like, shape):
  """Returns why a container cannot hold a picture, or None."""
  height, width, channels = shape
  if channels not in kind.channels:
    return f'holds 1 or 3 channels, not {channels}'
  if max(height, width) > kind.side:
    return f'holds {kind.side} pixels a side, not {width} x {height}'
  if like.alpha is not None and not kind.alpha:
    return 'holds no alpha'
  clear = like.alpha is None or np.isin(like.alpha, (0, like.full or 1)).all()
  if kind.container == 'GIF' and not clear:
    return 'holds no pixels that are half transparent'
  if kind.container == 'JPEG':
    text = dict(like.notes.text)
    sizes = {'EXIF': len(like.notes.exif or b'')}
    sizes |= {key: len(text.get(key, '').encode()) for key in (XMP, 'Comment')}
    for name, size in sizes.items():
      if size > _MAX_MARKERS[name]:
        return f'holds no {name} of {size} bytes'
  return None


def _find_type(depth):
  if 'uint' not in depth or depth.startswith('scaled'):
    return np.dtype('float64' if depth.startswith('scaled') else depth)
  bits = count_bits(depth)
  return np.dtype(f'uint{next(n for n in (8, 16, 32, 64) if n >= bits)}')


def _find_full(depth, like, container):
  if depth.startswith(('float', 'scaled')):
    return None
  # A maxval is no matter of bits.
  if (container, depth) == (like.container, like.depth):
    return like.full
  return (1 << (count_bits(depth) - depth.startswith('int'))) - 1


def _find_white(full, like):
  if full is None:
    return like.white if like.full is None else 1.0
  # Counts whose white the user gave stay the counts that they are.
  given = like.full is not None and like.white != like.full
  return like.white if given and like.full <= full else full


def _find_profile(kind, like, channels):
  """Returns the profile of the input, if it is one of what is written."""
  if not like.profile or 'colour profile' not in kind.keeps:
    return None
  written = 3 if kind.container == 'WEBP' else channels
  space = {1: b'GRAY', 3: b'RGB '}.get(written)
  if written != like.pixels.shape[2] and like.profile[16:20] != space:
    return None
  return like.profile


def _find_changes(kind, like, shape, depth, profile):
  if like.path and depth != like.depth:
    yield f'the input has {like.depth}'
  if kind.container == 'JPEG':
    yield 'quality 95'
  if kind.container == 'GIF' and shape[2] > 1:
    yield 'at most 256 colours'
  if like.profile and not profile:
    yield 'without its colour profile'
  names = [name for name, _ in like.notes.colour]
  if kind.container != 'PNG' and b'gAMA' in names and b'sRGB' not in names:
    yield 'without its gamma'
  if like.container == 'FITS' != kind.container:
    yield 'without its header'
  exif = clean_notes(like.notes, shape).exif
  if like.notes.exif and not (exif and 'EXIF' in kind.keeps):
    yield 'without its EXIF'
  if 'text' not in kind.keeps:
    lost = [key for key, _ in like.notes.text if key not in kind.keeps]
    if lost:
      yield f'without its text {", ".join(lost)}'


def _check_blank(path, plan, like):
  if not has_blank(like) or plan.full is None:
    return
  if (plan.container, plan.same) != (like.container, True):
    raise ValueError(
      f'{path!r}: {plan.depth} holds no blank pixels; name a .fits or a .npy '
      'of floats'
    )


def _check_bytes(path, plan, shape):
  values = shape[0] * shape[1] * (plan.channels + plan.alpha)
  if plan.container == 'TIFF' and values * plan.dtype.itemsize > _MAX_TIFF:
    raise ValueError(f'{path!r}: TIFF holds 4 GB; name a .npy')


def _check_packages(path, plan, like):
  for module, extra in find_packages(plan, like):
    try:
      importlib.import_module(module)
    except ImportError:
      raise ValueError(
        f'{path!r}: {plan.describe()} needs {module.split(".")[0]}: '
        f"pip install 'dipjax[{extra}]'"
      ) from None


def find_packages(plan: Plan, like: Picture) -> list[tuple[str, str]]:
  """Returns the modules that writing needs, each with its extra."""
  if plan.container == 'FITS':
    return [('astropy.io.fits', 'fits')]
  if plan.container == 'PNG' and plan.depth == 'uint16':
    # Pillow writes grey alone.
    return [('imagecodecs', 'png')] * (plan.channels + plan.alpha > 1)
  simple = is_packed(plan) or is_simple(plan, like)
  return [('tifffile', 'tiff')] * (plan.container == 'TIFF' and not simple)


def is_packed(plan: Plan) -> bool:
  """Says whether the samples of a TIFF share their bytes."""
  return plan.depth in PACKED and plan.depth != 'uint1'


def is_simple(plan: Plan, like: Picture) -> bool:
  """Says whether Pillow writes a TIFF as it is."""
  if plan.alpha and like.associated:
    return False
  grey = ('uint1', 'uint8', 'uint16', 'int32', 'float32')
  if plan.channels == 1 and not plan.alpha:
    return plan.depth in grey
  return plan.depth == 'uint8' and plan.channels in (1, 3)
