"""The contract that every network keeps, and what is special to each."""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from configs import choices, req2
from dipjax import codes, monitors, operators
from dipjax.engine import lanes
from dipjax.networks import (
  NETWORKS,
  decoder,
  dncnn,
  layers,
  plain_unet,
  resnet,
  skip,
  unet,
)
from experiments.lib import build
from tests import fits


class Case(NamedTuple):
  network: Any
  inputs: int  # Channels of its code.
  # The parameters without effect: what shifts the input of a normalisation.
  unseen: str = 'none'


# What is known of some of them beyond the contract.
KNOWN = {
  'skip': Case(
    skip.Skip(down=(8,), up=(8,), skip=(4,)),
    4,
    '(skip|down|mid|up|point)_conv/bias|merge_norm/bias',
  ),
  'unet': Case(unet.UNet(channels=(4, 8)), 4, 'down./conv./bias'),
  # Few channels: nothing normalises what the disturbed parameters give.
  'plain_unet': Case(plain_unet.PlainUNet(channels=(2, 2)), 4),
  'dncnn': Case(dncnn.DnCNN(depth=4, channels=8), 4),
  'resnet': Case(resnet.ResNet(blocks=2, channels=8), 4, 'mid_conv/bias'),
  'decoder': Case(decoder.Decoder(width=8, doublings=2), 8),
}


def _make_case(name):
  """The case of a row of NETWORKS: as it is known, else its smoke."""
  fields = dict(NETWORKS[name].smoke)
  inputs = fields.pop('code_channels', NETWORKS[name].code_channels)
  return KNOWN.get(name) or Case(NETWORKS[name].module(**fields), inputs)


# Of pixels, which are no network: tests/pixels_test.py.
CASES = {name: _make_case(name) for name in NETWORKS if name != 'pixels'}
SIZE = (9, 14)

# Of these only the shapes are inferred.
VARIANTS = CASES | {
  'deep': Case(skip.Skip(down=(4,) * 3, up=(4,) * 3, skip=(4, 0, 4)), 4),
  'transposed': Case(
    unet.UNet(channels=(4, 8, 8), upsampling='transposed', padding='zero'), 1
  ),
  'reflected': Case(dncnn.DnCNN(depth=2, channels=4, padding='reflect'), 3),
  'flat': Case(decoder.Decoder(width=8, doublings=0), 8),
}
each_case = pytest.mark.parametrize('case', VARIANTS.values(), ids=VARIANTS)


def _infer(network, size, inputs, dtype=jnp.float32) -> Any:
  """Returns the shapes of the image and of the parameters; computes none."""
  code = jax.ShapeDtypeStruct((*size, inputs), dtype)
  image, variables = jax.eval_shape(
    network.init_with_output, jax.random.key(0), code
  )
  return image, _flatten(variables['params'])


def _draw(network, code) -> Any:
  """Returns the first image and the variables, by one program."""
  return jax.jit(network.init_with_output)(jax.random.key(0), code)


def _flatten(tree) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep='/')


# --- Sizes.


@each_case
@pytest.mark.parametrize('size', [(1, 1), SIZE, (16, 3), (33, 20)], ids=str)
def test_every_size_is_covered_and_cropped(case, size):
  network = case.network
  image, _ = _infer(network, network.code_size(*size), case.inputs)
  crop = operators.crop_center(image.shape[:2], size)
  assert jax.eval_shape(crop, image).shape == (*size, 3)
  # A size that is reached is one that is kept.
  rows, columns = image.shape[:2]
  again, _ = _infer(network, network.code_size(rows, columns), case.inputs)
  assert again.shape == image.shape


@each_case
@pytest.mark.parametrize('outputs', [1, 4])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_an_image_is_float32_with_its_channels(case, outputs, dtype):
  network = case.network.clone(outputs=outputs)
  image, params = _infer(network, network.code_size(*SIZE), case.inputs, dtype)
  assert image.dtype == jnp.float32 and image.shape[-1] == outputs
  assert {leaf.dtype for leaf in params.values()} == {np.dtype('float32')}


@each_case
def test_equal_networks_share_what_is_compiled(case):
  again = type(case.network)(
    **{
      field.name: getattr(case.network, field.name)
      for field in dataclasses.fields(case.network)
      if field.name not in ('parent', 'name')
    }
  )
  assert again == case.network and hash(again) == hash(case.network)


