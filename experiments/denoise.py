"""Denoises a picture blindly: requirement 2, or a picture of your own.

python -m experiments.denoise photo.jpg
python -m experiments.denoise --config=configs/req2.py --workdir=DIR
"""

import ml_collections
import numpy as np

from configs import req2
from dipjax import noise
from experiments.lib import build, cli, fields, schema, task
from experiments.lib.data import load_denoising

# A share of impulses from which they are fitted as such.
_IMPULSES = 0.01
_LITTLE = 3.5 / 255  # A deviation that does no harm where it is wrong.
_LARGE = 512 * 512  # Pixels from which a fit of the whole takes too long.


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
  chosen = ''
  if config.get('auto'):
    config, chosen = choose(config, data.measurement)
  return task.run('denoise', data, config, workdir, chosen=chosen)


def choose(
  config: ml_collections.ConfigDict, measurement: np.ndarray
) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the config for a picture and its noise, and says which and why.

  Args:
    config: configs/req2.py:auto, with the fields that the user set.
    measurement: the noisy picture, [H, W, C].

  Raises:
    ValueError: a field that nothing reads in the config that is chosen.
  """
  words, reason = find_words(config, measurement)
  text = f'req2:{words}, because {reason}'
  print(f'chosen: {text}')
  return choose_words(config, words), text


def choose_words(
  config: ml_collections.ConfigDict, words: str
) -> ml_collections.ConfigDict:
  """Returns the config of the words, with the fields that the user set."""
  chosen, before = req2.get_config(words), req2.get_config('auto')
  usual = {field: value for field, value, _ in schema.list_fields(before)}
  for field, value, _ in schema.list_fields(config):
    if field != 'auto' and value != usual[field]:
      fields.set_field(chosen, field, value)
  schema.check_config(chosen)
  return chosen


def find_words(
  config: ml_collections.ConfigDict, measurement: np.ndarray
) -> tuple[str, str]:
  """Returns the words of configs/req2.py for a picture, and why."""
  height, width, _ = measurement.shape
  sigma = config.fit.get('sigma', 0.0) / 255
  model = build.find_noise(measurement, sigma)
  if model.impulses > _IMPULSES:
    share = f'{model.impulses:.1%}'
    return 'fast,method=absolute', f'{share} of the values are impulses'
  # Without a sure level `windows` removes too little or too much, but a fit of
  # the whole takes hours or days.
  if height * width >= _LARGE:
    return 'windows', f'{width}x{height} is large'
  if model.error > build.WRONG:
    flattest = noise.estimate_noise(measurement, flattest=True)
    if max(model.sigma, flattest.sigma) > _LITTLE:
      return 'unsure', 'what the noise is, is not sure'
    return 'fast', 'there is little noise'
  return 'fast', f'{width}x{height} is small'


PICTURES = cli.Pictures(
  'req2:auto',
  fields={'data.sigma': 0.0},
  examples=('photo.jpg', '*.tif', 'photo.jpg --output=better.png'),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
