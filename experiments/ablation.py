"""The ablation of staged fitting: every arm, its baselines, and the claims.

python -m experiments.ablation --config=configs/ablation.py --workdir=DIR
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from dipjax import noise
from dipjax.restore import Restoration
from experiments import (
  ablation_arms,
  ablation_claims,
  ablation_table,
  baselines,
  cli,
  images,
  plots,
  recorder,
  report,
  stages,
  wiring,
)
from experiments.ablation_table import Arm


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """Fits all arms, one group after the other; returns what result.json holds.

  A finished arm is a line of arms.jsonl: the same command goes on after it.

  Args:
    config: as configs/ablation.py.
    workdir: the folder for all that the run leaves.

  Raises:
    ValueError: bad input, all arms that cannot run among it, in one line;
      nothing is left behind.
  """
  data, sigma, told = load(config)
  wiring.choose(dict.fromkeys(('wmv', 'emv')), config.stop.rule, 'stop.rule')
  trained = None
  if config.baselines.ddpm:
    shape = data.measurement.shape
    trained = baselines.load_ddpm(config.baselines.ddpm, shape)
  planned = ablation_arms.plan_arms(config)
  workdir = recorder.open_workdir(workdir, config)
  path = os.path.join(workdir, 'arms.jsonl')
  rows: list[Any] = recorder.read_lines(path)
  done = {row['arm'] for row in rows}
  recorder.keep_lines(
    os.path.join(workdir, 'metrics.jsonl'), lambda record: record['arm'] in done
  )
  print(ablation_arms.describe_budget(config, planned, done), flush=True)
  beside = baselines.make_rows(data, sigma, told, trained)
  waiting = [arm for arm in planned if arm.name not in done]
  for group in ablation_arms.group_arms(waiting, config.arms.together):
    added = fit_arms(config, group, workdir)
    recorder.append_lines(path, added)
    rows += added
  order = [arm.name for arm in planned]
  rows.sort(key=lambda row: order.index(row['arm']))
  return write(config, workdir, beside, rows)


def load(
  config: ml_collections.ConfigDict,
) -> tuple[wiring.Data, float, str]:
  """Returns the picture, the deviation of its noise, and how that is known."""
  data = wiring.load_denoising(config.data)
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
  config: ml_collections.ConfigDict, arms: Sequence[Arm], workdir: str
) -> list[dict]:
  """Fits arms of one program at once, each seed a lane; returns their rows.

  Leaves ARM.png, what the first seed gave.
  """
  setups = [ablation_arms.make_setup(config, arm) for arm in arms]
  print(f'{", ".join(arm.name for arm in arms)}:')
  # Each stage lasts as long as its longest.
  together = zip(*(setup.plan for setup in setups), strict=True)
  steps = sum(max(stage.steps for stage in alike) for alike in together)
  seeds = setups[0].arguments['seeds'] * len(arms)
  with recorder.Recorder(
    workdir, steps=steps, seeds=seeds, append=True
  ) as record:
    fitted = stages.fit_chain(setups, record)
  rows = []
  for arm, setup, results in zip(arms, setups, fitted, strict=True):
    result = stages.join_stages(results, chained=True)
    path = os.path.join(workdir, f'{arm.name}.png')
    images.write_image(path, result.images[0])
    seconds = record.seconds['fit'] / len(arms)
    rows += make_rows(arm, setup, result, seconds)
  return rows


def make_rows(
  arm: Arm, setup: stages.Setup, result: Restoration, seconds: float
) -> list[dict]:
  """Returns the row of a staged arm, or both of a plain fit."""
  row = {
    'arm': arm.name,
    **arm._asdict(),
    **setup.marks,
    'planned': ablation_arms.count_steps(setup),
    'seconds': seconds,
    'parameters': sum(x[0].size for x in jax.tree.leaves(result.params)),
  }
  if not arm.is_plain:
    seen = (result.images, result.stopped, result.selected)
    lanes = _score_lanes(setup, result, *seen)
    return [row | {'method': ablation_table.STAGED, 'lanes': lanes}]
  row |= {'schedule': None, 'beta_max': None}
  watched = {
    ablation_table.FIXED: ablation_table.FIXED,
    ablation_table.STOPPED: result.rule,
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
    for i, seed in enumerate(setup.arguments['seeds'])
  ]


def write(
  config: ml_collections.ConfigDict,
  workdir: str,
  beside: list[dict],
  rows: list[dict],
) -> dict:
  """Writes table.md, table.csv, arms.png and result.json; returns the last."""
  budget = config.fit.steps
  lines = [ablation_table.summarize_row(r, budget) for r in (*beside, *rows)]
  claims = ablation_claims.judge_claims(rows)
  stopping = ablation_claims.describe_stopping(lines)
  table = ablation_table.format_markdown(lines)
  said = ablation_table.describe_table(config.lanes, budget)
  texts = [claim['text'] for claim in claims] + stopping
  listed = ''.join(f'- {text}\n' for text in texts)
  path = lambda name: os.path.join(workdir, name)
  images.write_atomic(path('table.md'), f'{said}\n\n{table}\n{listed}'.encode())
  csv = ablation_table.format_csv(lines)
  images.write_atomic(path('table.csv'), csv.encode())
  if not plots.draw_arms(path('arms.png'), lines):
    print("for arms.png: pip install 'dipjax[plots]'")
  # A plain fit that was stopped is a part of that with fixed steps.
  fits = [row for row in rows if row['method'] != ablation_table.STOPPED]
  summary = {
    'experiment': 'ablation',
    'budget': budget,
    'steps': sum(lane['spent'] for row in fits for lane in row['lanes']),
    'seconds': {'fit': sum(row['seconds'] for row in fits)},
    'device': jax.devices()[0].platform,
    'hardware': recorder.describe_device(),
    'versions': recorder.describe_versions(),
    'table': lines,
    'lanes': {f'{r["arm"]}, {r["method"]}': r['lanes'] for r in rows},
    'claims': claims,
    'stopping': stopping,
  }
  recorder.write_json(path('result.json'), summary)
  print(table, *texts, f'all in {os.path.abspath(workdir)}', sep='\n')
  return summary


if __name__ == '__main__':
  cli.launch(run)
