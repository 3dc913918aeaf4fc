"""The file of a restored picture, beside what was restored."""

import os
from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.lib import folders, workdir, writing
from experiments.lib.data import Data
from experiments.lib.reading import Picture


class Output(NamedTuple):
  """A file to write, and how."""

  path: str
  like: Picture | None  # The file is written as this one was stored.
  strength: float  # Share of the restored picture; the rest is the measurement.


def plan(
  config: ml_collections.ConfigDict, data: Data, folder: str
) -> Output | None:
  """Returns the file that a run writes outside of its workdir, None for none.

  Args:
    config: its field `output` names the file. 'beside' stands for a new file
      beside the picture, where the picture itself is restored, or for the
      workdir where nobody can write beside the picture.
    data: what is restored.
    folder: the workdir, which exists; a run that goes on writes the same file
      again.

  Raises:
    ValueError: a file that could not be written, in one line.
  """
  path = config.get('output', '')
  if path == 'beside':
    path = _name_beside(config, data, folder)
  if not path:
    return None
  like = data.file
  # Another size, or pixels that were missing: the file's own masks are no more.
  if like and (data.seen is not None or data.size):
    like = like.drop_masks()
  writing.check(path, like, shape=data.size or data.measurement.shape)
  return Output(path, like, config.fit.get('strength', 1.0))


def _name_beside(config, data, folder):
  if data.file is None:
    return ''
  before = workdir.read_json(os.path.join(folder, workdir.RESULT)) or {}
  if before.get('output'):
    return before['output']
  path = writing.name_output(config.data.image)
  if os.access(os.path.dirname(path) or '.', os.W_OK):
    return path
  return os.path.join(folder, os.path.basename(path))


def write(output: Output, data: Data, image: np.ndarray) -> bool:
  """Writes the restored image; where there is no room, elsewhere, and says so.

  Args:
    output: what `plan` returned.
    data: what was restored.
    image: the restored image, [H, W, C].

  Returns:
    Whether the file is where it was planned.
  """
  try:
    write_planned(output, data, image)
    return True
  except OSError as error:
    print(folders.show(str(error)))
    return False


def write_planned(output: Output, data: Data, image: np.ndarray) -> None:
  """Writes the restored image, see `write`.

  Raises:
    OSError: there is no room; the message says where the file is.
  """
  if data.seen is not None:
    image = np.where(data.seen, data.picture, image)
  if output.strength < 1:
    image = output.strength * image + (1 - output.strength) * data.measurement
  writing.write(output.path, image, output.like)
