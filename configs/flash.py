"""Flash and no flash: the picture with flash is the code of the network.

    python -m experiments.flash --config=configs/flash.py \
      --config.data.image=DARK --config.data.flash=BRIGHT

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22, `:quick` of 256x256 pixels
took 2.3 minutes.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke."""
  config = common.get_base()
  common.add_output(config)
  common.add_finish(config)
  config.data.flash = ''  # The picture with flash, of the same size.
  # Each level has a name of its own, so that the field changes its type.
  with config.network.ignore_type():
    config.network.upsampling = ('nearest', 'nearest') + ('bilinear',) * 3
  config.fit.learning_rate = 0.1
  config.fit.steps = 601
  config.fit.jitter = 0.0
  choices.set_stop(config, 'last')
  words = {'quick': _make_quick, 'smoke': _make_smoke}
  return common.apply_variant(config, variant, words)


def _make_quick(config):
  """Changes the config for minutes on a laptop: half the channels and steps."""
  choices.shrink(config.network, 'quick')
  config.fit.steps = 300


def _make_smoke(config):
  """Changes the config for seconds, as the tests run it: a small network."""
  choices.shrink(config.network, 'smoke')
  config.network.upsampling = ('bilinear',)
  config.fit.steps = 60
  config.record.every = 20
