"""Operators as a table: values, adjoints, gradients, lanes, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from dipjax import blurring, operators, resampling
from dipjax.engine import lanes
from dipjax.networks import layers

SHAPE = (12, 16, 3)
ROWS, COLUMNS = np.random.RandomState(0).randint(12, size=(2, 30))


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def _draw_mask(*shape, seed=0):
  return _draw(*shape, seed=seed) > 0.4


def _reduce(x, name, factor):
  """The reduction by the whole kernel at once, not along one axis at a time."""
  kernel = resampling.make_kernel(name, factor)
  reach = (len(kernel) - factor) // 2
  padded = np.pad(x, ((reach,) * 2, (reach,) * 2, (0, 0)), mode='edge')
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (len(kernel),) * 2, (0, 1)
  )[::factor, ::factor]
  return np.einsum('yxcij,i,j->yxc', windows, kernel, kernel)


def _blur(x, kernel):
  kernel = (kernel / kernel.sum())[..., None]
  return ndimage.convolve(x.astype(np.float64), kernel, mode='mirror')


def _take_pixels(image):
  return image[ROWS, COLUMNS]


def _scan(image):
  spectrum = jnp.fft.fft2(image[..., 0], norm='ortho')[::3]
  return jnp.stack([spectrum.real, spectrum.imag])


def _scan_by_numpy(image):
  spectrum = np.fft.fft2(image[..., 0], norm='ortho')[::3]
  return np.stack([spectrum.real, spectrum.imag])


def _take_corner(image):
  return image[:3, :2]


def _curve(image):
  return image**2.2 + image


def _sharpen(image):
  padded = jnp.pad(image, ((1, 1), (0, 0), (0, 0)), mode='edge')
  return 3 * image - padded[:-2] - padded[2:]


def _sharpen_by_numpy(image):
  padded = np.pad(image, ((1, 1), (0, 0), (0, 0)), mode='edge')
  return 3 * image - padded[:-2] - padded[2:]


# Each made anew from a seed, of which arrays inside depend; and what NumPy
# would do to the image.
LINEAR = {
  'identity': (lambda seed: operators.Identity(), lambda x, seed: x),
  'whole': (lambda seed: operators.Crop(0, 0, 12, 16), lambda x, seed: x),
  'crop': (
    lambda seed: operators.Crop(1, 2, 4, 3),
    lambda x, seed: x[1:5, 2:5],
  ),
  'corner': (
    lambda seed: operators.Crop(10, 15, 2, 1),
    lambda x, seed: x[10:, 15:],
  ),
  'centre': (
    lambda seed: operators.crop_center((12, 16), (8, 5)),
    lambda x, seed: x[2:10, 5:10],
  ),
  'mask': (
    lambda seed: operators.make_mask(_draw_mask(12, 16, seed=seed)),
    lambda x, seed: x * _draw_mask(12, 16, seed=seed)[..., None],
  ),
  'mask of colours': (
    lambda seed: operators.make_mask(_draw_mask(*SHAPE, seed=seed)),
    lambda x, seed: x * _draw_mask(*SHAPE, seed=seed),
  ),
  'weights': (
    lambda seed: operators.make_mask(_draw(12, 16, 1, seed=seed)),
    lambda x, seed: x * _draw(12, 16, 1, seed=seed),
  ),
  'lanczos2': (
    lambda seed: operators.Downsample(4),
    lambda x, seed: _reduce(x, 'lanczos2', 4),
  ),
  'lanczos3': (
    lambda seed: operators.Downsample(2, 'lanczos3'),
    lambda x, seed: _reduce(x, 'lanczos3', 2),
  ),
  'bicubic': (
    lambda seed: operators.Downsample(4, 'bicubic'),
    lambda x, seed: _reduce(x, 'bicubic', 4),
  ),
  'box': (
    lambda seed: operators.Downsample(4, 'box'),
    lambda x, seed: x.reshape(3, 4, 4, 4, 3).mean((1, 3)),
  ),
  'blur': (
    lambda seed: operators.make_blur(_draw(5, 3, seed=seed)),
    lambda x, seed: _blur(x, _draw(5, 3, seed=seed)),
  ),
  'gaussian': (
    lambda seed: operators.make_blur(blurring.make_gaussian_kernel(1.3)),
    lambda x, seed: ndimage.gaussian_filter(
      x.astype(np.float64), (1.3, 1.3, 0), mode='mirror'
    ),
  ),
  'motion': (
    lambda seed: operators.make_blur(blurring.make_motion_kernel(5, 20)),
    lambda x, seed: _blur(x, blurring.make_motion_kernel(5, 20)),
  ),
  'composed': (
    lambda seed: operators.compose(
      operators.make_blur(_draw(3, 3, seed=seed)),
      operators.Downsample(2, 'box'),
      _take_corner,
    ),
    lambda x, seed: _reduce(_blur(x, _draw(3, 3, seed=seed)), 'box', 2)[:3, :2],
  ),
  'composed of local ones': (
    lambda seed: operators.compose(
      operators.make_mask(_draw_mask(12, 16, seed=seed)),
      operators.make_blur(_draw(3, 3, seed=seed)),
      operators.Downsample(2, 'box'),
      operators.make_mask(_draw_mask(6, 8, seed=seed)),
    ),
    lambda x, seed: (
      _reduce(
        _blur(
          x * _draw_mask(12, 16, seed=seed)[..., None], _draw(3, 3, seed=seed)
        ),
        'box',
        2,
      )
      * _draw_mask(6, 8, seed=seed)[..., None]
    ),
  ),
  'sharpened': (
    lambda seed: operators.make_local(_sharpen, 1),
    lambda x, seed: _sharpen_by_numpy(x),
  ),
  'nothing': (lambda seed: operators.compose(), lambda x, seed: x),
  'some pixels': (
    lambda seed: operators.as_operator(_take_pixels),
    lambda x, seed: x[ROWS, COLUMNS],
  ),
  'Fourier rows': (
    lambda seed: operators.as_operator(_scan),
    lambda x, seed: _scan_by_numpy(x),
  ),
}
OPERATORS = {
  **LINEAR,
  'curve': (
    lambda seed: operators.as_operator(_curve),
    lambda x, seed: x**2.2 + x,
  ),
}

LOCAL = {
  name: row
  for name, row in OPERATORS.items()
  if operators.find_reach(row[0](0)) is not None
}

each_local = pytest.mark.parametrize('make,expected', LOCAL.values(), ids=LOCAL)
each_operator = pytest.mark.parametrize(
  'make,expected', OPERATORS.values(), ids=OPERATORS
)
each_linear = pytest.mark.parametrize(
  'make,expected', LINEAR.values(), ids=LINEAR
)


def _assert_close(actual, expected):
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


# --- The contract.


@each_linear
def test_the_adjoint_moves_to_the_other_side_of_the_dot_product(make, expected):
  x = _draw(*SHAPE)
  y = expected(x, 0)
  y, z = np.float64(y), _draw(*y.shape, seed=1) - 0.5
  transposed = jax.jit(
    lambda operator, z: operators.adjoint(operator, z, SHAPE)
  )(make(0), z)
  assert transposed.shape == SHAPE
  left, right = np.sum(y * z), np.sum(np.float64(x) * np.float64(transposed))
  size = np.linalg.norm(y) * np.linalg.norm(z)
  np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6 * size)


@each_linear
def test_an_operator_of_a_sum_is_the_sum_of_both(make, expected):
  a, b = _draw(*SHAPE), _draw(*SHAPE, seed=1)
  measure = jax.jit(lambda x: make(0)(x))
  _assert_close(measure(2 * a - 3 * b), 2 * measure(a) - 3 * measure(b))


@each_operator
def test_the_gradient_is_finite_whatever_the_image(make, expected):
  images = [np.full(SHAPE, value) for value in (0, 1e-30, 0.5, 1, 1e4)]
  images = np.stack([*images, 1e4 * _draw(*SHAPE)]).astype(np.float32)
  slope = jax.grad(lambda x: jnp.sum(jnp.square(make(0)(x))))
  gradients = jax.jit(jax.vmap(slope))(images)
  assert gradients.shape == images.shape and np.all(np.isfinite(gradients))


@each_operator
def test_values_equal_numpys_and_new_ones_do_not_compile_again(make, expected):
  traces = []

  @jax.jit
  def measure(operator, image):
    traces.append(image)
    return operator(image)

  for seed in (0, 1):
    image = _draw(*SHAPE, seed=seed)
    _assert_close(measure(make(seed), image), expected(image, seed))
  assert len(traces) == 1


@each_operator
def test_lanes_of_operators_equal_a_loop(make, expected):
  images = _draw(3, *SHAPE)
  stacked = lanes.stack_lanes([make(seed) for seed in range(3)])
  measured = jax.jit(jax.vmap(lambda operator, x: operator(x)))(stacked, images)
  for seed, image in enumerate(images):
    _assert_close(measured[seed], expected(image, seed))


@each_local
@pytest.mark.parametrize(
  'window',
  [(0, 0, 12, 12), (0, 4, 12, 12), (0, 0, 8, 16), (4, 4, 8, 12)],
  ids=str,
)
def test_the_operator_of_a_window_measures_a_part_of_the_whole(
  make, expected, window
):
  operator, crop = make(0), operators.Crop(*window)
  pixels, step = operators.find_reach(operator)
  image = _draw(*SHAPE)
  whole = expected(image, 0)
  assert whole.shape[:2] == (12 // step, 16 // step)
  part = operators.cut(operator, crop)(crop(image))
  top, left, height, width = (side // step for side in window)
  assert part.shape == (height, width, *whole.shape[2:])

  # What reaches beyond the window is not compared, unless the image ends too.
  def find_inside(begin, side, length):
    low = np.arange(begin, begin + side, step) - pixels
    high = low + step + 2 * pixels
    end = begin + side
    return ((low >= begin) | (begin == 0)) & ((high <= end) | (end == length))

  rows = find_inside(window[0], window[2], 12)
  columns = find_inside(window[1], window[3], 16)
  seen = whole[top : top + height, left : left + width]
  _assert_close(part[rows][:, columns], seen[rows][:, columns])
  assert columns.any() or pixels > 4


def test_what_does_not_say_its_reach_sees_everything_at_once():
  silent = set(OPERATORS) - set(LOCAL)
  assert silent == {
    'whole',
    'crop',
    'corner',
    'centre',
    'composed',
    'some pixels',
    'Fourier rows',
    'curve',
  }
  assert operators.find_reach(None) == (0, 1)
  assert operators.find_reach(operators.Downsample(4)) == (6, 4)
  assert operators.find_reach(operators.Downsample(4, 'box')) == (0, 4)
  assert operators.find_reach(operators.make_blur(np.ones((3, 7)))) == (3, 1)
  composed = operators.compose(
    operators.make_blur(np.ones((5, 5))),
    operators.Downsample(2, 'box'),
    operators.make_local(_sharpen, 1),
  )
  assert operators.find_reach(composed) == (2 + 2 * 1, 2)
  assert operators.find_reach(operators.Shared(composed)) is None


# --- Identities.


@pytest.mark.parametrize(
  'operator',
  [
    operators.make_mask(np.ones((12, 16), bool)),
    operators.make_mask(np.ones(SHAPE)),
    operators.Downsample(1),
    operators.Downsample(1, 'lanczos3'),
    operators.Downsample(1, 'bicubic'),
    operators.Downsample(1, 'box'),
    operators.make_blur(np.ones((1, 1))),
    operators.make_blur(np.pad(np.full((1, 1), 7.0), ((2, 2), (3, 3)))),
    operators.make_blur(blurring.make_gaussian_kernel(0)),
    operators.make_blur(blurring.make_motion_kernel(1, 30)),
    operators.compose(),
    operators.compose(operators.Identity(), operators.Downsample(1)),
    operators.compose(None),
    operators.as_operator(None),
  ],
  ids=lambda operator: type(operator).__name__,
)
def test_what_does_nothing_is_the_identity(operator):
  image = _draw(*SHAPE)
  _assert_close(operator(image), image)
  _assert_close(operators.adjoint(operator, image, SHAPE), image)


def test_composed_operators_go_in_the_order_of_application():
  crop, reduce = operators.Crop(2, 4, 8, 8), operators.Downsample(4)
  image = _draw(*SHAPE)
  composed = operators.compose(crop, reduce)
  np.testing.assert_array_equal(composed(image), reduce(crop(image)))
  with pytest.raises(ValueError, match='outside'):
    operators.compose(reduce, crop)(image)


def test_the_parts_of_what_is_composed_do_not_matter():
  a, b, c = (
    operators.make_blur(_draw(3, 3)),
    operators.Downsample(2),
    operators.make_mask(_draw_mask(6, 8)),
  )
  image = _draw(*SHAPE)
  left = operators.compose(operators.compose(a, b), c)
  right = operators.compose(a, operators.compose(b, c))
  np.testing.assert_array_equal(left(image), right(image))


def test_a_mask_is_its_own_adjoint_and_if_binary_its_own_square():
  mask = operators.make_mask(_draw_mask(12, 16))
  image = _draw(*SHAPE)
  transposed = operators.adjoint(mask, image, SHAPE)
  np.testing.assert_array_equal(transposed, mask(image))
  np.testing.assert_array_equal(mask(mask(image)), mask(image))


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_a_mask_without_channels_fits_any_number_of_them(channels):
  mask = operators.make_mask(_draw_mask(12, 16))
  assert mask(_draw(12, 16, channels)).shape == (12, 16, channels)


def test_static_fields_are_in_the_structure():
  make = operators.Downsample
  assert not jax.tree.leaves((operators.Crop(1, 2, 4, 3), make(4)))
  structures = {
    jax.tree.structure(operator)
    for operator in (
      operators.Crop(1, 2, 4, 3),
      operators.Crop(1, 2, 4, 2),
      make(4),
      make(2),
      make(4, 'box'),
      operators.as_operator(_scan),
      operators.as_operator(_curve),
    )
  }
  assert len(structures) == 7
  assert jax.tree.structure(make(4)) == jax.tree.structure(make(4, 'lanczos2'))


def test_a_pytree_stays_what_it_is():
  mask = operators.make_mask(_draw_mask(12, 16))
  assert operators.as_operator(mask) is mask
  assert len(jax.tree.leaves(operators.compose(mask, _scan, mask))) == 2


@pytest.mark.parametrize('size', [(7, 9), (8, 8)])
@pytest.mark.parametrize('window', [(7, 8), (4, 5), (3, 6), (1, 1)])
def test_a_centred_window_has_equal_margins(size, window):
  crop = operators.crop_center(size, window)
  assert (crop.height, crop.width) == window
  for before, side, length in zip((crop.top, crop.left), window, size):
    after = length - side - before
    assert 0 <= after - before <= 1


@pytest.mark.parametrize('window', [(7, 8), (4, 5), (3, 6), (1, 1)])
def test_the_networks_crop_the_same_window(window):
  image = _draw(7, 9, 3)
  np.testing.assert_array_equal(
    operators.crop_center((7, 9), window)(image),
    layers.crop_center(image, *window),
  )


# --- Refusals.


@pytest.mark.parametrize(
  'make,says',
  [
    (lambda: operators.make_mask(np.ones((12, 16), int)), 'floats, got int64'),
    (lambda: operators.make_mask(np.ones((12, 16), np.uint8)), 'got uint8'),
    (lambda: operators.make_mask(np.full((12, 16), np.nan)), '192 NaN'),
    (lambda: operators.make_mask(np.full((12, 16), np.inf)), 'infinite'),
    (lambda: operators.make_mask(np.zeros((0, 16))), r'shape \(0, 16\)'),
    (lambda: operators.make_mask(np.ones((0, 16), bool)), r'shape \(0, 16\)'),
    (lambda: operators.make_mask(np.zeros((12, 16))), 'all of its 192'),
    (lambda: operators.make_mask(np.zeros((12, 16), bool)), 'misses all'),
    (lambda: operators.make_mask(np.full((12, 16), 1.5)), r'1.5 to 1.5'),
    (lambda: operators.make_mask(np.full((12, 16), -0.5)), r'-0.5 to'),
    (lambda: operators.make_mask(np.ones(12)), r'got \(12,\)'),
    (lambda: operators.make_mask(np.ones((1, 12, 16, 3))), r'\(1, 12, 16, 3\)'),
    (lambda: operators.make_blur(np.ones((3, 3), int)), 'floats, got int64'),
    (lambda: operators.make_blur(np.full((3, 3), np.nan)), '9 NaN'),
    (lambda: operators.make_blur(np.full((3, 3), np.inf)), '9 NaN or infinite'),
    (lambda: operators.make_blur(np.zeros((0, 3))), r'shape \(0, 3\)'),
    (lambda: operators.make_blur(np.ones((2, 3))), r'odd, got \(2, 3\)'),
    (lambda: operators.make_blur(np.ones((3, 4))), r'odd, got \(3, 4\)'),
    (lambda: operators.make_blur(np.ones(3)), r'got \(3,\)'),
    (lambda: operators.make_blur(np.ones((3, 3, 1))), r'got \(3, 3, 1\)'),
    (lambda: operators.make_blur(np.zeros((3, 3))), 'positive, got 0.0'),
    (lambda: operators.make_blur(np.array([[0.1, 0.2, -0.3]])), 'positive'),
    (lambda: operators.make_blur(-np.ones((3, 3))), 'positive, got -9.0'),
    (lambda: operators.make_local(_curve, -1), 'got -1 and 1'),
    (lambda: operators.make_local(_curve, 0, 0), 'got 0 and 0'),
  ],
)
def test_values_that_make_no_operator_are_refused(make, says):
  with pytest.raises(ValueError, match=says):
    make()


@pytest.mark.parametrize(
  'operator,shape,says',
  [
    (operators.Crop(0, 0, 8, 9), (7, 9, 3), 'outside'),
    (operators.Crop(0, 0, 7, 10), (7, 9, 3), 'outside'),
    (operators.Crop(1, 0, 7, 9), (7, 9, 3), 'outside'),
    (operators.Crop(0, 7, 1, 3), (7, 9, 3), 'outside'),
    (operators.crop_center((7, 9), (8, 9)), (7, 9, 3), 'outside'),
    (operators.crop_center((7, 9), (7, 10)), (7, 9, 3), 'outside'),
    (operators.crop_center((7, 9), (9, 9)), (7, 9, 3), 'outside'),
    (operators.crop_center((7, 9), (17, 19)), (7, 9, 3), 'outside'),
    (operators.Downsample(4), (10, 12, 3), 'factor 4 .*10, 12'),
    (operators.Downsample(4), (12, 10, 3), 'factor 4 .*12, 10'),
    (operators.Downsample(0), SHAPE, 'factor .*got 0'),
    (operators.Downsample(-2), SHAPE, 'factor .*got -2'),
    (operators.Downsample(1.5), SHAPE, 'factor .*got 1.5'),
    (operators.Downsample(2, 'cubic'), SHAPE, "'cubic' is not .*box"),
    (
      operators.make_mask(np.ones((12, 15))),
      SHAPE,
      r'12, 15, 1\) does not fit',
    ),
    (operators.make_mask(np.ones((1, 16))), SHAPE, 'does not fit'),
    (operators.make_mask(np.ones((12, 16, 2))), SHAPE, 'does not fit'),
    (operators.make_mask(np.ones((12, 16, 3))), (12, 16, 1), 'does not fit'),
    (operators.make_mask(np.ones((12, 16))), (12, 16), 'does not fit'),
    (operators.make_blur(np.ones((3, 25))), (12, 12, 3), 'too small'),
    (operators.make_blur(np.ones((3, 3))), (12, 12), r'\[H, W, C\]'),
    (operators.Blur(np.ones((2, 3))), SHAPE, r'odd, got \(2, 3\)'),
  ],
)
def test_images_that_do_not_fit_are_refused(operator, shape, says):
  with pytest.raises(ValueError, match=says):
    operator(jnp.zeros(shape))


@pytest.mark.parametrize(
  'operator',
  [_curve, jnp.tanh, jnp.square, jnp.abs, operators.compose(jnp.sin, _scan)],
)
def test_what_is_not_linear_has_no_adjoint(operator):
  measurement = operator(jnp.ones(SHAPE))
  with pytest.raises(ValueError, match='not linear'):
    operators.adjoint(operator, measurement, SHAPE)


@pytest.mark.parametrize('shape', [(3, 4), (3, 4, 1), (12, 16, 3)])
def test_the_adjoint_of_another_shape_is_refused(shape):
  with pytest.raises(ValueError, match=r'into \(3, 4, 3\)'):
    operators.adjoint(operators.Downsample(4), jnp.zeros(shape), SHAPE)
