"""The convolution of a doubled image against doubling it first."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import conv
from dipjax.conv import choose
from dipjax.networks import skip

MODES = ['bilinear', 'nearest']


def _draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _move(params):
  """Where every constant matters: none is at its initial 0 or 1."""
  moved = lambda leaf: leaf + np.float32(0.1) * _draw(2, *leaf.shape)
  return jax.tree.map(moved, jax.device_get(params))


def _differentiate(function, arguments, cotangent):
  """The value of a function and its gradients, compiled as one program."""

  @jax.jit
  def both(arguments, cotangent):
    value, pull_back = jax.vjp(function, *arguments)
    return value, pull_back(cotangent)

  return both(arguments, cotangent)


@pytest.mark.parametrize(
  'mode,skips,size',
  list(itertools.product(MODES, [0, 3], [(2, 2), (3, 5), (6, 4)])),
)
def test_equals_the_convolution_of_the_doubled_image(mode, skips, size):
  height, width = size
  x = _draw(0, height, width, 5)
  joined = _draw(1, 2 * height, 2 * width, skips) if skips else None
  kernel = _draw(2, 3, 3, skips + 5, 7)

  def double_first(x, joined, kernel):
    doubled = conv.upsample(x, mode)
    parts = [doubled] if joined is None else [joined, doubled]
    return conv.convolve(jnp.concatenate(parts, axis=-1), kernel)

  def convolve_first(x, joined, kernel):
    blocks = conv.convolve_doubled(x, joined, kernel, mode)
    assert blocks.shape == (height, width, 2, 2, 7)
    return conv.join_blocks(blocks)

  cotangent = _draw(3, 2 * height, 2 * width, 7)
  expected, actual = (
    _differentiate(function, (x, joined, kernel), cotangent)
    for function in (double_first, convolve_first)
  )
  for ours, theirs in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=5e-5)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('offset', [0.0, 100.0])
@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_variance_is_that_of_the_doubled_image(platform, mode, offset):
  x = _draw(0, 5, 3, 4) + np.float32(offset)
  weights = np.arange(1, 5, dtype=np.float32)  # Their sums do not cancel.
  ours = lambda x: weights @ conv.compute_doubled_variance(x, mode)
  theirs = lambda x: weights @ conv.upsample(x, mode).var((0, 1))
  with choose.aim(choose.Target(platform)):
    value, (gradient,) = _differentiate(ours, (x,), 1.0)
  expected, (expected_gradient,) = _differentiate(theirs, (x,), 1.0)
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  np.testing.assert_allclose(
    gradient, expected_gradient, atol=1e-5 + 1e-6 * offset
  )


def test_blocks_join_to_the_image_they_were_split_from():
  image = _draw(0, 6, 4, 3)
  blocks = conv.split_blocks(jnp.asarray(image))
  assert blocks.shape == (3, 2, 2, 2, 3)
  np.testing.assert_array_equal(blocks[1, 0, 1, 0], image[3, 0])
  np.testing.assert_array_equal(conv.join_blocks(blocks), image)


@pytest.mark.parametrize('mode', MODES)
def test_a_network_that_doubles_late_is_the_same(mode):
  network = skip.Skip(
    down=(6, 8), up=(6, 8), skip=(0, 3), upsampling=mode, sigmoid=False
  )
  code = _draw(0, 16, 24, 4)
  params = jax.jit(network.init)(jax.random.key(1), code)
  params = _move(params)
  objective = lambda params: jnp.sum(network.apply(params, code) ** 3)
  results = []
  for doubled in (False, True):
    target = dataclasses.replace(choose.find_target(), doubled=doubled)
    with choose.aim(target):
      results.append(jax.jit(jax.value_and_grad(objective))(params))
  (plain, plain_gradient), (late, late_gradient) = results
  np.testing.assert_allclose(late, plain, rtol=1e-4)
  total = max(abs(leaf).max() for leaf in jax.tree.leaves(plain_gradient))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * total),
    late_gradient,
    plain_gradient,
  )


def test_a_network_of_a_tpu_is_the_same():
  """The skip in blocks, and the pixels of blocks side by side in channels."""
  network = skip.Skip(down=(4,), up=(5,), skip=(2,), sigmoid=False)
  code = _draw(0, 8, 12, 3)
  params = jax.jit(network.init)(jax.random.key(1), code)
  params = _move(params)
  results = []
  for target in (choose.find_target(), choose.Target('tpu', doubled=True)):
    objective = lambda params: jnp.sum(network.apply(params, code) ** 3)
    with choose.aim(target):
      results.append(jax.jit(jax.value_and_grad(objective))(params))
  total = max(abs(leaf).max() for leaf in jax.tree.leaves(results[0]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * total), *results
  )
