"""What a task makes of one picture of a folder, before it is fitted."""

import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import ml_collections

from dipjax import Case, noise
from experiments import denoise, inpaint, super_resolution
from experiments.folder import listing
from experiments.folder.listing import Entry
from experiments.lib import build, fields, output
from experiments.lib import data as data_lib
from experiments.lib.data import Data


class Task(NamedTuple):
  """How an experiment reads one picture."""

  load: Callable[[ml_collections.ConfigDict], Data]  # Of a section `data`.
  reads_clean: bool = False  # Whether it reads the clean picture, too.


# The tasks whose operator needs no more than the picture.
TASKS = {
  'denoise': Task(data_lib.load_denoising, reads_clean=True),
  'jpeg': Task(data_lib.load_denoising, reads_clean=True),
  'super_resolution': Task(super_resolution.load),
  'inpaint': Task(inpaint.load),
}


class Ready(NamedTuple):
  """A picture that can be fitted."""

  entry: Entry
  config: ml_collections.ConfigDict  # Of the picture alone.
  data: Data
  noisy: build.Noisy
  output: output.Output
  case: Case
  digest: str  # Of the data.
  stamp: str  # Of the file as it was read.


def prepare(
  config: ml_collections.ConfigDict,
  entry: Entry,
  path: str,
  model: noise.Model | None = None,
) -> Ready:
  """Reads a picture, finds its noise, and returns it ready to be fitted.

  Args:
    config: as configs/folder.py.
    entry: the picture.
    path: of the restored file.
    model: of the noise, where it is known.

  Raises:
    ValueError: the picture cannot be restored; one line says why.
    OSError: the disk takes no more files.
  """
  # Whether the disk is full is no matter of this picture.
  tempfile.TemporaryFile(dir=os.path.dirname(path)).close()
  stamp = listing.stamp(entry.path)
  if not stamp:
    raise ValueError('is gone')
  task = fields.choose(TASKS, config.task, 'task')
  own = _make_config(config, entry, task)
  data = task.load(own.data)
  clean = listing.find_clean(config.data.clean, entry)
  if clean and data.clean is None:
    data = data._replace(clean=_read_clean(own.data, clean, data))
  if own.get('auto'):
    words, _ = denoise.find_words(own, data.measurement)
    own = denoise.choose_words(own, words)
  size = data.size or data.measurement.shape
  recipe = build.make_recipe(own, size[-1])
  recipe.method.check_task(operator=data.operator, code=None)
  noisy = build.Noisy(data.measurement, model)
  if model is None:
    noisy = build.prepare_noise(own, recipe, data.measurement)
  own.output = path
  planned = output.plan(own, data, '')
  assert planned
  case = Case(
    noisy.measurement,
    data.operator,
    recipe,
    size=data.size,
    seed=config.seed,
    noise=noisy.model,
    reference=noisy.reference,
  )
  digest = data_lib.digest(data)
  return Ready(entry, own, data, noisy, planned, case, digest, stamp)


def _make_config(config, entry, task):
  """Returns the config of one picture, as the task's own experiment has it."""
  own = ml_collections.ConfigDict(config.to_dict())
  del own.task, own.data.images, own.folder
  own.lanes = 1
  own.data.image = entry.path
  own.data.page = -1 if entry.page is None else entry.page
  if task.reads_clean:
    own.data.clean = listing.find_clean(config.data.clean, entry)
  else:
    del own.data.clean
  if '*' in own.data.get('mask', ''):
    own.data.mask = listing.find_mask(entry.path, own.data.mask)
  return own


def _read_clean(section, path, data):
  clean = data_lib.read(section, path).pixels
  size = data.size or data.measurement.shape
  if clean.shape != tuple(size):
    raise ValueError(
      f'the clean picture {path!r} is {clean.shape}, the restored one {size}'
    )
  return clean
