"""Compares the memory of a step that XLA plans with dipjax's estimate.

    python -m benchmarks.memory --sizes 256 512 --methods squared stein

The benchmark compiles requirement 2's network, one lane, and does not run it.
It prints GB for a megapixel of the code, which is padded, with all that a step
holds: state, activations, temporaries. The method `stein` passes through the
network twice a step.
"""

import argparse
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
  arguments = parser.parse_args(argv)
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  for size in arguments.sizes:
    for name in arguments.methods:
      method = methods.METHODS[name]()
      for precision in filter(method.allows, arguments.precision):
        for remat in (False, True):
          network = skip.Skip(remat=remat)
          given = programs.make_recipe(network, precision, method=method)
          _print_line(size, given, f'{name:11s} {"remat" if remat else "":5s}')


def _print_line(size: int, given: Recipe, name: str) -> None:
  prepared, problem = pose_problem(given, size)
  planned = programs.plan_bytes(fit.make_fit(prepared), problem)
  estimate = memory.estimate_bytes(prepared, problem, lanes=1)
  megapixels = size**2 / 1e6
  print(
    f'{size}x{size}  {given.precision:14s} {name} '
    f'{planned / megapixels / 1e9:6.2f} GB a megapixel planned, '
    f'{estimate / megapixels / 1e9:6.2f} estimated ({estimate / planned:.2f})',
    flush=True,
  )


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
