"""How long many pictures take on many chips: arithmetic, nothing runs.

    python -m benchmarks.fleet --pictures 1000000 --size 512 --steps 3000 \\
      --chips 64 --measured h200=4.71

A chip fits one picture after the other with requirement 2's network in
bfloat16, each with all steps; pictures need no other chip. The time of a step
is one that was measured (`--measured NAME=MILLISECONDS`), the estimate that
`benchmarks.targets` left in benchmarks/targets.jsonl, or where there is none
the least that the chip's rates allow (`targets.TARGETS`), which no program
reaches. Reading, writing and compiling are not counted: they go on beside the
fits, or come once.
"""

import argparse
import pathlib
import re
from collections.abc import Iterator, Sequence

from benchmarks import limits, programs, targets
from experiments.lib import records

_ROWS = pathlib.Path(__file__).with_name('targets.jsonl')


def main(argv: Sequence[str] | None = None) -> None:
  """Prints a table in Markdown."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--pictures', type=int, default=10**6)
  add('--size', type=int, default=512)
  add('--steps', type=int, default=3000)
  add('--chips', type=int, default=64)
  add('--measured', nargs='*', default=[], metavar='NAME=MILLISECONDS')
  arguments = parser.parse_args(argv)
  try:
    steps = list(list_steps(arguments.size, arguments.measured))
  except ValueError as error:
    parser.error(str(error))
  print('| chip | ms a step | from | an hour and chip | days |')
  print('|---|---|---|---|---|')
  for name, milliseconds, source in steps:
    seconds = arguments.steps * milliseconds / 1e3
    days = arguments.pictures * seconds / arguments.chips / 86400
    print(
      f'| {name} | {milliseconds:.2f} | {source} | {3600 / seconds:.0f} | '
      f'{days:.1f} |'
    )


def list_steps(
  size: int, measured: Sequence[str] = ()
) -> Iterator[tuple[str, float, str]]:
  """Yields (chip, milliseconds of a step of one lane, where from).

  Args:
    size: of the square pictures.
    measured: NAME=MILLISECONDS of each chip whose step was measured.

  Raises:
    ValueError: what is no such pair.
  """
  for given in measured:
    name, _, milliseconds = given.partition('=')
    if not re.fullmatch(r'\d+(\.\d+)?', milliseconds):
      raise ValueError(f'--measured must be NAME=MILLISECONDS, got {given!r}')
    yield name, float(milliseconds), 'measured'
  wanted = {'size': size, 'lanes': 1, 'precision': 'bfloat16', 'remat': False}
  rows = {
    row['target']: row
    for row in records.read_lines(str(_ROWS), mend=False)
    if wanted.items() <= row.items()
  }
  network = programs.make_network()
  flops = limits.count_flops(network, size, programs.INPUTS)
  moved = limits.count_bytes(network, size, 'bfloat16', programs.INPUTS)
  for name, target in targets.TARGETS.items():
    if name in rows:
      yield name, rows[name]['estimated_ms'], 'estimated'
    else:
      rate = target.flops['bfloat16']
      least = 1e3 * max(flops / rate, moved / target.bandwidth)
      yield name, least, 'at least'


if __name__ == '__main__':
  main()
