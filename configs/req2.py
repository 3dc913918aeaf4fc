"""Requirement 2: blind denoising with the paper's network.

    python -m experiments.denoise --config=configs/req2.py

The default fits the whole astronaut (512x512): hours on a laptop CPU. On two
cores of an AMD EPYC, jax 0.10.2: `:quick` took 3 minutes on 2026-11-22, 20.43
dB to 29.53 dB; `:smoke` seconds after compiling; the full network on the crop
(128,192,128,128) of F16, four lanes, 15 minutes on 2026-11-21, 20.34 dB to
33.69 dB; on house (256x256), four lanes, 2.3 s a step, 20.30 dB to 32.58 dB. On
two cores of an Intel Xeon, 2026-11-27, `:quick,fast` (`make demo`) took 71 s
with the installation, 20.43 dB to 31.47 dB; `:windows`, for large pictures, 149
s on the whole F16, 20.36 dB to 33.53 dB. docs/measured/denoising.md has the
commands.
"""

import ml_collections

from configs import choices, common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: auto, fast, quality, unsure, windows,
  perceptual, langevin, quick, smoke."""
  config = common.get_base()
  common.add_output(config)
  common.add_finish(config)
  common.add_denoising(config.data, sigma=25.0)
  words = {
    'auto': _make_auto,
    'fast': lambda config: _make_fast(config, variant),
    'quality': _make_quality,
    'unsure': _make_unsure,
    'windows': _make_windows,
    'perceptual': lambda config: config.fit.update(perceptual=0.1),
    'langevin': _make_langevin,
    'quick': common.make_quick,
    'smoke': make_smoke,
  }
  return common.apply_variant(config, variant, words)


def _make_auto(config):
  """Leaves it to the run to choose the words, see `denoise.choose`."""
  _make_fast(config, 'auto')
  config.auto = True


def _make_fast(config, variant):
  """Chooses a small network and the method for Gaussian noise.

  The run estimates the noise's deviation unless fit.sigma gives it. For other
  noise use `fast,method=squared`.
  """
  _make_small(config)
  choices.set_method(config, 'recorrupted')
  # A third of the steps that Adam takes. With the squared error Muon ended
  # below Adam.
  if 'method=' not in variant:
    config.fit.optimizer = 'muon'
    config.fit.steps = min(config.fit.steps, 1500)
    config.average.decay = 0.97
    if 'patience' in config.stop:
      config.stop.patience = 100


def _make_small(config):
  config.network.down = (32,) * len(config.network.down)
  config.network.up = config.network.down


def _make_quality(config):
  """Chooses the mean of four seeds, with the method of `fast`."""
  config.lanes = 4
  choices.set_method(config, 'recorrupted')


def _make_unsure(config):
  """Chooses the small network for noise of which no level is sure.

  The rule does without a level. No filter follows, because it needs one.
  """
  _make_small(config)
  choices.set_method(config, 'squared')
  choices.set_stop(config, 'cross_validation')
  config.fit.finish = False


def _make_windows(config):
  """Chooses the method of `fast`, fitted on windows, for large pictures.

  The network is a U-Net without normalisation, and the fit ends after its last
  step.
  """
  choices.set_network(config, 'plain_unet')
  config.network.residual = True
  choices.set_method(config, 'recorrupted')
  config.method.ratio = 1.0
  config.method.mirrored = False
  choices.set_stop(config, 'last')
  config.fit.steps = 1000
  config.fit.optimizer = 'muon'
  config.fit.learning_rate = 0.01
  config.fit.schedule = 'cosine'
  config.fit.window = 128
  config.fit.rehearsal = 600


def _make_langevin(config):
  """Chooses the mean of samples, see `optimizers.langevin`; a long fit."""
  config.fit.optimizer = 'langevin'
  choices.set_method(config, 'squared')
  config.fit.steps = 20_000
  choices.set_stop(config, 'mean')
  config.stop.warmup = 7_000


def make_smoke(config: ml_collections.ConfigDict) -> None:
  """Changes a config as `common.make_smoke`, with steps for a rule to stop."""
  common.make_smoke(config)
  config.fit.steps = 400
  config.fit.jitter = 0.02
  if 'patience' in config.stop:
    config.stop.patience = 100
  if 'window' in config.fit and config.fit.window:
    config.fit.window = 32
    config.fit.rehearsal = 20
  config.average.decay = 0.9
