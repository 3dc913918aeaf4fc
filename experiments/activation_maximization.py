"""Activation maximisation: a picture that excites one channel of a network.

python -m experiments.activation_maximization \
  --config=configs/activation_maximization.py

The picture shows what a channel of VGG16 responds to. The paper's network is
fitted to activations of the channel that no picture has: everywhere far above
the activations of a photograph.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import operators
from experiments.lib import build, cli, fields, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (
  *IMAGE,
  'layer',
  'channel',
  'level',
  'weights',
)


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Makes a picture that excites a channel; returns the numbers and the arrays.

  Args:
    config: as configs/activation_maximization.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = load(config.data)
  return task.run('activation_maximization', data, config, workdir)


def load(data: ml_collections.ConfigDict) -> Data:
  """Returns data.level everywhere as what the channel is to respond.

  A level of 1 is the largest activation of the layer in the photograph. The
  photograph is only shown.
  """
  fields.refuse_unread(data, _READ, 'data')
  image = read(data).pixels
  network = build.make_features(data.weights, (data.layer,), 'data.layer')
  channels = network.params[data.layer.replace('relu', 'conv')]['bias'].size
  if not 0 <= data.channel < channels:
    raise ValueError(
      f'data.channel must be in 0 to {channels - 1} for {data.layer}, got '
      f'{data.channel}'
    )
  if not 0 < data.level < np.inf:
    raise ValueError(f'data.level must be a number > 0, got {data.level}')
  features, scale = build.scale_features(network, image)
  # The features of one layer are a row in which the channel comes last: the
  # activations of one channel lie `channels` apart.
  places = jnp.arange(data.channel, features.size, channels)
  pick = jax.tree_util.Partial(jnp.take, indices=places)
  return Data(
    measurement=np.full(places.size, data.level, np.float32),
    clean=None,
    operator=operators.Shared(operators.compose(network, pick, scale)),
    size=image.shape,
    shown=image,
    caption='photograph',
  )


if __name__ == '__main__':
  cli.launch(run)
