"""What is found of the noise of a picture, by the table of benchmarks.noise.

The crops are small; docs/measured/noise.md has the whole table, with what is
not reached.
"""

import jax
import numpy as np
import pytest

from benchmarks import noise as made
from dipjax import corruptions, noise
from dipjax.noise import dark, photons, tiles

CROP = 192
SMOOTH = 'flat ramp '
PHOTOGRAPHS = 'astronaut chelsea coffee camera rocket '

# Kind, level, pictures; all quantities of the kind but those behind a minus.
REACHED = [
  ('white', 1, SMOOTH),
  ('white', 3, SMOOTH + 'camera rocket brick'),
  ('white', 5, SMOOTH + 'chelsea camera rocket brick'),
  ('white', 15, SMOOTH + PHOTOGRAPHS + 'brick gravel'),
  ('white', 25, SMOOTH + PHOTOGRAPHS + 'brick gravel'),
  ('white', 50, SMOOTH + PHOTOGRAPHS + 'brick gravel'),
  ('white', 75, SMOOTH + PHOTOGRAPHS + 'brick gravel'),
  ('poisson', 30, SMOOTH + PHOTOGRAPHS + 'brick -read'),
  ('poisson', 30, 'astronaut'),
  ('poisson', 100, SMOOTH + PHOTOGRAPHS + '-read'),
  ('poisson', 100, 'astronaut coffee'),
  ('poisson', 500, 'ramp astronaut chelsea coffee rocket'),
  ('bilinear', 10, SMOOTH + 'astronaut coffee rocket'),
  ('bilinear', 25, SMOOTH + 'astronaut chelsea rocket'),
  ('malvar', 10, SMOOTH + 'astronaut rocket'),
  ('malvar', 25, SMOOTH + 'astronaut chelsea rocket'),
  ('enlarged', 10, SMOOTH + PHOTOGRAPHS + 'brick'),
  ('enlarged', 25, SMOOTH + PHOTOGRAPHS + 'brick gravel'),
  ('jpeg75', 10, SMOOTH + 'astronaut coffee camera rocket brick'),
  ('jpeg75', 20, SMOOTH + PHOTOGRAPHS + 'brick'),
  ('jpeg85', 10, SMOOTH + 'astronaut coffee camera rocket brick'),
  ('jpeg90', 5, 'astronaut rocket'),
  ('jpeg90', 25, SMOOTH + PHOTOGRAPHS + 'brick gravel'),
  ('camera', 10, 'astronaut rocket'),
  ('camera', 25, 'astronaut chelsea coffee rocket'),
  ('rows', 5, SMOOTH + 'chelsea camera rocket brick'),
  ('rows', 5, 'coffee -sigma'),
  ('rows', 15, SMOOTH + 'chelsea coffee camera rocket brick gravel'),
  ('salt', 0.05, SMOOTH + 'chelsea rocket brick'),
  ('salt', 0.3, SMOOTH + PHOTOGRAPHS + 'brick gravel grass -sigma'),
  ('hot', 0.003, SMOOTH + PHOTOGRAPHS + 'brick'),
  ('hot', 0.01, SMOOTH + PHOTOGRAPHS + 'brick gravel grass -sigma'),
]


@pytest.mark.parametrize('kind,level,words', REACHED)
def test_what_was_made_is_found(kind, level, words):
  pytest.importorskip('skimage')
  left_out = {word[1:] for word in words.split() if word.startswith('-')}
  pictures = [word for word in words.split() if not word.startswith('-')]
  rows = [
    row
    for picture in pictures
    for row in made.run_cell(kind, level, picture, CROP)
    if row.quantity not in left_out
  ]
  assert len(rows) >= len(pictures)
  assert [row for row in rows if not row.is_reached] == []


@pytest.mark.parametrize(
  'level,picture', [(1, 'gravel'), (3, 'gravel'), (1, 'grass'), (3, 'grass')]
)
def test_what_texture_hides_is_not_sure(level, picture):
  pytest.importorskip('skimage')
  (row,) = made.run_cell('white', level, picture, CROP)
  assert row.confidence < 0.2 and not row.is_reached


