"""Winograd's convolution against lax's: values, gradients, rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dipjax.conv import choose, winograd


def _convolve_plainly(x, kernel):
  # The last two lines and columns are not read.
  return lax.conv_general_dilated(
    x[None, :-2, :-2],
    kernel,
    (1, 1),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )[0]


def _draw(m, n, inputs, outputs, dtype=np.float32):
  rng = np.random.default_rng(0)
  border, side = winograd.BORDER, winograd.TILE
  shapes = [
    (side * m + border, side * n + border, inputs),
    (3, 3, inputs, outputs),
    (side * m, side * n, outputs),
  ]
  return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def _pull(x, kernel, dy):
  return (
    winograd.convolve(x, kernel),
    *winograd.pull(x, kernel, dy),
  )


def _pull_plainly(x, kernel, dy):
  y, backward = jax.vjp(_convolve_plainly, x, kernel)
  return y, *backward(dy)


@pytest.mark.parametrize('m,n', [(1, 1), (2, 3), (5, 1)])
def test_the_algorithm_is_exact(m, n):
  with jax.enable_x64(True):
    case = _draw(m, n, 3, 5, np.float64)
    actual, expected = jax.jit(_pull)(*case), jax.jit(_pull_plainly)(*case)
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize('most', [1, 8])
def test_bands_of_tiles_change_nothing(monkeypatch, most):
  case = _draw(6, 4, 3, 5, np.float64)
  monkeypatch.setattr(choose, '_MOST_TILES', most)
  assert choose.count_bands(6, 4) == {1: 6, 8: 3}[most]
  with jax.enable_x64(True):
    actual, expected = jax.jit(_pull)(*case), jax.jit(_pull_plainly)(*case)
  for a, b in zip(actual, expected):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_values_keep_their_type():
  case = _draw(1, 1, 2, 2)
  assert {a.dtype for a in jax.jit(_pull)(*case)} == {jnp.dtype('float32')}


def test_what_is_not_read_has_no_effect_and_no_gradient():
  x, kernel, dy = _draw(2, 2, 3, 3)
  y = winograd.convolve(x, kernel)
  changed = x.copy()
  changed[-2:], changed[:, -2:] = 7, 7
  np.testing.assert_array_equal(winograd.convolve(changed, kernel), y)
  dx, _ = winograd.pull(x, kernel, dy)
  assert not np.any(dx[-2:]) and not np.any(dx[:, -2:])


def test_rounding_errors_are_small_in_float32():
  case = _draw(8, 8, 128, 128)
  with jax.enable_x64(True):
    exact = jax.jit(_pull_plainly)(*(a.astype(np.float64) for a in case))
  ours, plain = jax.jit(_pull)(*case), jax.jit(_pull_plainly)(*case)
  for a, b, truth in zip(*jax.tree.map(np.asarray, (ours, plain, exact))):
    error, usual = (np.std(c - truth) / np.std(truth) for c in (a, b))
    assert error < 2e-6
    assert error < 5 * usual
