"""HEIC through pi-heif, with all its bits and upright as the file says."""

import os

import numpy as np
from PIL import Image

from experiments.lib.reading.raw import (
  MAX_PIXELS,
  Raw,
  check_packed,
  check_shape,
  check_size,
)

_ORIENTATION = 0x0112


def read_heif(path: str) -> Raw:
  """Returns the values of the only image of a HEIC file.

  White is 255, 1023 or 4095. The file's own turns and mirrors are applied; the
  orientation of the EXIF repeats them, and is not read.
  """
  try:
    import pi_heif
  except ImportError:
    raise ValueError(
      "is HEIC, which needs pi-heif: pip install 'dipjax[heic]'"
    ) from None
  size = os.path.getsize(path)
  if size > 10 * MAX_PIXELS:
    raise ValueError(f'has {size} bytes, more than {MAX_PIXELS} pixels take')
  file = pi_heif.open_heif(path, convert_hdr_to_8bit=False, hdr_to_16bit=False)
  if len(file) != 1:
    raise ValueError(
      'holds several frames; save the one to restore as a file of its own'
    )
  image = file[0]
  width, height = image.size
  check_size(height, width)
  colours, _, bits = image.mode.partition(';')
  check_packed(height * width * len(colours), size)
  # A copy: what pi-heif shows of its memory ends with the image.
  values = np.array(image).reshape(height, width, len(colours))
  white = (1 << int(bits or 8)) - 1
  alpha = None
  if image.has_alpha:
    values, alpha = values[..., :-1], values[..., -1]
  check_shape(values.shape)
  exif = Image.Exif()
  exif.load(image.info['exif'] or b'')
  turned = exif.get(_ORIENTATION, 0)
  return Raw(
    values,
    white,
    f'uint{bits or 8}',
    'HEIC',
    turned=turned if turned in range(2, 9) else 0,
    profile=image.info.get('icc_profile'),
    alpha=alpha,
  )