def test_the_bounds_are_those_of_two_levels():
  """Each level tells its variance; the line through both tells the rest."""
  dark, bright, gain, read = 0.1, 0.8, 0.02, 0.05
  clean = np.repeat([dark, bright], 500)
  low, high = read**2 + gain * dark, read**2 + gain * bright
  scale = np.sqrt(2 / 500) / (bright - dark)
  expected = (
    scale * np.hypot(low, high) / gain,
    scale * np.hypot(bright * low, dark * high) / read**2 / 2,
  )
  np.testing.assert_allclose(made.find_bounds(clean, gain, read), expected)


@pytest.mark.parametrize('photons_at_white', [30, 500, 10**6])
def test_what_clipping_does_is_what_it_does_to_draws(photons_at_white):
  rng, read, step = np.random.RandomState(0), 0.02, 1 / 255
  line = photons.Line(read**2, 1 / photons_at_white, 1e-9)
  xs = np.array([0.0, 0.004, 0.03, 0.97, 1.0])
  drawn = rng.poisson(xs * photons_at_white, (200_000, 5)) * line.gain
  drawn += read * rng.normal(size=drawn.shape)
  seen = np.rint(np.clip(drawn, 0, 1) * 255) / 255
  black, white = photons.clip(xs, line, step)
  np.testing.assert_allclose(np.mean(seen == 0, 0), black.share, atol=0.005)
  np.testing.assert_allclose(np.mean(seen == 1, 0), white.share, atol=0.005)
  means = xs + black.bias + white.bias
  np.testing.assert_allclose(seen.mean(0), means, atol=2e-3)
  left = line.find_variance(xs) - black.loss - white.loss
  np.testing.assert_allclose(seen.var(0), left, rtol=0.03)


@pytest.mark.parametrize('gain', [1 / 30, 1 / 500, 1e-7])
def test_dark_blocks_tell_the_read_noise_beside_texture(gain):
  rng = np.random.RandomState(0)
  clean = np.full((40, 20, 20), 0.002)
  clean[::4] = rng.uniform(0, 0.3, (10, 20, 20))  # Texture.
  noisy = gain * rng.poisson(clean / gain) + 5 / 255 * rng.normal(
    size=clean.shape
  )
  cut = np.rint(255 * np.clip(noisy, 0, 1)) / 255
  found = dark.find_read(cut, gain, 1 / 255)
  assert found is not None
  assert 255 * found.variance**0.5 == pytest.approx(5, rel=0.1)
  assert 0.1 <= found.error / found.variance < 0.3
  # Black that is not noise, and too little black.
  assert dark.find_read(np.where(cut < 0.05, 0, cut), gain, 1 / 255) is None
  assert dark.find_read(cut + 0.1, gain, 1 / 255) is None


def test_sure_white_noise_has_the_level_of_the_model():
  noisy = _add(_make_ramp(), 20 / 255)
  model = noise.estimate_noise(noisy)
  assert model.confidence > 0.7
  assert noise.estimate_sigma(noisy) == model.sigma
  delta = np.zeros((9, 9))
  delta[4, 4] = 1
  np.testing.assert_array_equal(model.correlation, delta)
  assert model.describe() == (
    f'noise: white, sigma {255 * model.sigma:.3g} of 255'
  )
  np.testing.assert_allclose(model.find_variance(noisy), model.sigma**2)


def test_noise_of_neighbours_is_symmetric_and_told():
  noisy = made.KINDS['enlarged'].make(
    _make_ramp(), 20, np.random.RandomState(0)
  )
  model = noise.estimate_noise(noisy.image)
  kernel = model.correlation
  np.testing.assert_allclose(kernel, kernel[::-1])
  np.testing.assert_allclose(kernel, kernel[:, ::-1])
  assert kernel[4, 4] == pytest.approx(1) and np.argmax(kernel) == 40
  assert f'neighbours correlate by {model.neighbours:.2f}' in model.describe()


