"""Writes a restored picture as a file of the kind and depth of the input.

docs/files.md has the table. `check` refuses before a fit what `write` would
refuse after it.
"""

import os
import tempfile

import numpy as np

from experiments.lib import folders
from experiments.lib.reading import Picture
from experiments.lib.writing import (
  arrays,
  fits,
  levels,
  netpbm,
  notes,
  pillow,
  plan,
  png,
  tiff,
)
from experiments.lib.writing.formats import FORMATS as FORMATS
from experiments.lib.writing.plan import Plan as Plan

_ENCODERS = {
  'PNG': png.encode_png,
  'JPEG': pillow.encode_jpeg,
  'BMP': pillow.encode_bmp,
  'GIF': pillow.encode_gif,
  'WEBP': pillow.encode_webp,
  'Netpbm': netpbm.encode_netpbm,
  'PFM': netpbm.encode_pfm,
  'TIFF': tiff.encode_tiff,
  'FITS': fits.encode_fits,
  'npy': arrays.encode_npy,
  'npz': arrays.encode_npz,
}


def check(
  path: str,
  like: Picture | None,
  *,
  shape: tuple[int, ...] | None = None,
  depth: str | None = None,
) -> Plan:
  """Returns what `write` will write, and refuses all that it would refuse.

  The ending of the path says the container. The depth is that of the input,
  or the shallowest that holds it, or the deepest that the container has. An
  array without a file gets 16 bits where the container has them.

  Args:
    path: the file to write or to replace.
    like: the input, as `reading.read` gave it; None: an array without a file.
    shape: of the restored picture, [H, W, C]; None: that of the input.
    depth: another depth than that of the input, as 'uint8'.

  Raises:
    ValueError: the ending is unknown, the container cannot hold the picture, a
      package is missing, or the path is the input or cannot be written.
  """
  like = like or _make_like(shape or (1, 1, 3))
  found = plan.make_plan(path, like, shape or like.pixels.shape, depth)
  _check_path(os.path.expanduser(path), like.path)
  return found


def write(
  path: str,
  pixels: np.ndarray,
  like: Picture | None,
  *,
  depth: str | None = None,
) -> Plan:
  """Writes the whole file or nothing, and returns what it is.

  Integers are the nearest level, floats are not rounded. Alpha, the values of
  masked pixels, profile, EXIF, resolution and text are those of the input.

  Args:
    path: the file to write or to replace; see `check`.
    pixels: float [H, W, C], upright, 1 is white. What is masked is not used.
    like: the input, as `reading.read` gave it; None: an array without a file.
    depth: another depth than that of the input, as 'uint8'.

  Raises:
    ValueError: `check` refuses it, or the pixels do not fit the input or are
      not finite.
    OSError: the disk did not take the file; the message says where it is.
  """
  pixels = np.asarray(pixels)
  if pixels.ndim != 3 or not pixels.size:
    raise ValueError(f'{path!r} needs an image [H, W, C], got {pixels.shape}')
  like = like or _make_like(pixels.shape)
  found = check(path, like, shape=pixels.shape, depth=depth)
  _check_pixels(path, pixels, like)
  content = levels.Content(
    levels.find_values(pixels, found, like),
    levels.find_alpha(found, like),
    found,
    like,
    notes.clean_notes(like.notes, pixels.shape),
  )
  data = _ENCODERS[found.container](content)
  folder, name = os.path.split(os.path.expanduser(path))
  folders.write_or_rescue(
    folder or '.',
    lambda place: folders.write_atomic(os.path.join(place, name), data),
  )
  return found


def name_output(source: str) -> str:
  """Returns a free name beside the input, as 'DIR/NAME_restored.png'.

  Args:
    source: a file; of a kind that is not written, as of a sample, the output is
      a PNG.
  """
  stem, ending = os.path.splitext(os.path.expanduser(source))
  if ending.lower() not in FORMATS:
    ending = '.png'
  path, number = f'{stem}_restored{ending}', 2
  while os.path.lexists(path):
    path, number = f'{stem}_restored_{number}{ending}', number + 1
  return path


def _make_like(shape):
  """Returns the input of an array without a file."""
  return Picture(
    pixels=np.broadcast_to(np.float32(0), shape),
    mask=None,
    white=65535,
    container='array',
    depth='uint16',
    profile=None,
    low=0,
    high=65535,
    full=65535,
  )


def _check_path(path, source):
  if os.path.isdir(path):
    raise ValueError(f'{path!r} is a folder; name a file in it')
  if source and os.path.exists(path) and os.path.samefile(path, source):
    raise ValueError(f'{path!r} is the input; give the output another name')
  folder = os.path.dirname(path) or '.'
  if not os.path.isdir(folder):
    raise ValueError(f'{folder!r} is no folder; make it first')
  try:
    # Only a try tells: rights, quotas and read-only disks differ.
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    raise ValueError(
      f'{folder!r} takes no files: {error.strerror}; name another folder'
    ) from None


def _check_pixels(path, pixels, like):
  finite = np.isfinite(pixels).all(2)
  if like.mask is not None:
    finite |= ~like.mask
  broken = finite.size - np.count_nonzero(finite)
  if broken:
    raise ValueError(
      f'{path!r} needs finite values; {broken} of {finite.size} pixels have '
      'others: look for a fit that diverged'
    )
