"""The ablation of staged fitting: networks, losses, targets and schedules.

    python -m experiments.ablation --config=configs/ablation.py \
      --config.data.image=BUTTERFLY --config.baselines.ddpm=DIR --workdir=DIR

DIR of the DDPM is the workdir of a run of experiments.ddpm. The same command
with the same workdir goes on after the last finished arm.
"""

import ml_collections

from configs import choices, common, staged
from dipjax.networks import NETWORKS


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: day, quick, smoke."""
  config = staged.get_config()
  config.data.image = 'chelsea'
  config.data.crop = (48, 48, 128, 128)
  config.lanes = 3  # Seeds of each arm.
  # The most steps of a seed of an arm, all stages together.
  config.fit.steps = 5000

  config.arms = arms = ml_collections.ConfigDict()
  # Every combination of the following values is an arm.
  arms.networks = ('unet', 'resnet', 'dncnn')
  arms.perceptual = (0.0, 0.1)  # Weights of the features' error in the loss.
  arms.references = ('measurement', 'clean')  # What targets are made from.
  arms.schedules = ('linear', 'scaled-linear')
  arms.beta_max = (0.01, 0.02)  # Variances of the noisiest stage's added noise.
  # The most arms that are fitted at once, as lanes of one program. More than
  # one arm fills a GPU; on a CPU it gains nothing.
  arms.together = 1

  config.baselines = ml_collections.ConfigDict()
  config.baselines.ddpm = ''  # The workdir of a DDPM; '': no DDPM.

  # The networks that an arm may take, each with the settings of its fit.
  config.cases = ml_collections.ConfigDict()
  for name in NETWORKS:
    case = ml_collections.ConfigDict(config.to_dict())
    choices.set_network(case, name)
    config.cases[name] = {
      'network': case.network,
      'fit': {key: case.fit[key] for key in ('learning_rate', 'jitter')},
      'stop': {'patience': case.stop.patience},
    }
  words = {'day': _make_day, 'quick': _make_quick, 'smoke': _make_smoke}
  common.apply_variant(config, variant, words)
  if 'network=' in (variant or ''):
    arms.networks = (config.network.name,)
  if 'patience' not in config.stop or 'jitter' not in config.fit:
    raise ValueError(
      'the arms of an ablation have a patience and a jitter: '
      f'stop={config.stop.name} and method={config.method.name} do not'
    )
  # Each arm sets these fields itself.
  del config.network, config.schedule.name, config.schedule.beta_max
  del config.staged.reference, config.staged.parallel, config.fit.perceptual
  del config.fit.learning_rate, config.fit.jitter, config.stop.patience
  return config


def _shrink(config, size):
  for case in config.cases.values():
    choices.shrink(case.network, size)


def _make_day(config):
  """All arms with smaller networks, two seeds: docs/measured/ablation.md.

  3.2 hours on one core (AMD EPYC, jax 0.10.2, 2026-11-22).
  """
  _shrink(config, 'quick')
  config.lanes = 2
  config.schedule.stages = 5
  config.fit.steps = 2000
  config.fit.perceptual_factor = 2


def _make_quick(config):
  """Tens of minutes on a laptop: one network, a part, no oracle protocol."""
  _make_day(config)
  config.data.crop = (80, 80, 64, 64)
  config.arms.networks = ('unet',)
  config.arms.references = ('measurement',)


def _make_smoke(config):
  """Seconds: a thumbnail and a small network; what the tests run."""
  _shrink(config, 'smoke')
  config.data.image = 'astronaut'
  config.data.crop = (64, 96, 32, 40)
  config.lanes = 2
  config.schedule.stages = 3
  config.fit.steps = 60
  config.record.every = 10
  config.arms.networks = ('unet',)
  config.arms.perceptual = (0.0,)
