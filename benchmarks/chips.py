"""Compiles lanes over all chips of a TPU without one, and lists collectives.

    python -m benchmarks.chips --lanes 4 --size 32 --channels 4 --levels 1

The programs are `lanes.advance`, which takes steps, and `lanes.find_finished`,
after which the host knows whether all lanes are finished, as XLA compiles them
for the topology of `targets.TARGETS`; nothing runs. A collective is what chips
tell each other: lanes are independent, so that there should be none.

docs/devices.md says what has to be installed.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import hlo, programs, targets
from dipjax.conv import choose
from dipjax.engine import lanes
from dipjax.networks import skip


def main(argv: Sequence[str] | None = None) -> None:
  """Compiles both programs and prints a line for each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--target', choices=list(targets.TARGETS), default='v5e')
  add('--lanes', type=int, default=4)
  add('--size', type=int, default=32)
  add('--channels', type=int, default=4)
  add('--levels', type=int, default=1)
  arguments = parser.parse_args(argv)
  targets.prepare_process()
  widths = (arguments.channels,) * arguments.levels
  network = skip.Skip(down=widths, up=widths, skip=(4,) * arguments.levels)
  try:
    programs.check_sizes(network, [arguments.size])
    devices = targets.find_devices(arguments.target, None)
  except ValueError as error:
    parser.error(str(error))
  print(f'jax {jax.__version__}, {len(devices)} x {devices[0].device_kind}')
  target = targets.TARGETS[arguments.target]
  with choose.aim(choose.Target(target.aimed, devices=tuple(devices))):
    one = programs.make_fit(network, 'bfloat16')
    problem = jax.eval_shape(lambda: programs.make_problem(arguments.size))
    shapes = programs.shape_lanes(one, problem, arguments.lanes)
    lowered = {
      'advance': lanes.advance.lower(one, programs.SCAN, *shapes),
      'find_finished': lanes.find_finished.lower(*shapes),
    }
  for name, program in lowered.items():
    begin = time.perf_counter()
    text: Any = program.compile().as_text()
    kernels = hlo.find_kernels(text)
    row = targets.estimate(kernels, target, 'bfloat16')
    said = ', '.join(hlo.find_collectives(text)) or 'none'
    print(
      f'{name}: compiled in {time.perf_counter() - begin:.0f} s, '
      f'{row["kernels"]:.0f} kernels a step, estimated '
      f'{row["estimated_ms"]:.2f} ms, collectives: {said}',
      flush=True,
    )


if __name__ == '__main__':
  main()
