"""What a step costs: inside a scan against alone, in lanes against one lane.

    python -m benchmarks.step --sizes 64 128 --lanes 1 4

Requirement 2's network in float32. All variants of a size are timed in turn in
one process, round after round; medians and their quartiles are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dipjax import codes, fit, lanes, monitors, objectives, operators
from dipjax.networks import skip

SCAN = 5  # Steps in one call of the scanned variants.


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each size and variant."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--sizes', type=int, nargs='+', default=[64, 128])
  parser.add_argument('--lanes', type=int, nargs='+', default=[1, 4])
  parser.add_argument('--rounds', type=int, default=7)
  arguments = parser.parse_args(argv)
  device = jax.devices()[0]
  print(f'{device.device_kind}, jax {jax.__version__}, float32')
  for size in arguments.sizes:
    _time_size(size, arguments.lanes, arguments.rounds)


def _time_size(size: int, counts: Sequence[int], rounds: int) -> None:
  one = _make_fit(skip.Skip())
  variants = {'single step': _make_single(one, size)}
  for count in counts:
    name = f'scan, {count} lane{"s" * (count > 1)}'
    variants[name] = _make_scan(one, size, count)
  times = time_in_turn(variants, rounds)
  base = statistics.median(times['single step'])
  for name, seconds in times.items():
    low, middle, high = statistics.quantiles(seconds, n=4)
    print(
      f'{size}x{size}  {name:15s} {1e3 * middle:8.1f} ms a step and lane '
      f'({1e3 * low:.1f} to {1e3 * high:.1f}), {middle / base:.2f} of a single '
      'step',
      flush=True,
    )


def time_in_turn(
  variants: Mapping[str, Callable[[], int]], rounds: int
) -> dict[str, list[float]]:
  """Returns the times of each variant, taken in turn after one warm-up.

  A variant is called without arguments and returns how many steps of a lane it
  took; times are seconds for each of these.
  """
  times: dict[str, list[float]] = {name: [] for name in variants}
  for turn in range(rounds + 1):
    for name, call in variants.items():
      begin = time.perf_counter()
      steps = call()
      if turn:
        times[name].append((time.perf_counter() - begin) / steps)
  return times


def _make_fit(network: nn.Module) -> fit.Fit:
  return fit.make_fit(
    network,
    objectives.measurement_error(network),
    optax.adam(0.01),
    {'wmv': monitors.wmv()},
  )


def _make_problems(size: int, count: int) -> objectives.Problem:
  key = jax.random.key(0)
  problem = objectives.Problem(
    measurement=jax.random.uniform(key, (size, size, 3)),
    operator=operators.Identity(),
    crop=operators.Crop(0, 0, size, size),
    code=codes.draw_uniform_noise(key, (size, size), 32),
    jitter=jnp.array(1 / 30),
    steps=jnp.array(1_000_000),
  )
  return lanes.stack_lanes([problem] * count)


def _make_single(one: fit.Fit, size: int) -> Callable[[], int]:
  problem = jax.tree.map(lambda leaf: leaf[0], _make_problems(size, 1))
  step = jax.jit(one.step, donate_argnums=0)
  state = [jax.jit(one.init)(jax.random.key(0), problem)]

  def call():
    for _ in range(SCAN):
      state[0], _ = step(state[0], problem)
      jax.block_until_ready(state[0].params)
    return SCAN

  return call


def _make_scan(one: fit.Fit, size: int, count: int) -> Callable[[], int]:
  problems = _make_problems(size, count)
  keys = jax.random.split(jax.random.key(0), count)
  states = [lanes.init(one, keys, problems)]

  def call():
    states[0], _ = lanes.advance(one, SCAN, states[0], problems)
    jax.block_until_ready(states[0].params)
    return SCAN * count

  return call


if __name__ == '__main__':
  main()
