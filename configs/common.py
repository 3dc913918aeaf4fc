"""The fields that every config has, and the words behind its colon."""

from collections.abc import Callable, Mapping, Sequence

import ml_collections

from configs import choices


def get_base() -> ml_collections.ConfigDict:
  """Returns the fields of every restoration, with the paper's settings."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # The first lane's random seed; lane i has seed + i.
  config.lanes = 1  # Seeds fitted at once; their mean is the result.

  config.data = data = ml_collections.ConfigDict()
  data.image = 'astronaut'  # A file, or the name of a sample.
  # (top, left, height, width) of the image before the noise, or (height, width)
  # of its middle, or what there is of it.
  data.crop = ()
  data.white = 0.0  # The stored value that is white; 0: the type's largest.
  data.page = -1  # Of a TIFF or a FITS file, from 0; -1: the only one.

  # Words behind the colon choose others: network=NAME, method=NAME, stop=NAME.
  config.network = choices.make_network('skip')
  # What is minimised, and when to stop: docs/options.md lists the choices.
  config.method = choices.make_method('squared')
  config.stop = choices.make_stop('emv')

  config.fit = fit = ml_collections.ConfigDict()
  fit.steps = 5000  # The most steps of a lane.
  # Or 'muon': fewer steps; 'langevin': draws samples for the rule 'mean'.
  fit.optimizer = 'adam'
  fit.learning_rate = 0.01  # The optimiser's step size.
  fit.schedule = 'constant'  # Or 'cosine': the step size falls to 0.
  fit.clip = 0.0  # Largest norm of the gradient; 0: no limit.
  fit.jitter = 1 / 30  # Standard deviation of the noise on the code.
  # Side of the windows of which each step sees one; 0: the whole picture.
  fit.window = 0
  # After a fit with windows: steps that the network takes with each part of the
  # picture, on noise that is put on the restored image; 0: none.
  fit.rehearsal = 0
  # Side of the tiles that are fitted one by one and blended; 0: the whole
  # picture, or tiles where the whole does not fit into memory.
  fit.tile = 0
  # Or 'float32', 'tensorfloat32', 'bfloat16'; 'auto': bfloat16 where the device
  # is fast with it, else float32.
  fit.precision = 'auto'
  # The noise's standard deviation, of 255, for a method or a rule that needs
  # it; 0: estimated.
  fit.sigma = 0.0
  fit.remat = False  # Computes activations twice: less memory, more time.
  fit.tv = 0.0  # Weight of the image's total variation in the loss.
  fit.perceptual = 0.0  # Weight of the features' error in the loss; try 0.1.
  fit.perceptual_layers = ('relu1_2', 'relu2_2')  # VGG16's, up to 'relu5_3'.
  fit.perceptual_factor = 1  # 2: features of the half-sized image, cheaper.
  # A file of VGG16's parameters; '': the file that dipjax[perceptual] brings.
  fit.perceptual_weights = ''

  config.average = average = ml_collections.ConfigDict()
  average.decay = 0.99  # Weight of older outputs; 0: no average over steps.

  config.record = record = ml_collections.ConfigDict()
  record.every = 10  # Steps between two records of metrics.jsonl.
  record.preview = 60.0  # Seconds between two pictures preview.png; 0: none.
  record.frames = 48  # Most pictures of the fit in report.html; 0: none.
  record.tensorboard = False  # Whether to write events for TensorBoard too.

  config.checkpoint = checkpoint = ml_collections.ConfigDict()
  # How often the whole fit is saved: '60s', or '500' steps; '0': never.
  checkpoint.every = '60s'
  return config


def add_output(config: ml_collections.ConfigDict) -> None:
  """Adds the field of the file that the restored picture is written to."""
  # A file; 'beside': NAME_restored.EXT beside a picture of your own; '': none.
  config.output = 'beside'


def add_finish(config: ml_collections.ConfigDict) -> None:
  """Adds the fields of what follows the fit of a noisy picture."""
  # Whether a filter and lost detail follow, where the noise is known.
  config.fit.finish = True
  config.fit.strength = 1.0  # Share of the restored picture in the output file.


def add_noise(data: ml_collections.ConfigDict, sigma: float) -> None:
  """Adds the fields of noise that the run itself puts on the image."""
  # Standard deviation of the added noise, of 255; 0: the image is damaged.
  data.sigma = sigma
  data.noise_seed = 0  # Random seed of the added noise.
  data.clip = True  # Whether the noisy image is clipped to [0, 1].


def add_denoising(data: ml_collections.ConfigDict, sigma: float = 0.0) -> None:
  """Adds the fields of a noisy picture that the run makes or the user gives."""
  add_noise(data, sigma)
  data.clean = ''  # A clean image file to compare with, where data.sigma is 0.


def make_quick(config: ml_collections.ConfigDict) -> None:
  """Changes a config for minutes on a laptop: a crop, half the channels."""
  config.data.crop = (0, 144, 160, 160)
  choices.shrink(config.network, 'quick')
  config.fit.steps = 1500


def make_smoke(config: ml_collections.ConfigDict) -> None:
  """Changes a config for seconds, as tests run it: thumbnail, few channels."""
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

  Words are applied in their order, then the choices `network=NAME`,
  `method=NAME` and `stop=NAME`, wherever the choices stand. A chosen network is
  small if one of the words is a small size. Last, `choices.drop_unread` takes
  away the fields that nothing reads.

  Args:
    config: the config, changed in place.
    variant: what stands behind the colon of `--config=FILE:variant`, or ''.
    words: by word, the function that changes the config.
    kinds: the choices that the config has, of choices.CHOICES.

  Raises:
    ValueError: an unknown word or choice; the message lists the known ones.
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
