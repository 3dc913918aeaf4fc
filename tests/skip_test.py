"""The skip network: its shapes, its options, what its gradient reaches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dipjax.networks import skip

SMALL: dict[str, Any] = {'down': (4, 6), 'up': (6, 4), 'skip': (2, 3)}
ONE: dict[str, Any] = {'down': (4,), 'up': (6,), 'skip': (2,)}


def _infer(network, height, width, inputs=3) -> Any:
  """Returns the shapes of the output and of each parameter; computes none."""
  code = jax.ShapeDtypeStruct((height, width, inputs), jnp.float32)
  output, variables = jax.eval_shape(
    network.init_with_output, jax.random.key(0), code
  )
  params = _flatten(variables['params'])
  return output.shape, {name: leaf.shape for name, leaf in params.items()}


def _flatten(tree) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep='/')


def _draw(network, height, width, inputs=3):
  """Returns a code and parameters, all random: none is at its first value."""
  rng = np.random.default_rng(0)
  _, shapes = _infer(network, height, width, inputs)
  params = {
    name: rng.uniform(-1, 1, shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  code = rng.random((height, width, inputs), np.float32)
  return code, traverse_util.unflatten_dict(params, sep='/')


# --- Shapes.


@pytest.mark.parametrize('fields', [SMALL, SMALL | {'skip': (0, 0)}, ONE])
@pytest.mark.parametrize('rows,columns', [(3, 5), (7, 3), (2, 9), (4, 4)])
def test_multiples_keep_their_size(fields, rows, columns):
  multiple = 2 ** len(fields['down'])
  height, width = rows * multiple, columns * multiple
  shape, _ = _infer(skip.Skip(**fields), height, width)
  assert shape == (height, width, 3)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'down_size': 5},
    {'up_size': 5},
    {'down_size': (5, 3)},
    {'down_size': 1, 'up_size': 3},
    {'down_size': 1, 'up_size': 5},
    {'padding': 'zero'},
    {'downsampling': 'max'},
  ],
  ids=str,
)
@pytest.mark.parametrize('height,width', [(1, 1), (9, 16), (17, 6)])
def test_a_code_size_covers_the_image_and_is_kept(options, height, width):
  network = skip.Skip(**(SMALL | options))
  size = network.code_size(height, width)
  assert size[0] >= height and size[1] >= width
  assert network.code_size(*size) == size
  shape, _ = _infer(network, *size)
  assert shape == (*size, 3)


@pytest.mark.parametrize('side', [1, 7, 8, 9, 13])
@pytest.mark.parametrize('kernel', [3, 5])
def test_a_smaller_code_is_cropped_grows_or_fails(side, kernel):
  network = skip.Skip(**(SMALL | {'down_size': kernel, 'skip': (0, 0)}))
  size, _ = network.code_size(side, 64)
  fitting = []
  for height in range(side, size):
    try:
      shape, _ = _infer(network, height, 64)
    except ValueError:
      continue
    fitting += [height] if shape[0] == height else []
  assert not fitting


@pytest.mark.parametrize('side', range(9, 17))
def test_an_outer_skip_gives_any_code_its_size(side):
  shape, _ = _infer(skip.Skip(**SMALL), side, 25 - side)
  assert shape == (side, 25 - side, 3)


@pytest.mark.parametrize(
  'options',
  [
    {'outputs': 1},
    {'outputs': 5},
    {'down_size': 5},
    {'up_size': 1},
    {'down_size': (5, 3), 'up_size': (1, 5)},
    {'skip': (0, 0)},
    {'skip': (0, 3)},
    {'upsampling': 'nearest'},
    {'upsampling': ('nearest', 'bilinear')},
    {'downsampling': 'average'},
    {'downsampling': 'max'},
    {'downsampling': 'lanczos2'},
    {'padding': 'zero'},
    {'activation': 'swish'},
    {'activation': 'elu'},
    {'activation': 'none'},
    {'point': False},
    {'sigmoid': False},
  ],
  ids=str,
)
def test_every_option_builds(options):
  network = skip.Skip(**(SMALL | options))
  shape, _ = _infer(network, 12, 20)
  assert shape == (12, 20, options.get('outputs', 3))


def test_tuples_go_from_the_outside_in():
  network = skip.Skip(
    down=(4, 6), up=(5, 7), skip=(2, 0), down_size=(3, 5), up_size=(5, 1)
  )
  _, shapes = _infer(network, 12, 20)
  kernels = {
    name.removesuffix('/kernel'): shape
    for name, shape in shapes.items()
    if name.endswith('kernel')
  }
  assert kernels == {
    'level0/skip_conv': (1, 1, 3, 2),
    'level0/down_conv': (3, 3, 3, 4),
    'level0/mid_conv': (3, 3, 4, 4),
    'level0/up_conv': (5, 5, 2 + 7, 5),
    'level0/point_conv': (1, 1, 5, 5),
    'level1/down_conv': (5, 5, 4, 6),
    'level1/mid_conv': (5, 5, 6, 6),
    'level1/up_conv': (1, 1, 6, 7),
    'level1/point_conv': (1, 1, 7, 7),
    'out_conv': (1, 1, 5, 3),
  }


def test_without_points_only_those_are_missing():
  _, full = _infer(skip.Skip(**SMALL), 12, 20)
  _, bare = _infer(skip.Skip(**SMALL, point=False), 12, 20)
  assert bare == {k: v for k, v in full.items() if '/point_' not in k}
  assert len(bare) < len(full)


# --- Values.


def test_the_sigmoid_squeezes_what_leaves_the_range():
  free = skip.Skip(**ONE, sigmoid=False)
  code, params = _draw(free, 6, 10)

  @jax.jit
  def run(params, code):
    networks = (free, skip.Skip(**ONE))
    return [network.apply({'params': params}, code) for network in networks]

  raw, squeezed = run(params, code)
  assert raw.min() < 0 and raw.max() > 1
  assert squeezed.min() > 0 and squeezed.max() < 1
  np.testing.assert_allclose(squeezed, 1 / (1 + np.exp(-raw)), rtol=1e-5)


def test_the_outer_level_doubles_as_it_was_told():
  # After the last doubling each pixel is on its own: no skip, kernels of 1x1.
  network = skip.Skip(
    down=(4, 6),
    up=(6, 4),
    skip=(0, 0),
    up_size=(1, 3),
    upsampling=('nearest', 'bilinear'),
  )
  code, params = _draw(network, 8, 12)
  output = jax.jit(network.apply)({'params': params}, code)
  blocks = np.asarray(output)[::2, ::2]
  np.testing.assert_allclose(
    output, blocks.repeat(2, 0).repeat(2, 1), atol=1e-6
  )
  assert np.abs(np.diff(blocks, axis=0)).min() > 1e-5


# --- Gradients.


def _is_shift(name):
  """Whether a parameter only shifts the input of a normalisation."""
  return name.endswith('_conv/bias') and name != 'out_conv/bias'


@pytest.mark.parametrize(
  'options,unseen',
  [
    (
      {
        'downsampling': 'lanczos2',
        'padding': 'zero',
        'upsampling': 'nearest',
        'activation': 'elu',
      },
      (),
    ),
    (
      {
        'downsampling': 'average',
        'activation': 'swish',
        'sigmoid': False,
        'point': False,
      },
      ('merge_norm/bias',),
    ),
    (
      # Without an activation what one normalisation does the next one undoes.
      {'downsampling': 'max', 'activation': 'none', 'up_size': 5},
      ('mid_norm/', 'skip_norm/', 'norm/bias'),
    ),
  ],
  ids=['elu', 'swish', 'none'],
)
def test_the_gradient_reaches_every_parameter(options, unseen):
  """But what only shifts or scales the input of a normalisation."""
  network = skip.Skip(**(ONE | options))
  code, params = _draw(network, 12, 20)
  weights = jax.random.normal(jax.random.key(1), (12, 20, 3))

  @jax.jit
  def differentiate(params, code):
    forward = lambda params: network.apply({'params': params}, code)
    _, backward = jax.vjp(forward, params)
    return backward(weights)[0]

  gradients = _flatten(differentiate(params, code))
  norms = {name: np.linalg.norm(g) for name, g in gradients.items()}
  total = np.sqrt(sum(norm**2 for norm in norms.values()))
  for name, norm in norms.items():
    if _is_shift(name):
      assert norm < 1e-5 * total, name
    elif not any(part in name for part in unseen):
      assert norm > 1e-4 * total, name


# --- Refusals.


@pytest.mark.parametrize(
  'fields,says',
  [
    ({'up': (4,)}, 'up has 1 levels, down has 2'),
    ({'skip': (2, 2, 2)}, 'skip has 3 levels, down has 2'),
    ({'down': (4,) * 3}, 'has 2 levels, down has 3'),
    ({'down_size': (3,)}, 'down_size has 1'),
    ({'down_size': 0}, 'kernels have odd sides >= 1'),
    ({'up_size': (3, 4)}, 'kernels have odd sides >= 1'),
    ({'up_size': (3, 3, 3)}, 'up_size has 3'),
    ({'upsampling': ('nearest',)}, 'upsampling has 1'),
    ({'down': (), 'up': (), 'skip': ()}, 'has 0 levels'),
    ({'down': (4, 0)}, 'must be positive'),
    ({'up': (-1, 4)}, 'must be positive'),
    ({'skip': (2, -1)}, 'must be positive'),
    ({'upsampling': 'bicubic'}, "'bicubic' is not one of nearest, bilinear"),
    ({'upsampling': ('nearest', 'cubic')}, "'cubic' is not one of"),
    ({'downsampling': 'lanczos3'}, "'lanczos3' is not one of .*lanczos2"),
    ({'activation': 'tanh'}, "'tanh' is not one of leaky_relu"),
    ({'padding': 'wrap'}, 'wrap'),
  ],
  ids=str,
)
def test_fields_that_do_not_fit_are_refused(fields, says):
  with pytest.raises(ValueError, match=says):
    skip.Skip(**(SMALL | fields))
