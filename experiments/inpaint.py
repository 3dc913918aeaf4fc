"""Inpainting: the paper's cases, or any picture with a mask of your own.

python -m experiments.inpaint --config=configs/inpaint.py --workdir=DIR
"""

import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import operators
from experiments.lib import cli, fields, images, masks, reading, schema, task
from experiments.lib.data import Data

# The fields of config.data that this experiment reads.
_READ = (
  'image',
  'crop',
  'noise_seed',
  'mask',
  'invert',
  'missing',
  'complete',
)


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Fills in one picture; returns the numbers and the arrays.

  Args:
    config: as configs/inpaint.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data, mask = _load(config.data)
  print(mask.line, flush=True)
  return task.run('inpaint', data, config, workdir)


def load(data: ml_collections.ConfigDict) -> Data:
  """Returns the seen pixels, and the whole picture where it is known.

  What is missing data.mask says, see `masks.read_mask`. Without data.mask it is
  the pixels of the picture that are transparent, blank or not finite; where
  there are none, a share data.missing of the pixels, drawn at random. The whole
  picture is known where pixels are drawn, or with data.complete.
  """
  return _load(data)[0]


def _load(data):
  fields.refuse_unread(data, _READ, 'data')
  picture = _read_picture(data.image)
  crop = tuple(data.crop)
  image = images.crop_image(picture.pixels, crop)
  drawn = not data.mask and picture.mask is None
  if drawn:
    mask = masks.draw_mask(image.shape[:2], data.missing, seed=data.noise_seed)
  else:
    mask = masks.read_mask(data.mask, picture, crop=crop, invert=data.invert)
  if data.complete and picture.mask is not None:
    raise ValueError(
      f'data.complete=True: the picture has pixels that are {picture.missing}, '
      'so it is not known everywhere'
    )
  operator = operators.make_mask(mask.seen)
  measurement = np.asarray(operator(jnp.asarray(image)))
  clean = image if drawn or data.complete else None
  return Data(measurement, clean, operator, seen=mask.seen), mask


def _read_picture(source):
  picture = reading.read(source)
  channels = picture.pixels.shape[2]
  if channels not in (1, 3):
    raise ValueError(f'{source!r}: has {channels} channels; give 1 or 3')
  return picture


if __name__ == '__main__':
  cli.launch(run)
