"""Times a step: against PyTorch, against the machine, in lanes, in a scan.

    python -m benchmarks.step --sizes 64 128 --lanes 1 4 --peer torch

The step is a step of requirement 2's network. The benchmark times all programs
of one size and precision in turn in one process, round after round, and prints
medians and quartiles, for each step of each lane. The limit is the FLOPs of the
network's convolutions (limits.count_flops) over the fastest matrix product
measured in the same run.

The peer is the same network in PyTorch in the same precision, one fit, in the
fastest of several variants. Beside the peer the benchmark times deepinv's deep
image prior, which has another network, where deepinv can be imported.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

from benchmarks import limits, programs
from dipjax import recipe
from dipjax.engine import fit
from dipjax.networks import skip


class Row(NamedTuple):
  """One entry of the JSON: ours in some lanes, `programs.Scan`."""

  size: int
  lanes: int
  precision: str
  milliseconds_per_lane_step: float  # The median.
  ratio_to_torch: float | None  # Ours / the peer's; None without a peer.
  fraction_of_limit: float
  peak_bytes: int
  compile_seconds: float
  device: str


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each size, precision and program."""
  parser = _make_parser()
  arguments = parser.parse_args(argv)
  try:
    network = programs.make_network(arguments.channels, remat=arguments.remat)
    _check_counts(network, arguments)
    if arguments.peer:
      programs.check_peer()
  except ValueError as error:
    parser.error(str(error))
  if not arguments.cached:
    jax.config.update('jax_enable_compilation_cache', False)
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  rows = []
  for precision in arguments.precision:
    one = programs.make_fit(network, precision)
    limit, product = limits.measure_limit(precision)
    print(
      f'limit: {limit / 1e9:.0f} GFLOP/s in a {precision} product {product}'
    )
    for size in arguments.sizes:
      peers = {}
      if arguments.peer:
        peers = programs.make_peers(size, precision, arguments.channels)
      flops = limits.count_flops(network, size, programs.INPUTS)
      case = Case(size, precision, flops, limit)
      rows += time_case(
        case,
        one,
        arguments.lanes,
        peers,
        arguments.rounds,
        single=not arguments.scans_only,
      )
      programs.write_rows(arguments.json, rows)


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--sizes', type=int, nargs='+', default=[64, 128])
  add('--lanes', type=int, nargs='+', default=[1, 4])
  known = list(recipe.PRECISIONS)
  add('--precision', nargs='+', choices=known, default=['float32'])
  add('--peer', choices=['torch'])
  add('--channels', type=int, default=128, help='of each level')
  add('--remat', action='store_true', help='recompute activations')
  add('--scans-only', action='store_true', help='no step called by itself')
  add('--cached', action='store_true', help="use JAX's cache of programs")
  add('--rounds', type=int, default=7, help='timings of each program')
  add(
    '--json', type=pathlib.Path, metavar='FILE', help='write the rows of ours'
  )
  return parser


def _check_counts(network: skip.Skip, arguments: argparse.Namespace):
  if arguments.rounds < 2 or min(arguments.lanes) < 1:
    raise ValueError('--rounds must be at least 2, --lanes at least 1')
  programs.check_sizes(network, arguments.sizes)


class Case(NamedTuple):
  """What all programs that are timed in turn have in common."""

  size: int
  precision: str
  flops: int  # FLOPs of one step, the same for ours and for the peer's.
  limit: float  # FLOP/s.


def time_case(
  case: Case,
  one: fit.Fit,
  counts: Sequence[int],
  peers: Mapping[str, Callable[[], int]],
  rounds: int,
  *,
  single: bool = True,
) -> list[Row]:
  """Times a fit in lanes, alone, and its peers in turn; prints all of them.

  Args:
    case: whose size the peers have too.
    one: our fit.
    counts: numbers of lanes.
    peers: by name; one named torch is what ratios are to.
    rounds: timings of each, at least 2.
    single: whether a step that is called by itself is timed too.

  Returns:
    A row for each number of lanes.
  """
  scans = {count: programs.make_scan(one, case.size, count) for count in counts}
  names = {n: f'scan, {n} lane{"s" * (n > 1)}' for n in counts}
  calls = {names[count]: scan.call for count, scan in scans.items()}
  if single:
    calls['single step'] = programs.make_single(one, case.size)
  times = time_in_turn({**calls, **peers}, rounds)
  medians = {name: statistics.median(taken) for name, taken in times.items()}
  rows = [
    Row(
      size=case.size,
      lanes=count,
      precision=case.precision,
      milliseconds_per_lane_step=1e3 * medians[names[count]],
      ratio_to_torch=medians[names[count]] / medians['torch']
      if 'torch' in peers
      else None,
      fraction_of_limit=case.flops / medians[names[count]] / case.limit,
      peak_bytes=scan.peak_bytes,
      compile_seconds=scan.compile_seconds,
      device=jax.devices()[0].device_kind,
    )
    for count, scan in scans.items()
  ]
  for row in rows:
    name = names[row.lanes]
    _print_line(case, name, times[name], _describe(case, row))
  for name in [*['single step'] * single, *peers]:
    _print_line(case, name, times[name], _compare(case, name, medians))
  return rows


def _describe(case: Case, row: Row) -> str:
  rate = row.fraction_of_limit * case.limit / 1e9
  ratio = f'{row.ratio_to_torch:.2f} of torch, ' if row.ratio_to_torch else ''
  return (
    f'{ratio}{rate:.0f} GFLOP/s, {row.fraction_of_limit:.2f} of the limit, '
    f'{row.peak_bytes / 2**20:.0f} MiB, compiled in {row.compile_seconds:.1f} s'
  )


def _compare(case: Case, name: str, medians: Mapping[str, float]) -> str:
  if name == 'deepinv':
    return 'another network'
  rate = case.flops / medians[name]
  parts = [f'{rate / 1e9:.0f} GFLOP/s, {rate / case.limit:.2f} of the limit']
  if name == 'single step' and 'scan, 1 lane' in medians:
    ratio = medians['scan, 1 lane'] / medians[name]
    parts.append(f'a step in a scan takes {ratio:.2f} of it')
  return ', '.join(parts)


def _print_line(case: Case, name: str, times: Sequence[float], rest: str):
  low, middle, high = (1e3 * t for t in statistics.quantiles(times, n=4))
  print(
    f'{case.size}x{case.size}  {case.precision}  {name:13s} {middle:8.1f} ms '
    f'a step and lane ({low:.1f} to {high:.1f}), {rest}',
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


def time_medians(
  variants: Mapping[str, Callable[[], int]], rounds: int
) -> dict[str, float]:
  """Returns the medians of `time_in_turn`, in seconds a step."""
  times = time_in_turn(variants, rounds)
  return {name: statistics.median(taken) for name, taken in times.items()}


if __name__ == '__main__':
  main()
