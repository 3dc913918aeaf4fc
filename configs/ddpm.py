"""A plain diffusion model (DDPM), the trained baseline.

    python -m experiments.ddpm --config=configs/ddpm.py \
      --config.data.images=FOLDER

The same command with the same workdir goes on where a stopped run was. `:quick`
is for two cores of a laptop; it needs data.images too, or takes scikit-learn's
digits.
"""

import ml_collections

from configs import common


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # Random seed of the training and of the samples.

  config.data = data = ml_collections.ConfigDict()
  # A folder of images of one size, an npz with uint8 `images` [N, H, W, C], or
  # 'digits', the 1797 images of 8x8 pixels that come with scikit-learn.
  data.images = 'digits'

  config.schedule = schedule = ml_collections.ConfigDict()
  schedule.name = 'linear'  # Or 'scaled-linear', 'cosine'.
  schedule.steps = 1000  # Steps of the diffusion.
  schedule.beta_min = 1e-4  # Variance of the noise that the first step adds.
  schedule.beta_max = 0.02  # Variance of the noise that the last step adds.

  config.network = network = ml_collections.ConfigDict()
  network.channels = (64, 128, 256)  # One for each level, multiples of 8.

  config.train = train = ml_collections.ConfigDict()
  train.steps = 20_000  # Steps of the training.
  train.batch = 32  # Images in a step of the training.
  train.learning_rate = 2e-4
  train.decay = 0.999  # Weight of older parameters in their average.

  config.sample = sample = ml_collections.ConfigDict()
  sample.every = 2000  # Steps of the training between two grids of samples.
  sample.count = 16  # Images in a grid.
  sample.steps = 50  # Steps of the sampling, out of schedule.steps.
  sample.eta = 0.0  # 0: DDIM; 1 with all steps: ancestral.

  # A picture to denoise in the end, of the size of the images.
  config.denoise = denoise = ml_collections.ConfigDict()
  denoise.image = ''  # A clean picture, to which noise is added; '': none.
  denoise.sigma = 25.5  # Standard deviation of the added noise, of 255.

  config.checkpoint = checkpoint = ml_collections.ConfigDict()
  # How often the training is saved: '60s', or '500' steps; '0': never.
  checkpoint.every = '60s'
  config.record = record = ml_collections.ConfigDict()
  record.every = 50  # Steps of the training between two records.
  words = {'quick': _make_quick, 'smoke': _make_smoke}
  return common.apply_variant(config, variant, words, kinds=())


def _make_quick(config):
  """Changes the config for minutes on a laptop."""
  config.network.channels = (16, 32, 64)
  config.train.steps = 1500
  config.train.batch = 8
  config.train.learning_rate = 1e-3
  config.train.decay = 0.99
  config.sample.every = 500


def _make_smoke(config):
  """Changes the config for seconds, as the tests run it."""
  _make_quick(config)
  config.network.channels = (8, 16)
  config.schedule.steps = 20
  config.schedule.beta_max = 0.4
  config.train.steps = 40
  config.sample.every = 20
  config.sample.count = 4
  config.sample.steps = 5
  config.record.every = 10
