"""`run` restores the data of any task and writes the files of the run."""

from typing import Any, NamedTuple

import ml_collections
import numpy as np

import dipjax
from experiments.lib import build, machine, recorder, report
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data


class Result(NamedTuple):
  """The result of a run: the numbers, and the arrays behind its pictures."""

  summary: dict[str, Any]  # The content of result.json.
  # Floats [H, W, C], not rounded to 8 bits, by the names of the pictures:
  # 'measurement', 'restored' and what else the experiment makes.
  images: dict[str, np.ndarray]
  restoration: dipjax.Restoration | None = None  # For an experiment of one fit.


def run(
  experiment: str,
  data: Data,
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  code: Any = None,
) -> Result:
  """Restores one picture, and writes the files of the run.

  Args:
    experiment: the experiment's name.
    data: what is restored.
    config: the config of the fit.
    workdir: the folder for all files of the run.
    code: (key, (height, width)) -> the network's input, in place of the
      config's code.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  channels = (data.size or data.measurement.shape)[-1]
  recipe = build.make_recipe(config, channels)
  recipe.method.check_task(operator=data.operator, code=code)
  recipe = recipe.replace(code=code) if code else recipe
  perceptual = build.make_perceptual(config.fit)
  seeds = build.make_seeds(config)
  noisy = build.prepare_noise(config, recipe, data.measurement)
  workdir = workdirs.open_workdir(workdir, config)
  with recorder.Recorder(workdir, steps=recipe.steps, seeds=seeds) as record:
    restoration = dipjax.restore(
      noisy.measurement,
      data.operator,
      recipe,
      size=data.size,
      seeds=seeds,
      clean=data.clean,
      sigma=noisy.sigma,
      reference=noisy.reference,
      perceptual=perceptual,
      memory=machine.find_memory(),
      chunk=min(config.record.every, config.fit.steps),
      watch=record,
    )
  summary = report.summarize(experiment, data, restoration, record)
  pictures = report.list_images(summary, data, recipe, restoration)
  report.write_report(workdir, summary, data, pictures, record.records)
  report.print_summary(workdir, summary)
  return Result(summary, pictures, restoration)