@pytest.mark.parametrize('kind', ['white', 'bilinear', 'enlarged'])
def test_the_filter_makes_noise_of_the_correlation(kind):
  noisy = made.KINDS[kind].make(_make_ramp(), 20, np.random.RandomState(0))
  model = noise.estimate_noise(noisy.image)
  kernel = np.pad(model.make_filter(), 9)
  np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
  # The correlation of filtered white noise is that of the filter with itself.
  spectrum = np.square(np.abs(np.fft.fft2(kernel)))
  own = np.fft.fftshift(np.fft.ifft2(spectrum).real)[9:-9, 9:-9]
  np.testing.assert_allclose(own, model.correlation, atol=0.08)


@pytest.mark.parametrize(
  'kind,level',
  [('white', 20), ('poisson', 30), ('bilinear', 20), ('enlarged', 20)],
)
def test_what_is_drawn_is_noise_of_the_model(kind, level):
  ramp = _make_ramp()
  noisy = made.KINDS[kind].make(ramp, level, np.random.RandomState(0)).image
  model = noise.estimate_noise(noisy).replace(black=False, white=False)
  ramp = ramp if noisy.shape == ramp.shape else made.enlarge(ramp)
  drawn = model.draw(ramp, np.random.RandomState(1))
  scaled = drawn / np.sqrt(model.find_variance(ramp))
  assert np.mean(drawn) == pytest.approx(0, abs=0.05 * np.std(drawn))
  # In bright and in dark parts alike.
  for part in (ramp < 0.5, ramp >= 0.5):
    assert np.std(scaled[part]) == pytest.approx(1, rel=0.05)
  for lag in (1, 2, 3):
    below = np.mean(scaled[lag:] * scaled[:-lag])
    right = np.mean(scaled[:, lag:] * scaled[:, :-lag])
    assert below == pytest.approx(model.correlation[4 + lag, 4], abs=0.1)
    assert right == pytest.approx(model.correlation[4, 4 + lag], abs=0.1)


@pytest.mark.parametrize('kind', ['white', 'bilinear'])
@pytest.mark.parametrize('level', [5, 25])
def test_channels_have_noise_of_their_own(kind, level):
  pytest.importorskip('skimage')
  clean = made.read_clean('chelsea', 128)
  noisy = made.KINDS[kind].make(clean, level, np.random.RandomState(0)).image
  assert noise.estimate_noise(noisy).channels == 0


@pytest.mark.parametrize('kind', ['jpeg85', 'jpeg90', 'malvar', 'camera'])
@pytest.mark.parametrize('picture', ['ramp', 'astronaut'])
def test_channels_share_noise(kind, picture):
  if picture != 'ramp':
    pytest.importorskip('skimage')
  ramp, rng = made.read_clean(picture, 192), np.random.RandomState(0)
  draws = [made.KINDS[kind].make(ramp, 10, rng).image for _ in range(2)]
  true = np.corrcoef((draws[0] - draws[1]).reshape(-1, 3).T)
  model = noise.estimate_noise(draws[0])
  # The noise of colours is of low frequencies, where it looks like the picture.
  assert model.channels == pytest.approx(true[0, 1:].mean(), abs=0.25)
  assert f'channels correlate by {model.channels:.2f}' in model.describe()
  drawn = model.replace(black=False, white=False).draw(ramp, rng)
  found = np.corrcoef(drawn.reshape(-1, 3).T)
  np.testing.assert_allclose(found[0, 1:], model.channels, atol=0.05)


@pytest.mark.parametrize('correlation', [0.0, 0.7, 1.0])
def test_what_channels_share_keeps_the_variance(correlation):
  white = np.random.RandomState(0).normal(size=(100_000, 4))
  found = np.cov(noise.share_channels(white, correlation).T)
  expected = np.where(np.eye(4), 1, correlation)
  np.testing.assert_allclose(found, expected, atol=0.02)


