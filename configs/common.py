"""The fields that every config has, and the words behind its colon."""

from collections.abc import Callable, Mapping

import ml_collections

from configs import networks


def get_base() -> ml_collections.ConfigDict:
  """Returns the fields that every experiment has, with the paper's settings."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of the first lane; lane i has seed + i.
  config.lanes = 1  # Seeds fitted at once; their mean is the result.

  config.data = data = ml_collections.ConfigDict()
  data.image = 'astronaut'  # A file, or the name of a sample.
  data.clean = ''  # A file to compare with, where data.sigma is 0.
  data.sigma = 0.0  # Of the noise to add, of 255; 0: the image is damaged.
  data.noise_seed = 0
  data.clip = True  # The noisy image, to [0, 1].
  data.crop = ()  # (top, left, height, width) of the image, before the noise.

  config.network = networks.make_network('skip')  # Or another of them.

  config.fit = fit = ml_collections.ConfigDict()
  fit.steps = 5000  # At most.
  fit.optimizer = 'adam'  # Or 'langevin': samples, for the rule 'mean'.
  fit.learning_rate = 0.01
  fit.clip = 0.0  # Largest norm of the gradient; 0: any.
  fit.jitter = 1 / 30  # Standard deviation of the noise on the code.
  fit.precision = 'float32'  # Or 'tensorfloat32', 'bfloat16': faster on a GPU.
  # Or 'absolute', against impulse noise; 'recorrupted' or 'stein', against
  # Gaussian noise, whose sigma they need; their code and jitter are their own.
  fit.error = 'squared'
  # Of the noise, of 255, where the error or the rule needs it; 0: estimated.
  fit.sigma = 0.0
  fit.remat = False  # Less memory, more time.
  fit.tv = 0.0  # Weight of the image's total variation in the loss.
  fit.perceptual = 0.0  # Weight of the features' error; try 0.1.
  fit.perceptual_layers = ('relu1_2', 'relu2_2')  # Of VGG16, to 'relu5_3'.
  fit.perceptual_factor = 1  # 2: features of the half-sized image, cheaper.
  fit.perceptual_weights = ''  # A file; '' is what dipjax[perceptual] brings.

  config.stop = stop = ml_collections.ConfigDict()
  # Or 'wmv'; 'discrepancy' and 'pseudo_reference', which need the noise's
  # sigma; 'sure', of the error 'stein'; 'last': after fit.steps; 'mean': of the
  # outputs after stop.warmup.
  stop.rule = 'emv'
  stop.of = 'estimate'  # What is watched; 'output' in the papers.
  stop.window = 50  # Of wmv; of mean, the steps between two outputs.
  stop.patience = 300
  stop.warmup = 0
  stop.tau = 0.5  # Of pseudo_reference: how the noise is split.

  config.average = average = ml_collections.ConfigDict()
  average.decay = 0.99  # 0: no averaging over steps.

  config.record = record = ml_collections.ConfigDict()
  record.every = 10  # Steps.
  return config


def make_quick(config: ml_collections.ConfigDict) -> None:
  """Minutes on a laptop: a part of the picture, half the channels."""
  config.data.crop = (0, 144, 160, 160)
  networks.shrink(config.network, 'quick')
  config.fit.steps = 1500


def make_smoke(config: ml_collections.ConfigDict) -> None:
  """Seconds: a thumbnail and a small network; what the tests run."""
  config.data.crop = (64, 192, 40, 56)
  networks.shrink(config.network, 'smoke')
  config.fit.steps = 60
  config.record.every = 20


def apply_variant(
  config: ml_collections.ConfigDict,
  variant: str,
  words: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
  """Returns the config changed by each of the comma-separated words.

  Words come in their order, then `network=NAME`, wherever it stands: the
  network of `networks`, small where one of the words is a small size.

  Args:
    config: to be changed in place.
    variant: what stands behind the colon of `--config=FILE:variant`, or ''.
    words: what a word does to the config.

  Raises:
    ValueError: a word or a network that is not known; lists those that are.
  """
  given = list(filter(None, (variant or '').split(',')))
  names = [word for word in given if word.startswith('network=')]
  given = [word for word in given if word not in names]
  for word in given:
    if word not in words:
      known = [*sorted(words), 'network=NAME']
      raise ValueError(
        f'unknown variant {word!r}; known are {", ".join(known)}'
      )
    words[word](config)
  for name in names[-1:]:
    networks.set_network(config, name.removeprefix('network='))
    for size in given:
      if size in networks.SIZES:
        networks.shrink(config.network, size)
  return config
