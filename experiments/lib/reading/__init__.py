"""Reads one image of a file by an allow-list; what is not on it is refused.

A kind of file is its container, photometric, bits, sample format and planes.
docs/files.md has the table. No decoder starts another program or runs what a
file holds, and sizes are checked before anything is decoded.
"""

import os
import re
from typing import NamedTuple

import numpy as np

from experiments.lib.reading import (
  arrays,
  fits,
  heif,
  netpbm,
  pillow,
  quiet,
  raw,
  tags,
  tiff,
)
from experiments.lib.reading.raw import MAX_PIXELS as MAX_PIXELS
from experiments.lib.reading.raw import Notes as Notes
from experiments.lib.reading.tiff import TURNS as TURNS

# Photographs inside scikit-image's own package, which need no download.
SAMPLES = (
  'astronaut',
  'brick',
  'camera',
  'chelsea',
  'coffee',
  'coins',
  'grass',
  'gravel',
  'hubble_deep_field',
  'moon',
  'rocket',
)

_BEGINNINGS = {
  rb'\x89PNG\r\n\x1a\n': 'PNG',
  rb'\xff\xd8': 'JPEG',
  rb'GIF8[79]a': 'GIF',
  rb'BM': 'BMP',
  rb'RIFF....WEBP': 'WEBP',
  rb'II[*+]\0|MM\0[*+]': 'TIFF',
  rb'P[1-7]\s|P[Ff]\s': 'Netpbm',
  rb'SIMPLE  =': 'FITS',
  rb'\x93NUMPY': 'npy',
  rb'PK\x03\x04|PK\x05\x06': 'npz',
  rb'....ftyp(hei|hev|mif1|msf1)': 'HEIC',
}
_REFUSED = {
  rb'%!PS|\xc5\xd0\xd3\xc6': 'PostScript, which is a program',
  rb'%PDF': 'PDF',
  rb'....ftyp(avif|avis)': 'AVIF',
  rb'....ftyp': 'a video or a camera raw file',
  rb'\0\0\0\x0cjP|\xff\x4f\xff\x51': 'JPEG 2000',
  rb'\0\0\0\x0cJXL|\xff\x0a': 'JPEG XL',
  rb'8BPS': 'a Photoshop file',
  rb'v/1\x01': 'OpenEXR',
  rb'\x89HDF': 'HDF5',
  rb'\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf': 'a packed file',
  rb'\s*<': 'a page or a drawing',
  rb'\x80[\x02-\x05]': 'a pickle, which is never opened',
}


class Picture(NamedTuple):
  """One upright image in [0, 1], and all that was read beside it."""

  pixels: np.ndarray  # float32 [H, W, C]; 0 where the mask is False.
  mask: np.ndarray | None  # bool [H, W], True = valid; None: all are.
  white: float  # The stored value that became 1.
  container: str  # As 'PNG'.
  depth: str  # As 'uint16'.
  profile: bytes | None  # ICC, not applied.
  low: float  # The stored values of the valid pixels.
  high: float
  missing: str = ''  # Why pixels are masked.
  header: str | None = None  # The cards of a FITS file; the name in an npz.
  turn: int = 0  # EXIF's orientation, 2 to 8, where it was turned.
  # What the file needs to be written again as it was: see writing.
  full: float | None = None  # The largest value of its type; None: floats.
  stored: np.ndarray | None = None  # [N, C], the values where masked, in order.
  alpha: np.ndarray | None = None  # [H, W], as stored, upright.
  associated: bool = False  # The stored colours are multiplied by alpha.
  flat: bool = False  # The array is [H, W], without channels.
  notes: Notes = Notes()
  path: str | None = None  # The file; None: a sample.

  @property
  def turned(self) -> bool:
    """Whether EXIF turned it."""
    return self.turn > 0

  def crop(self, top: int, left: int, height: int, width: int) -> 'Picture':
    """Returns a box that lies inside, with all that belongs to its pixels."""
    box = slice(top, top + height), slice(left, left + width)
    cut = lambda values: None if values is None else values[box]
    stored = self.stored
    if self.mask is not None and stored is not None:
      inside = np.zeros_like(self.mask)
      inside[box] = True
      stored = stored[inside[~self.mask]]
    return self._replace(
      pixels=self.pixels[box],
      mask=cut(self.mask),
      stored=stored,
      alpha=cut(self.alpha),
    )

  def drop_masks(self) -> 'Picture':
    """Returns the picture for pixels of another size or that were filled in."""
    return self._replace(mask=None, stored=None, alpha=None)

  def describe(self) -> str:
    """Returns one line that says what was read."""
    height, width, channels = self.pixels.shape
    parts = [
      f'{self.container} {width}x{height}',
      f'{channels} channel{"s" * (channels > 1)}',
      self.depth,
      f'values {self.low:.6g} to {self.high:.6g}',
      f'white {self.white:.6g}',
    ]
    if self.turned:
      parts.append('turned by its EXIF')
    if self.profile:
      parts.append('colour profile kept, not applied')
    if self.mask is not None:
      lost = self.mask.size - np.count_nonzero(self.mask)
      parts.append(f'{lost} pixels masked ({self.missing})')
    return ', '.join(parts)