def test_less_noise_is_drawn_where_noise_was_clipped():
  black = np.zeros((100, 100, 1))
  draw = lambda clipped: noise.Model.make_white(0.1, clipped=clipped).draw(
    black, np.random.RandomState(0)
  )
  clipped = np.maximum(draw(False), 0)
  assert np.std(draw(True)) == pytest.approx(np.std(clipped), rel=0.05)


def test_a_model_of_lines_draws_lines():
  model = noise.Model.make_white(0.01).replace(rows=0.1, columns=0.05)
  drawn = model.draw(np.zeros((400, 300, 3)), np.random.RandomState(0))
  rows, columns = drawn.mean((1, 2)), drawn.mean((0, 2))
  assert np.std(rows) == pytest.approx(0.1, rel=0.15)
  assert np.std(columns) == pytest.approx(0.05, rel=0.15)
  rest = drawn - rows[:, None, None] - columns[None, :, None]
  assert np.std(rest) == pytest.approx(0.01, rel=0.05)


def test_a_mixture_has_the_average_covariance():
  white = noise.Model.make_white(0.1)
  shared = noise.Model.make_white(0.2).replace(
    correlation=np.full((9, 9), 0.5) + 0.5 * white.correlation, gain=0.01
  )
  mixed = white.mix(shared)
  covary = lambda model: model.sigma**2 * model.correlation
  np.testing.assert_allclose(
    covary(mixed), (covary(white) + covary(shared)) / 2
  )
  for name in ('constant', 'gain', 'least'):
    halves = (getattr(white, name) + getattr(shared, name)) / 2
    assert getattr(mixed, name) == pytest.approx(halves)
  nothing = noise.Model.make_white(0.0)
  assert nothing.mix(nothing).sigma == 0


def test_noise_is_scaled_by_its_variance():
  model = noise.Model.make_white(0.1).replace(gain=0.01, rows=0.02)
  more = model.scale(4)
  image = np.linspace(0, 1, 12).reshape(2, 2, 3)
  draw = lambda model: model.draw(image, np.random.RandomState(0))
  np.testing.assert_allclose(draw(more), 2 * draw(model), rtol=1e-5)
  assert more.sigma == pytest.approx(0.2)


def test_the_variance_follows_the_brightness():
  rng = np.random.RandomState(0)
  ramp = _make_ramp()
  model = noise.estimate_noise(rng.poisson(100 * ramp) / 100)
  expected = ramp / 100
  np.testing.assert_allclose(
    model.find_variance(ramp), expected, rtol=0.1, atol=5e-4
  )
  assert 'Poisson-like, gain 0.01' in model.describe()


@pytest.mark.parametrize('clip', [False, True])
def test_noise_is_clipped_where_it_piles_up(clip):
  steep = np.clip(1.6 * _make_ramp() - 0.3, 0, 1)
  model = noise.estimate_noise(_add(steep, 0.1, clip))
  assert (model.black, model.white) == (clip, clip)
  assert model.sigma == pytest.approx(0.1, rel=0.05)
  assert ('clipped at black and white' in model.describe()) == clip


@pytest.mark.parametrize('sigma', [15 / 255, 50 / 255])
@pytest.mark.parametrize('levels', [(0.02, 0.02), (0.05, 0.05), (0.0, 0.8)])
def test_half_of_the_noise_is_clipped(levels, sigma):
  """In dark parts, and along edges, where the mean does not tell how much."""
  clean = np.full((128, 128, 3), levels[0])
  clean[np.add.outer(np.arange(128), np.arange(128)) % 40 < 20] = levels[1]
  for seed in range(3):
    noisy = corruptions.add_gaussian_noise(clean, sigma, seed=seed)
    model = noise.estimate_noise(noisy)
    assert float(model.sigma) == pytest.approx(sigma, rel=0.05)
    assert model.black and not model.rows and model.confidence > 0.5


