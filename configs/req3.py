"""Requirement 3, super-resolution: four times as wide, eight with `:x8`.

    python -m experiments.super_resolution --config=configs/req3.py

--config.data.reduce=False enlarges a small picture of your own.
configs/prior_effect.py has what this network reached on a part of zebra. On one
core of an AMD EPYC, jax 0.10.2, 2026-11-22, `:quick` took 4 minutes: 27.26 dB,
bicubic interpolation 26.10 dB.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: x8, quick, smoke."""
  config = common.get_base()
  common.add_output(config)
  data = config.data
  data.reduce = True  # data.image is the large picture; False: the small one.
  data.factor = 4  # Sides of the large picture over sides of the small one.
  data.filter = 'lanczos2'  # Reduces the fit to compare it with the small one.
  data.multiple = 32  # The large picture is cut to multiples, in pixels.
  config.fit.steps = 2000
  config.fit.jitter = 0.03
  choices.set_stop(config, 'last')
  words = {
    'x8': _enlarge_more,
    'quick': common.make_quick,
    'smoke': _make_smoke,
  }
  return common.apply_variant(config, variant, words)


def _enlarge_more(config):
  config.data.factor = 8
  config.fit.steps = 4000
  config.fit.jitter = 0.05


def _make_smoke(config):
  common.make_smoke(config)
  config.data.crop = (64, 192, 40, 72)
