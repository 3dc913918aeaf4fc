"""A sweep: a grid of numbers that compile nothing, as lanes of one program.

python -m experiments.sweep --config=configs/sweep.py --workdir=DIR
"""

import itertools
import os
import shutil
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections

import dipjax
from dipjax import Case, optimizers
from experiments import denoise
from experiments.lib import (
  build,
  cli,
  folders,
  machine,
  plots,
  recorder,
  records,
  report,
  schema,
  shelf,
  stopping,
  task,
)
from experiments.lib import data as data_lib
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data, load_denoising
from experiments.lib.task import Result

_TABLE, _PLOT = 'table.md', 'sweep.png'


class Point(NamedTuple):
  """One point of the grid."""

  learning_rate: float
  jitter: float | None  # None: the method has its own.
  sigma: float | None  # Of 255; None: nothing reads it, or it is estimated.
  seed: int


def run(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Fits all points of the grid that have no row yet; returns the numbers.

  Args:
    config: as configs/sweep.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = load_denoising(config.data)
  own = ml_collections.ConfigDict(config.to_dict())
  del own.sweep
  if own.get('auto'):
    own = denoise.choose(own, data.measurement)
  points = make_grid(own, config.sweep)
  cases = [make_case(own, data, point) for point in points]
  with workdirs.open_workdir(
    workdir, config, data=data_lib.digest(data)
  ) as folder:
    if folder.finished:
      return task.recall(folder)
    path = folder.find(workdirs.ROWS)
    rows = {_identify(row): row for row in records.read_lines(path)}
    left = [i for i, p in enumerate(points) if tuple(p) not in rows]
    done = len(points) - len(left)
    print(
      f'{len(points)} points, {done} of them before; at most {config.lanes} at '
      f'once on {recorder.describe_device()}',
      flush=True,
    )
    signal = 0
    with (
      stopping.catch_signals() as stop,
      shelf.Shelf(
        folder.find(workdirs.CHECKPOINTS),
        lambda index: tuple(points[left[index]]),
        every=config.checkpoint.every,
        memory=machine.find_memory(),
      ) as store,
    ):
      for finished in dipjax.restore_many(
        [cases[i] for i in left],
        lanes=config.lanes,
        ahead=len(points),
        perceptual=build.make_perceptual(config.fit),
        memory=store.notes['memory'],
        chunk=min(config.record.every, config.fit.steps),
        watch=lambda pictures, trace: bool(stop),
        store=store,
        tell=lambda line: print(line, flush=True),
      ):
        point = points[left[finished.index]]
        row = make_row(data, point, finished)
        row['seconds'] = round(store.count_seconds(finished.index), 3)
        records.append_lines(path, [row])
        rows[tuple(point)] = row
      signal = int(stop.signal)
    ordered = [rows[tuple(p)] for p in points if tuple(p) in rows]
    summary = {
      'experiment': 'sweep',
      'points': len(points),
      'steps': sum(row['steps'] for row in ordered),
      'table': summarize(ordered),
      'hardware': recorder.describe_device(),
      'versions': recorder.describe_versions(),
    }
    if signal:
      summary['stopped'] = True
    summary = folder.write(summary, lambda path: _write(path, summary))
    if not signal:
      shutil.rmtree(folder.find(workdirs.CHECKPOINTS), ignore_errors=True)
  print(f'all in {folders.show(os.path.abspath(workdir))}')
  return Result(summary, {}, signal=signal)


def make_grid(
  config: ml_collections.ConfigDict, given: ml_collections.ConfigDict
) -> list[Point]:
  """Returns every combination of the numbers, a setting's seeds together.

  Args:
    config: of denoising, which has the numbers that are not given.
    given: the section `sweep`.

  Raises:
    ValueError: a number that the method and the rule do not read, or a point
      that is there twice.
  """
  for name in ('jitter', 'sigma'):
    if given[name] and name not in config.fit:
      raise ValueError(
        f'sweep.{name} is set and nothing reads it with method='
        f'{config.method.name}, stop={config.stop.name}'
      )
  points = [
    Point(*values)
    for values in itertools.product(
      given.learning_rate or (config.fit.learning_rate,),
      given.jitter or (config.fit.get('jitter'),),
      given.sigma or (config.fit.get('sigma') or None,),
      given.seeds or (config.seed,),
    )
  ]
  if len(set(points)) < len(points):
    raise ValueError('a number of the sweep is there twice')
  return points


def make_case(
  config: ml_collections.ConfigDict, data: Data, point: Point
) -> Case:
  """Returns one point; all points of a grid share one program.

  Args:
    config: of denoising.
    data: what is restored.
    point: of the grid.
  """
  own = ml_collections.ConfigDict(config.to_dict())
  own.lanes, own.seed = 1, point.seed
  if point.sigma is not None:
    own.fit.sigma = float(point.sigma)
  recipe = build.make_recipe(own, data.measurement.shape[-1])
  # The learning rate would be a part of the program; the rate is none.
  unit = optimizers.make_optimizer(
    own.fit.optimizer, 1.0, own.fit.clip, own.fit.schedule
  )
  recipe = recipe.replace(optimizer=unit, rate=float(point.learning_rate))
  if point.jitter is not None:
    recipe = recipe.replace(jitter=float(point.jitter))
  noisy = build.prepare_noise(own, recipe, data.measurement)
  return Case(
    noisy.measurement,
    data.operator,
    recipe,
    seed=point.seed,
    clean=data.clean,
    noise=noisy.model,
    reference=noisy.reference,
  )


def make_row(data: Data, point: Point, finished: Any) -> dict[str, Any]:
  """Returns the numbers of one point; the image is that of the fit alone."""
  restoration, row = finished.restoration, point._asdict()
  if restoration is None:
    raise finished.error
  row |= {
    'steps': int(restoration.stopped[0]),
    'selected': int(restoration.selected[0]),
    'diverged': bool(restoration.diverged[0]),
    'loss': _finite(restoration.trace.loss[0][-1]),
    **report.score_step(restoration.image, data.clean),
  }
  if 'oracle' in restoration.monitors:
    row['best'] = _finite(restoration.monitors['oracle'].best[0])
  return row


def _finite(value):
  return float(value) if abs(float(value)) < float('inf') else None


def _identify(row):
  return tuple(row[name] for name in Point._fields)


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns a line for each setting: means over its seeds, the best first."""
  name = lambda row: _identify(row)[:-1]
  lines = []
  for setting, group in itertools.groupby(rows, name):
    same = list(group)
    line = dict(zip(Point._fields, setting)) | {'seeds': len(same)}
    for key in ('psnr', 'best', 'loss', 'steps'):
      values = [row[key] for row in same if row.get(key) is not None]
      line[key] = statistics.fmean(values) if values else None
      if key == 'psnr':
        line['psnr_std'] = statistics.pstdev(values) if values else None
    lines.append(line)
  return sorted(lines, key=lambda line: -(line['psnr'] or 0))


def _write(path, summary) -> list[str]:
  """Writes the table and the plot; returns the names of all files."""
  table = summary['table']
  keys = (
    [key for key in table[0] if any(line[key] is not None for line in table)]
    if table
    else []
  )
  show = lambda value: '' if value is None else f'{value:.5g}'
  lines = [' | '.join(keys), ' | '.join('---' for _ in keys)]
  lines += [' | '.join(show(line[key]) for key in keys) for line in table]
  text = ''.join(f'| {line} |\n' for line in lines)
  print(text)
  folders.write_atomic(os.path.join(path, _TABLE), text.encode())
  names = [_TABLE, workdirs.ROWS]
  scored = [line for line in table if line['psnr'] is not None]
  if scored and plots.draw_settings(
    os.path.join(path, _PLOT),
    {_describe(line): line for line in scored},
  ):
    names.append(_PLOT)
  return names


def _describe(line):
  return ', '.join(
    f'{name} {line[name]:g}'
    for name in Point._fields[:-1]
    if line[name] is not None
  )


if __name__ == '__main__':
  cli.launch(run)
