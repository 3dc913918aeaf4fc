"""JPEG, BMP, GIF and WebP by Pillow, and what other files need of it."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from experiments.lib.reading.notes import XMP
from experiments.lib.writing.levels import Content


def encode_jpeg(content: Content) -> bytes:
  """Returns a JPEG of quality 95 with a colour at each pixel."""
  options = _find_options(content)
  text = dict(content.notes.text)
  options['comment'] = text.get('Comment', '').encode('latin-1', 'replace')
  options['dpi'] = content.notes.dpi
  image = make_image(content.join(), content.plan.depth)
  return save(image, 'JPEG', options | {'quality': 95, 'subsampling': 0})


def encode_webp(content: Content) -> bytes:
  """Returns a lossless WebP, in which grey is three equal channels."""
  image = make_image(content.join(), content.plan.depth)
  alpha = content.alpha is not None
  if content.plan.channels == 1:
    image = image.convert('RGBA' if alpha else 'RGB')
  options = _find_options(content) | {'lossless': True, 'exact': True}
  return save(image, 'WEBP', options)


def encode_bmp(content: Content) -> bytes:
  """Returns a BMP; with alpha, one whose header has a mask for each channel."""
  dpi = content.notes.dpi
  if content.alpha is None:
    image = make_image(content.join(), content.plan.depth)
    return save(image, 'BMP', {'dpi': dpi})
  height, width, _ = content.values.shape
  colours = np.broadcast_to(content.values, (height, width, 3))
  # BMP has blue first, and the lowest row first.
  pixels = np.dstack([colours[..., ::-1], content.alpha])[::-1].tobytes()
  across, down = (round(side / 0.0254) for side in dpi or (0, 0))
  masks = 0xFF0000, 0xFF00, 0xFF, 0xFF000000
  head = struct.pack('<2sIHHI', b'BM', 122 + len(pixels), 0, 0, 122)
  info = struct.pack(
    '<IiiHHIIiiII4I4s48x',
    *(108, width, height, 1, 32, 3, len(pixels), across, down, 0, 0),
    *masks,
    b'BGRs',  # The colours are sRGB, as those of other BMPs.
  )
  return head + info + pixels


def encode_gif(content: Content) -> bytes:
  """Returns a GIF; exact where there are at most 256 colours."""
  text = dict(content.notes.text)
  options: dict[str, Any] = {'optimize': False}
  if 'Comment' in text:
    options['comment'] = text['Comment'].encode('latin-1', 'replace')
  if content.plan.channels == 1 and content.alpha is None:
    return save(make_image(content.join(), 'uint8'), 'GIF', options)
  colours = np.broadcast_to(content.values, (*content.values.shape[:2], 3))
  opaque = np.full(colours.shape[:2], 255, np.uint8)
  alpha = opaque if content.alpha is None else content.alpha
  packed = np.dstack([colours, alpha]).view('<u4')[..., 0]
  table, index = np.unique(packed, return_inverse=True)
  clear = np.flatnonzero(table < 1 << 24)
  if len(table) <= 256 and len(clear) <= 1:
    image = Image.fromarray(index.reshape(packed.shape).astype(np.uint8))
    palette = table.astype('<u4').view(np.uint8).reshape(-1, 4)[:, :3]
  else:
    reduced = Image.fromarray(np.ascontiguousarray(colours)).quantize(255)
    index = np.array(reduced)
    index[alpha == 0] = 255
    image, clear = Image.fromarray(index), [255][: int((alpha == 0).any())]
    palette = np.zeros((256, 3), np.uint8)
    table = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)
    palette[: len(table)] = table
  image.putpalette(palette.tobytes())
  if len(clear):
    options['transparency'] = int(clear[0])
  return save(image, 'GIF', options)


def make_image(values: np.ndarray, depth: str) -> Image.Image:
  """Returns an image of [H, W] or [H, W, C], in the mode that fits."""
  if depth == 'uint1':
    return Image.fromarray(values.astype(bool))
  return Image.fromarray(np.ascontiguousarray(values))


def save(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
  """Returns a file of one kind; options that are None are left out."""
  data = io.BytesIO()
  given = {name: value for name, value in options.items() if value is not None}
  image.save(data, kind, **given)
  return data.getvalue()


def _find_options(content):
  """Returns the profile, EXIF and XMP, in the words of Pillow."""
  exif = content.notes.exif
  xmp = dict(content.notes.text).get(XMP)
  return {
    'icc_profile': content.plan.profile,
    'exif': exif and b'Exif\0\0' + exif,
    'xmp': xmp and xmp.encode(),
  }
