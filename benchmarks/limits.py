"""Bounds a step's speed: the FLOPs it needs and the FLOP/s of the machine."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from dipjax import recipe
from dipjax.conv import choose

# [a, b] @ [b, c]; the second is the largest convolution's at 128x128.
PRODUCTS = [
  (1024, 1024, 1024),
  (16384, 1152, 128),
  (2048, 2048, 2048),
  (4096, 4096, 4096),
]
LARGE_PRODUCT = (8192, 8192, 8192)  # For what is faster than a CPU.


def count_flops(network: nn.Module, size: int, inputs: int = 32) -> int:
  """Returns the floating-point operations of one step of a skip network.

  Two for each multiply-add of the convolutions, of the forward pass and of the
  gradients in the kernel and in the input; the code needs no gradient. Whatever
  else a program computes is not counted: the number belongs to the network and
  is the same for all programs.

  Args:
    network: a `skip.Skip` that reduces by strides.
    size: side of the square image in pixels.
    inputs: channels of the code.
  """
  code = jax.ShapeDtypeStruct((size, size, inputs), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), code)['params']
  leaves: dict[Any, Any] = traverse_util.flatten_dict(params)
  total = 0
  for path, leaf in leaves.items():
    if path[-1] == 'kernel':
      reads_code = path[:-1] in (
        ('level0', 'skip_conv'),
        ('level0', 'down_conv'),
      )
      passes = 2 if reads_code else 3
      pixels = _output_side(path, size) ** 2
      total += 2 * passes * pixels * math.prod(leaf.shape)
  return total


def _output_side(path: tuple[str, ...], size: int) -> int:
  if path[0] == 'out_conv':
    return size
  halvings = int(path[0].removeprefix('level'))
  return size >> (halvings + (path[1] in ('down_conv', 'mid_conv')))


def measure_limit(precision: str, *, repeats: int = 5) -> tuple[float, str]:
  """Returns the FLOP/s of the fastest matrix product now, and its shape.

  Args:
    precision: of `recipe.PRECISIONS`.
    repeats: timings of each product; the fastest counts.
  """
  products = list(PRODUCTS)
  if choose.find_target().platform != 'cpu':
    products.append(LARGE_PRODUCT)
  rates = {
    shape: 2 * math.prod(shape) / _time_product(shape, precision, repeats)
    for shape in products
  }
  best = max(rates, key=lambda shape: rates[shape])
  return rates[best], 'x'.join(map(str, best))


def _time_product(
  shape: tuple[int, int, int], precision: str, repeats: int
) -> float:
  dtype, name = recipe.PRECISIONS[precision]
  keys = jax.random.split(jax.random.key(0))
  a = jax.random.normal(keys[0], shape[:2], dtype)
  b = jax.random.normal(keys[1], shape[1:], dtype)
  product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=name))
  jax.block_until_ready(product(a, b))
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    jax.block_until_ready(product(a, b))
    times.append(time.perf_counter() - begin)
  return min(times)
