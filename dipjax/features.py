"""Feature networks: VGG16 as functions of its parameters, and LPIPS.

A layer is named relu<block>_<number>, relu1_1 to relu5_3: the output of a 3x3
convolution and a ReLU. Blocks follow each other at half the size.

Parameters are a dict conv<block>_<number> -> {'kernel': [3, 3, I, O], 'bias':
[O]}; channels are whatever they are, and the first convolution takes three. The
library reads no files: `experiments.weights` has the real parameters.
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

# Convolutions in each block, and their channels.
_BLOCKS = (2, 2, 3, 3, 3)
_CHANNELS = (64, 128, 256, 512, 512)

LAYERS = tuple(
  f'relu{block}_{number}'
  for block, count in enumerate(_BLOCKS, 1)
  for number in range(1, count + 1)
)
# The layers that LPIPS compares.
LPIPS_LAYERS = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')

# Of the photographs that VGG16 has learned from, values in [-1, 1].
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


class Features(struct.PyTreeNode):
  """The features of an image, as an operator.

  Attributes:
    params: of VGG16, see the module.
    layers: which layers, in any order; the deepest decides what it costs.
    factor: by which the image is reduced before (means over blocks of pixels):
      2 is about a quarter of the work. Rows and columns over are left out.
  """

  params: Params
  layers: tuple[str, ...] = struct.field(
    pytree_node=False, default=('relu1_2', 'relu2_2')
  )
  factor: int = struct.field(pytree_node=False, default=1)

  def __call__(self, image: Array) -> Array:
    """Returns the features of all layers, [n], float32.

    So weighted that the mean squared difference of two results is the sum over
    the layers of the mean squared difference in each; of one layer they are the
    features themselves.

    Args:
      image: [H, W, 1 or 3] in [0, 1]; computed in its precision.

    Raises:
      ValueError: as `extract`, or a factor below 1.
    """
    reduced = _reduce(image, self.factor)
    features = extract(self.params, reduced, self.layers)
    flat = [features[layer].reshape(-1) for layer in self.layers]
    count = sum(part.size for part in flat)
    return jnp.concatenate(
      [part.astype(jnp.float32) * math.sqrt(count / part.size) for part in flat]
    )


def extract(
  params: Params, image: Array, layers: Sequence[str]
) -> dict[str, Array]:
  """Returns the named layers of an image, nothing deeper is computed.

  Args:
    params: of VGG16, see the module.
    image: [H, W, 1 or 3] in [0, 1]; grey is taken as three equal channels.
      Computed in its precision.
    layers: of LAYERS.

  Returns:
    Layer -> [H / 2^(block - 1), W / 2^(block - 1), C], rounded down.

  Raises:
    ValueError: no layers or unknown ones, another shape, an image smaller than
      the deepest layer.
  """
  deepest = _find_deepest(layers)
  _check_image(image, deepest)
  shape = (*image.shape[:2], 3)
  x = (2 * jnp.broadcast_to(image, shape) - 1 - _constant(_MEAN, image)) / (
    _constant(_DEVIATION, image)
  )
  found = {}
  for layer in LAYERS[: LAYERS.index(deepest) + 1]:
    block, number = layer.removeprefix('relu').split('_')
    if number == '1' and block != '1':
      x = _pool(x)
    x = _convolve(params[f'conv{block}_{number}'], x)
    if layer in layers:
      found[layer] = x
  return found


def lpips(params: Params, linear: Mapping[str, Any], a: Array, b: Array):
  """Returns the perceptual distance of two images, 0 for equal ones.

  The learned perceptual image patch similarity (Zhang et al. 2018), version
  0.1: at each pixel of each layer features of length 1, their squared
  difference weighted by channel; the mean over pixels, the sum over layers.

  Args:
    params: of VGG16, see the module.
    linear: layer -> [C], for LPIPS_LAYERS.
    a, b: [H, W, 1 or 3] in [0, 1], of one shape.

  Raises:
    ValueError: two shapes, or as `extract`.
  """
  if jnp.shape(a) != jnp.shape(b):
    raise ValueError(f'lpips of {jnp.shape(a)} and {jnp.shape(b)}')
  ours, theirs = (
    extract(params, jnp.asarray(image), LPIPS_LAYERS) for image in (a, b)
  )
  distance = jnp.zeros(())
  for layer, weights in linear.items():
    difference = _normalize(ours[layer]) - _normalize(theirs[layer])
    weighted = jnp.square(difference) * weights[None, None]
    distance += jnp.mean(jnp.sum(weighted, axis=-1))
  return distance


def draw_params(
  key: Array, channels: Sequence[int] = _CHANNELS
) -> dict[str, dict[str, Array]]:
  """Returns random parameters of the shapes of VGG16's, fixed by the key.

  N(0, 2 / fan in), as He et al. 2015, biases 0: what the network is before it
  has seen a photograph.

  Args:
    key: fixes the draw.
    channels: of the five blocks.
  """
  params, inputs = {}, 3
  for layer in LAYERS:
    outputs = channels[int(layer[4]) - 1]
    key, own = jax.random.split(key)
    kernel = jax.random.normal(own, (3, 3, inputs, outputs))
    params[layer.replace('relu', 'conv')] = {
      'kernel': kernel * math.sqrt(2 / (9 * inputs)),
      'bias': jnp.zeros(outputs),
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
  """Each pixel's features at length 1; those of length 0 stay."""
  length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
  return x / (length + 1e-10)


def _constant(values: tuple[float, ...], image: Array) -> Any:
  return jnp.array(values, image.dtype)[None, None]