def read(
  source: str, *, white: float | None = None, page: int | None = None
) -> Picture:
  """Returns the whole, upright image of a file or of a sample, or refuses it.

  The function guesses nothing. White is the largest value of an integer type;
  floats must lie in [0, 1] unless `white` is given. Transparent, blank and
  not finite pixels are masked.

  Args:
    source: a file, or one of SAMPLES where no file has that name.
    white: the stored value that becomes 1.
    page: which page of a TIFF, or HDU of a FITS file, from 0; None: the only
      one.

  Raises:
    ValueError: the message says in one line what is wrong with the source.
  """
  if white is not None and not 0 < white < float('inf'):
    raise ValueError(f'white is {white}; it must be a number above 0')
  path = os.path.expanduser(source)
  if os.path.isfile(path):
    try:
      with quiet.hush():
        return _read_whole(path, white, page)._replace(path=path)
    # Decoders raise nearly anything on damaged data.
    except Exception as error:
      text = _to_line(str(error)) or type(error).__name__
      if not isinstance(error, ValueError | OSError):
        text = f'is damaged ({type(error).__name__}: {text})'
      raise ValueError(f'{path!r}: {text}') from error
  if source in SAMPLES:
    return _scale(_read_sample(source), white)
  if os.path.isdir(path):
    raise ValueError(f'{path!r} is a folder; {_advise(path)}')
  if os.path.lexists(path):
    raise ValueError(
      f'{path!r} is a pipe, device, socket or link to nothing; give a file'
    )
  raise ValueError(
    f'{path!r} is neither a file nor one of the samples {", ".join(SAMPLES)}'
  )


def count_pages(path: str) -> int:
  """Returns how many pages a TIFF has; 1 for all that `read` may refuse."""
  try:
    with open(path, 'rb') as file:
      head = file.read(512)
    return tags.count_pages(path) if _find(head, _BEGINNINGS) == 'TIFF' else 1
  except (OSError, ValueError):
    return 1


def _read_whole(path, white, page):
  """Reads a file that stays as it is meanwhile."""
  before = _stamp(path)
  picture = _scale(_decode(path, page), white)
  if _stamp(path) != before:
    raise ValueError('was changed while it was read; read it again')
  return picture


def _stamp(path):
  found = os.stat(path)
  return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _decode(path, page):
  # The files of /proc, which can hang, say that they are empty.
  if not os.path.getsize(path):
    raise ValueError('is empty; give a PNG, JPEG or TIFF')
  with open(path, 'rb') as file:
    head = file.read(512)
  kind = _find(head, _BEGINNINGS)
  if kind is None:
    refused = _find(head, _REFUSED)
    what = f'is {refused}' if refused else 'is not a known image'
    raise ValueError(f'{what}; give a PNG, JPEG or TIFF')
  if kind == 'TIFF':
    return tiff.read_tiff(path, page)
  if kind == 'FITS':
    return fits.read_fits(path, page)
  if page is not None:
    raise ValueError(f'is {kind}, which has no pages: page={page}')
  decoders = {
    'Netpbm': netpbm.read_netpbm,
    'npy': arrays.read_npy,
    'npz': arrays.read_npz,
    'HEIC': heif.read_heif,
  }
  if kind in decoders:
    return decoders[kind](path)
  return pillow.read_pillow(path, kind)


