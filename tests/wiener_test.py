"""The Wiener filter of similar patches."""

import jax
import numpy as np
import pytest

from dipjax import blurring, metrics, wiener

_SHAPE = (40, 44, 3)  # Flipped, the patches lie where they were.
_SIGMA = 25 / 255
_refine = jax.jit(wiener.refine, static_argnames='clipped')


def _make_picture(height, width, channels):
  """Stripes, a slope and an edge; no two patches are equal."""
  y, x = np.mgrid[:height, :width]
  image = 0.5 + 0.2 * np.sin(0.9 * x + 0.4 * y) * (x > 20) + 0.003 * y
  image += 0.2 * (y > 17) * (x < 21)
  return np.float32(image[..., None] * np.linspace(0.7, 1, channels))


def _add_noise(image, sigma=_SIGMA, seed=0):
  drawn = np.random.RandomState(seed).normal(size=image.shape)
  return np.float32(image + sigma * drawn)


def _blur(image, radius):
  kernel = blurring.make_gaussian_kernel(radius).astype(np.float32)
  return blurring.blur_image(image, kernel)


def _find_mean_square(image, clean):
  return np.mean(np.square(np.asarray(image) - clean))


@pytest.mark.parametrize(
  'shape', [_SHAPE, (8, 8, 1), (9, 31, 2), (20, 8, 5)], ids=str
)
def test_without_noise_the_result_is_the_measurement(shape):
  measurement = np.random.RandomState(0).uniform(size=shape)
  for pilot in (_make_picture(*shape), np.zeros(shape)):
    image = wiener.refine(measurement, pilot, 0.0)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, measurement, atol=1e-5)


def test_where_all_is_kept_the_patches_add_up_to_the_measurement():
  """Whatever the weights are, which differ with sigma."""
  measurement = _add_noise(_make_picture(*_SHAPE))
  pilot = _add_noise(np.zeros(_SHAPE), 1e10, seed=1)
  sigma = np.random.RandomState(2).uniform(0.01, 1, _SHAPE[:2] + (1,))
  image = _refine(measurement, pilot, sigma)
  np.testing.assert_allclose(image, measurement, atol=1e-4)


def test_where_the_pilot_does_not_vary_the_noise_is_gone():
  pilot = np.full(_SHAPE, 0.4, np.float32)
  image = _refine(_add_noise(pilot), pilot, _SIGMA)
  assert _find_mean_square(image, pilot) < (_SIGMA / 50) ** 2


def test_a_mean_that_the_pilot_has_wrong_is_the_measurements():
  clean = np.full(_SHAPE, 0.4, np.float32)
  measurement = _add_noise(clean)
  image = np.asarray(_refine(measurement, clean + 0.1, _SIGMA))
  assert np.std(image) < _SIGMA / 8
  assert abs(np.mean(image) - np.mean(measurement)) < _SIGMA / 20


@pytest.mark.parametrize('channels', [0.0, 0.6])
def test_what_varies_in_a_group_is_filtered_as_its_covariance_says(channels):
  """All groups of a picture of 9x9 pixels are its four patches."""
  pilot = _add_noise(np.zeros((9, 9, 2)), 0.1)
  measurement = _add_noise(pilot, 0.05, seed=1)
  take = lambda x: np.float64(
    [x[i : i + 8, j : j + 8].ravel() for i in (0, 1) for j in (0, 1)]
  )
  patches, noisy = take(pilot), take(measurement)
  # The frequencies of both colours, and of their sum and difference.
  basis = np.kron(wiener._PATCH, wiener._make_dct(2)).astype(np.float64)
  patches, noisy = patches @ basis.T, noisy @ basis.T
  # Of the noise that channels share, the sum has the more.
  shares = [1 + channels, 1 - channels]
  mean, variance = patches.mean(0), 0.05**2 * np.tile(shares, 64)
  lacks = (noisy - patches).mean(0)
  lacks *= 4 * mean**2 / (4 * mean**2 + 0.7 * variance)
  power = np.square(lacks).reshape(64, 2).mean(0)
  chance = wiener._CHANCE * variance[:2] / power
  lacks *= np.tile(np.maximum(1 - chance, 0), 64)
  covariance = np.cov(patches.T)
  covariance += np.diag(wiener._OTHER * np.diag(covariance))
  against = np.diag(0.7 * variance)
  gain = np.linalg.solve(covariance + against, covariance)
  mean += lacks
  filtered = (mean + (noisy - mean) @ gain) @ basis
  image = wiener.refine(measurement, pilot, 0.05, channels=channels)
  np.testing.assert_allclose(image, _average(filtered), atol=1e-5)
  # And what is left of the noise.
  left = np.diag(basis.T @ (variance[:, None] * gain) @ basis)
  found = wiener.find_left(pilot, 0.05, channels=channels)
  np.testing.assert_allclose(found, _average([left] * 4), rtol=1e-3)


