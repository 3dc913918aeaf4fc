"""Requirement 1, noise impedance: four targets, one network, four loss curves.

python -m experiments.noise_impedance --config=configs/req1.py

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22, `:quick` on the crop
(128,192,160,160) of F16 took 5 minutes; the loss fell below 0.01 at step 41 of
the image, at step 1372 with noise, never in 2400 of shuffled pixels and noise.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke."""
  config = common.get_base()
  # Standard deviation of the noise on the second target, of 255.
  config.data.sigma = 25.0
  config.data.noise_seed = 0  # Random seed of noise and of shuffled pixels.
  # Losses; the result has the first step below each of them.
  config.levels = (0.05, 0.02, 0.01, 0.005, 0.002)
  config.snapshots = (50, 200, 800, 2400)  # Steps whose fits are shown.
  set_network(config)
  config.fit.steps = 2400
  config.fit.jitter = 0.03
  words = {'quick': _make_quick, 'smoke': _make_smoke}
  common.apply_variant(config, variant, words, kinds=('network', 'method'))
  # All targets take all steps, and the pictures show the outputs themselves.
  choices.drop(config, 'lanes', 'stop', 'average')
  choices.drop(
    config.fit, 'sigma', 'window', 'rehearsal', 'tile', *choices.TERMS
  )
  return config


def set_network(config: ml_collections.ConfigDict) -> None:
  """Gives a config the paper's network for noise impedance and for JPEG."""
  config.network.down = config.network.up = (8, 16, 32, 64, 128)
  config.network.skip = (0, 0, 0, 4, 4)
  config.network.code_channels = 3


def _make_quick(config):
  """Changes the config for minutes on a laptop: a part of the picture."""
  config.data.crop = (0, 144, 160, 160)


def _make_smoke(config):
  """Changes a config for seconds, as tests run it: thumbnail, few channels."""
  config.data.crop = (64, 192, 40, 56)
  config.network.down = config.network.up = (8,)
  config.network.skip = (4,)
  config.fit.steps = 120
  config.snapshots = (20, 120)
  config.record.every = 20
