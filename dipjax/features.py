"""Feature networks: VGG16 as functions of its parameters, and LPIPS.

A layer relu<block>_<number>, from relu1_1 to relu5_3, is the output of a 3x3
convolution and a ReLU. Each block has half the size of the block before.

Parameters are a dict conv<block>_<number> -> {'kernel': [3, 3, I, O], 'bias':
[O]}. The first convolution takes three channels; the other numbers of channels
are free. The library reads no files: `experiments.lib.weights` reads the real
parameters.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dipjax import conv

Array = jax.Array
Params = Mapping[str, Mapping[str, Any]]  # Arrays, of NumPy or of JAX.

# VGG16 has so many convolutions, and channels, in each of its five blocks.
_BLOCKS = (2, 2, 3, 3, 3)
_CHANNELS = (64, 128, 256, 512, 512)

LAYERS = tuple(
  f'relu{block}_{number}'
  for block, count in enumerate(_BLOCKS, 1)
  for number in range(1, count + 1)
)
# The layers that LPIPS compares.
LPIPS_LAYERS = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')

# Mean and deviation of the photographs that VGG16 has learned from, for values
# in [-1, 1].
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


class Features(struct.PyTreeNode):
  """The features of an image, as an operator.

  Attributes:
    params: of VGG16, see the module.
    layers: the layers to compute, in any order; the deepest decides the cost.
    factor: the image is first reduced by this factor, by means over blocks of
      pixels; 2 takes about a quarter of the work. Rows and columns that fill no
      block are left out.
  """

  params: Params
  layers: tuple[str, ...] = struct.field(
    pytree_node=False, default=('relu1_2', 'relu2_2')
  )
  factor: int = struct.field(pytree_node=False, default=1)

  def __call__(self, image: Array) -> Array:
    """Returns the features of all layers in one row, [n], float32.

    The features are weighted: the mean squared difference of two results is the
    sum over the layers of the mean squared difference in each layer. With one
    layer the weight is 1.

    Args:
      image: [H, W, 1 or 3] in [0, 1]; layers compute in its precision.

    Raises:
      ValueError: as `extract`, or a factor below 1.
    """
    reduced = _reduce(image, self.factor)
    features = extract(self.params, reduced, self.layers)
    # A plain mean over the row would count a layer by its size, and relu1_2 has
    # far more values than relu5_3. The weight gives each layer one vote.
    flat = [features[layer].reshape(-1) for layer in self.layers]
    count = sum(part.size for part in flat)
    return jnp.concatenate(
      [part.astype(jnp.float32) * math.sqrt(count / part.size) for part in flat]
    )


def extract(
  params: Params, image: Array, layers: Sequence[str]
) -> dict[str, Array]:
  """Returns the named layers of an image; no deeper layer is computed.

  Args:
    params: of VGG16, see the module.
    image: [H, W, 1 or 3] in [0, 1]; grey is taken as three equal channels. The
      precision of the image is the precision of the computation.
    layers: names out of LAYERS.

  Returns:
    Layer -> [H / 2^(block - 1), W / 2^(block - 1), C], sides rounded down.

  Raises:
    ValueError: no layer, an unknown layer, an image of another shape, or an
      image too small for the deepest layer.
  """
  deepest = _find_deepest(layers)
  _check_image(image, deepest)
  # VGG16 has learned from images of mean 0 and deviation 1 in each channel.
  shape = (*image.shape[:2], 3)
  x = (2 * jnp.broadcast_to(image, shape) - 1 - _constant(_MEAN, image)) / (
    _constant(_DEVIATION, image)
  )
  found = {}
  for layer in LAYERS[: LAYERS.index(deepest) + 1]:
    # Each block but the first begins with a reduction by maxima.
    block, number = layer.removeprefix('relu').split('_')
    if number == '1' and block != '1':
      x = _pool(x)
    x = _convolve(params[f'conv{block}_{number}'], x)
    if layer in layers:
      found[layer] = x
  return found


def lpips(params: Params, linear: Mapping[str, Any], a: Array, b: Array):
  """Returns the perceptual distance of two images, 0 for equal ones.

  The distance is the learned perceptual image patch similarity (Zhang et al.
  2018), version 0.1. The features of each pixel of each layer are scaled to
  length 1. Their squared differences, weighted by channel, are averaged over
  the pixels and summed over the layers.

  Args:
    params: of VGG16, see the module.
    linear: layer -> [C], the weights of the channels, for LPIPS_LAYERS.
    a, b: [H, W, 1 or 3] in [0, 1], of one shape.

  Returns:
    A scalar.

  Raises:
    ValueError: shapes that differ, or as `extract`.
  """
  if jnp.shape(a) != jnp.shape(b):
    raise ValueError(f'lpips of {jnp.shape(a)} and {jnp.shape(b)}')
  ours, theirs = (
    extract(params, jnp.asarray(image), LPIPS_LAYERS) for image in (a, b)
  )
  distance = jnp.zeros((), jnp.float32)
  for layer, weights in linear.items():
    # Features of length 1 compare the pattern of a pixel, not its contrast. The
    # weights of LPIPS were learned from people's judgements.
    difference = _normalize(ours[layer]) - _normalize(theirs[layer])
    weighted = jnp.square(difference) * weights[None, None]
    distance += jnp.mean(jnp.sum(weighted, axis=-1))
  return distance


def draw_params(
  key: Array, channels: Sequence[int] = _CHANNELS
) -> dict[str, dict[str, Array]]:
  """Returns random parameters in the shapes of VGG16, fixed by the key.

  Kernels are N(0, 2 / fan in) as in He et al. 2015, biases are 0. The result is
  the network before it has seen a photograph.

  Args:
    key: decides the draw.
    channels: of the five blocks.
  """
  params, inputs = {}, 3
  for layer in LAYERS:
    outputs = channels[int(layer[4]) - 1]
    key, own = jax.random.split(key)
    # He et al.'s variance keeps the size of the activations through the ReLUs,
    # so that the deepest layer neither vanishes nor explodes.
    kernel = jax.random.normal(own, (3, 3, inputs, outputs), jnp.float32)
    params[layer.replace('relu', 'conv')] = {
      'kernel': kernel * math.sqrt(2 / (9 * inputs)),
      'bias': jnp.zeros(outputs, jnp.float32),
    }
    inputs = outputs
  return params


def _find_deepest(layers: Sequence[str]) -> str:
  for layer in layers:
    if layer not in LAYERS:
      raise ValueError(f'layer {layer!r} is not one of {", ".join(LAYERS)}')
  if not layers:
    raise ValueError(f'name at least one layer, of {", ".join(LAYERS)}')
  return max(layers, key=LAYERS.index)


def _check_image(image: Array, deepest: str) -> None:
  if image.ndim != 3 or image.shape[2] not in (1, 3):
    raise ValueError(
      f'features are of an image [H, W, 1 or 3], got {image.shape}'
    )
  least = 2 ** (int(deepest[4]) - 1)
  if min(image.shape[:2]) < least:
    raise ValueError(
      f'{deepest} needs sides of at least {least} pixels, got '
      f'{image.shape[1]}x{image.shape[0]}'
    )


def _reduce(image: Array, factor: int) -> Array:
  if factor < 1 or image.ndim != 3 or min(image.shape[:2]) < factor:
    raise ValueError(f'factor {factor} does not reduce an image {image.shape}')
  if factor == 1:
    return image
  return jnp.mean(_gather_blocks(image, factor), axis=(1, 3))


def _pool(x: Array) -> Array:
  return jnp.max(_gather_blocks(x, 2), axis=(1, 3))


def _gather_blocks(x: Array, side: int) -> Array:
  """[H, W, C] -> [H // side, side, W // side, side, C]."""
  height, width = x.shape[0] // side, x.shape[1] // side
  x = x[: height * side, : width * side]
  return x.reshape(height, side, width, side, -1)


def _convolve(params: Mapping[str, Array], x: Array) -> Array:
  kernel, bias = (params[name].astype(x.dtype) for name in ('kernel', 'bias'))
  y = conv.convolve(x, kernel, padding='zero')
  return jax.nn.relu(y + bias[None, None])


def _normalize(x: Array) -> Array:
  """Returns the features of each pixel at length 1; zeros stay zeros."""
  # The small number keeps a pixel without any feature from becoming 0 / 0.
  length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
  return x / (length + 1e-10)


def _constant(values: tuple[float, ...], image: Array) -> Any:
  return jnp.array(values, image.dtype)[None, None]