def _average(patches):
  """The four patches of a picture of 9x9 pixels, of the same weights."""
  sums, counts = np.zeros((9, 9, 2)), np.zeros((9, 9, 1))
  for (i, j), patch in zip(np.ndindex(2, 2), patches):
    sums[i : i + 8, j : j + 8] += patch.reshape(8, 8, 2)
    counts[i : i + 8, j : j + 8] += 1
  return sums / counts


def test_what_is_left_is_where_the_picture_varies():
  """A flat half and one of noise, in which nothing is like another."""
  pilot = np.full(_SHAPE, 0.5, np.float32)
  pilot[:, 24:] = _add_noise(pilot[:, 24:], 1.0)
  left = np.asarray(wiener.find_left(pilot, 0.01))
  assert left[:, :12].max() < 1e-4 * 0.01**2
  assert 0.5 * 0.01**2 < left[:, 34:].min() < left.max() < 1.001 * 0.01**2
  np.testing.assert_array_equal(wiener.find_left(pilot, 0.0), 0)


@pytest.mark.parametrize('channels', [1, 3])
def test_a_clean_pilot_takes_most_of_the_noise(channels):
  """1.2e-4 of 9.6e-3 is left, on 2026-11-26."""
  clean = _make_picture(*_SHAPE[:2], channels)
  image = wiener.refine(_add_noise(clean), clean, _SIGMA)
  assert _find_mean_square(image, clean) < _SIGMA**2 / 50


def test_a_blurred_pilot_becomes_sharper():
  clean = _make_picture(*_SHAPE)
  measurement = _add_noise(clean)
  pilot = _blur(clean, 0.8)
  image = _refine(measurement, pilot, _SIGMA)
  before, after = (float(metrics.psnr(x, clean)) for x in (pilot, image))
  assert after > before + 4


def test_a_patch_finds_its_like_as_far_as_it_reaches():
  """0.78 of the error is left, on 2026-11-27."""
  # Each tile has no like but the next tiles, 14 pixels away.
  tile = np.random.RandomState(1).rand(14, 14, 1).astype(np.float32)
  clean = np.tile(tile, (3, 3, 1))
  measurement = _add_noise(clean)
  near, far = (
    _find_mean_square(
      wiener.refine(measurement, clean, _SIGMA, reach=reach), clean
    )
    for reach in (12, 14)
  )
  assert far < 0.85 * near


@pytest.mark.parametrize(
  'height,width', [(68, 33), (69, 28), (71, 33), (72, 28)]
)
def test_tiles_are_one_picture(monkeypatch, height, width):
  """The last row of groups begins a tile, at a place of its own."""
  clean = _make_picture(height, width, 2)
  measurement = _add_noise(clean)
  monkeypatch.setattr(wiener, '_COLUMNS', 3)
  image = wiener.refine(measurement, clean, _SIGMA)
  monkeypatch.setattr(wiener, '_ROWS', 20)
  monkeypatch.setattr(wiener, '_COLUMNS', 20)
  whole = wiener.refine(measurement, clean, _SIGMA)
  np.testing.assert_allclose(image, whole, atol=1e-5)


