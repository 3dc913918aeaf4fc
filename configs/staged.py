"""Stages: targets of falling noise, fitted by one network one after the other.

    python -m experiments.staged --config=configs/staged.py

The targets are made of the measurement; `:clean` makes them of the clean image,
the oracle protocol of the literature, and everything it leaves says so. Needs
the extra dipjax[perceptual], or fit.perceptual_weights=FILE, or
fit.perceptual=0 for squared error alone.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke, clean, parallel."""
  config = common.get_base()
  common.add_denoising(config.data, sigma=25.5)  # A level of 0.01.

  config.schedule = schedule = ml_collections.ConfigDict()
  schedule.name = 'scaled-linear'  # Or 'linear', 'cosine'.
  schedule.stages = 10
  schedule.beta_min = 1e-4
  schedule.beta_max = 0.01  # Of the noisiest stage, a variance.
  # A stage has int(fit.steps * (1 - alpha * exp(-k * level))) steps.
  schedule.alpha = 0.5
  schedule.k = -25.0

  config.staged = staged = ml_collections.ConfigDict()
  staged.reference = 'measurement'  # Or 'clean': the oracle protocol.
  # The network's input is the measurement, then each stage's image; 'noise':
  # noise, then each stage's image; 'fixed': network.code throughout.
  staged.code = 'measurement'
  staged.keep_optimizer = False  # Its state, from stage to stage.
  # A stage whose noise is known ends where the loss has come down to it, others
  # as the stopping rule says; False: all as it says.
  staged.residual = True
  staged.sigma = 0.0  # Of the measurement's own noise, of 255; 0: not known.
  staged.parallel = False  # All stages at once, each with a network of its own.

  config.fit.steps = 2000  # Emax.
  config.fit.perceptual = 0.1
  words = {
    'quick': _make_quick,
    'smoke': _make_smoke,
    'clean': lambda config: config.staged.update(reference='clean'),
    'parallel': lambda config: config.staged.update(parallel=True),
  }
  common.apply_variant(config, variant, words)
  # The noise of a stage is that of its target, see staged.sigma.
  choices.drop(config.fit, 'sigma')
  return config


def _make_quick(config):
  """Minutes on a laptop: a part of the picture, half the channels."""
  common.make_quick(config)
  config.schedule.stages = 5
  config.fit.steps = 1000
  config.fit.perceptual_factor = 2


def _make_smoke(config):
  """Seconds: a thumbnail and a small network; what the tests run."""
  common.make_smoke(config)
  config.schedule.stages = 3
  config.fit.steps = 150
  config.fit.perceptual = 0.0  # Without weights.
  config.record.every = 10
