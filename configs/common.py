"""The fields that every config has, and the words behind its colon."""

from collections.abc import Callable, Mapping, Sequence

import ml_collections

from configs import choices


def get_base() -> ml_collections.ConfigDict:
  """Returns the fields of every restoration, with the paper's settings."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of the first lane; lane i has seed + i.
  config.lanes = 1  # Seeds fitted at once; their mean is the result.

  config.data = data = ml_collections.ConfigDict()
  data.image = 'astronaut'  # A file, or the name of a sample.
  data.crop = ()  # (top, left, height, width) of the image, before the noise.

  # Each by a word behind the colon: network=NAME, method=NAME, stop=NAME.
  config.network = choices.make_network('skip')
  # What is minimised, and when to stop: docs/options.md has all of them.
  config.method = choices.make_method('squared')
  config.stop = choices.make_stop('emv')

  config.fit = fit = ml_collections.ConfigDict()
  fit.steps = 5000  # At most.
  fit.optimizer = 'adam'  # Or 'langevin': samples, for the rule 'mean'.
  fit.learning_rate = 0.01
  fit.clip = 0.0  # Largest norm of the gradient; 0: any.
  fit.jitter = 1 / 30  # Standard deviation of the noise on the code.
  fit.precision = 'float32'  # Or 'tensorfloat32', 'bfloat16': faster on a GPU.
  # Of the noise, of 255, where the method or the rule needs it; 0: estimated.
  fit.sigma = 0.0
  fit.remat = False  # Less memory, more time.
  fit.tv = 0.0  # Weight of the image's total variation in the loss.
  fit.perceptual = 0.0  # Weight of the features' error; try 0.1.
  fit.perceptual_layers = ('relu1_2', 'relu2_2')  # Of VGG16, to 'relu5_3'.
  fit.perceptual_factor = 1  # 2: features of the half-sized image, cheaper.
  fit.perceptual_weights = ''  # A file; '' is what dipjax[perceptual] brings.

  config.average = average = ml_collections.ConfigDict()
  average.decay = 0.99  # 0: no averaging over steps.

  config.record = record = ml_collections.ConfigDict()
  record.every = 10  # Steps.
  return config


def add_noise(data: ml_collections.ConfigDict, sigma: float) -> None:
  """Adds the fields of a noise that the run itself puts on the image."""
  data.sigma = sigma  # Of the noise to add, of 255; 0: the image is damaged.
  data.noise_seed = 0
  data.clip = True  # The noisy image, to [0, 1].


def add_denoising(data: ml_collections.ConfigDict, sigma: float = 0.0) -> None:
  """Adds the fields of a noisy picture, made or given."""
  add_noise(data, sigma)
  data.clean = ''  # A file to compare with, where data.sigma is 0.


def make_quick(config: ml_collections.ConfigDict) -> None:
  """Minutes on a laptop: a part of the picture, half the channels."""
  config.data.crop = (0, 144, 160, 160)
  choices.shrink(config.network, 'quick')
  config.fit.steps = 1500


def make_smoke(config: ml_collections.ConfigDict) -> None:
  """Seconds: a thumbnail and a small network; what the tests run."""
  config.data.crop = (64, 192, 40, 56)
  choices.shrink(config.network, 'smoke')
  config.fit.steps = 60
  config.record.every = 20


def apply_variant(
  config: ml_collections.ConfigDict,
  variant: str,
  words: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
  kinds: Sequence[str] = tuple(choices.CHOICES),
) -> ml_collections.ConfigDict:
  """Returns the config changed by each of the comma-separated words.

  Words come in their order, then the choices `network=NAME`, `method=NAME` and
  `stop=NAME`, wherever they stand; a network is small where one of the words is
  a small size. Last, what nothing reads is taken away.

  Args:
    config: to be changed in place.
    variant: what stands behind the colon of `--config=FILE:variant`, or ''.
    words: what a word does to the config.
    kinds: of choices that the config has.

  Raises:
    ValueError: a word or a choice that is not known; lists those that are.
  """
  given = list(filter(None, (variant or '').split(',')))
  chosen = dict(word.split('=', 1) for word in given if '=' in word)
  given = [word for word in given if '=' not in word]
  for kind in chosen:
    if kind not in kinds:
      raise ValueError(
        _describe_unknown(f'{kind}={chosen[kind]}', words, kinds)
      )
  for word in given:
    if word not in words:
      raise ValueError(_describe_unknown(word, words, kinds))
    words[word](config)
  for kind, choose in choices.CHOICES.items():
    if kind in chosen:
      choose(config, chosen[kind])
  if 'network' in chosen:
    for size in given:
      if size in choices.SIZES:
        choices.shrink(config.network, size)
  if kinds:
    choices.drop_unread(config)
  return config


def _describe_unknown(word, words, kinds):
  known = [*sorted(words), *(f'{kind}=NAME' for kind in kinds)]
  return f'unknown variant {word!r}; known are {", ".join(known)}'
