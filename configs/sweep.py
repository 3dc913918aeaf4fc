"""A sweep: one picture, a grid of numbers, as lanes of one program.

    python -m experiments.sweep --config=configs/sweep.py:quick,fast \
      --config.sweep.learning_rate="(0.003, 0.01, 0.03)" \
      --config.sweep.seeds="(0, 1)" --config.lanes=6 --workdir=DIR

The words are those of configs/req2.py.
"""

import ml_collections

from configs import req2


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: those of configs/req2.py."""
  config = req2.get_config(variant)
  config.lanes = 4  # Points of the grid that are fitted at once.
  config.sweep = sweep = ml_collections.ConfigDict()
  # Every combination is a point of the grid; (): the number of the config.
  sweep.learning_rate = ()
  sweep.jitter = ()
  sweep.sigma = ()  # Of 255, that the method and the rule are told.
  sweep.seeds = ()
  del config.output, config.record.preview
  return config
