"""Inpainting: half of the pixels, or a picture with a mask of your own.

    python -m experiments.inpaint --config=configs/inpaint.py
    python -m experiments.inpaint --config=configs/inpaint.py:kate \
      --config.data.image=FILE --config.data.mask=FILE

The paper's cases, each with its network: kate, vase, library, barbara. Where
the picture is known under the mask too (drawn masks, kate; data.complete=True),
the result is scored against it. Vase and library take things out of a picture.

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22: the crop (0,256,128,128) of
barbara, half of the pixels missing, without a case, 12 minutes, 7.13 to 37.87
dB; 1000 steps of the crop (96,88,160,160) of vase, 8 minutes, and of the crop
(56,160,160,160) of kate, 17 minutes, 14.68 to 33.91 dB; `:quick`, 4 minutes,
7.08 to 30.91 dB.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: the four cases, quick, smoke."""
  config = common.get_base()
  common.add_output(config)
  data = config.data
  data.noise_seed = 0  # Random seed that draws the missing pixels.
  # A picture file of the same size: only near-white is seen. 'alpha': what is
  # transparent in the picture is missing, as it is without data.mask.
  data.mask = ''
  data.invert = False  # Whether white is missing in data.mask, not black.
  # Share that is missing at random, without any mask; 0 asks for a mask.
  data.missing = 0.5
  data.complete = False  # With data.mask: whether the image is known under it.
  config.fit.steps = 3000
  config.fit.jitter = 0.03
  choices.set_stop(config, 'last')
  words = {
    'kate': _set_kate,
    'vase': _set_vase,
    'library': _set_library,
    'barbara': _set_barbara,
    'quick': common.make_quick,
    'smoke': common.make_smoke,
  }
  return common.apply_variant(config, variant, words)


def _set_kate(config):
  config.data.complete = True
  config.network.skip = (128,) * 5
  config.network.upsampling = 'nearest'
  config.fit.steps = 6001


def _set_vase(config):
  config.network.skip = (0,) * 5
  config.network.upsampling = 'nearest'
  config.network.code = 'meshgrid'
  config.fit.steps = 5001


def _set_library(config):
  channels = (16, 32, 64, 128, 128, 128)
  config.network.down = config.network.up = channels
  config.network.skip = (0,) * 6
  config.network.down_size = 5
  config.network.upsampling = 'nearest'
  config.network.point = False
  config.network.code_channels = 1
  config.fit.steps = 3001
  config.fit.jitter = 0.0


def _set_barbara(config):
  config.fit.learning_rate = 0.001
  config.fit.steps = 11000
