"""Times lanes of a convolution, in tiles or not, under each rule of vmap.

    python -m benchmarks.lane_rules --size 128 --lanes 8

The benchmark times one 3x3 convolution of requirement 2's outermost level with
its two gradients, in a scan: `conv.convolve` as it is (unrolled), two of its
ways, the grouped convolution that JAX makes by itself, and gathered columns
with one batched product. `conv.lanes` has the rule. `conv.choose` has the
thresholds for the way, and whether a fit's lanes run one after the other or at
once; whoever has a GPU or a TPU can check here whether the thresholds and the
rule are right on that device.
"""

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import programs, step
from dipjax import conv, recipe
from dipjax.conv import choose

CHANNELS = 128
REPEATS = 5  # In one call.

Array = jax.Array


class Row(NamedTuple):
  """One entry of the JSON."""

  rule: str
  size: int
  lanes: int
  precision: str
  milliseconds_per_lane: float  # The median.
  device: str


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each rule."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--lanes', type=int, default=4)
  parser.add_argument('--rounds', type=int, default=5)
  known = list(recipe.PRECISIONS)
  parser.add_argument('--precision', choices=known, default='float32')
  parser.add_argument('--json', type=pathlib.Path, metavar='FILE')
  arguments = parser.parse_args(argv)
  if arguments.rounds < 2 or min(arguments.size, arguments.lanes) < 1:
    parser.error('--rounds must be at least 2, --size and --lanes at least 1')
  keys = jax.random.split(jax.random.key(0))
  shape = (arguments.lanes, arguments.size, arguments.size, CHANNELS)
  dtype, products = recipe.PRECISIONS[arguments.precision]
  x = jax.random.normal(keys[0], shape, dtype)
  kernel_shape = (arguments.lanes, 3, 3, CHANNELS, CHANNELS)
  kernel = jax.random.normal(keys[1], kernel_shape, dtype)
  calls = {
    name: _make_call(rule, x, kernel, arguments.lanes)
    for name, rule in make_rules().items()
  }
  device = jax.devices()[0].device_kind
  print(f'{device}, jax {jax.__version__}, {arguments.precision}')
  with jax.default_matmul_precision(products):
    times = step.time_in_turn(calls, arguments.rounds)
  rows = []
  for name, taken in times.items():
    low, middle, high = (1e3 * t for t in statistics.quantiles(taken, n=4))
    print(
      f'{arguments.size}x{arguments.size}, {arguments.lanes} lanes  '
      f'{name:20s} {middle:8.3f} ms a lane ({low:.3f} to {high:.3f})'
    )
    case = arguments.size, arguments.lanes, arguments.precision
    rows.append(Row(name, *case, middle, device))
  programs.write_rows(arguments.json, rows)


def make_rules() -> dict[str, Callable[[Array, Array], Array]]:
  """Returns by name (x [lanes, H, W, I], kernels) -> y, of one value all."""
  return {
    'unrolled': jax.vmap(_convolve_own),
    'unrolled, in tiles': jax.vmap(_force('tiles')),
    'unrolled, directly': jax.vmap(_force('slices')),
    'one after the other': lambda x, k: lax.map(
      lambda lane: _convolve_own(*lane), (x, k)
    ),
    'grouped': jax.vmap(_convolve_plain),
    'columns, one product': _convolve_columns,
  }


def _convolve_own(x: Array, kernel: Array) -> Array:
  return conv.convolve(x, kernel, padding='zero')


def _force(way: str) -> Callable[[Array, Array], Array]:
  """The convolution by one of `choose.WAYS`."""

  def convolve(x, kernel):
    with choose.aim(dataclasses.replace(choose.find_target(), way=way)):
      return _convolve_own(x, kernel)

  return convolve


def _convolve_plain(x: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    x[None],
    kernel,
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )[0]


def _convolve_columns(x: Array, kernel: Array) -> Array:
  lanes, height, width, channels = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  columns = jnp.concatenate(
    [
      padded[:, i : i + height, j : j + width]
      for i in range(3)
      for j in range(3)
    ],
    axis=3,
  )
  product = columns.reshape(lanes, -1, 9 * channels) @ kernel.reshape(
    lanes, 9 * channels, -1
  )
  return product.reshape(lanes, height, width, -1)


def _make_call(
  rule: Callable[[Array, Array], Array], x: Array, kernel: Array, lanes: int
) -> Callable[[], int]:
  @jax.jit
  def repeat(x, kernel):
    def once(carry, _):
      y, pull = jax.vjp(rule, *carry)
      dx, dk = pull(y)
      # A product that stays small, whose factor is no weak type.
      small = jnp.asarray(1e-9, x.dtype)
      return (x + small * dx, kernel + small * dk), None

    return lax.scan(once, (x, kernel), length=REPEATS)[0]

  def call():
    jax.block_until_ready(repeat(x, kernel))
    return REPEATS * lanes

  return call


if __name__ == '__main__':
  main()
