"""Stages: targets of falling noise, fitted by one network one after the other.

python -m experiments.staged --config=configs/staged.py --workdir=DIR
"""

import os
from collections.abc import Sequence

import ml_collections
import numpy as np

from dipjax import Restoration
from experiments.lib import (
  chains,
  cli,
  plots,
  recorder,
  report,
  schema,
  stages,
  task,
)
from experiments.lib import data as data_lib
from experiments.lib import workdir as workdirs
from experiments.lib.task import Result


def run(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Restores one picture in stages; returns the numbers and the arrays.

  Args:
    config: as configs/staged.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  # Parallel stages are lanes like the seeds; stages in a chain add up.
  setup = stages.make_setup(config)
  seeds, steps = setup.seeds, [stage.steps for stage in setup.plan]
  parallel = config.staged.parallel
  seeds = seeds * len(steps) if parallel else seeds
  budget = max(steps) if parallel else sum(steps)
  stages.check_memory(setup, len(seeds))
  with workdirs.open_workdir(
    workdir, config, data=data_lib.digest(setup.data)
  ) as folder:
    if folder.finished:
      return task.recall(folder)
    print(stages.describe_plan(setup))
    shots = report.list_shots({}, setup.data, {})
    about = recorder.About({'experiment': 'staged', **setup.marks}, shots)
    with recorder.Recorder(
      folder, config, steps=budget, seeds=seeds, about=about
    ) as record:
      if parallel:
        results = chains.fit_parallel(setup, record)
      else:
        fitted = chains.fit_chains([setup], record, slots=len(seeds))
        ((_, results, _),) = fitted
    result = chains.join_stages(results, chained=not parallel)
    summary = summarize(setup, results, result, record)
    listed = report.list_images(summary, setup.data, setup.recipe, result)

    def write(path):
      names = report.write_report(path, summary, setup.data, listed, record)
      drawn = plots.draw_stages(
        os.path.join(path, 'stages.png'),
        record.records.kept,
        title=summary.get('protocol', ''),
      )
      return [*names, *['stages.png'] * drawn]

    summary = folder.write(summary, write)
    record.finish()
    report.print_summary(workdir, summary)
  return Result(summary, listed, result, int(record.stop.signal))


def summarize(
  setup: stages.Setup,
  results: Sequence[Restoration],
  result: Restoration,
  record: recorder.Recorder,
) -> dict:
  """Returns the content of result.json."""
  # A parallel run takes as many steps as its longest stage.
  summary = report.summarize('staged', setup.data, result, record)
  totals = [stage.stopped.max() for stage in results]
  if setup.config.staged.parallel:
    steps = int(max(totals))
    summary |= {
      'steps': steps,
      'seconds_per_step': summary['seconds']['fit'] / max(steps, 1),
    }
  return {
    **summary,
    **setup.marks,
    'reference': setup.config.staged.reference,
    'budget': sum(stage.steps for stage in setup.plan),
    'stages': [
      _summarize_stage(setup, index, one) for index, one in enumerate(results)
    ],
  }


def _summarize_stage(setup, index, result):
  stage = setup.plan[index]
  lanes_of_stage = []
  for lane, (key, image) in enumerate(zip(setup.keys, result.images)):
    target = stages.make_target(setup, key, index)
    lanes_of_stage.append(
      {
        'seed': setup.seeds[lane],
        'steps': int(result.stopped[lane]),
        'selected_step': int(result.selected[lane]),
        **stages.score_target(image, np.asarray(target)),
        **report.score(image, setup.data),
      }
    )
  return {
    'level': stage.level,
    'noise': stage.noise,
    'steps_planned': stage.steps,
    'lanes': lanes_of_stage,
  }


if __name__ == '__main__':
  cli.launch(run)