def test_counts_pile_up_at_black_and_are_not_clipped():
  rng = np.random.RandomState(0)
  dark = 0.3 * _make_ramp()
  counts = np.rint(255 * rng.poisson(40 * dark) / 40) / 255
  assert np.mean(counts == 0) > 0.01
  model = noise.estimate_noise(counts)
  assert not model.black
  assert model.gain == pytest.approx(1 / 40, rel=0.15)


def test_a_model_scales_with_the_contrast_and_turns_with_the_picture():
  rng = np.random.RandomState(0)
  ramp = _make_ramp()
  noisy = ramp + 0.05 * rng.normal(size=(len(ramp), 1, 1))
  noisy += 0.05 * rng.normal(size=ramp.shape)
  model = noise.estimate_noise(noisy)
  half = noise.estimate_noise(noisy / 2)
  turned = noise.estimate_noise(noisy.swapaxes(0, 1))
  assert half.sigma == pytest.approx(model.sigma / 2, rel=0.02)
  assert half.rows == pytest.approx(model.rows / 2)
  assert turned.sigma == pytest.approx(model.sigma, rel=0.02)
  assert turned.columns == model.rows > 0
  assert turned.rows == model.columns == 0


@pytest.mark.parametrize('shift', [0, 3])
def test_the_grid_of_jpeg_is_found_anywhere(shift):
  noisy = made.KINDS['jpeg75'].make(_make_ramp(), 8, np.random.RandomState(0))
  model = noise.estimate_noise(noisy.image[shift:, shift:])
  assert model.compressed and 'JPEG' in model.describe()
  assert not noise.estimate_noise(_add(_make_ramp(), 8 / 255)).compressed


def test_a_doubtful_level_counts_where_two_ways_agree():
  """The finest wavelets and the flattest parts; in texture they do not."""
  pytest.importorskip('skimage')
  clean = made.read_clean('camera', 256)
  found = made.KINDS['jpeg90'].make(clean, 5, np.random.RandomState(0))
  model = noise.estimate_noise(found.image)
  level = 255 * noise.estimate_by_wavelets(found.image)
  assert 255 * model.sigma == pytest.approx(found.truth['sigma'], rel=0.25)
  assert model.error == pytest.approx(1 - 255 * model.sigma / level, abs=0.02)
  assert noise.estimate_noise(made.read_clean('gravel', 256)).error > 0.3


def test_a_model_is_a_pytree():
  model = noise.estimate_noise(_add(_make_ramp(), 0.1))
  image = np.full((4, 4, 3), 0.5)
  found = jax.jit(lambda model, image: model.find_variance(image))(model, image)
  np.testing.assert_allclose(found, model.sigma**2, rtol=1e-5)


@pytest.mark.parametrize('shape', [(8, 9, 1), (24, 30, 3), (64, 64, 1)])
def test_a_small_picture_tells_its_level_by_wavelets(shape):
  drawn = np.random.RandomState(0).normal(0.5, 0.1, shape)
  model = noise.estimate_noise(drawn)
  assert model.confidence < 0.5 and 'not sure' in model.describe()
  wavelets = noise.estimate_by_wavelets(drawn)
  assert noise.estimate_sigma(drawn) == wavelets > 0


def test_no_noise_is_none():
  model = noise.estimate_noise(np.full((64, 64, 3), 0.25))
  assert model.sigma < 1e-6 and model.describe() == 'noise: none found'


def test_a_large_picture_has_no_more_tiles():
  large = np.broadcast_to(np.float32(0.5), (3000, 4000, 3))
  cut = tiles.cut_tiles(large)
  assert cut.shape[0] == 3 and 2000 < cut.shape[1] <= 4200


def _make_ramp(size=160):
  y, x = np.mgrid[:size, :size] / size
  return 0.2 + 0.6 * np.stack([x, y, (x + y) / 2], -1)


def _add(image, sigma, clip=False):
  return corruptions.add_gaussian_noise(image, sigma, seed=0, clip=clip)
