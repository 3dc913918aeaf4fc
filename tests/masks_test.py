"""Masks of every kind that users bring, and what is said of them."""

import functools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from experiments.lib import masks, reading

SIZE = HEIGHT, WIDTH = 96, 128


@functools.cache
def _draw_strokes(width, resample, seed=0):
  """Returns how far strokes cover each pixel, truly and as they are drawn."""
  scale = 8
  large = Image.new('L', (WIDTH * scale, HEIGHT * scale))
  draw = ImageDraw.Draw(large)
  random = np.random.RandomState(seed)
  for ends in random.randint(0, HEIGHT * scale, (4, 4)):
    draw.line(ends.tolist(), fill=255, width=max(1, round(width * scale)))
  reduce = lambda how: np.asarray(large.resize((WIDTH, HEIGHT), how))
  return reduce(Image.Resampling.BOX) / 255, reduce(resample)


TRUE, SOFT = _draw_strokes(3, Image.Resampling.LANCZOS)
SEEN = SOFT < 128  # Of the hard masks.
LEVELS = np.where(SEEN, 255, 0).astype(np.uint8)


def _save(path, values, **options):
  Image.fromarray(values.squeeze()).save(path, **options)


def _save_array(path, values):
  with open(path, 'wb') as file:  # By its content, not by its name.
    np.save(file, values)


def _save_palette(path, colours):
  """Writes indices of two colours: of what is missing, and of what is seen."""
  image = Image.fromarray(SEEN.astype(np.uint8))
  image.putpalette([c for colour in colours for c in colour])
  image.save(path)


def _dye(missing, seen):
  return np.where(SEEN[..., None], seen, missing).astype(np.uint8)


