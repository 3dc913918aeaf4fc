"""`run` restores the data of any task and writes the files of the run."""

import os
from typing import Any, NamedTuple

import ml_collections
import numpy as np

import dipjax
from dipjax import rehearsal
from experiments.lib import (
  build,
  folders,
  images,
  machine,
  output,
  recorder,
  report,
  terminal,
)
from experiments.lib import data as data_lib
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data

# A larger share of what was removed that comes back is said.
_TOLD = 0.05


class Result(NamedTuple):
  """The result of a run: the numbers, and the arrays behind its pictures."""

  summary: dict[str, Any]  # The content of result.json.
  # Floats [H, W, C], not rounded to 8 bits, by the names of the pictures:
  # 'measurement', 'restored' and what else the experiment makes.
  images: dict[str, np.ndarray]
  restoration: dipjax.Restoration | None = None  # For an experiment of one fit.
  signal: int = 0  # That ended the run before its time; 0: none did.


def run(
  experiment: str,
  data: Data,
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  code: Any = None,
  chosen: str = '',
) -> Result:
  """Restores one picture, and writes the files of the run.

  The same call goes on where a run was interrupted; a run that is finished is
  only read.

  Args:
    experiment: the experiment's name.
    data: what is restored.
    config: the config of the fit.
    workdir: the folder for all files of the run.
    code: (key, (height, width)) -> the network's input, in place of the
      config's code.
    chosen: what was chosen because of the data, for the page and result.json.

  Raises:
    ValueError: bad input, in one line; no file is left behind. Or a fit that
      diverged for good, whose last good image is written.
  """
  channels = (data.size or data.measurement.shape)[-1]
  recipe = build.make_recipe(config, channels)
  recipe.method.check_task(operator=data.operator, code=code)
  recipe = recipe.replace(code=code) if code else recipe
  perceptual = build.make_perceptual(config.fit)
  seeds = build.make_seeds(config)
  noisy = build.prepare_noise(config, recipe, data.measurement)
  with workdirs.open_workdir(
    workdir, config, data=data_lib.digest(data)
  ) as folder:
    if folder.finished:
      return recall(folder)
    planned = output.plan(config, data, workdir)
    if data.file:
      print(f'{folders.show(config.data.image)}: {data.file.describe()}')
    if noisy.model:
      print(noisy.model.describe())
    known: dict[str, Any] = {'precision': recipe.precision}
    if chosen:
      known['chosen'] = chosen
    if noisy.model:
      known['noise'] = report.describe_noise(noisy.model)
    shots = report.list_shots({}, data, {})
    about = recorder.About({'experiment': experiment, **known}, shots)
    record = recorder.Recorder(
      folder, config, steps=recipe.steps, seeds=seeds, about=about
    )
    error = None
    with record:
      try:
        restoration = dipjax.restore(
          noisy.measurement,
          data.operator,
          recipe.replace(tile=record.find_tile() or recipe.tile),
          size=data.size,
          seeds=seeds,
          clean=data.clean,
          noise=noisy.model,
          reference=noisy.reference,
          perceptual=perceptual,
          memory=machine.find_memory(),
          chunk=min(config.record.every, recipe.steps),
          watch=record,
          store=record,
          tell=record.tell,
        )
      except dipjax.DivergedError as diverged:
        error, restoration = diverged, diverged.restoration
        if not restoration.stopped.max():
          raise
      unfinished = restoration.image
      if recipe.window and noisy.model and config.fit.get('finish'):
        record.say('filtering the picture')
      image, returned = build.finish_image(config, noisy, unfinished)
      steps = build.find_rehearsal(config, recipe, noisy)
      # A fit that ended before its time is not gone on with.
      if steps and not (error or record.stop):
        image, returned = build.rehearse_image(
          config,
          recipe,
          noisy,
          restoration,
          (image, returned),
          record.follow(image, steps, rehearsal.count_parts(image.shape)),
        )
    deviation = build.find_deviation(config, noisy, restoration, image)
    restoration = restoration._replace(image=image, deviation=deviation)
    summary = report.summarize(experiment, data, restoration, record)
    if image is not unfinished:
      summary['unfinished'] = report.score(unfinished, data)
      summary['detail_returned'] = returned
    if returned > _TOLD:
      print(f'{returned:.0%} of what the fit removed was detail, and came back')
    summary |= known
    if planned and output.write(planned, data, restoration.image):
      summary['output'] = os.path.abspath(planned.path)
    pictures = report.list_images(summary, data, recipe, restoration)
    summary = folder.write(
      summary,
      lambda path: report.write_report(path, summary, data, pictures, record),
    )
    record.finish()
    if error:
      raise ValueError(
        f'{error}; the last good image is in {workdir!r}'
      ) from error
    report.print_summary(workdir, summary)
    terminal.show([data.picture, restoration.image])
  return Result(summary, pictures, restoration, int(record.stop.signal))


def recall(folder: workdirs.Workdir) -> Result:
  """Returns the result of a finished run, and prints where it is.

  The images are read from the run's pictures, which have 8 bits.
  """
  summary = folder.finished or {}
  pictures = {
    name.removesuffix('.png'): images.read_image(folder.find(name))
    for name in summary.get('files', [])
    if name.endswith('.png') and os.path.exists(folder.find(name))
  }
  print('this run is finished; --overwrite runs it again')
  if summary.get('restored'):
    report.print_summary(folder.path, summary)
  else:
    print(f'pictures in {folders.show(os.path.abspath(folder.path))}')
  return Result(summary, pictures)
