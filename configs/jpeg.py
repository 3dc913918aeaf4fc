"""Removal of JPEG artefacts: requirement 1's network on a damaged picture.

    python -m experiments.denoise --config=configs/jpeg.py \
      --config.data.image=FILE

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22, `:quick` of 400x261 pixels
took 3 minutes.
"""

import ml_collections

from configs import choices, common, req1


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke."""
  config = common.get_base()
  common.add_output(config)
  common.add_finish(config)
  common.add_denoising(config.data)
  req1.set_network(config)
  config.fit.steps = 2400
  choices.set_stop(config, 'last')
  words = {'quick': _make_quick, 'smoke': _make_smoke}
  return common.apply_variant(config, variant, words)


def _make_quick(config):
  """Changes the config for minutes on a laptop: half the steps."""
  config.fit.steps = 1200


def _make_smoke(config):
  """Changes a config for seconds, as tests run it: thumbnail, few channels."""
  config.data.crop = (64, 192, 40, 56)
  config.network.down = config.network.up = (8,)
  config.network.skip = (4,)
  config.fit.steps = 60
  config.record.every = 20
