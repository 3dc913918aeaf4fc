"""Times what monitors and guard add to a step of requirement 2's network.

    python -m benchmarks.overhead --size 128

The benchmark times a step in a scan as in benchmarks.step, in turn with the
cheapest monitor and no guard, with the guard, and with the guard and every rule
at once.
"""

import argparse
from collections.abc import Sequence
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks import programs, step, stopping
from dipjax import monitors
from dipjax.engine import guard
from dipjax.networks import skip


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


if __name__ == '__main__':
  main()
