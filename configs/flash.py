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
  config.data.flash = ''  # The picture with flash, of the same size.
  # Not a name for all levels, but one for each.
  with config.network.ignore_type():
    config.network.upsampling = ('nearest', 'nearest') + ('bilinear',) * 3
  config.fit.learning_rate = 0.1
  config.fit.steps = 601
  config.fit.jitter = 0.0
  choices.set_stop(config, 'last')
  words = {'quick': _make_quick, 'smoke': _make_smoke}
  return common.apply_variant(config, variant, words)


def _make_quick(config):
  """Minutes on a laptop: half the channels, fewer steps."""
  choices.shrink(config.network, 'quick')
  config.fit.steps = 300


def _make_smoke(config):
  """Seconds: a small network; what the tests run."""
  choices.shrink(config.network, 'smoke')
  config.network.upsampling = ('nearest', 'bilinear')
  config.fit.steps = 60
  config.record.every = 20
