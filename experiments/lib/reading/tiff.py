"""TIFF: Pillow where it is known to be right, tifffile for other numbers.

A kind of TIFF is its photometric, bits, sample format, planes and extra
samples. Each kind has one way to be read; the others are refused.
"""

import contextlib

import numpy as np

from experiments.lib.reading import notes, pillow
from experiments.lib.reading.raw import Raw, check_shape, find_white
from experiments.lib.reading.tags import Page, read_page

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_GREYS = (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
_OTHERS = {
  4: 'a mask',
  8: 'CIELab colours',
  9: 'ICCLab colours',
  10: 'ITULab colours',
  32803: 'the mosaic of a camera',
  32844: 'LogL light',
  32845: 'LogLuv light',
  34892: 'linear camera colours',
}
_FORMATS = {1: 'uint', 2: 'int', 3: 'float'}
_WIDTHS = {1: (8, 16, 32, 64), 2: (8, 16, 32, 64), 3: (16, 32, 64)}
_JPEG = 7
_ASSOCIATED = 1
_ALPHA = (_ASSOCIATED, 2)  # What is opaque is the same.
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
# By EXIF's orientation, what turns [H, W, ...] upright.
TURNS = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.swapaxes(0, 1),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
  8: lambda x: np.rot90(x),
}


def read_tiff(path: str, number: int | None) -> Raw:
  """Returns the values of the only page, or of page `number`."""
  page = read_page(path, number)
  return _read(path, page)._replace(notes=notes.read_tags(path, page))


def _read(path, page):
  name = _name_type(page)
  if page.compression not in _COMPRESSIONS:
    raise ValueError(f'has compression {page.compression}, not supported')
  if page.photometric in _OTHERS:
    raise ValueError(
      f'holds {_OTHERS[page.photometric]}; convert it to grey or RGB first'
    )
  if _is_palette(page):
    values, turned = _read_palette(path, page)
    return _make(page, values, 65535, 'uint16', turned)
  if _is_print(page):
    loaded = _load(path, page)
    values, _ = pillow.split(loaded.image)
    return _make(page, values, 255, 'uint8', loaded.turned)
  if _is_simple(page):
    return _read_simple(path, page, name)
  if _is_deep(page):
    values, loaded = pillow.load_deep(lambda: _open(path, page))
    return _drop_alpha(page, values, 65535, name, loaded.turned)
  if _is_packed(page):
    values = TURNS.get(page.orientation, TURNS[1])(_unpack(path, page))
    white = (1 << page.bits) - 1
    if page.photometric == _WHITE_IS_ZERO:
      values = white - values
    return _make(page, values, white, name, _find_turn(page))
  return _read_other(path, page, name)


def _name_type(page):
  if page.format not in _FORMATS or page.bits > 64:
    raise ValueError(
      f'has samples of format {page.format} and {page.bits} bits, not supported'
    )
  return f'{_FORMATS[page.format]}{page.bits}'


def _is_palette(page):
  return (
    page.photometric == _PALETTE
    and (page.samples, page.format) == (1, 1)
    and page.bits in (1, 2, 4, 8)
    and len(page.colours) == 3 << page.bits
  )


def _is_print(page):
  """Whether these are inks, or the colours of a JPEG, which Pillow converts."""
  if (page.bits, page.format, page.planar) != (8, 1, 1):
    return False
  if page.photometric == _CMYK:
    return page.samples == 4 and page.inks == 1 and not page.profile
  jpeg = page.compression == _JPEG and page.samples == 3
  return page.photometric == _YCBCR and jpeg


def _is_simple(page):
  """Whether Pillow gives all bits of the values, as its modes allow."""
  # What follows has been seen to go wrong in Pillow: pressed floats of the
  # other byte order come with their bytes turned.
  strange = page.big_endian and page.compression != 1
  if _is_unknown(page):
    return False
  if page.photometric in _GREYS and page.samples == 1:
    if page.planar != 1:
      return False
    if page.format == 3:
      black = page.photometric == _BLACK_IS_ZERO
      return page.bits == 32 and black and not strange
    if page.bits == 16 and page.photometric == _WHITE_IS_ZERO:
      return page.format == 1 and not page.big_endian
    return page.format == 1 and page.bits in (1, 2, 4, 8, 16)
  if (page.bits, page.format) != (8, 1):
    return False
  if page.photometric == _BLACK_IS_ZERO:
    return page.planar == 1 and page.extra in ((2,),)
  return page.photometric == _RGB and (
    page.samples == 3 or (page.planar == 1 and _has_alpha(page, 4))
  )


def _is_deep(page):
  whole = page.samples == 3 or _has_alpha(page, 4)
  kind = (page.photometric, page.bits, page.format, page.planar)
  return kind == (_RGB, 16, 1, 1) and whole and not _is_unknown(page)


def _is_unknown(page):
  """Whether Pillow takes the file for none of its own."""
  return page.big and page.big_endian


def _is_packed(page):
  """Whether samples of 9 to 16 bits lie from high to low, uncompressed."""
  return (
    page.photometric in (*_GREYS, _RGB)
    and (page.format, page.planar, page.compression) == (1, 1, 1)
    and 8 < page.bits < 16 + page.big_endian
    and page.fill_order == 1
    and not page.extra
    and bool(page.strips)
  )


