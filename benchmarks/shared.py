"""One network for many pictures beside a network for each: PSNR and seconds.

    python -m benchmarks.shared --count 8 --side 256 --steps 1000 2000 \
      --json shared.jsonl

The pictures are parts of samples with noise, which `python -m
experiments.folder` restores, blind, by configs/folder.py:windows. `single` has
a fit for each picture, `shared` is folder.share=True, whose fit may see some of
the pictures alone (`--seen`). The seconds are those of a whole run of the
folder: reading, the estimate of the noise, compiling, fits, the filter after
them, and writing. Those of all cores together say more on a machine that does
other things too.

Each result is a line of the file. Results that are in the file are not made
again, so that the same command goes on where it was.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks import stopping
from configs import folder as folder_config
from dipjax import corruptions
from experiments.folder import __main__ as folder
from experiments.folder import share
from experiments.lib import images, recorder, records
from experiments.lib import workdir as workdirs

_SAMPLES = ['astronaut', 'coffee', 'chelsea', 'rocket']
_SINGLE_STEPS = 1000  # Of configs/folder.py:windows.


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is not in the file yet, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--images', nargs='+', default=_SAMPLES, help='samples or files')
  add('--count', type=int, default=8, help='of pictures, parts of the images')
  add('--side', type=int, default=256, help='of each part')
  add('--sigma', type=float, default=25.0, help='of 255')
  add('--single', type=int, default=_SINGLE_STEPS, help='steps of each fit')
  add('--steps', type=int, nargs='+', default=[1000, 2000], help='shared')
  add('--seen', type=int, nargs='+', default=[share.MOST], help='at most')
  add('--variant', default='windows', help='of configs/folder.py')
  path = pathlib.Path('shared.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  arguments = parser.parse_args(argv)
  own = ('images', 'count', 'side', 'sigma', 'variant')
  fixed = {name: getattr(arguments, name) for name in own}
  ways = [('single', arguments.single, 1)]
  ways += [
    ('shared', steps, min(seen, arguments.count))
    for seen in arguments.seen
    for steps in arguments.steps
  ]
  cells = [
    {'way': way, 'steps': steps, 'seen': seen, **fixed}
    for way, steps, seen in ways
  ]
  try:
    rows = stopping.run_missing(arguments.json, cells, run_cell, _print_row)
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print_table(rows)


def write_pictures(cell: Mapping[str, Any], home: pathlib.Path) -> None:
  """Writes the noisy and the clean pictures, PNG of 8 bits, to two folders."""
  for name in ('noisy', 'clean'):
    (home / name).mkdir()
  for number in range(cell['count']):
    source = images.read_image(cell['images'][number % len(cell['images'])])
    side = cell['side']
    top, left = (
      int(place * (length - side + 1))
      for place, length in zip(
        np.random.default_rng(number).random(2), source.shape[:2]
      )
    )
    clean = source[top : top + side, left : left + side]
    noisy = corruptions.add_gaussian_noise(
      clean, cell['sigma'] / 255, seed=number
    )
    for kind, image in (('noisy', noisy), ('clean', clean)):
      images.write_image(str(home / kind / f'{number:03}.png'), image)


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the PSNR of each picture, and the seconds.

  Args:
    cell: of `main`.
  """
  with tempfile.TemporaryDirectory() as name:
    home = pathlib.Path(name)
    write_pictures(cell, home)
    config = folder_config.get_config(cell['variant'])
    config.data.images, config.data.clean = (
      str(home / kind) for kind in ('noisy', 'clean')
    )
    config.fit.steps = cell['steps']
    config.folder.share = cell['way'] == 'shared'
    begin, spent = time.perf_counter(), time.process_time()
    with mock.patch.object(share, 'MOST', cell['seen']):
      summary, *_, signal = folder.run(config, str(home / 'run'))
    seconds = time.perf_counter() - begin
    spent = time.process_time() - spent
    rows = records.read_lines(str(home / 'run' / workdirs.INDEX))
  if signal:
    sys.exit(128 + signal)
  if summary['failed']:
    raise ValueError(f'{summary["failed"]} pictures were not restored')
  rows = sorted(rows, key=lambda row: row['file'])
  get = lambda name: [row.get(name) for row in rows]
  return {
    'seconds': seconds,
    'seconds_of_cores': spent,
    'seconds_of_each': get('seconds'),
    'psnr': get('psnr'),
    'psnr_before': get('psnr_before'),
    'noise': get('noise'),
    'networks': len(set(get('network'))),
    'hardware': recorder.describe_device(),
    'jax': jax.__version__,
  }


def _print_row(row):
  print(
    f'{row["way"]} {row["steps"]} steps: {np.mean(row["psnr"]):.2f} dB, '
    f'{row["seconds"]:.0f} s',
    flush=True,
  )


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints each way beside a network for each picture, in Markdown."""
  single = next(row for row in rows if row['way'] == 'single')
  count = single['count']
  print(
    f'| way | steps of a fit | PSNR, dB | worst beside single, dB | best | '
    f's of all cores for {count} | s for each | s for each beside its fit |'
  )
  print('|---|---|---|---|---|---|---|---|')
  for row in rows:
    gains = np.subtract(row['psnr'], single['psnr'])
    spent, shared = row['seconds_of_cores'], row['way'] == 'shared'
    worst, best = (
      (f'{gains.min():+.2f}', f'{gains.max():+.2f}') if shared else ('', '')
    )
    way = f'shared, sees {row["seen"]}' if shared else 'single'
    each = f'{np.mean(row["seconds_of_each"]):.1f}' if shared else ''
    print(
      f'| {way} | {row["steps"]} | {np.mean(row["psnr"]):.2f} | {worst} | '
      f'{best} | {spent:.0f} | {spent / count:.0f} | {each} |'
    )


if __name__ == '__main__':
  main()
