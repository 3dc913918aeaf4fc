"""Denoises a picture blindly: requirement 2, or a picture of your own.

python -m experiments.denoise photo.jpg
python -m experiments.denoise --config=configs/req2.py --workdir=DIR
"""

import ml_collections

from experiments.lib import cli, schema, task
from experiments.lib.data import load_denoising


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Restores one picture; returns the numbers and the arrays.

  Args:
    config: as configs/req2.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = load_denoising(config.data)
  return task.run('denoise', data, config, workdir)


PICTURES = cli.Pictures(
  'req2:auto',
  fields={'data.sigma': 0.0},
  examples=('photo.jpg', '*.tif', 'photo.jpg --output=better.png'),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
