"""Deblurs a sample or a picture of one's own with a known kernel.

python -m experiments.deblur --config=configs/deblur.py --workdir=DIR
"""

import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import blurring, corruptions, operators
from experiments import cli, task, wiring


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """Sharpens one picture and returns the content of result.json.

  Args:
    config: as configs/deblur.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  data = load(config.data)
  return task.run('deblur', data, config, workdir)


def load(data: ml_collections.ConfigDict) -> wiring.Data:
  """Returns the blurred picture, and the sharp picture if it is known.

  With data.blur the image is the sharp picture: it is blurred, and noise of
  data.sigma is added. Without data.blur the image is the blurred picture.
  """
  image = wiring.read(data.image, data.crop)
  operator = operators.make_blur(_make_kernel(data))
  if not data.blur:
    return wiring.Data(image, None, operator)
  blurred = np.asarray(operator(jnp.asarray(image)))
  sigma = wiring.check_sigma(data.sigma)
  measurement = corruptions.add_gaussian_noise(
    blurred, sigma / 255, seed=data.noise_seed, clip=data.clip
  )
  return wiring.Data(measurement, image, operator)


def _make_kernel(data):
  kernels = {
    'gaussian': lambda: blurring.make_gaussian_kernel(data.width),
    'motion': lambda: blurring.make_motion_kernel(data.length, data.angle),
  }
  return wiring.choose(kernels, data.kernel, 'data.kernel')()


if __name__ == '__main__':
  cli.launch(run)
