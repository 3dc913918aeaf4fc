"""The effect of the prior: super-resolution with none, with TV, with a network.

python -m experiments.prior_effect --config=configs/prior_effect.py

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22, the crop (40,130,192,192) of
zebra took 18 minutes: no prior 16.63 dB, total variation 24.05 dB, the network
25.52 dB, and bicubic interpolation 21.60 dB.
"""

import ml_collections

from configs import req3


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: x8, quick, smoke."""
  config = req3.get_config(variant)
  config.fit.tv = 1e-7  # Weight of the total variation, in its arm alone.
  return config
