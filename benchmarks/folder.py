"""Images an hour and slot occupancy of a folder, beside three other ways.

    python -m benchmarks.folder --count 32 --side 128 --lanes 1 4 8 \
      --json folder.jsonl

The pictures are parts of samples with noise, of three shapes in turn, and stop
by themselves after different numbers of steps. `slots` is
`dipjax.restore_many`: a lane that is finished gets the next picture, and where
lanes run at once the last pictures take turns. `queue` is the same without
turns. `batches` are as many lanes, which wait for the slowest before the next
pictures come.
`alone` is `dipjax.restore`, one picture after the other. Everything is compiled
before the clock runs. The occupancy is the share of the lanes' steps that a
picture took; a lane that is finished costs nothing on a CPU, where lanes run in
turn, and as much as any elsewhere. `--target gpu` makes a GPU's program, whose
lanes run at once, on any device.

Each result is a line of the file. Results that are in the file are not made
again, so that the same command goes on where it was.
"""

import argparse
import functools
import itertools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np

import dipjax
from benchmarks import stopping
from dipjax import Case, Recipe, corruptions, monitors
from dipjax.conv import choose
from dipjax.engine import lanes, slots
from dipjax.networks import skip
from experiments.lib import images, recorder

_SAMPLES = ('astronaut', 'coffee', 'chelsea', 'rocket')
_SIGMA = 25 / 255
_SHAPES = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0))  # Of the side: height, width.


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is not in the file yet, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--count', type=int, default=32, help='of pictures')
  add('--side', type=int, default=128, help='of the largest shape')
  add('--lanes', type=int, nargs='+', default=[1, 4, 8])
  add('--channels', type=int, default=32)
  add('--steps', type=int, default=2000, help='at most')
  add('--patience', type=int, default=100)
  add('--target', choices=('own', 'gpu'), default='own')
  path = pathlib.Path('folder.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  arguments = parser.parse_args(argv)
  own = ('count', 'side', 'channels', 'steps', 'patience', 'target')
  fixed = {name: getattr(arguments, name) for name in own}
  fixed['hardware'] = recorder.describe_device()
  ways = [
    ('alone', 1),
    *itertools.product(_KINDS, arguments.lanes),
  ]
  cells = [{'way': way, 'lanes': count, **fixed} for way, count in ways]
  try:
    rows = stopping.run_missing(arguments.json, cells, run_cell, _print_row)
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print_table(rows)


def make_cases(cell: Mapping[str, Any]) -> list[Case]:
  """Returns the pictures, of three shapes in turn."""
  cases = []
  for number in range(cell['count']):
    source = images.read_image(_SAMPLES[number % len(_SAMPLES)])
    rows, columns = (
      round(cell['side'] * share) for share in _SHAPES[number % len(_SHAPES)]
    )
    top, left = (
      int(place * (length - side))
      for place, length, side in zip(
        np.random.default_rng(number).random(2),
        source.shape[:2],
        (rows, columns),
      )
    )
    clean = source[top : top + rows, left : left + columns]
    noisy = corruptions.add_gaussian_noise(clean, _SIGMA, seed=number)
    cases.append(Case(noisy))
  return cases


def make_recipe(cell: Mapping[str, Any]) -> Recipe:
  """Returns how all pictures are fitted."""
  widths = (cell['channels'],) * 3
  return Recipe(
    network=skip.Skip(down=widths, up=widths, skip=(4,) * 3, outputs=3),
    monitors={'emv': monitors.EMV(patience=cell['patience'])},
    steps=cell['steps'],
  )


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the seconds, the steps and the occupancy of one way.

  Args:
    cell: of `main`.
  """
  cases, recipe = make_cases(cell), make_recipe(cell)
  target = choose.Target('gpu') if cell['target'] == 'gpu' else None
  with choose.aim(target or choose.find_target()):
    # A program is the same for any number of steps.
    _restore(cell, cases, recipe.replace(steps=1))
    begin = time.perf_counter()
    active, size, done = _restore(cell, cases, recipe)
    seconds = time.perf_counter() - begin
  return {
    'done': done,
    'taken': active,
    'seconds': seconds,
    'occupancy': active / size,
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
  }


def _restore(cell, cases, recipe):
  """Returns the steps taken, the steps of all lanes, and pictures restored."""
  counts = [0, 0, 0]

  def watch(_, trace):
    counts[0] += int(trace.active.sum())
    counts[1] += trace.active.size

  if cell['way'] == 'alone':
    for case in cases:
      dipjax.restore(case.measurement, None, recipe, watch=watch)
      counts[2] += 1
    return counts
  many = functools.partial(
    dipjax.restore_many, lanes=cell['lanes'], ahead=len(cases), watch=watch
  )
  with mock.patch.object(slots, 'Slots', _KINDS[cell['way']]):
    for _, _, error in many(cases, recipe):
      counts[2] += error is None
  return counts


class _Queue(slots.Slots):
  """Slots whose pictures stay until they are finished."""

  def count_taken(self, index):
    """Returns the same for all pictures, so that none is ahead."""
    return 0


class _Batches(_Queue):
  """Slots that are freed together, once the slowest picture is finished."""

  def take_finished(self):
    """Returns all pictures, or none of them."""
    finished = lanes.find_finished(self._states, self._problems)
    return super().take_finished() if finished.all() else []


_KINDS = {'slots': slots.Slots, 'queue': _Queue, 'batches': _Batches}


def _print_row(row):
  print(
    f'{row["way"]:8} {row["lanes"]:3} lanes: {_count_an_hour(row):8.1f} an '
    f'hour, occupancy {row["occupancy"]:.1%}',
    flush=True,
  )


def _count_an_hour(row):
  return 3600 * row['done'] / row['seconds']


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints each way with as many lanes beside the others, in Markdown."""
  found = {(row['way'], row['lanes']): row for row in rows}
  alone = found['alone', 1]
  print('| way | lanes | images an hour | occupancy | alone | batches |')
  print('|---|---|---|---|---|---|')
  for (way, count), row in found.items():
    beside = [alone] if way == 'alone' else [alone, found['batches', count]]
    gains = [f'x{other["seconds"] / row["seconds"]:.2f}' for other in beside]
    print(
      f'| {way} | {count} | {_count_an_hour(row):.1f} | '
      f'{row["occupancy"]:.1%} | {" | ".join([*gains, ""][:2])} |'
    )


if __name__ == '__main__':
  main()
