"""Feature inversion: a picture with the same features as a given one.

python -m experiments.feature_inversion --config=configs/feature_inversion.py

The picture shows what a layer of a pretrained network has kept of the given
picture, and what it has lost.
"""

import ml_collections
import numpy as np

from dipjax import operators
from experiments.lib import build, cli, fields, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (*IMAGE, 'layers', 'weights')


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Inverts the features of one picture; returns the numbers and the arrays.

  Args:
    config: as configs/feature_inversion.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  return task.run('feature_inversion', load(config.data), config, workdir)


def load(data: ml_collections.ConfigDict) -> Data:
  """Returns the features of the picture, the largest of them scaled to 1.

  The fit sees only the features; the picture itself is only shown.
  """
  fields.refuse_unread(data, _READ, 'data')
  image = read(data).pixels
  network = build.make_features(data.weights, tuple(data.layers), 'data.layers')
  features, scale = build.scale_features(network, image)
  operator = operators.Shared(operators.compose(network, scale))
  return Data(
    measurement=np.asarray(scale(features)),
    clean=None,
    operator=operator,
    size=image.shape,
    shown=image,
    caption='original',
  )


if __name__ == '__main__':
  cli.launch(run)
