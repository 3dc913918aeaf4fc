"""Inpainting: the paper's cases, or any picture with a mask of your own.

python -m experiments.inpaint --config=configs/inpaint.py --workdir=DIR
"""

import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import operators
from experiments.lib import cli, fields, images, masks, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (
  *IMAGE,
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

  Raises:
    ValueError: bad input, or nothing is missing.
  """
  return _load(data)[0]


def _load(data):
  fields.refuse_unread(data, _READ, 'data')
  whole, crop = read(data, masked=True, whole=True), tuple(data.crop)
  picture = images.crop_picture(whole, crop)
  drawn = not data.mask and whole.mask is None
  if drawn and not data.missing:
    raise ValueError(
      'nothing of the picture is missing: name a --mask=FILE, or '
      'data.missing above 0 to hide a share of it at random'
    )
  if drawn:
    size = picture.pixels.shape[:2]
    mask = masks.draw_mask(size, data.missing, seed=data.noise_seed)
  else:
    mask = masks.read_mask(data.mask, whole, crop=crop, invert=data.invert)
  if data.complete and whole.mask is not None:
    raise ValueError(
      f'data.complete=True: the picture has pixels that are {whole.missing}, '
      'so it is not known everywhere'
    )
  operator = operators.make_mask(mask.seen)
  measurement = np.asarray(operator(jnp.asarray(picture.pixels)))
  clean = picture.pixels if drawn or data.complete else None
  file = None if drawn else picture
  return Data(measurement, clean, operator, seen=mask.seen, file=file), mask


PICTURES = cli.Pictures(
  'inpaint:quick',
  files={'mask': 'data.mask'},
  fields={'data.missing': 0.0},
  examples=('photo.png --mask=mask.png',),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
