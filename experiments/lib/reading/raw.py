"""What every decoder gives: the values of a file as the file stores them."""

from typing import NamedTuple

import numpy as np

MAX_PIXELS = 100_000_000
MAX_CHANNELS = 5
# No photograph has more samples to a byte of its file, and no Deflate packs
# better; so many samples are free.
_MAX_RATIO = 1100
_MAX_FREE = 16 << 20


class Notes(NamedTuple):
  """What a file says beside its pixels; nothing here changes them."""

  exif: bytes | None = None  # As the file has it, from its byte order on.
  dpi: tuple[float, float] | None = None  # Pixels for each inch, across, down.
  text: tuple[tuple[str, str], ...] = ()  # Keys are those of PNG.
  colour: tuple[tuple[bytes, bytes], ...] = ()  # Chunks of PNG, as gAMA.


class Raw(NamedTuple):
  """The values of one image, neither scaled nor masked, and what they mean."""

  values: np.ndarray  # [H, W] or [H, W, C], any real type.
  white: float | None  # The largest value of the type; None: floats.
  depth: str  # As 'uint16'.
  container: str  # As 'PNG'.
  valid: np.ndarray | None = None  # bool [H, W], False: blank.
  turned: int = 0  # EXIF's orientation, 2 to 8, of values that lie upright now.
  profile: bytes | None = None  # ICC.
  header: str | None = None  # The cards of a FITS file; the name in an npz.
  alpha: np.ndarray | None = (
    None  # [H, W], stored; white (1 of floats): opaque.
  )
  associated: bool = False  # The colours are multiplied by alpha.
  notes: Notes = Notes()


def check_size(height: int, width: int) -> None:
  """Refuses, before anything is decoded, too many pixels or none."""
  if height < 1 or width < 1:
    raise ValueError(f'holds no pixels, {width} x {height}')
  if height * width > MAX_PIXELS:
    raise ValueError(
      f'{width} x {height} is more than {MAX_PIXELS} pixels; reduce or cut it '
      'first'
    )


def check_packed(samples: int, size: int) -> None:
  """Refuses, before room is made for them, more samples than a file packs.

  Args:
    samples: of the unpacked image.
    size: of the file, in bytes.
  """
  if samples > max(_MAX_FREE, _MAX_RATIO * size):
    raise ValueError(
      f'unpacks {samples} samples from {size} bytes: it is truncated, or of '
      'one colour'
    )


def check_shape(shape: tuple[int, ...]) -> None:
  """Refuses what is not [H, W] or [H, W, C] with few channels."""
  if len(shape) not in (2, 3) or not 1 <= (*shape, 1)[2] <= MAX_CHANNELS:
    raise ValueError(
      f'holds an array of shape {list(shape)}; give [height, width] or '
      f'[height, width, 1 to {MAX_CHANNELS}]'
    )
  check_size(*shape[:2])


def find_white(dtype: np.dtype) -> float | None:
  """Returns the largest value of an integer type; None for floats."""
  if dtype.kind == 'b':
    return 1
  return None if dtype.kind == 'f' else int(np.iinfo(dtype).max)
