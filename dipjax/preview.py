"""A restoration as a picture for a notebook: bytes of a PNG, no file."""

import struct
import zlib

import numpy as np

_WIDTH = 256  # Pixels to which a smaller image is enlarged.
_GAP = 8  # Pixels between two images.


def encode(image: np.ndarray, deviation: np.ndarray | None = None) -> bytes:
  """Returns a PNG of an image, and right of it where its seeds disagree.

  A small image is enlarged by a whole factor. In the map white is the 99.5th
  percentile of the deviation and all above it, black is 0.

  Args:
    image: [H, W, C], clipped to [0, 1]; of four channels the first three.
    deviation: [H, W, C], whose channels are averaged; None is no map.
  """
  shown = [_to_colour(image[..., :3])]
  if deviation is not None:
    level = np.mean(deviation, axis=-1, keepdims=True)
    # The smallest float keeps a map of zeros from becoming 0 / 0.
    white = max(np.percentile(level, 99.5), np.finfo(np.float32).tiny)
    shown.append(_to_colour(level / white))
  factor = max(1, _WIDTH // image.shape[1])
  shown = [one.repeat(factor, axis=0).repeat(factor, axis=1) for one in shown]
  gap = np.full((len(shown[0]), _GAP, 3), 255, np.uint8)
  row = [part for one in shown for part in (gap, one)]
  return _encode_png(np.hstack(row[1:]))


def _to_colour(image):
  image = np.round(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _encode_png(pixels):
  """Returns a PNG of uint8 [H, W, 3]."""
  height, width, _ = pixels.shape
  # Each row begins with the number of its filter: 0 is none.
  rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
  header = struct.pack('>2I5B', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    _make_chunk(name, data)
    for name, data in (
      (b'IHDR', header),
      (b'IDAT', zlib.compress(rows.tobytes())),
      (b'IEND', b''),
    )
  )


def _make_chunk(name, data):
  length, check = len(data), zlib.crc32(name + data)
  return struct.pack('>I', length) + name + data + struct.pack('>I', check)