@pytest.mark.parametrize('most', [1, 3, 4, 20])
@pytest.mark.parametrize('size', [8, 9, 12, 31, 60])
def test_parts_have_every_place_once(size, most):
  parts, counts = wiener._divide(size, most)
  assert parts.shape[1] <= most and (counts > 0).all()
  places = np.concatenate([part[:n] for part, n in zip(parts, counts)])
  np.testing.assert_array_equal(places, wiener._place(size))


@pytest.mark.parametrize('width', [8, 9, 21, 24])
def test_the_most_similar_patches_are_found(width):
  """Beside a search of every place, one at a time."""
  reach, height, row = 5, 30, 12
  image = np.random.RandomState(3).rand(height, width).astype(np.float32)
  # As wide as if the last patch were a step from the one before it.
  (columns,), _ = wiener._divide(width, 9)
  beyond = 4 * (len(columns) - 1) + 8 - width
  strip = np.pad(image, ((reach, reach), (reach, reach + beyond)))
  strip = strip[row : row + 2 * reach + 8]
  find = jax.jit(
    lambda *groups: wiener._find_similar(strip, *groups, image.shape, reach)
  )
  found = find(np.int32(row), columns, np.int32(len(columns)))
  cut = lambda y, x: image[y : y + 8, x : x + 8]
  for column, rows, cols in zip(columns, *map(np.asarray, found)):
    places = [
      (y, x)
      for y in range(row - reach, row + reach + 1)
      for x in range(max(column - reach, 0), column + reach + 1)
      if x <= width - 8
    ]
    patch = cut(row, column)
    distances = [np.sum((patch - cut(*place)) ** 2) for place in places]
    # A corner of the picture has fewer places than a group has patches.
    best = np.argsort(distances)[: len(rows)]
    expected = {places[i] for i in best}
    assert set(zip(rows + row - reach, cols + column - reach)) == expected
    assert (rows[0], cols[0]) == (reach, reach)


def test_matrices_are_inverted():
  rng = np.random.RandomState(0)
  rows = rng.normal(size=(6, 33, 40)) * np.exp(rng.normal(size=(6, 1, 40)))
  matrices = rows @ rows.transpose(0, 2, 1) + np.eye(33)
  found = np.asarray(wiener._invert(matrices.astype(np.float32)), np.float64)
  apart = np.abs(found - np.linalg.inv(matrices)).max((1, 2))
  assert (apart < 1e-3 * np.abs(found).max((1, 2))).all()


@pytest.mark.parametrize(
  'turn',
  [np.flipud, np.fliplr, lambda x: np.swapaxes(x, 0, 1)],
  ids=['down', 'across', 'transposed'],
)
def test_turning_commutes(turn):
  clean = _make_picture(*_SHAPE)
  measurement = _add_noise(clean)
  pilot = _add_noise(clean, 0.02, seed=1)
  first = turn(np.asarray(_refine(measurement, pilot, _SIGMA)))
  second = _refine(turn(measurement), turn(pilot), _SIGMA)
  np.testing.assert_allclose(first, second, atol=1e-5)


def test_lanes_equal_single_images():
  clean = _make_picture(*_SHAPE)
  measurements = np.stack([_add_noise(clean, seed=i) for i in range(2)])
  pilots = np.stack([clean, _add_noise(clean, 0.02, seed=2)])
  sigmas = np.float32([_SIGMA, 0.05])
  lanes = jax.vmap(wiener.refine)(measurements, pilots, sigmas)
  for lane, *each in zip(lanes, measurements, pilots, sigmas):
    np.testing.assert_allclose(lane, _refine(*each), atol=1e-5)


def test_equal_channels_are_a_grey_picture():
  """Three equal noises have the luminance of three times the variance."""
  clean = _make_picture(*_SHAPE[:2], 1)
  measurement = _add_noise(clean)
  pilot = _add_noise(clean, 0.02, seed=1)
  grey = np.asarray(wiener.refine(measurement, pilot, _SIGMA))
  repeat = lambda x: np.repeat(x, 3, -1)
  colour = _refine(repeat(measurement), repeat(pilot), 3**0.5 * _SIGMA)
  np.testing.assert_allclose(colour, repeat(grey), atol=1e-5)


