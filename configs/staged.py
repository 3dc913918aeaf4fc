"""Stages: targets of falling noise, fitted by one network one after the other.

    python -m experiments.staged --config=configs/staged.py

The targets are made from the measurement. `:clean` makes the targets from the
clean image, which is the oracle protocol of the literature, and all files of
the run say so. Needs the extra dipjax[perceptual], or
fit.perceptual_weights=FILE, or fit.perceptual=0 for squared error alone.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke, clean, parallel."""
  config = common.get_base()
  common.add_denoising(config.data, sigma=25.5)  # A level of 0.01.

  config.schedule = schedule = ml_collections.ConfigDict()
  schedule.name = 'scaled-linear'  # Or 'linear', 'cosine'.
  schedule.stages = 10  # Number of stages.
  schedule.beta_min = 1e-4  # Variance of the cleanest stage's added noise.
  schedule.beta_max = 0.01  # Variance of the noisiest stage's added noise.
  # A stage has int(fit.steps * (1 - alpha * exp(-k * level))) steps.
  schedule.alpha = 0.5
  schedule.k = -25.0

  config.staged = staged = ml_collections.ConfigDict()
  staged.reference = 'measurement'  # Or 'clean': the oracle protocol.
  # The first stage's input is the measurement, each next stage's input is the
  # image of the stage before; 'noise': the first input is noise instead;
  # 'fixed': the input is network.code in all stages.
  staged.code = 'measurement'
  staged.keep_optimizer = False  # Whether stages pass on the optimiser's state.
  # A stage whose noise is known ends where its squared error has come down to
  # the noise, other stages where the stopping rule says; False: all stages end
  # where the stopping rule says.
  staged.residual = True
  # Standard deviation of the measurement's own noise, of 255; 0: not known.
  staged.sigma = 0.0
  staged.parallel = False  # All stages at once, each with a network of its own.

  config.fit.steps = 2000  # The source's Emax: the most steps of a stage.
  config.fit.perceptual = 0.1
  words = {
    'quick': _make_quick,
    'smoke': _make_smoke,
    'clean': lambda config: config.staged.update(reference='clean'),
    'parallel': lambda config: config.staged.update(parallel=True),
  }
  common.apply_variant(config, variant, words)
  # Each stage takes its noise from its target, see staged.sigma.
  choices.drop(config.fit, 'sigma', 'window', 'rehearsal', 'tile')
  return config


def _make_quick(config):
  """Changes the config for minutes on a laptop: a crop, half the channels."""
  common.make_quick(config)
  config.schedule.stages = 5
  config.fit.steps = 1000
  config.fit.perceptual_factor = 2


def _make_smoke(config):
  """Changes a config for seconds, as tests run it: thumbnail, few channels."""
  common.make_smoke(config)
  config.schedule.stages = 3
  config.fit.steps = 150
  config.fit.perceptual = 0.0  # Tests have no weights of VGG16.
  config.record.every = 10
