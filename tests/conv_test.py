"""The convolution against lax's: values, gradients, lanes, loops."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dipjax import conv
from dipjax.conv import choose, windows

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
MODES = {'reflect': 'reflect', 'zero': 'constant'}
LANES = {'image': (0, None), 'kernel': (None, 0), 'both': (0, 0)}


def _convolve_plainly(x, kernel, stride, padding):
  pads = [(side // 2, side // 2) for side in kernel.shape[:2]]
  x = jnp.pad(x, (*pads, (0, 0)), mode=MODES[padding])
  return lax.conv_general_dilated(
    x[None], kernel, (stride, stride), 'VALID', dimension_numbers=LAYOUT
  )[0]


def _bind(function, stride, padding):
  return lambda x, kernel: function(x, kernel, stride=stride, padding=padding)


def _pull(function):
  """Returns (x, kernel, dy) -> y and the gradients of sum(y * dy)."""

  def value_and_gradients(x, kernel, dy):
    y, backward = jax.vjp(function, x, kernel)
    return y, *backward(dy)

  return value_and_gradients


def _draw(
  shape, sides, stride, lanes=(), axes=(0, 0), inputs=3, outputs=4
) -> Any:
  """Returns x, kernel and dy; with lanes, in front of those with an axis."""
  rng = np.random.default_rng(0)
  reduced = [-(-side // stride) for side in shape]
  return (
    rng.normal(size=(*_keep(lanes, axes[0]), *shape, inputs)).astype('f'),
    rng.normal(size=(*_keep(lanes, axes[1]), *sides, inputs, outputs)).astype(
      'f'
    ),
    rng.normal(size=(*lanes, *reduced, outputs)).astype('f'),
  )


def _keep(lanes, axis):
  return () if axis is None else lanes


def _assert_close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5),
    actual,
    expected,
  )


@pytest.mark.usefixtures('convolving')
@pytest.mark.parametrize('padding', MODES)
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('sides', [(1, 1), (3, 3), (5, 5), (3, 1)])
def test_value_and_gradients_equal_lax(sides, stride, padding):
  ours = _bind(conv.convolve, stride, padding)
  plain = _bind(_convolve_plainly, stride, padding)
  cases = [_draw(shape, sides, stride) for shape in [(8, 10), (9, 7)]]
  compute = jax.jit(
    lambda cases: [[_pull(f)(*case) for case in cases] for f in (ours, plain)]
  )
  actual, expected = compute(cases)
  _assert_close(actual, expected)


@pytest.mark.usefixtures('convolving')
@pytest.mark.parametrize('stride', [1, 2])
def test_the_smallest_image_is_reflected_as_numpy_does(stride):
  x, kernel, _ = _draw((3, 3), (5, 5), stride)
  padded = np.pad(x, ((2, 2), (2, 2), (0, 0)), mode='reflect')
  windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (0, 1))
  expected = np.einsum('yxihw,hwio->yxo', windows, kernel)
  y = conv.convolve(x, kernel, stride=stride)
  _assert_close(y, expected[::stride, ::stride])


@pytest.mark.parametrize('axis', [0, 1])
def test_a_matrix_that_picks_pixels_changes_no_value(axis):
  x = _draw((7, 5), (1, 1), 1)[0]
  chosen = np.array([2, 1, 0, 4, 4, 3])
  y = windows.multiply_axis(np.eye(x.shape[axis])[chosen], x, axis)
  np.testing.assert_array_equal(y, np.take(x, chosen, axis))


@pytest.mark.parametrize('padding', ['reflect', 'zero'])
@pytest.mark.parametrize('stride', [1, 2])
def test_slices_gather_the_windows_that_a_product_gathers(stride, padding):
  x = _draw((7, 9), (1, 1), 1)[0]
  gathered = []
  for platform in ('cpu', 'gpu'):
    with choose.aim(choose.Target(platform)):
      gathered.append(windows.gather_windows(x, (3, 5), stride, padding))
  np.testing.assert_array_equal(*gathered)


@pytest.mark.parametrize('shape', [(32, 32), (33, 47)])
def test_tiles_as_chosen_equal_lax(shape):
  case = _draw(shape, (3, 3), 1, inputs=16, outputs=20)
  functions = [
    _bind(f, 1, 'reflect') for f in (conv.convolve, _convolve_plainly)
  ]
  compute = jax.jit(lambda *case: [_pull(f)(*case) for f in functions])
  program = compute.lower(*case).as_text()
  # The plain one and its gradients alone.
  assert program.count('stablehlo.convolution') == 3
  actual, expected = compute(*case)
  # Tiles round more; the gradient of the kernel sums all pixels.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.std(b)),
    actual,
    expected,
  )


@pytest.mark.usefixtures('convolving')
@pytest.mark.parametrize(
  'sides,stride', [((1, 1), 1), ((3, 3), 1), ((3, 3), 2)]
)
@pytest.mark.parametrize('lanes', LANES)
def test_lanes_equal_a_loop(lanes, sides, stride):
  axes = LANES[lanes]
  arguments = _draw((6, 5), sides, stride, (3,), axes)
  lane = _bind(conv.convolve, stride, 'reflect')

  @jax.jit
  def compute(arguments):
    pick = lambda i: [
      a if axis is None else a[i] for a, axis in zip(arguments, (*axes, 0))
    ]
    alone = [_pull(lane)(*pick(i)) for i in range(3)]
    among = jax.vmap(_pull(lane), (*axes, 0))(*arguments)
    outside = _pull(jax.vmap(lane, axes))(*arguments)
    return jax.tree.map(lambda *a: jnp.stack(a), *alone), among, outside

  alone, among, outside = compute(arguments)
  _assert_close(among, alone)
  # Differentiated outside of vmap, what the lanes share sums their gradients.
  y, *gradients = alone
  sums = [g.sum(0) if a is None else g for g, a in zip(gradients, axes)]
  _assert_close(outside, (y, *sums))


def test_lanes_of_lanes_equal_two_loops():
  x, kernel, _ = _draw((6, 5), (3, 3), 1, (2,))
  lane = lambda x, kernel: conv.convolve(x, kernel)

  @jax.jit
  def compute(x, kernel):
    inner = jax.vmap(lane, (None, 0))
    nested = jax.vmap(inner, (0, None))(x, kernel)
    loops = jnp.stack([jnp.stack([lane(a, k) for k in kernel]) for a in x])
    return nested, loops

  _assert_close(*compute(x, kernel))


@pytest.mark.parametrize(
  'sides,stride', [((1, 1), 1), ((3, 3), 1), ((3, 3), 2)]
)
def test_descent_of_lanes_in_a_scan_equals_descent_in_a_loop(sides, stride):
  lane = _bind(conv.convolve, stride, 'reflect')
  plain = _bind(_convolve_plainly, stride, 'reflect')
  arguments = _draw((6, 5), sides, stride, (2,))

  def descend(function, x, kernel, dy):
    _, dx, dkernel = _pull(function)(x, kernel, dy)
    return x - 0.01 * dx, kernel - 0.01 * dkernel

  @jax.jit
  def scan(x, kernel, dy):
    def run(x, kernel, dy):
      body = lambda c, _: (descend(lane, c[0], c[1], dy), None)
      return lax.scan(body, (x, kernel), length=3)[0]

    return jax.vmap(run)(x, kernel, dy)

  step = jax.jit(functools.partial(descend, plain))
  for i, actual in enumerate(zip(*scan(*arguments))):
    x, kernel, dy = (a[i] for a in arguments)
    for _ in range(3):
      x, kernel = step(x, kernel, dy)
    _assert_close(actual, (x, kernel))


def _lower_gradient_of_lanes(function, axes, sides, stride):
  arguments = _draw((6, 5), sides, stride, (3,), axes)
  lanes = jax.vmap(_pull(function), (*axes, 0))
  return jax.jit(lanes).lower(*arguments).as_text()


def _find_groups(program):
  return set(re.findall(r'(?:feature|batch)_group_count = (\d+)', program))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('side', [3, 5])
@pytest.mark.parametrize('lanes', LANES)
@pytest.mark.parametrize(
  'platform,way', [('gpu', 'library'), ('tpu', 'slices'), ('tpu', 'columns')]
)
def test_lanes_make_no_grouped_convolution(platform, way, lanes, side, stride):
  with choose.aim(choose.Target(platform, way=way)):
    program = _lower_gradient_of_lanes(
      _bind(conv.convolve, stride, 'reflect'),
      LANES[lanes],
      (side, side),
      stride,
    )
  assert _find_groups(program) == {'1'}
  layouts = set(re.findall(r'dim_numbers = (\S.*?), window', program))
  if way == 'columns' and side == 3:
    # Columns are the batch, in gradients too: there is one axis.
    assert layouts and not any(', 1' in layout for layout in layouts)
    return
  fast = '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]'
  # A GPU's library has kernels for JAX's gradients too, in x and in the kernel.
  gradients = {
    '[b, 0, 1, f]x[0, 1, o, i]->[b, 0, 1, f]',
    '[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]',
  }
  assert layouts == ({fast} | gradients if platform == 'gpu' else {fast})


@pytest.mark.parametrize('padding', MODES)
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize(
  'platform,way', [('gpu', None), ('tpu', None), ('tpu', 'columns')]
)
def test_programs_of_other_devices_equal_lax(platform, way, stride, padding):
  plain = _bind(_convolve_plainly, stride, padding)
  x, kernel, dy = _draw((9, 7), (3, 3), stride, (2,), inputs=5)
  with choose.aim(choose.Target(platform, way=way)):
    ours = _bind(conv.convolve, stride, padding)
    actual = jax.jit(jax.vmap(_pull(ours)))(x, kernel, dy)
  expected = jax.jit(jax.vmap(_pull(plain)))(x, kernel, dy)
  _assert_close(actual, expected)


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
def test_sums_over_channels_equal_products(dtype, monkeypatch):
  monkeypatch.setattr(choose, '_LEAST_SUMMED_PIXELS', 63)
  plain = _bind(_convolve_plainly, 1, 'zero')
  x, kernel, dy = _draw((9, 7), (1, 1), 1, (2,), inputs=64)
  arguments = [jnp.asarray(array, dtype) for array in (x, kernel, dy)]
  with choose.aim(choose.Target('gpu')):
    ours = jax.vmap(_pull(_bind(conv.convolve, 1, 'zero')))
    assert 'dot_general' not in str(jax.make_jaxpr(ours)(*arguments))
    actual = jax.jit(ours)(*arguments)
  assert all(array.dtype == dtype for array in actual)
  if dtype == np.float32:
    return _assert_close(actual, jax.jit(jax.vmap(_pull(plain)))(x, kernel, dy))
  wide = [np.asarray(array, np.float32) for array in arguments]
  for ours, theirs in zip(actual, jax.vmap(_pull(plain))(*wide), strict=True):
    # Each is rounded once, at the end.
    np.testing.assert_allclose(ours.astype('f'), theirs, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize('shape,stride', [((8, 6), 2), ((2, 3), 1)])
def test_columns_of_other_images_equal_lax(shape, stride):
  plain = _bind(_convolve_plainly, stride, 'reflect')
  arguments = _draw(shape, (3, 3), stride)
  with choose.aim(choose.Target('tpu', way='columns')):
    ours = _bind(conv.convolve, stride, 'reflect')
    actual = jax.jit(_pull(ours))(*arguments)
  _assert_close(actual, jax.jit(_pull(plain))(*arguments))


def test_plain_lanes_would_make_grouped_convolutions():
  plain = _bind(_convolve_plainly, 1, 'reflect')
  program = _lower_gradient_of_lanes(plain, (0, 0), (3, 3), 1)
  assert _find_groups(program) == {'1', '3'}


@pytest.mark.parametrize(
  'x,kernel,options,says',
  [
    ((8, 8), (3, 3, 1, 4), {}, r'\(8, 8\)'),
    ((1, 8, 8, 3), (3, 3, 3, 4), {}, r'\(1, 8, 8, 3\)'),
    ((8, 8, 3), (3, 3, 3), {}, r'\(3, 3, 3\)'),
    ((8, 8, 3), (3, 3, 4, 3), {}, r'\(3, 3, 4, 3\)'),
    ((8, 8, 3), (2, 3, 3, 4), {}, 'odd'),
    ((8, 8, 3), (3, 4, 3, 4), {}, 'odd'),
    ((8, 8, 3), (3, 3, 3, 4), {'stride': 0}, 'stride'),
    ((8, 8, 3), (3, 3, 3, 4), {'stride': 3}, 'stride'),
    ((8, 8, 3), (3, 3, 3, 4), {'padding': 'wrap'}, 'wrap'),
    ((8, 8, 3), (1, 1, 3, 4), {'padding': 'wrap'}, 'wrap'),
    ((1, 8, 3), (3, 3, 3, 4), {}, 'too small'),
    ((8, 2, 3), (5, 5, 3, 4), {}, 'too small'),
    ((2, 8, 3), (5, 5, 3, 4), {'stride': 2}, 'too small'),
  ],
)
def test_what_does_not_fit_is_refused(x, kernel, options, says):
  with pytest.raises(ValueError, match=says):
    conv.convolve(jnp.zeros(x), jnp.zeros(kernel), **options)


@pytest.mark.parametrize('stride', [1, 2])
def test_zero_padding_takes_the_smallest_image(stride):
  x, kernel, _ = _draw((1, 1), (5, 5), stride)
  y = conv.convolve(x, kernel, stride=stride, padding='zero')
  np.testing.assert_allclose(y[0, 0], x[0, 0] @ kernel[2, 2], rtol=1e-5)
