"""Inpainting: the paper's cases, or any picture with a mask of your own.

python -m experiments.inpaint --config=configs/inpaint.py --workdir=DIR
"""

import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import corruptions, operators
from experiments.lib import cli, fields, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (
  *IMAGE,
  'noise_seed',
  'mask',
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
  data = load(config.data)
  return task.run('inpaint', data, config, workdir)


def load(data: ml_collections.ConfigDict) -> Data:
  """Returns the seen pixels, and the whole picture where it is known.

  The mask is data.mask, a picture of the same size in which 0 is missing.
  Without data.mask a share data.missing of the pixels, drawn at random, is
  missing. The whole picture is known without data.mask, or with data.complete.
  """
  fields.refuse_unread(data, _READ, 'data')
  image = read(data).pixels
  operator = operators.make_mask(_load_mask(data, image.shape[:2]))
  measurement = np.asarray(operator(jnp.asarray(image)))
  clean = None if data.mask and not data.complete else image
  return Data(measurement=measurement, clean=clean, operator=operator)


def _load_mask(data, size):
  if not data.mask:
    if not 0 < data.missing < 1:
      raise ValueError(f'data.missing must be in (0, 1), got {data.missing}')
    return corruptions.draw_mask(size, data.missing, seed=data.noise_seed)
  mask = read(data.mask, data.crop)
  if mask.shape[:2] != size:
    raise ValueError(
      f'data.mask {data.mask!r} is {mask.shape[1]}x{mask.shape[0]}, the image '
      f'is {size[1]}x{size[0]}: they must be of one size'
    )
  # In a colour mask a pixel is missing if it is dark in all channels.
  seen = mask.max(axis=2, keepdims=True) >= 0.5
  if seen.all():
    raise ValueError(f'data.mask {data.mask!r} misses nothing: 0 is missing')
  if not seen.any():
    raise ValueError(f'data.mask {data.mask!r} misses everything')
  return seen


PICTURES = cli.Pictures(
  'inpaint:quick',
  files={'mask': 'data.mask'},
  examples=('photo.png --mask=mask.png',),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
