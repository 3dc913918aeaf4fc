"""The parts of a device day that no other benchmark has.

    python -m benchmarks.device_parts facts --json FILE

`facts` says what the device is and how fast its products and copies are. `same`
takes the same steps on the CPU and on the device and says how far they are
apart. `memory` compares what XLA plans, what the device really held, and
dipjax's estimate. `benchmarks.device_day` runs them all.
"""

import argparse
import pathlib
from collections.abc import Sequence
from importlib import metadata as packages
from typing import NamedTuple

import jax
import numpy as np
import optax

from benchmarks import limits, memory, programs
from dipjax import recipe
from dipjax.conv import choose
from dipjax.engine import fit, lanes
from dipjax.engine import memory as memory_lib

DEVIATIONS = (1, 5, 20)  # After how many steps `same` compares.


class Fact(NamedTuple):
  """One fact of the device."""

  fact: str
  value: str


class Deviation(NamedTuple):
  """How far a run is from the same steps on the CPU in float32."""

  device: str
  program: str  # The platform that the program was made for.
  precision: str
  steps: int
  gradient_difference: float  # The first gradient's, relative to its norm.
  loss_difference: float  # The largest of all steps so far, relative.
  image_difference: float  # The largest of all pixels of the running average.


class Memory(NamedTuple):
  """Bytes of one lane, in GB."""

  size: int
  precision: str
  remat: bool
  estimated: float
  planned: float  # By XLA, see `programs.Scan`.
  used_compiling: float | None  # The most so far, None where nobody counts.
  # The most, after the steps; None where compiling took more, which tries
  # kernels that want much memory.
  used: float | None
  used_a_megapixel: float | None


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the rows of one part."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('part', choices=list(PARTS))
  add('--size', type=int, default=64)
  add('--channels', type=int, default=128, help='of each level')
  known = list(recipe.PRECISIONS)
  add('--precision', nargs='+', choices=known, default=['float32'])
  add('--remat', action='store_true', help='recompute activations')
  add('--json', type=pathlib.Path, metavar='FILE', help='write the rows')
  arguments = parser.parse_args(argv)
  rows = []
  for row in PARTS[arguments.part](arguments):
    rows.append(row)
    print(', '.join(f'{k} {v}' for k, v in row._asdict().items()), flush=True)
    programs.write_rows(arguments.json, rows)


def find_facts(arguments):
  """Yields what the device is, then its limits."""
  del arguments
  device = jax.devices()[0]
  yield Fact('device', f'{device.device_kind} ({jax.default_backend()})')
  yield Fact('devices', str(len(jax.devices())))
  yield Fact('jax', jax.__version__)
  yield Fact('jaxlib', packages.version('jaxlib'))
  yield Fact('platform', device.client.platform_version.replace('\n', ' '))
  given = device.memory_stats() or {}
  if 'bytes_limit' in given:
    yield Fact('memory', f'{given["bytes_limit"] / 1e9:.1f} GB for JAX')
  yield Fact('copies', f'{limits.measure_bandwidth() / 1e9:.0f} GB/s')
  for precision in recipe.PRECISIONS:
    rate, product = limits.measure_limit(precision)
    text = f'{rate / 1e9:.0f} GFLOP/s in {product}'
    yield Fact(f'products in {precision}', text)


def compare_devices(arguments):
  """Yields how far each program is from the CPU's own, in float32.

  The first row after the CPU's is the program of the device, run on the CPU:
  what the order of operations alone does.
  """
  backend = choose.find_target().platform
  other = 'gpu' if backend == 'cpu' else backend
  cpu, device = jax.devices('cpu')[0], jax.devices()[0]
  runs = [(cpu, other, 'float32')]
  if backend != 'cpu':
    runs += [(device, backend, name) for name in arguments.precision]
  expected = _take_steps(cpu, 'cpu', 'float32', arguments)
  for where, platform, precision in runs:
    actual = _take_steps(where, platform, precision, arguments)
    apart = np.linalg.norm(actual.gradient - expected.gradient)
    for steps in DEVIATIONS:
      losses = actual.losses[:steps] / expected.losses[:steps]
      image = actual.averages[steps - 1] - expected.averages[steps - 1]
      yield Deviation(
        device=where.device_kind,
        program=platform,
        precision=precision,
        steps=steps,
        gradient_difference=float(apart / np.linalg.norm(expected.gradient)),
        loss_difference=float(np.abs(losses - 1).max()),
        image_difference=float(np.abs(image).max()),
      )


class _Run(NamedTuple):
  gradient: np.ndarray  # [parameters], the first, up to a factor.
  losses: np.ndarray  # [steps]
  averages: np.ndarray  # [steps, H, W, C], biased


def _take_steps(device, platform, precision, arguments) -> _Run:
  network = programs.make_network(arguments.channels)
  one = programs.make_fit(network, precision)
  gradient, averages, losses = np.zeros(0), [], []
  with choose.aim(choose.Target(platform)), jax.default_device(device):
    problems = lanes.stack_lanes([programs.make_problem(arguments.size)])
    states = lanes.init(one, jax.random.split(jax.random.key(0), 1), problems)
    for step in range(max(DEVIATIONS)):
      states, trace = lanes.advance(one, 1, states, problems)
      if step == 0:
        # Adam's first moment after one step is a tenth of the gradient.
        moments = jax.tree.leaves(optax.tree.get(states.opt_state, 'mu'))
        gradient = np.concatenate([np.ravel(leaf) for leaf in moments])
      losses.append(np.asarray(trace.loss[0, 0]))
      averages.append(np.asarray(states.average[0]))
  return _Run(gradient, np.stack(losses), np.stack(averages))


def measure_memory(arguments):
  """Yields the memory of one lane; the process must have run nothing else."""
  network = programs.make_network(arguments.channels, remat=arguments.remat)
  for precision in arguments.precision:
    given = programs.make_recipe(network, precision)
    prepared, problem = memory.pose_problem(given, arguments.size)
    estimated = memory_lib.estimate_bytes(prepared, problem, lanes=1)
    scan = programs.scan_problem(fit.make_fit(prepared), problem, 1)
    compiling = _find_peak()
    scan.call()
    scan.call()
    used = _find_peak()
    if used == compiling:
      used = None
    megapixels = arguments.size**2 / 1e6
    yield Memory(
      size=arguments.size,
      precision=precision,
      remat=arguments.remat,
      estimated=estimated / 1e9,
      planned=scan.peak_bytes / 1e9,
      used_compiling=compiling and compiling / 1e9,
      used=used and used / 1e9,
      used_a_megapixel=used and used / 1e9 / megapixels,
    )


def _find_peak() -> int | None:
  return (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')


PARTS = {
  'facts': find_facts,
  'same': compare_devices,
  'memory': measure_memory,
}


if __name__ == '__main__':
  main()