def _has_alpha(page, samples):
  last = page.extra[-1:]
  return page.samples == samples and last in ((1,), (2,))


def _read_simple(path, page, name):
  loaded = _load(path, page)
  if page.format == 3:
    return _make(page, np.asarray(loaded.image), None, name, loaded.turned)
  grey = page.samples == 1
  values, alpha = pillow.split(loaded.image, page.bits if grey else 8)
  white = (1 << page.bits) - 1
  # Pillow turns black and white over for all but 16 bits.
  if page.photometric == _WHITE_IS_ZERO and page.bits == 16:
    values = white - values
  return _make(page, values, white, name, loaded.turned, alpha)


def _read_palette(path, page):
  image, turned, _ = _load(path, page)
  colours = np.array(page.colours, np.uint16).reshape(3, -1).T
  # Writers disagree on how a table of 8 bits becomes one of 16. The numbers
  # tell which they took: as they are, or times 256; the right way is 257.
  if colours.max() < 256:
    colours = colours * np.uint16(257)
  elif not (colours & 255).any():
    colours = (colours >> 8) * np.uint16(257)
  return colours[np.asarray(image)], turned


def _read_other(path, page, name):
  """Reads numbers of any width, in one or several planes, through tifffile."""
  known = page.photometric in (*_GREYS, _RGB)
  if not known or page.bits not in _WIDTHS[page.format]:
    raise ValueError(f'is a TIFF of {_describe(page, name)}, not supported')
  if page.photometric == _WHITE_IS_ZERO and page.format != 1:
    raise ValueError(f'says that white is zero in {name}, not supported')
  if page.fill_order != 1:
    raise ValueError('has the bits of its bytes turned over, not supported')
  values = _read_pages(path, page, name)
  if page.samples == 1:
    values = values.reshape(page.height, page.width, 1)
  elif page.planar == 2:
    values = np.moveaxis(values, 0, -1)
  expected = (page.height, page.width, page.samples)
  if values.shape != expected or values.dtype.name != name:
    raise ValueError(
      f'does not hold what its tags say: {_describe(page, name)}'
    )
  white = find_white(values.dtype)
  if page.photometric == _WHITE_IS_ZERO:
    values = np.array(white, values.dtype) - values
  values = TURNS.get(page.orientation, TURNS[1])(values)
  return _drop_alpha(page, values, white, name, _find_turn(page))


def _find_turn(page):
  return page.orientation if page.orientation in range(2, 9) else 0


def _read_pages(path, page, name):
  try:
    import tifffile
  except ImportError:
    raise ValueError(
      f'is a TIFF of {_describe(page, name)}, which needs tifffile: '
      "pip install 'dipjax[tiff]'"
    ) from None
  with tifffile.TiffFile(path) as file:
    return file.pages[page.index].asarray(maxworkers=1)


def _unpack(path, page):
  """Returns samples whose bits lie from high to low, in rows of whole bytes."""
  with open(path, 'rb') as file:
    parts = [_read_strip(file, *s) for s in zip(page.strips, page.lengths)]
  count = page.width * page.samples
  stride = (count * page.bits + 7) // 8
  rows = np.frombuffer(b''.join(parts), np.uint8, page.height * stride)
  values = np.empty((page.height, count), np.uint16)
  padded = np.zeros((count, 16), np.uint8)
  for row, packed in zip(values, rows.reshape(page.height, stride)):
    bits = np.unpackbits(packed, count=count * page.bits)
    padded[:, 16 - page.bits :] = bits.reshape(count, page.bits)
    row[:] = np.packbits(padded).view('>u2')
  return values.reshape(page.height, page.width, page.samples)


def _read_strip(file, offset, length):
  file.seek(offset)
  data = file.read(length)
  if len(data) < length:
    raise ValueError('is truncated: samples are missing')
  return data


def _drop_alpha(page, values, white, name, turned):
  alphas = [n for n in page.extra if n in _ALPHA]
  if not alphas:
    return _make(page, values, white, name, turned)
  if alphas != [page.extra[-1]]:
    raise ValueError(f'has extra samples {page.extra}, not supported')
  return _make(page, values[..., :-1], white, name, turned, values[..., -1])


def _make(page, values, white, name, turned, alpha=None):
  check_shape(values.shape)
  return Raw(
    values,
    white,
    name,
    'TIFF',
    turned=turned,
    profile=page.profile,
    alpha=alpha,
    associated=alpha is not None and page.extra[-1] == _ASSOCIATED,
  )


@contextlib.contextmanager
def _open(path, page: Page):
  with pillow.open_image(path, 'TIFF') as image:
    image.seek(page.index)
    # Pillow would divide the colours by their alpha, and not give them as they
    # are stored.
    image.tile = [
      pillow.change_mode(tile, lambda mode: mode.replace('RGBa', 'RGBA'))
      for tile in image.tile
    ]
    yield image


def _load(path, page):
  with _open(path, page) as image:
    return pillow.load(image)


def _describe(page, name):
  colours = {0: 'grey (white is zero)', 1: 'grey', 2: 'RGB', 3: 'palette'}
  colours |= {5: 'CMYK', 6: 'YCbCr'}
  kind = colours.get(page.photometric, f'photometric {page.photometric}')
  planes = ' in planes' if page.planar == 2 else ''
  profile = ' with a profile' if page.profile else ''
  return f'{kind} {name}, {page.samples} samples{planes}{profile}'
