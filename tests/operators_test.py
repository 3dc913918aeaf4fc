"""Operators as a table: values, adjoints, compiled once, in lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import operators
from dipjax.networks import layers

SHAPE = (7, 9, 3)
# Each with what numpy would do to the image.
OPERATORS = {
  'identity': (operators.Identity(), lambda x: x),
  'whole': (operators.Crop(0, 0, 7, 9), lambda x: x),
  'crop': (operators.Crop(1, 2, 4, 3), lambda x: x[1:5, 2:5]),
  'corner': (operators.Crop(5, 8, 2, 1), lambda x: x[5:, 8:]),
  'centre': (operators.crop_center((7, 9), (3, 5)), lambda x: x[2:5, 2:7]),
}

each_operator = pytest.mark.parametrize(
  'operator,expected', OPERATORS.values(), ids=OPERATORS
)


def _draw(*lanes, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.random((*lanes, *SHAPE), np.float32))


@each_operator
def test_values_equal_those_of_numpy(operator, expected):
  image = _draw()
  np.testing.assert_array_equal(operator(image), expected(np.asarray(image)))


@each_operator
def test_the_adjoint_moves_to_the_other_side_of_the_dot_product(
  operator, expected
):
  x = _draw()
  y, transpose = jax.vjp(operator, _draw(seed=1))
  y = y - 0.5
  (transposed,) = transpose(y)
  left = np.sum(np.float64(expected(x)) * np.float64(y))
  right = np.sum(np.float64(x) * np.float64(transposed))
  np.testing.assert_allclose(left, right, rtol=1e-5)


@each_operator
def test_another_image_does_not_compile_again(operator, expected):
  traces = []

  @jax.jit
  def measure(operator, image):
    traces.append(image)
    return operator(image)

  for seed in (0, 1):
    image = _draw(seed=seed)
    np.testing.assert_array_equal(measure(operator, image), expected(image))
  assert len(traces) == 1


@each_operator
def test_lanes_equal_a_loop(operator, expected):
  images = _draw(4)
  lanes = jax.vmap(lambda operator, x: operator(x), (None, 0))(operator, images)
  for i, image in enumerate(images):
    np.testing.assert_array_equal(lanes[i], expected(image))


def test_crops_are_static():
  assert not jax.tree.leaves(operators.Crop(1, 2, 4, 3))
  equal, other = operators.Crop(1, 2, 4, 3), operators.Crop(1, 2, 4, 2)
  structure = jax.tree.structure(operators.Crop(1, 2, 4, 3))
  assert structure == jax.tree.structure(equal)
  assert structure != jax.tree.structure(other)


@pytest.mark.parametrize(
  'crop',
  [
    operators.Crop(0, 0, 8, 9),
    operators.Crop(0, 0, 7, 10),
    operators.Crop(1, 0, 7, 9),
    operators.Crop(0, 7, 1, 3),
    operators.crop_center((7, 9), (8, 9)),
    operators.crop_center((7, 9), (7, 10)),
    operators.crop_center((7, 9), (9, 9)),
    operators.crop_center((7, 9), (17, 19)),
  ],
  ids=str,
)
def test_a_window_outside_of_the_image_is_refused(crop):
  with pytest.raises(ValueError, match='outside'):
    crop(_draw())


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
  image = _draw()
  np.testing.assert_array_equal(
    operators.crop_center((7, 9), window)(image),
    layers.crop_center(image, *window),
  )