# --- Values.

# Compiling takes longer here than computing.
_QUICKLY = {'xla_backend_optimization_level': 0}


def _lose(network, params, code, weights):
  image = network.apply({'params': params}, code)
  return jnp.sum(weights * image), image


@pytest.fixture(scope='module', params=CASES)
def computed(request):
  """The case, and for two lanes what one program computes of its network."""
  case = CASES[request.param]
  network = case.network
  size = network.code_size(*SIZE)
  image, _ = _infer(network, size, case.inputs)
  keys = jax.random.split(jax.random.key(0))
  draw = lambda key: jax.random.uniform(key, (*size, case.inputs))
  drawn = jax.vmap(draw)(keys)
  # By one program: one by one their operations take longer than all the rest.
  params = jax.jit(jax.vmap(network.init))(keys, drawn)['params']
  # The engine draws them from the smallest code.
  least = lanes._find_least_code(network, drawn.shape[1:])
  assert least.size < drawn[0].size
  again = jax.jit(jax.vmap(network.init, (0, None)))(keys, least)['params']
  jax.tree.map(np.testing.assert_array_equal, again, params)
  # None is at its first value, where some have no effect yet.
  rng = np.random.default_rng(0)
  disturb = lambda leaf: leaf + np.float32(0.3) * rng.normal(size=leaf.shape)
  params = jax.tree.map(lambda leaf: np.float32(disturb(leaf)), params)
  weights = jax.random.normal(keys[0], image.shape)
  traces = []

  def differentiate(network, params, code):
    traces.append(network)
    (_, image), gradient = jax.value_and_grad(
      lambda params: _lose(network, params, code, weights), has_aux=True
    )(params)
    return image, _flatten(gradient)

  @functools.partial(jax.jit, compiler_options=_QUICKLY)
  def compute(params, drawn):
    first = jax.tree.map(lambda leaf: leaf[0], params)
    one = lambda params, code: differentiate(network, params, code)
    rough = network.apply({'params': first}, drawn[0].astype(jnp.bfloat16))
    return {
      'lanes': jax.vmap(one)(params, drawn),
      'alone': one(first, drawn[0]),
      'remat': differentiate(network.clone(remat=True), first, drawn[0]),
      'bfloat16': rough,
    }

  result = compute(params, drawn)
  compute(params, drawn[::-1])
  assert len(traces) == 3  # Not again for other images.
  return case, jax.device_get(result)


def test_an_image_is_in_range_and_not_constant(computed):
  _, result = computed
  image, _ = result['alone']
  assert image.min() > 0 and image.max() < 1
  assert image.std(axis=(0, 1)).min() > 1e-3


def test_the_gradient_reaches_every_parameter(computed):
  """But what only shifts the input of a normalisation."""
  case, result = computed
  _, gradients = result['alone']
  norms = {name: np.linalg.norm(g) for name, g in gradients.items()}
  total = np.sqrt(sum(norm**2 for norm in norms.values()))
  unseen = {name for name in norms if re.search(case.unseen, name)}
  for name, norm in norms.items():
    if name in unseen:
      assert norm < 1e-4 * total, name
    else:
      assert norm > 1e-4 * total, name
  assert bool(unseen) == (case.unseen != 'none')


def test_lanes_at_once_equal_a_lane_alone(computed):
  _, result = computed
  images, gradients = result['lanes']
  first = {name: gradient[0] for name, gradient in gradients.items()}
  _assert_close((images[0], first), result['alone'])
  assert np.abs(images[1] - images[0]).max() > 1e-3


def test_remat_changes_no_gradient(computed):
  _, result = computed
  _assert_close(result['remat'], result['alone'])


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
  scale = max(np.abs(leaf).max() for leaf in expected[1].values())
  for name, leaf in expected[1].items():
    np.testing.assert_allclose(
      actual[1][name], leaf, atol=1e-5 * scale, err_msg=name
    )


def test_bfloat16_gives_nearly_the_same_image(computed):
  _, result = computed
  assert result['bfloat16'].dtype == np.float32
  difference = result['bfloat16'] - result['alone'][0]
  assert 0 < np.abs(difference).max() < 0.1


