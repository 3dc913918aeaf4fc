"""Times what monitors and guard add to a step of requirement 2's network.

    python -m benchmarks.overhead --size 128

The benchmark times a step in a scan as in benchmarks.step, in turn with the
cheapest monitor and no guard, with the guard, and with the guard and every rule
at once. Then it saves checkpoints of the state: the fit waits while the arrays
are copied, and the rest takes a core beside it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import programs, step, stopping
from dipjax import monitors
from dipjax.engine import guard, lanes
from dipjax.networks import skip
from experiments.lib import checkpoints, leaves


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', type=int, default=128)
  parser.add_argument('--channels', type=int, default=128)
  parser.add_argument('--rounds', type=int, default=9)
  arguments = parser.parse_args(argv)
  jax.config.update('jax_enable_compilation_cache', False)
  widths = (arguments.channels,) * 5
  network = skip.Skip(down=widths, up=widths)
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  calls = make_calls(network, arguments.size)
  medians = step.time_medians(calls, arguments.rounds)
  least = medians['one monitor, no guard']
  for name, taken in medians.items():
    print(
      f'{arguments.size}x{arguments.size}  {name:24s} {1e3 * taken:8.1f} ms a '
      f'step, {100 * (taken / least - 1):+5.1f} %'
    )
  time_checkpoints(network, arguments.size, arguments.rounds)


def make_calls(network: skip.Skip, size: int) -> dict[str, programs.Call]:
  """Returns what is timed in turn, by name."""
  one = {'last': monitors.Last(steps=10**6)}
  rules = stopping.make_rules(10**6, 10**6) | {
    'pseudo_reference': monitors.PseudoReference(patience=10**6)
  }
  make = lambda rules: (
    programs.make_scan(
      programs.make_fit(network, 'float32', rules), size, 1
    ).call
  )
  with (
    mock.patch.object(guard, 'has_jumped', lambda *_: jnp.array(False)),
    mock.patch.object(guard, 'update', lambda state, fit, *_: (fit, state)),
  ):
    calls = {'one monitor, no guard': make(one)}
  return calls | {'one monitor': make(one), 'all rules': make(rules)}


def time_checkpoints(network: skip.Skip, size: int, rounds: int) -> None:
  """Prints what checkpoints of one lane take of a run, saved as by default."""
  one = programs.make_fit(network, 'float32', {'emv': monitors.EMV()})
  problems = lanes.stack_lanes([programs.make_problem(size)])
  states = lanes.init(one, jax.random.split(jax.random.key(0), 1), problems)
  waited, whole = [], []
  with (
    tempfile.TemporaryDirectory() as folder,
    checkpoints.Checkpoints(folder) as saved,
  ):
    for number in range(rounds + 1):
      begin = time.perf_counter()
      saved.save(states, number)
      middle = time.perf_counter()
      saved.flush()
      if number:  # The first imports and opens.
        waited.append(middle - begin)
        whole.append(time.perf_counter() - begin)
  count = sum(array.nbytes for array in leaves.pack_leaves(states).values())
  waits, takes = statistics.median(waited), statistics.median(whole)
  print(
    f'{size}x{size}  a checkpoint has {count / 2**20:.0f} MiB; the fit waits '
    f'{waits:.3f} s, the save takes {takes:.2f} s: every 60 s that is '
    f'{100 * waits / 60:.2f} and {100 * takes / 60:.2f} %'
  )


if __name__ == '__main__':
  main()
