"""Compares the memory of a step that XLA plans with dipjax's estimate.

    python -m benchmarks.memory --sizes 256 512 --methods squared stein

The benchmark compiles requirement 2's network, one lane, and does not run it.
It prints GB for a megapixel of the code, which is padded, with all that a step
holds: state, activations, temporaries. The method `stein` passes through the
network twice a step.

With --run it takes some steps too, on Linux and a CPU, and prints how much the
process grew by meanwhile, beyond the state, and the time of the CPU.
"""

import argparse
import pathlib
import time
from collections.abc import Sequence

import jax

from benchmarks import programs
from dipjax import Recipe, methods, noise, recipe
from dipjax.engine import fit, lanes, memory
from dipjax.engine.problem import Problem
from dipjax.networks import skip

SIGMA = 25 / 255  # The noise's deviation, for methods that need it.


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a line for each size, method, precision and way to keep activations.

  A precision that a method is not for is left out.
  """
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--sizes', type=int, nargs='+', default=[256, 512])
  known = list(methods.METHODS)
  add('--methods', nargs='+', choices=known, default=['squared', 'stein'])
  known = list(recipe.PRECISIONS)
  default = ['float32', 'bfloat16']
  add('--precision', nargs='+', choices=known, default=default)
  add('--run', action='store_true', help='take steps too, on a CPU')
  arguments = parser.parse_args(argv)
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  for size in arguments.sizes:
    for name in arguments.methods:
      method = methods.METHODS[name]()
      for precision in filter(method.allows, arguments.precision):
        for remat in (False, True):
          network = skip.Skip(remat=remat)
          given = programs.make_recipe(network, precision, method=method)
          label = f'{name:11s} {"remat" if remat else "":5s}'
          _print_line(size, given, label, arguments.run)


def _print_line(size: int, given: Recipe, name: str, run: bool) -> None:
  prepared, problem = pose_problem(given, size)
  one = fit.make_fit(prepared)
  scan = programs.scan_problem(one, problem, 1) if run else None
  planned = scan.peak_bytes if scan else programs.plan_bytes(one, problem)
  estimate = memory.estimate_bytes(prepared, problem, lanes=1)
  megapixels = size**2 / 1e6
  print(
    f'{size}x{size}  {given.precision:14s} {name} '
    f'{planned / megapixels / 1e9:6.2f} GB a megapixel planned, '
    f'{estimate / megapixels / 1e9:6.2f} estimated ({estimate / planned:.2f})',
    flush=True,
  )
  if scan:
    grown, seconds = _take_steps(scan)
    print(
      f'  grew by {grown / megapixels / 1e9:.2f} GB a megapixel, '
      f'{seconds:.2f} s of the CPU a step',
      flush=True,
    )


def _take_steps(scan: programs.Scan) -> tuple[int, float]:
  """Returns by how many bytes this process grew at most, and seconds a step."""
  before = _read_status('VmRSS')
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # Forgets the peak.
  begin = time.process_time()
  steps = scan.call()
  seconds = (time.process_time() - begin) / steps
  return _read_status('VmHWM') - before, seconds


def _read_status(field: str) -> int:
  """Bytes, of a line such as `VmRSS:   1234 kB`."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  values = [line.split() for line in lines if line.startswith(f'{field}:')]
  return 1024 * int(values[0][1])


def pose_problem(given: Recipe, size: int) -> tuple[Recipe, Problem]:
  """Returns a recipe as its method prepares it, and what it denoises.

  Args:
    given: with a network.
    size: of the image in `programs.make_problem`, [size, size].
  """
  measurement = programs.make_problem(size).measurement
  prepared, operator = given.prepare(
    measurement, noise=noise.Model.make_white(SIGMA)
  )
  key, shape = jax.random.key(0), measurement.shape
  return prepared, lanes.pose_problem(
    prepared, key, measurement, operator, shape, sigma=SIGMA
  )


if __name__ == '__main__':
  main()