def test_a_code_smaller_than_the_image_restores_it():
  y, x = np.mgrid[:11, :14] / 14
  image = np.float32(0.5 + 0.3 * np.sin(6 * x + 4 * y))[..., None]
  lanes.forget_programs()
  for seed in (0, 1):
    result = fits.restore(
      np.roll(image, seed, axis=0),
      network=decoder.Decoder(outputs=1, width=8, doublings=2),
      code=lambda key, size: codes.draw_uniform_noise(key, size, 8),
      jitter=0.0,
      monitors={'last': monitors.Last(steps=200)},
      seeds=(seed,),
    )
    assert result.image.shape == image.shape
    assert result.trace.loss[0, -1] < 0.2 * result.trace.loss[0, 0]
  assert lanes.advance._cache_size() == 1


# --- Published numbers of parameters.


@pytest.mark.parametrize(
  'network,inputs,count',
  [
    (unet.UNet(), 32, 2_164_899),
    (resnet.ResNet(), 32, 54_131),
    (resnet.ResNet(blocks=8, channels=32), 1, 158_979),
    (dncnn.DnCNN(outputs=1, residual=True), 1, 556_096),
    (decoder.Decoder(), 128, 100_224),
    (decoder.Decoder(width=64), 64, 25_536),
  ],
)
def test_parameters_are_as_many_as_published(network, inputs, count):
  _, params = _infer(network, network.code_size(32, 32), inputs)
  assert sum(leaf.size for leaf in params.values()) == count


# --- What is special to one.