# A file of one mask, SEEN: how it is written, and data.invert.
KINDS = {
  '8 bits': (lambda path: _save(path, LEVELS), False),
  '1 bit': (lambda path: Image.fromarray(SEEN).save(path), False),
  '16 bits': (lambda path: _save(path, LEVELS.astype(np.uint16) * 257), False),
  'palette': (lambda path: _save_palette(path, [(0, 0, 0), (255,) * 3]), False),
  'red on white': (lambda path: _save(path, _dye((255, 0, 0), 255)), False),
  'nearly white': (lambda path: _save(path, _dye(128, 250)), False),
  'zeros and ones': (lambda path: _save(path, LEVELS // 255), False),
  'booleans': (lambda path: _save_array(path, SEEN), False),
  'floats': (lambda path: _save_array(path, SEEN.astype(np.float32)), False),
  'nan': (lambda path: _save_array(path, np.where(SEEN, 1.0, np.nan)), False),
  'alpha of black': (
    lambda path: _save(path, np.dstack([0 * LEVELS] * 3 + [LEVELS])),
    False,
  ),
  'alpha of grey': (
    lambda path: _save(path, np.dstack([LEVELS // 2 + 60, LEVELS])),
    False,
  ),
  'alpha of a photograph': (
    lambda path: _save(
      path,
      np.dstack(
        [np.random.RandomState(0).randint(0, 256, (*SIZE, 3)), LEVELS]
      ).astype(np.uint8),
    ),
    False,
  ),
  'opaque': (lambda path: _save(path, _dye((0, 0, 0, 255), 255)), False),
  'webp': (
    lambda path: _save(path, _dye(0, 255), format='WEBP', lossless=True),
    False,
  ),
  'white on black': (lambda path: _save(path, 255 - LEVELS), True),
  'white on nearly black': (lambda path: _save(path, _dye(128, 5)), True),
  'red on black': (lambda path: _save(path, _dye((255, 0, 0), 0)), True),
  'ones are missing': (lambda path: _save(path, 1 - LEVELS // 255), True),
}


def _make_picture(tmp_path, orientation=1, size=SIZE, alpha=None):
  """Returns a picture with the upright size, and its stored pixels."""
  stored = size[::-1] if orientation >= 5 else size
  values = np.random.RandomState(1).randint(0, 256, (*stored, 3))
  values = values.astype(np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  whole = values if alpha is None else np.dstack([values, alpha])
  Image.fromarray(whole).save(tmp_path / 'picture.png', exif=exif)
  return reading.read(str(tmp_path / 'picture.png')), values


@pytest.fixture
def picture(tmp_path):
  return _make_picture(tmp_path)[0]


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_mask_is_read_right(kind, tmp_path, picture):
  write, invert = KINDS[kind]
  # Pillow chooses a format by the name; that of WebP is told.
  path = str(tmp_path / 'mask.png')
  write(path)
  mask = masks.read_mask(path, picture, invert=invert)
  assert mask.seen.shape == (*SIZE, 1) and mask.seen.dtype == bool
  seen = mask.seen[..., 0]
  if kind == 'webp':  # Its neighbours of dark pixels are missing too.
    assert np.all(SEEN[seen]) and seen.mean() > 0.8 * SEEN.mean()
  else:
    np.testing.assert_array_equal(seen, SEEN)
  share = 100 * np.mean(~seen)
  assert mask.missing == pytest.approx(share / 100)
  assert mask.line.startswith(f'mask: {share:.3g} % of the pixels are missing')
  assert 'most' not in mask.line


@pytest.mark.parametrize('quality', [None, 50, 60, 75, 85, 95])
@pytest.mark.parametrize('width', [0.6, 1, 3, 6])
def test_what_is_half_covered_is_missing(quality, width, tmp_path):
  """What a soft mask, of PNG or of JPEG, says of the true coverage."""
  covered, alone, touched = [], [], []
  picture, _ = _make_picture(tmp_path)
  resamplings = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR
  for seed in range(6):
    true, soft = _draw_strokes(width, resamplings[seed % 2], seed)
    path = tmp_path / ('mask.jpg' if quality else 'mask.png')
    _save(path, 255 - soft, **({'quality': quality} if quality else {}))
    seen = masks.read_mask(str(path), picture).seen[..., 0]
    covered.append(true[seen].max())
    touched.append(seen[true == 0].mean())
    # Blocks of 8 pixels beside no stroke.
    busy = true.reshape(HEIGHT // 8, 8, WIDTH // 8, 8).max((1, 3)) > 0
    busy = masks._grow(busy).repeat(8, 0).repeat(8, 1)
    alone.append(seen[~busy].mean())
  # Lanczos alone differs from the truth by some percent.
  assert max(covered) < (0.04 if quality else 0.07)
  assert min(touched) > (0.88 if quality else 0.98)
  assert min(alone) == 1


def test_grey_near_white_counts_by_its_level(tmp_path, picture):
  levels = LEVELS.copy()
  levels[0, :6] = 255, 252, 250, 249, 240, 128
  _save(tmp_path / 'mask.png', levels)
  seen = masks.read_mask(str(tmp_path / 'mask.png'), picture).seen
  assert seen[0, :6, 0].tolist() == [True] * 3 + [False] * 3


def test_soft_edges_are_missing_whichever_way_a_mask_is_drawn(
  tmp_path, picture
):
  _save(tmp_path / 'mask.png', 255 - SOFT)
  _save(tmp_path / 'inverted.png', SOFT)
  alpha = np.dstack([0 * SOFT, 0 * SOFT, 0 * SOFT, 255 - SOFT])
  _save(tmp_path / 'alpha.png', alpha)
  read = lambda name, **options: masks.read_mask(
    str(tmp_path / name), picture, **options
  )
  seen = read('mask.png').seen
  assert not seen[TRUE > 0.05].any()
  np.testing.assert_array_equal(read('inverted.png', invert=True).seen, seen)
  assert not read('alpha.png').seen[TRUE > 0.05].any()
  # Transparent pixels of a mask that is drawn in colours are missing too.
  drawn = np.dstack([LEVELS] * 4)
  drawn[..., 3] = 255
  drawn[:5, :, 3] = 200
  _save(tmp_path / 'drawn.png', drawn)
  expected = SEEN & (np.arange(HEIGHT) >= 5)[:, None]
  np.testing.assert_array_equal(read('drawn.png').seen[..., 0], expected)


def _hatch(step):
  rows, columns = np.indices(SIZE)
  return (rows + columns) % step == 0


# What is seen, and whether one asks if the mask is inverted.
SHARES = {
  'strokes are seen': (~SEEN, True),
  'hairlines are seen': (_hatch(24), True),
  'a thing is seen': (
    np.hypot(*(np.indices(SIZE) - np.reshape((40, 60), (2, 1, 1)))) < 20,
    True,
  ),
  'strokes are missing': (SEEN, False),
  'half is missing at random': (
    np.random.RandomState(0).uniform(size=SIZE) < 0.5,
    False,
  ),
  'nearly all is missing at random': (
    np.random.RandomState(0).uniform(size=SIZE) < 0.05,
    False,
  ),
  'a grid is seen': (
    (np.indices(SIZE) % 2 == 0).all(axis=0),
    False,
  ),
}


@pytest.mark.parametrize('kind', SHARES)
@pytest.mark.parametrize('invert', [False, True])
def test_a_mask_that_seems_inverted_is_questioned(
  kind, invert, tmp_path, picture
):
  seen, asks = SHARES[kind]
  _save(tmp_path / 'mask.png', np.where(seen != invert, 255, 0).astype('u1'))
  path = str(tmp_path / 'mask.png')
  mask = masks.read_mask(path, picture, invert=invert)
  np.testing.assert_array_equal(mask.seen[..., 0], seen)
  assert '\n' not in mask.line
  assert ('most of the picture is missing' in mask.line) == asks
  assert (f'data.invert={not invert}' in mask.line) == asks


def test_the_picture_has_a_mask_of_its_own(tmp_path):
  alpha = np.where(SEEN, 255, SOFT // 2)
  picture, _ = _make_picture(tmp_path, alpha=alpha.astype(np.uint8))
  for source in ('', masks.ALPHA):
    mask = masks.read_mask(source, picture)
    np.testing.assert_array_equal(mask.seen[..., 0], SEEN)
    assert 'transparent' in mask.line
  # What has no value is missing beside a mask file, too.
  levels = np.full(SIZE, 255, np.uint8)
  levels[:, :40] = 0
  _save(tmp_path / 'mask.png', levels)
  mask = masks.read_mask(str(tmp_path / 'mask.png'), picture)
  np.testing.assert_array_equal(mask.seen[..., 0], SEEN & (levels > 0))
  assert 'transparent' in mask.line
  with pytest.raises(ValueError, match='data.invert needs a mask file'):
    masks.read_mask('alpha', picture, invert=True)
  row, column = np.argwhere(SEEN)[0].tolist()
  with pytest.raises(ValueError, match='data.image misses nothing in data.cro'):
    masks.read_mask('', picture, crop=(row, column, 1, 1))


def test_pixels_that_are_nan_are_missing(tmp_path):
  _save_array(tmp_path / 'x.npy', np.where(SEEN, 0.5, np.nan))
  picture = reading.read(str(tmp_path / 'x.npy'))
  mask = masks.read_mask('', picture)
  np.testing.assert_array_equal(mask.seen[..., 0], SEEN)
  assert 'nan' in mask.line


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('size', [SIZE, (96, 96)])
def test_a_mask_of_the_picture_before_exif_turned_it(
  orientation, size, tmp_path
):
  """A stroke that is dark in the stored picture is missing in the upright."""
  picture, values = _make_picture(tmp_path, orientation, size)
  dark = values[..., 0] < 100
  _save(tmp_path / 'mask.png', np.where(dark, 0, 255).astype(np.uint8))
  path = str(tmp_path / 'mask.png')
  if orientation == 1 or (orientation > 4 and size == SIZE):
    mask = masks.read_mask(path, picture)
    levels = np.rint(255 * picture.pixels[..., 0])
    np.testing.assert_array_equal(mask.seen[..., 0], levels >= 100)
    assert ('turned as the EXIF' in mask.line) == (orientation > 1)
  else:
    with pytest.raises(ValueError, match='save the picture upright'):
      masks.read_mask(path, picture)


@pytest.mark.parametrize('orientation', [3, 6])
def test_a_mask_of_the_upright_picture(orientation, tmp_path):
  """It fits as it is, if its size or an EXIF of its own says so."""
  picture, _ = _make_picture(tmp_path, orientation)
  if orientation == 6:
    _save(tmp_path / 'mask.png', LEVELS)
  else:
    exif = Image.Exif()
    exif[0x0112] = 3
    _save(tmp_path / 'mask.png', LEVELS[::-1, ::-1], exif=exif)
  mask = masks.read_mask(str(tmp_path / 'mask.png'), picture)
  np.testing.assert_array_equal(mask.seen[..., 0], SEEN)
  assert 'EXIF' not in mask.line


def test_a_mask_is_cut_as_the_picture_is(tmp_path, picture):
  _save(tmp_path / 'mask.png', LEVELS)
  path = str(tmp_path / 'mask.png')
  row, column = np.argwhere(~SEEN)[0] // 8 * 8
  box = (int(row), int(column), 8, 16)
  mask = masks.read_mask(path, picture, crop=box)
  expected = SEEN[row : row + 8, column : column + 16]
  np.testing.assert_array_equal(mask.seen[..., 0], expected)
  assert mask.missing == np.mean(~expected)


WRONG = {
  'misses nothing: only near-white': np.full(SIZE, 255, np.uint8),
  'misses nothing in data.crop': np.where(
    np.arange(WIDTH) < 8, 255, LEVELS
  ).astype(np.uint8),
  'misses everything: only near-white': np.full(SIZE, 200, np.uint8),
  'is 96x128, the picture is 128x96: they must': LEVELS.T.copy(),
  'is 64x48, the picture is 128x96: they must': LEVELS[::2, ::2].copy(),
}


@pytest.mark.parametrize('says', WRONG)
def test_a_mask_that_cannot_be_is_refused_in_one_line(says, tmp_path, picture):
  _save(tmp_path / 'mask.png', WRONG[says])
  crop = (0, 0, 8, 8) if 'crop' in says else ()
  with pytest.raises(ValueError, match=says) as caught:
    masks.read_mask(str(tmp_path / 'mask.png'), picture, crop=crop)
  assert '\n' not in str(caught.value)


def test_a_mask_that_jpeg_has_mixed_all_over(tmp_path, picture):
  scattered = np.random.RandomState(0).uniform(size=SIZE) < 0.2
  _save(tmp_path / 'mask.jpg', np.where(scattered, 255, 0).astype(np.uint8))
  with pytest.raises(ValueError, match='misses everything: .* PNG keeps more'):
    masks.read_mask(str(tmp_path / 'mask.jpg'), picture)


def test_masks_that_are_not_there(tmp_path, picture):
  with pytest.raises(ValueError, match='has no transparent pixels'):
    masks.read_mask(masks.ALPHA, picture)
  with pytest.raises(ValueError, match='neither a file nor'):
    masks.read_mask(str(tmp_path / 'no.png'), picture)
  _save(tmp_path / 'layer.png', np.dstack([0 * LEVELS] * 3 + [255 - LEVELS]))
  path = str(tmp_path / 'layer.png')
  assert 'flatten' in masks.read_mask(path, picture).line
  with pytest.raises(ValueError, match='flatten'):
    masks.read_mask(path, picture, invert=True)
