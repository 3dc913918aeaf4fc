"""Bounds a step's speed: the FLOPs it needs and the FLOP/s of the machine."""

import math
import time
from collections.abc import Callable
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
CALLS = 10  # Before a device other than a CPU is waited for.


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
  total = 0
  for path, leaf in _find_params(network, size, inputs).items():
    if path[-1] == 'kernel':
      passes = 2 if _reads_code(path) else 3
      pixels = _output_side(path, size) ** 2
      total += 2 * passes * pixels * math.prod(leaf.shape)
  return total


def count_bytes(
  network: nn.Module, size: int, precision: str, inputs: int = 32
) -> int:
  """Returns the bytes that one step of a skip network reads and writes.

  That is where each convolution, and each of its gradients, reads its operands
  and writes its result once, Adam does so with the parameters and its moments,
  and everything else is joined to one of them. An image is read before it is
  doubled. The number is the same for all programs.

  Args:
    network, size, inputs: see `count_flops`.
    precision: of `recipe.PRECISIONS`.
  """
  width = jnp.dtype(recipe.PRECISIONS[precision][0]).itemsize
  total = 0
  for path, leaf in _find_params(network, size, inputs).items():
    count = math.prod(leaf.shape)
    # Adam reads parameter, gradient and two moments, and writes three of them.
    total += 7 * 4 * count
    if path[-1] == 'kernel':
      x, y = _count_entries(network, path, leaf.shape, size)
      passes = 2 if _reads_code(path) else 3
      total += passes * width * (x + y + count)
  return total


def _find_params(network, size, inputs) -> dict[Any, Any]:
  """The shapes of the parameters by their paths."""
  code = jax.ShapeDtypeStruct((size, size, inputs), jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), code)['params']
  return traverse_util.flatten_dict(params)


def _reads_code(path):
  """Whether a convolution reads the code, which needs no gradient."""
  return path[:-1] in (('level0', 'skip_conv'), ('level0', 'down_conv'))


def _count_entries(network, path, shape, size):
  """The entries of what a convolution reads and of what it writes."""
  pixels = _output_side(path, size) ** 2
  _, _, inputs, outputs = shape
  if path[-2] == 'down_conv':
    return 4 * pixels * inputs, pixels * outputs
  if path[-2] != 'up_conv':
    return pixels * inputs, pixels * outputs
  skips = network.skip[int(path[0].removeprefix('level'))]
  doubled = pixels // 4 * (inputs - skips)
  return pixels * skips + doubled, pixels * outputs


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
  if not _runs_on_cpu():
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
  return _time_call(lambda: product(a, b), repeats)


def measure_bandwidth(*, repeats: int = 5) -> float:
  """Returns the bytes a second, read and written, of a large sum with 1."""
  count = 2**24 if _runs_on_cpu() else 2**28
  x = jax.random.normal(jax.random.key(0), (count,))
  add = jax.jit(lambda x: x + 1)
  return 2 * x.nbytes / _time_call(lambda: add(x), repeats)


def _time_call(call: Callable[[], Any], repeats: int) -> float:
  """The seconds of the fastest call, after one that is not timed."""
  # The host asks for several calls at once, so that its own time is hidden.
  calls = 1 if _runs_on_cpu() else CALLS
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    for _ in range(calls):
      result = call()
    jax.block_until_ready(result)
    times.append((time.perf_counter() - begin) / calls)
  return min(times)


def _runs_on_cpu() -> bool:
  return choose.find_target().platform == 'cpu'
