"""The ablation of staged fitting: every arm, its baselines, and the claims.

python -m experiments.ablation --config=configs/ablation.py --workdir=DIR
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from dipjax import Restoration, monitors, noise
from experiments.ablation import arms as arms_lib
from experiments.ablation import baselines, claims, table
from experiments.ablation.table import Arm
from experiments.lib import (
  chains,
  cli,
  command,
  fields,
  folders,
  images,
  page,
  plots,
  recorder,
  records,
  report,
  schema,
  stages,
  task,
)
from experiments.lib import data as data_lib
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data, load_denoising
from experiments.lib.task import Result

_MOST_PICTURES = 40  # Arms whose pictures are in the page.


def run(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Fits all arms, program after program; returns numbers and arrays.

  Arms that differ in numbers alone are lanes of one program, as the points of a
  sweep are; a finished seed gives its lane to the next. A finished arm is a
  line of arms.jsonl: the same command goes on after the finished arms, and in
  the middle of the others.

  Args:
    config: as configs/ablation.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line that also names all arms that cannot run;
      no file is left behind.
  """
  schema.check_config(config)
  data, sigma, told = load(config)
  _check_rule(config)
  trained = None
  if config.baselines.ddpm:
    shape = data.measurement.shape
    trained = baselines.load_ddpm(config.baselines.ddpm, shape)
  planned = arms_lib.plan_arms(config)
  with workdirs.open_workdir(
    workdir, config, data=data_lib.digest(data)
  ) as folder:
    if folder.finished:
      return task.recall(folder)
    rows: list[Any] = records.read_lines(folder.find(workdirs.ARMS))
    done = {row['arm'] for row in rows}
    print(arms_lib.describe_budget(config, planned, done), flush=True)
    beside = baselines.make_rows(data, sigma, told, trained)
    waiting = [arm for arm in planned if arm.name not in done]
    arrays, signal = {'measurement': data.measurement}, 0
    order = [arm.name for arm in planned]

    def add(arm, added, image):
      records.append_lines(folder.find(workdirs.ARMS), added)
      rows.extend(added)
      arrays[arm.name] = image
      if config.record.preview:
        so_far = summarize(config, beside, rows)
        content = describe_page(folder, so_far, data, order)
        with contextlib.suppress(OSError):
          page.write(
            folder.find(workdirs.PAGE),
            content._replace(refresh=config.record.preview),
          )

    for name, group in arms_lib.group_arms(waiting).items():
      done = {row['arm'] for row in rows}
      signal = fit_arms(config, name, group, folder, done, add)
      if signal:
        break
    rows.sort(key=lambda row: order.index(row['arm']))
    summary = summarize(config, beside, rows)
    if signal:
      summary['stopped'] = True
    summary = folder.write(
      summary,
      lambda path: [
        *write(config, path, summary),
        *(f'{name}.png' for name in order),
        *report.save_page(path, describe_page(folder, summary, data, order)),
        workdirs.ARMS,
      ],
    )
    if not signal:
      shutil.rmtree(folder.find(workdirs.CHECKPOINTS), ignore_errors=True)
  return Result(summary, arrays, signal=signal)


def _check_rule(config):
  rule = fields.choose(monitors.MONITORS, config.stop.name, 'stop.name')
  if rule.needs or not rule.waits:
    known = [
      name
      for name, rule in monitors.MONITORS.items()
      if rule.waits and not rule.needs
    ]
    raise ValueError(
      'an ablation compares fits that stop by themselves: stop.name must be '
      f'one of {", ".join(known)}, got {config.stop.name!r}'
    )


def load(
  config: ml_collections.ConfigDict,
) -> tuple[Data, float, str]:
  """Returns the data, the noise's deviation, and how the deviation is known."""
  data = load_denoising(config.data)
  if data.clean is None:
    raise ValueError(
      'an ablation needs the clean image to score its arms: give data.clean, '
      'or set data.sigma above 0'
    )
  if config.data.sigma:
    return data, config.data.sigma / 255, 'told the true sigma'
  sigma = noise.estimate_sigma(data.measurement)
  return data, sigma, 'told a sigma that was estimated'


