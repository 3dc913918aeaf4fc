"""Deblurs a sample or a picture of your own with a known kernel.

python -m experiments.deblur --config=configs/deblur.py --workdir=DIR
"""

import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import blurring, corruptions, operators
from experiments.lib import cli, fields, images, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (*IMAGE, 'sigma', 'noise_seed', 'clip', 'blur', 'kernel')
# By a kernel's name: the function that makes it, and the fields that it takes.
_KERNELS = {
  'gaussian': (blurring.make_gaussian_kernel, ('width',)),
  'motion': (blurring.make_motion_kernel, ('length', 'angle')),
}


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Sharpens one picture; returns the numbers and the arrays.

  Args:
    config: as configs/deblur.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = load(config.data)
  return task.run('deblur', data, config, workdir)


def load(data: ml_collections.ConfigDict) -> Data:
  """Returns the blurred picture, and the sharp one if it is known.

  With data.blur the image is the sharp picture: it is blurred, and noise of
  data.sigma is added. Without data.blur the image is the blurred picture.
  """
  fields.refuse_unread(data, _READ, 'data')
  picture = read(data)
  image = picture.pixels
  operator = operators.make_blur(_make_kernel(data.kernel))
  if not data.blur:
    return Data(image, None, operator, file=picture)
  blurred = np.asarray(operator(jnp.asarray(image)))
  measurement = corruptions.add_gaussian_noise(
    blurred, data.sigma / 255, seed=data.noise_seed, clip=data.clip
  )
  return Data(measurement, image, operator)


def _make_kernel(kernel):
  if kernel.name == 'file':
    fields.refuse_unread(kernel, ('name', 'file'), 'data.kernel')
    if not kernel.file:
      raise ValueError(
        'data.kernel.file is empty: name the picture of one blurred point, '
        '--kernel=FILE'
      )
    return images.read_image(kernel.file).mean(axis=2)
  make, taken = fields.choose(_KERNELS, kernel.name, 'data.kernel.name')
  fields.refuse_unread(kernel, ('name', *taken), 'data.kernel')
  return make(*(kernel[name] for name in taken))


PICTURES = cli.Pictures(
  'deblur:quick,file',
  fields={'data.blur': False},
  files={'kernel': 'data.kernel.file'},
  examples=('photo.png --kernel=kernel.png',),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
