"""How much memory a step takes, as XLA plans it and as dipjax estimates it.

    python -m benchmarks.memory --sizes 256 512

Requirement 2's network, one lane: compiled, not run. Prints GB for a megapixel
of the code, which is padded, with all that a step holds: state, activations,
temporaries.
"""

import argparse
from collections.abc import Sequence

import jax

from benchmarks import programs
from dipjax.engine import fit, memory
from dipjax.networks import skip


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each size, precision and way of keeping activations."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  known = list(fit.PRECISIONS)
  parser.add_argument('--sizes', type=int, nargs='+', default=[256, 512])
  parser.add_argument(
    '--precision', nargs='+', choices=known, default=['float32', 'bfloat16']
  )
  arguments = parser.parse_args(argv)
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  for size in arguments.sizes:
    for precision in arguments.precision:
      for remat in (False, True):
        _print_line(size, precision, remat)


def _print_line(size: int, precision: str, remat: bool) -> None:
  network = skip.Skip(remat=remat)
  one = programs.make_fit(network, precision)
  planned = programs.plan_bytes(one, size)
  problem = programs.make_problem(size)
  estimate = memory.estimate_bytes(network, problem, precision=precision)
  megapixels = size**2 / 1e6
  print(
    f'{size}x{size}  {precision:14s} {"remat" if remat else "":5s} '
    f'{planned / megapixels / 1e9:6.2f} GB a megapixel planned, '
    f'{estimate / megapixels / 1e9:6.2f} estimated ({estimate / planned:.2f})',
    flush=True,
  )


if __name__ == '__main__':
  main()