def fit_arms(
  config: ml_collections.ConfigDict,
  name: str,
  arms: Sequence[Arm],
  folder: workdirs.Workdir,
  done: Collection[str],
  add: Callable[[Arm, list[dict], np.ndarray], None],
) -> int:
  """Fits arms of one program, each seed of each arm in a lane.

  The first seed's image of each arm becomes the file ARM.png.

  Args:
    config: the config of the ablation.
    name: of the program.
    arms: what to fit.
    folder: the folder of the run.
    done: the names of the arms whose records stay.
    add: called with each arm that is finished, its rows, and the image of its
      first seed.

  Returns:
    The number of the signal that ended the fits, 0 for none.
  """
  setups = [arms_lib.make_setup(config, arm) for arm in arms]
  print(f'{", ".join(arm.name for arm in arms)}:')
  seeds = setups[0].seeds
  slots = len(seeds) * min(config.arms.together, len(arms))
  steps = len(seeds) * sum(map(arms_lib.count_steps, setups))
  record = recorder.Recorder(
    folder,
    config,
    steps=-(-steps // slots),
    seeds=seeds * (slots // len(seeds)),
    name=name,
    keep=lambda row: row['arm'] in done,
  )
  with record:
    for place, results, seconds in chains.fit_chains(
      setups, record, slots=slots
    ):
      # What is left of an arm that was stopped has no row.
      if record.stop:
        break
      arm, setup = arms[place], setups[place]
      result = chains.join_stages(results, chained=True)
      image = result.images[0]
      images.write_image(folder.find(f'{arm.name}.png'), image)
      add(arm, make_rows(arm, setup, result, seconds), image)
  return int(record.stop.signal)


def make_rows(
  arm: Arm, setup: stages.Setup, result: Restoration, seconds: float
) -> list[dict]:
  """Returns the one row of a staged arm, or the two rows of a plain fit.

  A plain fit has a row for its fixed steps and a row for the stopping rule.
  """
  row = {
    'arm': arm.name,
    **arm._asdict(),
    **setup.marks,
    'planned': arms_lib.count_steps(setup),
    'seconds': seconds,
    'parameters': sum(x[0].size for x in jax.tree.leaves(result.params)),
  }
  if not arm.is_plain:
    seen = (result.images, result.stopped, result.selected)
    lanes = _score_lanes(setup, result, *seen)
    return [row | {'method': table.STAGED, 'lanes': lanes}]
  row |= {'schedule': None, 'beta_max': None}
  watched = {
    table.FIXED: table.FIXED,
    table.STOPPED: result.rule,
  }
  rows = []
  for method, name in watched.items():
    state = result.monitors[name]
    lanes = _score_lanes(setup, result, state.image, state.spent, state.step)
    rows.append(row | {'method': method, 'lanes': lanes})
  return rows


def _score_lanes(setup, result, restored, spent, selected):
  oracle, clean = result.monitors['oracle'], setup.data.clean
  return [
    {
      'seed': seed,
      'spent': int(spent[i]),
      'selected_step': int(selected[i]),
      **report.score_step(restored[i], clean),
      'oracle': {'step': int(oracle.step[i]), 'psnr': float(oracle.best[i])},
    }
    for i, seed in enumerate(setup.seeds)
  ]


def summarize(
  config: ml_collections.ConfigDict, beside: list[dict], rows: list[dict]
) -> dict[str, Any]:
  """Returns the content of result.json.

  Args:
    config: the config of the ablation.
    beside: the rows that no fit gives.
    rows: the rows of the arms.
  """
  budget = config.fit.steps
  lines = [table.summarize_row(r, budget) for r in (*beside, *rows)]
  # The stopped plain fit is the first part of the plain fit with fixed steps:
  # to count its steps would count them twice.
  fits = [row for row in rows if row['method'] != table.STOPPED]
  return {
    'experiment': 'ablation',
    'budget': budget,
    'steps': sum(lane['spent'] for row in fits for lane in row['lanes']),
    'seconds': {'fit': sum(row['seconds'] for row in fits)},
    'device': jax.devices()[0].platform,
    'hardware': recorder.describe_device(),
    'versions': recorder.describe_versions(),
    'table': lines,
    'lanes': {f'{r["arm"]}, {r["method"]}': r['lanes'] for r in rows},
    'claims': claims.judge_claims(rows),
    'stopping': claims.describe_stopping(lines),
  }


def write(config: ml_collections.ConfigDict, path: str, summary) -> list[str]:
  """Writes table.md, table.csv and arms.png, and returns the files' names."""
  shown = table.format_markdown(summary['table'])
  said = table.describe_table(config.lanes, summary['budget'])
  texts = [claim['text'] for claim in summary['claims']] + summary['stopping']
  listed = ''.join(f'- {text}\n' for text in texts)
  files = {
    'table.md': f'{said}\n\n{shown}\n{listed}',
    'table.csv': table.format_csv(summary['table']),
  }
  for name, content in files.items():
    folders.write_atomic(os.path.join(path, name), content.encode())
  print(
    shown, *texts, f'all in {folders.show(os.path.abspath(path))}', sep='\n'
  )
  if plots.draw_arms(os.path.join(path, 'arms.png'), summary['table']):
    return [*files, 'arms.png']
  print("for arms.png: pip install 'dipjax[plots]'")
  return list(files)


def describe_page(
  folder: workdirs.Workdir,
  summary: dict[str, Any],
  data: Data,
  order: Sequence[str],
) -> page.Content:
  """Returns what report.html is made of, with the pictures of finished arms.

  Args:
    folder: the folder of the run.
    summary: what `summarize` returned.
    data: what the arms restore.
    order: the names of the arms.
  """
  photos = {'measurement': data.picture}
  if data.clean is not None:
    photos['clean'] = data.clean
  there = []
  for name in order[:_MOST_PICTURES]:
    # An arm that is not finished has no picture yet.
    with contextlib.suppress(ValueError):
      photos[name] = images.read_image(folder.find(f'{name}.png'))
      there.append(name)
  return page.Content(
    summary,
    folder.config,
    [page.Shot(title, photos[title], compared=True) for title in photos],
    command=command.find(folder.path),
    sides=('measurement', there[0] if there else 'clean'),
  )


if __name__ == '__main__':
  cli.launch(run)
