"""Measures the seams of pictures that are fitted in tiles, for each task.

    python -m benchmarks.seams --images barbara.png F16.png --json seams.jsonl

Each picture is damaged as a task does it, and fitted as a whole and in tiles
with the same recipe, the `quick` of the task's config. A seam is where one tile
begins or ends to count, and the middle between the two. The error across seams
is the mean absolute difference that two neighbours of the error (restored -
clean) have there, beside the mean within, everywhere else. The same places of
the fit of the whole tell what the picture itself has there. Each result is a
line of the file. Results that are in the file are not made again, so that the
same command goes on where it was.
"""

import argparse
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import dipjax
from benchmarks import stopping
from configs import deblur as deblur_config
from configs import inpaint as inpaint_config
from configs import req3
from dipjax import metrics
from dipjax.engine import tiled
from experiments import deblur, inpaint, super_resolution
from experiments.lib import build

TASKS = {
  'inpaint': (inpaint_config, inpaint),
  'super_resolution': (req3, super_resolution),
  'deblur': (deblur_config, deblur),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is not in the file yet and prints a line for each row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--images', nargs='+', default=['astronaut'], help='samples or files')
  add('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
  add('--words', default='quick', help='behind the colon of the configs')
  add('--crop', type=int, default=192, help='the square in the middle')
  add('--tiles', type=int, nargs='+', default=[112], help='sides')
  add('--steps', type=int, default=600, help='at most, of every fit')
  add('--seed', type=int, default=0)
  path = pathlib.Path('seams.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  arguments = parser.parse_args(argv)
  cells = [
    {
      'image': image,
      'task': task,
      'words': arguments.words,
      'crop': arguments.crop,
      'tile': tile,
      'steps': arguments.steps,
      'seed': arguments.seed,
    }
    for image in arguments.images
    for task in arguments.tasks
    for tile in arguments.tiles
  ]
  try:
    stopping.run_missing(arguments.json, cells, run_cell, print_row)
  except (ValueError, OSError) as error:
    parser.error(str(error))


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns PSNR, seconds and seams of a picture, as a whole and in tiles.

  Raises:
    ValueError: a picture that cannot be read, an unknown word, or a tile that
      is as large as the picture.
  """
  configs, experiment = TASKS[cell['task']]
  config = configs.get_config(cell['words'])
  config.data.update(image=cell['image'], crop=(cell['crop'],) * 2)
  config.fit.steps = cell['steps']
  data, plans = experiment.load(config.data), []
  recipe = build.make_recipe(config, data.clean.shape[-1])

  def restore(tile):
    begin = time.perf_counter()
    result = dipjax.restore(
      data.measurement,
      data.operator,
      recipe.replace(tile=tile),
      size=data.size,
      seeds=(cell['seed'],),
      tell=plans.append,
    )
    return result.image, time.perf_counter() - begin

  parts, seconds = restore(cell['tile'])
  if not plans:
    raise ValueError(f'--tiles {cell["tile"]}: that is the whole picture')
  whole, seconds_whole = restore(None)
  return {
    'tiles': len(plans[0].corners),
    'size': list(plans[0].tile),
    'psnr_whole': float(metrics.psnr(whole, data.clean)),
    'psnr': float(metrics.psnr(parts, data.clean)),
    'seconds_whole': seconds_whole,
    'seconds': seconds,
    'seams_whole': measure_seams(whole - data.clean, plans[0]),
    'seams': measure_seams(parts - data.clean, plans[0]),
  }


def measure_seams(error: np.ndarray, plan: tiled.Plan) -> float:
  """Returns how much more neighbours differ across seams than within, less 1.

  Args:
    error: [H, W, C], of a restored picture.
    plan: of its tiles.
  """
  across, within = [], []
  for axis, places in enumerate(find_seams(plan)):
    differences = np.moveaxis(np.abs(np.diff(error, axis=axis)), axis, 0)
    chosen = np.zeros(len(differences), bool)
    chosen[places] = True
    across.append(differences[chosen].ravel())
    within.append(differences[~chosen].ravel())
  means = (np.concatenate(part).mean() for part in (across, within))
  return float(np.divide(*means) - 1)


def find_seams(plan: tiled.Plan) -> list[list[int]]:
  """Returns the seams along rows and columns: i is between pixels i and i + 1.

  They are where the weight of a tile begins, is that of its neighbour, or ends.
  """
  found = []
  for places, weights in zip((plan.tops, plan.lefts), plan.weigh()):
    seams = set()
    pairs = zip(places, places[1:], weights, weights[1:])
    for first, second, fading, coming in pairs:
      begin = second + int(np.flatnonzero(coming)[0])
      end = first + int(np.flatnonzero(fading)[-1])
      seams |= {begin - 1, (begin + end) // 2, end}
    found.append(sorted(seams))
  return found


def print_row(row: Mapping[str, Any]) -> None:
  """Prints a row in one line."""
  height, width = row['size']
  print(
    f'{row["image"]}, {row["task"]}, {row["tiles"]} tiles of {width}x{height}: '
    f'{row["psnr"]:.2f} dB (whole {row["psnr_whole"]:.2f}), '
    f'{row["seconds"]:.0f} s (whole {row["seconds_whole"]:.0f}), seams '
    f'{100 * row["seams"]:+.1f} % (whole {100 * row["seams_whole"]:+.1f} %)',
    flush=True,
  )


if __name__ == '__main__':
  main()
