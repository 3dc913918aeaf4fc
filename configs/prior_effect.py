"""The effect of the prior: super-resolution without one, with TV, with ours.

python -m experiments.prior_effect --config=configs/prior_effect.py
"""

import ml_collections

from configs import req3


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: those of req3."""
  config = req3.get_config(variant)
  config.fit.tv = 1e-7  # Of the arm with total variation.
  return config
