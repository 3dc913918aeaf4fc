"""Feature inversion: the paper's network, fitted to features of VGG16.

    python -m experiments.feature_inversion \
      --config=configs/feature_inversion.py

Needs the extra dipjax[perceptual], or data.weights=FILE. The config follows the
notebook of the paper's authors (feature_inversion.ipynb) but for the pretrained
network: theirs are AlexNet's fc6 and VGG19.

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22, `:quick` took 5.8 minutes.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke."""
  config = common.get_base()
  data = config.data
  data.crop = (0, 144, 224, 224)
  data.layers = ('relu4_3',)  # Layers of VGG16, any of relu1_1 to relu5_3.
  # A file of VGG16's parameters; '': the file that dipjax[perceptual] brings.
  data.weights = ''
  network = config.network
  network.down = network.up = (16, 32, 64, 128, 128, 128)
  network.skip = (4,) * 6
  with config.ignore_type():
    network.down_size = network.up_size = (7, 7, 5, 5, 3, 3)
  network.upsampling = 'nearest'
  network.downsampling = 'average'
  network.padding = 'zero'
  config.fit.learning_rate = 0.001
  config.fit.steps = 3100
  config.fit.jitter = 0.0
  choices.set_stop(config, 'last')
  config.average.decay = 0.0
  words = {'quick': _make_quick, 'smoke': _make_smoke}
  return common.apply_variant(config, variant, words)


def _make_quick(config):
  config.data.crop = (0, 176, 96, 96)
  config.fit.learning_rate = 0.01
  config.fit.steps = 600


def _make_smoke(config):
  common.make_smoke(config)
  with config.ignore_type():
    config.network.down_size = config.network.up_size = 3
  config.data.layers = ('relu1_2', 'relu2_1')
  config.fit.learning_rate = 0.01