@pytest.mark.parametrize('clipped', [False, True])
def test_black_and_white_stay_finite(clipped):
  ends = np.zeros(_SHAPE, np.float32)
  ends[:, 20:] = 1
  for pilot in (ends, np.zeros_like(ends)):
    for sigma in (0.0, 0.3, 10.0):
      measurement = np.clip(_add_noise(ends, sigma), 0, 1)
      image = _refine(measurement, pilot, sigma, clipped=clipped)
      assert np.isfinite(image).all()


def test_what_clipping_did_to_the_mean_is_taken_back():
  clean = np.zeros(_SHAPE, np.float32)
  clean[:, 20:] = 1
  measurement = np.clip(_add_noise(clean, 0.2), 0, 1)
  square = lambda clipped: _find_mean_square(
    _refine(measurement, clean, 0.2, clipped=clipped), clean
  )
  assert square(False) > 0.05**2 > 50 * square(True)


def test_sigma_may_differ_between_pixels():
  clean = _make_picture(*_SHAPE)
  sigma = np.full(_SHAPE, 0.01, np.float32)
  sigma[:, :22] = 0.2
  measurement = _add_noise(clean, sigma)
  pilot = _blur(clean, 1.5)
  quiet, loud = (
    _find_mean_square(_refine(measurement, pilot, each)[:, 30:], clean[:, 30:])
    for each in (sigma, np.full(_SHAPE, 0.2))
  )
  assert quiet < loud / 3
  np.testing.assert_allclose(
    _refine(measurement, clean, np.full((44, 1), 0.1)),
    _refine(measurement, clean, 0.1),
    atol=1e-6,
  )


def test_noise_that_neighbours_share():
  clean = _make_picture(*_SHAPE)
  white = np.random.RandomState(0).normal(size=(42, 46, 3))
  around = [white[i : i + 40, j : j + 44] for i in range(3) for j in range(3)]
  measurement = np.float32(clean + _SIGMA * sum(around) / 3)
  triangle = np.array([1, 2, 3, 2, 1]) / 3
  correlation = np.outer(triangle, triangle)
  pilot = _add_noise(clean, 0.03, seed=1)
  refine = lambda table: np.asarray(
    _refine(measurement, pilot, _SIGMA, correlation=table)
  )
  told, untold = refine(correlation), refine(None)
  squares = [_find_mean_square(image, clean) for image in (told, untold)]
  assert squares[0] < 0.9 * squares[1]
  # Pixels that are never in one patch do not matter.
  far = np.pad(correlation, 10)
  far[0, 0] = 1
  np.testing.assert_allclose(refine(far), told, atol=1e-6)
  np.testing.assert_allclose(refine(np.ones((1, 1))), untold, atol=1e-6)


def test_all_is_float32_whatever_the_default():
  clean = np.float64(_make_picture(*_SHAPE))
  measurement = np.float64(_add_noise(clean))
  expected = _refine(measurement, clean, _SIGMA, clipped=True)
  with jax.enable_x64(True):
    image = wiener.refine(measurement, clean, _SIGMA, clipped=True)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=1e-5)


@pytest.mark.parametrize(
  'change,message',
  [
    ({'measurement': np.zeros((7, 9, 1))}, 'at least 8 pixels'),
    ({'measurement': np.zeros((9, 9))}, r'\[H, W, C\]'),
    ({'pilot': np.zeros((9, 9, 3))}, 'pilot'),
    ({'sigma': np.ones((9, 9))}, 'sigma'),
    ({'sigma': np.ones((2, 9, 9, 1))}, 'sigma'),
    ({'correlation': np.ones((4, 3))}, 'odd'),
    ({'correlation': np.ones(3)}, 'odd'),
  ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
  arguments = {
    'measurement': np.zeros((9, 9, 1)),
    'pilot': np.zeros((9, 9, 1)),
    'sigma': 0.1,
  }
  with pytest.raises(ValueError, match=message):
    wiener.refine(**{**arguments, **change})
  if 'measurement' not in change and np.ndim(change.get('pilot', 0)) == 0:
    with pytest.raises(ValueError, match=message):
      wiener.find_left(arguments['pilot'], **{'sigma': 0.1} | change)