def _to_line(text):
  """Returns one line that a terminal shows as it is."""
  line = ' '.join(text.split())[:200]
  return ''.join(c if c.isprintable() else '?' for c in line)


def _find(head, table):
  matches = (name for text, name in table.items() if _matches(text, head))
  return next(matches, None)


def _matches(text, head):
  return re.match(text, head, re.DOTALL) is not None


def _advise(path):
  signs = ('.zarray', '.zgroup', 'zarr.json')
  if any(os.path.exists(os.path.join(path, name)) for name in signs):
    return 'Zarr is not supported yet, save one image as TIFF'
  return 'name one image in it'


def _scale(found: raw.Raw, white: float | None) -> Picture:
  """Masks and scales values, block by block so that memory stays bounded."""
  values = found.values if found.values.ndim == 3 else found.values[..., None]
  raw.check_shape(values.shape)
  mask, missing = _find_mask(values, found)
  low, high = _find_range(values, mask)
  top = white if white is not None else found.white
  top = 1.0 if top is None else float(top)
  # Noise takes the floats of a telescope below 0, its black.
  least = -top if white is not None and found.white is None else 0.0
  # Written with "not", because NaN fails every comparison.
  if not (low >= least and high <= top):
    raise ValueError(_explain_range(found, low, high, top, white))
  pixels = np.empty(values.shape, np.float32)
  rows = max(1, (1 << 20) // values[0].size)
  for start in range(0, len(values), rows):
    block = slice(start, start + rows)
    with np.errstate(all='ignore'):  # What is not finite is masked below.
      pixels[block] = values[block].astype(np.float64) / top
    if mask is not None:
      pixels[block][~mask[block]] = 0
  return Picture(
    pixels=pixels,
    mask=mask,
    white=top,
    container=found.container,
    depth=found.depth,
    turn=found.turned,
    profile=found.profile,
    low=low,
    high=high,
    missing=missing,
    header=found.header,
    full=found.white,
    stored=None if mask is None else _to_native(values[~mask]),
    alpha=None if found.alpha is None else _to_native(found.alpha),
    associated=found.associated,
    flat=found.values.ndim == 2,
    notes=found.notes,
  )


def _to_native(values):
  """Returns a copy, which keeps no larger array that it was a part of."""
  return values.astype(values.dtype.newbyteorder('='))


def _find_mask(values, found):
  """Returns the pixels that count and why others do not; None: all count."""
  masks, why = [], []
  valid = found.valid
  if found.alpha is not None:
    valid = found.alpha == (1 if found.white is None else found.white)
  if valid is not None and not valid.all():
    masks.append(valid)
    why.append('transparent or blank')
  if values.dtype.kind == 'f':
    finite = np.isfinite(values).all(2)
    if not finite.all():
      masks.append(finite)
      why.append('nan or infinite')
  if not masks:
    return None, ''
  mask = np.logical_and.reduce(masks)
  if not mask.any():
    raise ValueError(f'holds no pixel that counts: all {", ".join(why)}')
  return mask, ', '.join(why)


def _find_range(values, mask):
  if mask is not None:
    values = values[mask]
  return float(values.min()), float(values.max())


def _explain_range(found, low, high, top, white):
  if found.white is None and white is None:
    return (
      f'holds floats from {low:.9g} to {high:.9g}; scale them to [0, 1] first, '
      f'or say what is white, as data.white={high:.4g}'
    )
  return (
    f'holds {found.depth} from {low:.9g} to {high:.9g}, outside 0 to white '
    f'({top:.9g})'
  )


def _read_sample(name):
  try:
    from skimage import data

    pixels = getattr(data, name)()
  except ImportError:
    raise ValueError(
      f"the sample {name!r} needs scikit-image: pip install 'dipjax[samples]', "
      'or give a file with --config.data.image=FILE'
    ) from None
  return raw.Raw(pixels, raw.find_white(pixels.dtype), 'uint8', 'sample')
