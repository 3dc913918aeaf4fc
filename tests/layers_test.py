"""Layers against flax, jax.image, numpy and the moments of their weights."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dipjax import conv
from dipjax.conv import choose
from dipjax.networks import layers

SIZES = [(6, 8), (5, 7), (1, 4)]


def _draw(*shape, seed=0) -> Any:
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def _pull_both(one, other, arguments, gradient):
  """Of each function its value, and the gradients of the sum times `gradient`.

  By one program: one by one the operations take far longer to compile.
  """

  def pull(function, arguments, gradient):
    y, backward = jax.vjp(function, *arguments)
    return y, *backward(gradient)

  @jax.jit
  def compute(*given):
    return pull(one, *given), pull(other, *given)

  return compute(arguments, gradient)


# --- Convolution.


@pytest.mark.parametrize(
  'size,inputs,features', [(1, 16, 512), (3, 8, 256), (5, 2, 256)]
)
def test_initial_weights_are_uniform_within_the_bound(size, inputs, features):
  conv = layers.Conv(features, size)
  x = jnp.zeros((8, 8, inputs))
  params: Any = conv.init(jax.random.key(size), x)['params']
  assert params['kernel'].shape == (size, size, inputs, features)
  assert params['bias'].shape == (features,)
  bound = 1 / np.sqrt(size * size * inputs)
  for name in ('kernel', 'bias'):
    unit = np.asarray(params[name], np.float64) / bound
    assert 0.97 < np.abs(unit).max() <= 1 + 1e-6
    # Five standard errors of each estimate.
    assert abs(unit.mean()) < 5 / np.sqrt(3 * unit.size)
    assert abs(unit.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / unit.size)


@pytest.mark.parametrize('padding', ['reflect', 'zero'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [1, 3])
def test_a_convolution_equals_that_of_flax(size, stride, padding):
  x = _draw(7, 8, 3)
  params = {'kernel': _draw(size, size, 3, 4), 'bias': _draw(4, seed=1)}
  reach = size // 2
  mode = 'reflect' if padding == 'reflect' else 'constant'
  padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode=mode)
  plain = nn.Conv(4, (size, size), stride, padding='VALID')
  expected = plain.apply({'params': params}, padded[None])[0]
  conv = layers.Conv(4, size, stride, padding)
  actual: Any = conv.apply({'params': params}, x)
  assert actual.shape == (-(-7 // stride), -(-8 // stride), 4)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


# --- Normalisation.


@pytest.fixture(params=['cpu', 'gpu', 'tpu'])
def summing(request) -> Iterator[None]:
  """How moments are summed, on each device."""
  with choose.aim(choose.Target(request.param)):
    yield


def _normalise(x, scale=None, bias=None) -> Any:
  channels = x.shape[-1]
  params = {
    'scale': np.ones(channels, np.float32) if scale is None else scale,
    'bias': np.zeros(channels, np.float32) if bias is None else bias,
  }
  return layers.Norm().apply({'params': params}, x)


def test_a_norm_starts_with_mean_0_and_variance_1():
  x = 5 * _draw(6, 7, 4) + np.arange(4, dtype=np.float32)
  y, params = layers.Norm().init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-6)
  np.testing.assert_allclose(y.var((0, 1)), 1, atol=1e-5)
  np.testing.assert_array_equal(params['params']['scale'], 1)
  np.testing.assert_array_equal(params['params']['bias'], 0)


@pytest.mark.parametrize('summing', ['cpu', 'gpu'], indirect=True)
@pytest.mark.usefixtures('summing')
@pytest.mark.parametrize('activation', sorted(layers.ACTIVATIONS))
def test_the_gradients_of_a_norm_are_those_of_its_formula(activation):
  x, scale, bias = 3 + _draw(6, 7, 4), _draw(4, seed=1), _draw(4, seed=2)

  def formula(x, scale, bias):
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    whitened = (x - mean[None, None]) / jnp.sqrt(variance + 1e-5)[None, None]
    affine = whitened * scale[None, None] + bias[None, None]
    return layers.ACTIVATIONS[activation](affine)

  def norm(x, scale, bias):
    params = {'scale': scale, 'bias': bias}
    return layers.Norm(activation).apply({'params': params}, x)

  expected, actual = _pull_both(
    formula, norm, (x, scale, bias), _draw(6, 7, 4, seed=3)
  )
  np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
  for ours, theirs in zip(actual[1:], expected[1:], strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.usefixtures('summing')
def test_a_norm_in_bfloat16_sums_in_float32():
  x = (100 + _draw(64, 64, 3)).astype(jnp.bfloat16)
  y: Any = layers.Norm().init_with_output(jax.random.key(0), x)[0]
  assert y.dtype == jnp.bfloat16
  exact: Any = layers.Norm().init_with_output(
    jax.random.key(0), x.astype(jnp.float32)
  )[0]
  np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.02)


def test_a_bias_that_is_not_added_is_a_parameter_all_the_same():
  conv = layers.Conv(4, 3, add_bias=False)
  x = _draw(5, 6, 3)
  params: Any = conv.init(jax.random.key(0), x)['params']
  assert params['bias'].shape == (4,) and np.all(params['bias'] != 0)
  added: Any = layers.Conv(4, 3).apply({'params': params}, x)
  y: Any = conv.apply({'params': params}, x)
  np.testing.assert_allclose(
    added - y, np.broadcast_to(params['bias'], y.shape), atol=1e-6
  )


@pytest.mark.usefixtures('summing')
def test_a_norm_is_batch_normalisation_of_a_batch_of_one():
  x = 0.1 * _draw(6, 7, 4) + 1
  scale, bias = _draw(4, seed=1), _draw(4, seed=2)
  batch = nn.BatchNorm(
    use_running_average=False, use_fast_variance=False, epsilon=1e-5
  )
  statistics = {'mean': np.zeros(4), 'var': np.ones(4)}
  expected, _ = batch.apply(
    {'params': {'scale': scale, 'bias': bias}, 'batch_stats': statistics},
    x[None],
    mutable='batch_stats',
  )
  np.testing.assert_allclose(
    _normalise(x, scale, bias), expected[0], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('gain', [0.5, 1, 20])
@pytest.mark.parametrize('shift', [-3, 0, 10])
def test_a_norm_does_not_see_gain_and_shift(gain, shift):
  x, scale, bias = _draw(6, 7, 4), _draw(4, seed=1), _draw(4, seed=2)
  np.testing.assert_allclose(
    _normalise(gain * x + shift, scale, bias),
    _normalise(x, scale, bias),
    atol=1e-4,
  )


@pytest.mark.usefixtures('summing')
def test_a_large_mean_with_a_small_spread_is_normalised():
  x = _draw(16, 16, 2) + np.float32(1000)
  exact = x.astype(np.float64)
  exact = (exact - exact.mean((0, 1))) / exact.std((0, 1))
  np.testing.assert_allclose(_normalise(x), exact, atol=1e-3)


def test_a_flat_channel_becomes_its_bias():
  flat = np.full((4, 5, 2), 0.25, np.float32)
  bias = np.array([3, -1], np.float32)
  expected = np.broadcast_to(bias, flat.shape)
  np.testing.assert_allclose(_normalise(flat, bias=bias), expected, atol=1e-6)


# --- Doubling.


class _Merge(nn.Module):
  """A merge, then a normalisation, as on the way out of a network."""

  mode: str
  padding: str = 'reflect'

  @nn.compact
  def __call__(self, skip, x):
    norm = layers.Norm(name='norm')
    convolution = layers.Conv(
      5, padding=self.padding, add_bias=False, name='conv'
    )
    merged = layers.merge_doubled(norm, convolution, skip, x, self.mode)
    return layers.Norm(name='after')(conv.join_blocks(merged))


@pytest.mark.parametrize('mode', layers.UPSAMPLINGS)
@pytest.mark.parametrize('skips', [0, 3])
def test_merging_in_blocks_equals_doubling_first(mode, skips):
  x = _draw(5, 6, 4)
  skip = _draw(10, 12, skips, seed=1) if skips else None
  merge = _Merge(mode)
  init = lambda: jax.eval_shape(merge.init, jax.random.key(0), skip, x)
  # No parameter is at its first 0 or 1.
  params = jax.tree.map(lambda leaf: 0.3 * _draw(*leaf.shape), init())
  results = []
  for doubled in (False, True):
    with choose.aim(choose.Target('cpu', doubled=doubled)):
      results.append(jax.jit(merge.apply)(params, skip, x))
      own = init()
    assert jax.tree.structure(own) == jax.tree.structure(params)
  np.testing.assert_allclose(*results, atol=1e-4)


@pytest.mark.parametrize(
  'skip,padding', [((9, 12, 3), 'reflect'), ((10, 12, 3), 'zero')]
)
def test_what_does_not_fit_in_blocks_is_doubled_first(skip, padding):
  x, skip = _draw(5, 6, 4), _draw(*skip, seed=1)
  merge = _Merge('bilinear', padding)
  params = jax.jit(merge.init)(jax.random.key(0), skip, x)
  plain: Any = jax.jit(merge.apply)(params, skip, x)
  forcing = dataclasses.replace(choose.find_target(), doubled=True)
  with choose.aim(forcing):
    forced = jax.jit(merge.apply)(params, skip, x)
  assert plain.shape == (*skip.shape[:2], 5)
  np.testing.assert_array_equal(forced, plain)


@pytest.mark.parametrize(
  'norm,convolution,says',
  [
    (layers.Norm('relu'), layers.Conv(4, add_bias=False), 'no activation'),
    (layers.Norm(), layers.Conv(4), 'no bias'),
    (layers.Norm(), layers.Conv(4, stride=2, add_bias=False), 'not 2'),
  ],
)
def test_what_cannot_be_merged_is_refused(norm, convolution, says):
  with pytest.raises(ValueError, match=says):
    layers.merge_doubled(norm, convolution, None, _draw(4, 4, 3), 'nearest')


# --- Sizes.


@pytest.mark.usefixtures('moving')
@pytest.mark.parametrize('height,width', SIZES)
@pytest.mark.parametrize('mode', layers.UPSAMPLINGS)
def test_upsampling_equals_that_of_jax(mode, height, width):
  doubled = 2 * height, 2 * width, 3
  x, gradient = _draw(height, width, 3), _draw(*doubled, seed=1)
  ours = lambda x: layers.upsample(x, mode)
  plain = lambda x: jax.image.resize(x, doubled, mode)
  actual, expected = _pull_both(ours, plain, (x,), gradient)
  for one, other in zip(actual, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize('height,width', [(6, 8), (5, 7), (2, 3)])
@pytest.mark.parametrize('mode,reduce', [('average', np.mean), ('max', np.max)])
def test_pooling_reduces_blocks(mode, reduce, height, width):
  x = _draw(height, width, 3)
  blocks = x[: height // 2 * 2, : width // 2 * 2]
  blocks = blocks.reshape(height // 2, 2, width // 2, 2, 3)
  np.testing.assert_allclose(
    layers.downsample(x, mode), reduce(blocks, axis=(1, 3)), atol=1e-6
  )


def test_the_largest_pixel_alone_has_the_gradient():
  x = _draw(5, 6, 3)
  gradient = jax.grad(lambda x: layers.downsample(x, 'max').sum())(x)
  largest = layers.upsample(layers.downsample(x, 'max'), 'nearest')
  expected = np.zeros((5, 6, 3))
  expected[:4] = x[:4] == largest
  np.testing.assert_array_equal(gradient, expected)


def test_lanczos_equals_the_authors_reduction(downsampler):
  reduced = layers.downsample(downsampler['image'], 'lanczos2')
  expected = downsampler['lanczos2_x2/output']
  np.testing.assert_allclose(reduced, expected, atol=1e-5)


@pytest.mark.parametrize(
  'height,width,top,left',
  [(7, 9, 0, 0), (5, 5, 1, 2), (6, 8, 0, 0), (4, 6, 1, 1), (1, 1, 3, 4)],
)
def test_the_centre_is_the_middle_rounded_to_the_top_left(
  height, width, top, left
):
  x = _draw(7, 9, 2)
  np.testing.assert_array_equal(
    layers.crop_center(x, height, width),
    x[top:, left:][:height, :width],
  )


# --- Activations.


CURVES = {
  'leaky_relu': lambda x: np.maximum(x, 0.2 * x),
  'relu': lambda x: np.maximum(x, 0),
  'swish': lambda x: x / (1 + np.exp(-x)),
  'elu': lambda x: np.where(x > 0, x, np.exp(x) - 1),
  'none': lambda x: x,
}


@pytest.mark.parametrize('name', layers.ACTIVATIONS)
def test_activations_follow_their_formulas(name):
  x = np.linspace(-6, 6, 49)
  actual = layers.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(actual, CURVES[name](x), atol=1e-6)


@pytest.mark.parametrize('platform', choose.PLATFORMS)
def test_the_gradient_of_a_leaky_relu_is_that_of_jax(platform):
  x = jnp.array([-jnp.inf, -2.0, -0.0, 0.0, 1e-9, 3.0, jnp.inf])
  differentiate = lambda function: jax.grad(lambda x: function(x).sum())(x)
  with choose.aim(choose.Target(platform)):
    ours = differentiate(layers.ACTIVATIONS['leaky_relu'])
  expected = differentiate(lambda x: jax.nn.leaky_relu(x, 0.2))
  if platform == 'gpu':
    # PyTorch's.
    expected = jnp.where(x == 0, 0.2, expected)
  np.testing.assert_array_equal(ours, expected)