def test_a_transposed_convolution_is_the_transpose_of_a_strided_one():
  """Against its definition: each pixel adds a patch of 4x4, two apart."""
  x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
  layer = unet.Transposed(4)
  y, variables = _draw(layer, x)
  params = variables['params']
  kernel, bias = np.asarray(params['kernel']), np.asarray(params['bias'])
  expected = np.zeros((2 * 3 + 2, 2 * 5 + 2, 4))
  for i, j in np.ndindex(3, 5):
    patch = np.einsum('i,hwio->hwo', x[i, j], kernel)
    expected[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += patch
  np.testing.assert_allclose(y, expected[1:-1, 1:-1] + bias, atol=1e-5)


def test_a_residual_dncnn_takes_what_it_predicts_from_its_code():
  fields: dict[str, Any] = {'depth': 2, 'channels': 4}
  direct = dncnn.DnCNN(**fields, sigmoid=False)
  code = jax.random.normal(jax.random.key(1), (6, 7, 3))
  noise, variables = _draw(direct, code)
  residual = dncnn.DnCNN(**fields, residual=True)
  image = jax.jit(residual.apply)(variables, code)
  np.testing.assert_allclose(image, code - noise, atol=1e-6)


def test_a_residual_dncnn_refuses_a_code_of_other_channels():
  with pytest.raises(ValueError, match='the 3 channels of the image, got 4'):
    _infer(dncnn.DnCNN(residual=True), (8, 8), 4)


def test_a_residual_plain_unet_begins_as_its_code():
  network = plain_unet.PlainUNet(channels=(4, 4), residual=True)
  code = jax.random.normal(jax.random.key(1), (6, 8, 3))
  image, variables = _draw(network, code)
  np.testing.assert_array_equal(image, code)
  direct = network.clone(residual=False, sigmoid=False)
  moved = jax.tree.map(lambda leaf: leaf + 0.1, variables)
  image, added = (jax.jit(net.apply)(moved, code) for net in (network, direct))
  np.testing.assert_allclose(image, code + added, atol=1e-5)
  with pytest.raises(ValueError, match='the 3 channels of the image, got 4'):
    _infer(network, (8, 8), 4)


def test_brightness_passes_a_plain_unet():
  """A window of a picture gives what the picture gives there."""
  network = plain_unet.PlainUNet(channels=(4, 4), sigmoid=False)
  code = jax.random.uniform(jax.random.key(1), (48, 48, 3))
  code = code.at[:, 24:].add(5.0)
  whole, variables = _draw(network, code)
  part = jax.jit(network.apply)(variables, code[:24, :24])
  np.testing.assert_allclose(part[:15, :15], whole[:15, :15], atol=1e-5)


def test_pixels_of_a_decoder_meet_by_the_upsampling_alone():
  network = decoder.Decoder(width=4, doublings=1)
  code = np.random.default_rng(0).random((6, 5, 4), np.float32)
  image, variables = _draw(network, code)
  params = variables['params']

  def mix(x, i):
    layer = params[f'layer{i}']
    x = x @ layer['conv']['kernel'][0, 0]
    x = np.maximum(layers.upsample(x, 'bilinear') if i == 0 else x, 0)
    mean, variance = (f(x, axis=(0, 1)) for f in (np.mean, np.var))
    return (x - mean) / np.sqrt(variance + 1e-5)

  with jax.numpy_rank_promotion('allow'):
    y = mix(mix(code, 0), 1) @ params['out_conv']['kernel'][0, 0]
  np.testing.assert_allclose(image, 1 / (1 + np.exp(-y)), atol=1e-5)


@pytest.mark.parametrize(
  'make,fields,says',
  [
    (unet.UNet, {'channels': ()}, 'channels must be at least 1'),
    (unet.UNet, {'channels': (8, 0)}, 'channels must be at least 1'),
    (unet.UNet, {'upsampling': 'cubic'}, "'cubic' is not one of .*transposed"),
    (unet.UNet, {'padding': 'wrap'}, "'wrap' is not one of"),
    (dncnn.DnCNN, {'depth': 1}, 'depth must be at least 2, got 1'),
    (dncnn.DnCNN, {'channels': 0}, 'channels must be at least 1'),
    (dncnn.DnCNN, {'padding': 'wrap'}, "'wrap' is not one of"),
    (resnet.ResNet, {'blocks': 0}, 'blocks must be at least 1'),
    (resnet.ResNet, {'activation': 'tanh'}, "'tanh' is not one of"),
    (resnet.ResNet, {'padding': 'wrap'}, "'wrap' is not one of"),
    (plain_unet.PlainUNet, {'channels': ()}, 'channels must be at least 1'),
    (decoder.Decoder, {'width': 0}, 'width must be at least 1'),
    (decoder.Decoder, {'doublings': -1}, 'doublings must be at least 0'),
  ],
)
def test_fields_that_do_not_fit_are_refused(make, fields, says):
  with pytest.raises(ValueError, match=says):
    make(**fields)


# --- Their configs.


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_has_a_config_with_its_fields_and_no_others(name):
  module: Any = NETWORKS[name].module
  fields = {field.name for field in dataclasses.fields(module)}
  given = choices.make_network(name)
  own = set(given) - {'name', 'code', 'code_channels'}
  assert own == fields - {'parent', 'name', 'outputs', 'remat'}
  assert build.make_network(given, 3) == module(outputs=3)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('size', ['quick', 'smoke'])
def test_a_network_is_chosen_in_any_order_with_a_size(name, size):
  one = req2.get_config(f'{size},network={name}')
  other = req2.get_config(f'network={name},{size}')
  assert one.to_dict() == other.to_dict()
  assert one.network.name == name and one.data == req2.get_config(size).data
  smaller = one.network != choices.make_network(name)
  assert smaller == bool(getattr(NETWORKS[name], size))
  recipe = build.make_recipe(one, 3)
  code = recipe.code(jax.random.key(0), recipe.network.code_size(40, 56))
  image, _ = _infer(recipe.network, code.shape[:2], code.shape[2])
  assert image.shape[0] >= 40 and image.shape[1] >= 56


def test_a_network_brings_its_fit():
  assert req2.get_config('network=unet').fit.learning_rate == 0.001
  assert req2.get_config('network=skip') == req2.get_config()
  config = req2.get_config('network=decoder')
  assert config.fit.jitter == 0 and config.network.code_channels == 128


@pytest.mark.parametrize('variant', ['network=vit', 'smoke,network='])
def test_an_unknown_network_is_refused_with_the_known_ones(variant):
  with pytest.raises(ValueError, match='known are skip, unet, dncnn, resnet'):
    req2.get_config(variant)


def test_a_name_without_its_fields_is_refused():
  config = req2.get_config()
  config.network.name = 'unet'
  with pytest.raises(ValueError, match='by network=unet behind the colon'):
    build.make_recipe(config, 3)
