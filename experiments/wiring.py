"""From a config to the arguments of `dipjax.restore`; configs end here."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from dipjax import (
  codes,
  corruptions,
  features,
  fit,
  monitors,
  noise,
  objectives,
  operators,
  optimizers,
)
from dipjax.networks import decoder, dncnn, pixels, resnet, skip, unet
from experiments import images, weights

NETWORKS: dict[str, Callable[..., nn.Module]] = {
  'skip': skip.Skip,
  'unet': unet.UNet,
  'dncnn': dncnn.DnCNN,
  'resnet': resnet.ResNet,
  'decoder': decoder.Decoder,
  'pixels': pixels.Pixels,
}
OPTIMIZERS = {'adam': optax.adam, 'langevin': optimizers.langevin}
_LEAST_SIGMA = 0.1 / 255  # Less than what 8 bits leave behind is no noise.
_CODE = ('code', 'code_channels')  # Fields of a network that make its code.


class Data(NamedTuple):
  """What is to be restored, and what it may be compared with."""

  measurement: np.ndarray  # What the operator gave, of any shape.
  clean: np.ndarray | None  # [H, W, C]
  operator: operators.Operator | None = None  # None: the identity.
  size: tuple[int, int, int] | None = None  # None: the measurement's.
  shown: np.ndarray | None = None  # [H, W, C], where that is of another.
  baselines: Mapping[str, np.ndarray] = {}  # Simpler restorations, by name.
  shave: int | None = None  # Edge that the PSNR of Y, if wanted, leaves out.
  caption: str = 'measurement'  # What `picture` is.

  @property
  def picture(self) -> np.ndarray:
    """The measurement as an image of the size of the restored one."""
    return self.measurement if self.shown is None else self.shown


def load_denoising(data: ml_collections.ConfigDict) -> Data:
  """Returns the noisy image, and the clean one if it is known.

  With data.sigma > 0 the image is the clean one and noise is added; with 0 it
  is the measurement, and data.clean, if given, what it is compared with.

  Raises:
    ValueError: files, sizes or numbers that do not fit, in one line.
  """
  check_sigma(data.sigma)
  if data.sigma and data.clean:
    raise ValueError(
      'with data.sigma > 0 data.image is the clean image itself: leave out '
      f'data.clean={data.clean!r}, or set data.sigma=0'
    )
  whole = images.read_image(data.image)
  image = images.crop_image(whole, tuple(data.crop))
  if data.sigma:
    noisy = corruptions.add_gaussian_noise(
      image, data.sigma / 255, seed=data.noise_seed, clip=data.clip
    )
    return Data(noisy, image)
  return Data(image, _read_clean(data, whole) if data.clean else None)


def check_sigma(sigma: float, field: str = 'data.sigma') -> float:
  """Returns the standard deviation of a field, or raises a ValueError."""
  if not (math.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'{field} must be a number >= 0, got {sigma}')
  return sigma


def read(source: str, crop: Sequence[int]) -> np.ndarray:
  """Returns the box of an image that `crop` names, see `images`."""
  return images.crop_image(images.read_image(source), tuple(crop))


def _read_clean(data, whole):
  clean = images.read_image(data.clean)
  if clean.shape != whole.shape:
    raise ValueError(
      f'data.clean is {_describe(clean)}, data.image is {_describe(whole)}: '
      'they must be two versions of one picture'
    )
  return images.crop_image(clean, tuple(data.crop))


def _describe(image):
  height, width, channels = image.shape
  return f'{width}x{height} with {channels} channel{"s" * (channels > 1)}'


def make_seeds(config: ml_collections.ConfigDict) -> list[int]:
  """Returns the seed of each lane; ValueError for fewer than one lane."""
  if config.lanes < 1:
    raise ValueError(f'lanes must be at least 1, got {config.lanes}')
  return list(range(config.seed, config.seed + config.lanes))


def make_arguments(
  config: ml_collections.ConfigDict, channels: int
) -> dict[str, Any]:
  """Returns the keyword arguments of `dipjax.restore` that a config decides.

  Args:
    config: of any restoration.
    channels: of the image.

  Raises:
    ValueError: a value that no network, fit or rule can have.
  """
  positive = ('learning_rate', 'clip', 'jitter', 'tv', 'perceptual')
  least_values = dict.fromkeys(positive, 0) | {'steps': 1}
  for name, least in least_values.items():
    value = config.fit[name]
    if not (math.isfinite(value) and value >= least):
      raise ValueError(f'fit.{name} must be at least {least}, got {value}')
  if not 0 <= config.average.decay < 1:
    raise ValueError(
      f'average.decay must be in [0, 1), got {config.average.decay}'
    )
  choose(fit.PRECISIONS, config.fit.precision, 'fit.precision')
  _check_error(config.fit)
  if config.record.every < 1:
    raise ValueError(f'record.every must be >= 1, got {config.record.every}')
  return {
    'network': make_network(config.network, channels, config.fit.remat),
    **_make_code_and_jitter(config),
    'optimizer': make_optimizer(
      config.fit.optimizer, config.fit.learning_rate, config.fit.clip
    ),
    'steps': config.fit.steps,
    'decay': config.average.decay,
    'precision': config.fit.precision,
    'error': config.fit.error,
    'penalties': make_penalties(config.fit),
    'perceptual': make_perceptual(config.fit),
    'monitors': make_monitors(config),
    'rule': config.stop.rule,
    'chunk': config.record.every,
    'seeds': make_seeds(config),
    'memory': _find_memory(),
  }


def _check_error(fit):
  choose(dict.fromkeys(objectives.ERRORS), fit.error, 'fit.error')
  if fit.error != 'stein':
    return
  if fit.tv or fit.perceptual or fit.precision != 'float32':
    raise ValueError(
      "fit.error='stein' is for fit.tv=0, fit.perceptual=0 and "
      "fit.precision='float32'"
    )


def refuse_known_noise(fit: ml_collections.ConfigDict) -> None:
  """Raises a ValueError where fit.error is for denoising alone."""
  if fit.error in objectives.OF_KNOWN_NOISE:
    raise ValueError(
      f'fit.error={fit.error!r} is for denoising with Gaussian noise alone'
    )


def _find_memory() -> int | None:
  """The machine's memory for a CPU; a GPU is asked by dipjax itself."""
  if jax.default_backend() != 'cpu' or not hasattr(os, 'sysconf'):
    return None
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def make_network(
  network: ml_collections.ConfigDict, channels: int, remat: bool = False
) -> nn.Module:
  """Returns the network by its name, with its fields as arguments.

  Raises:
    ValueError: a name, a field or a value that no network, or not this, has.
  """
  fields = network.to_dict()
  cls = choose(NETWORKS, fields.pop('name'), 'network.name')
  known = {field.name for field in dataclasses.fields(cls)}
  given = {name: fields[name] for name in fields if name not in _CODE}
  unknown = given.keys() - known
  if unknown:
    raise ValueError(
      f'the network {network.name!r} has no {", ".join(sorted(unknown))}: '
      f'choose it by network={network.name} behind the colon of the config'
    )
  if 'remat' in known:
    given['remat'] = remat
  return cls(outputs=channels, **given)


@functools.cache
def make_optimizer(
  name: str, learning_rate: float, clip: float
) -> optax.GradientTransformation:
  """Returns an optimiser of gradients shortened to `clip` unless that is 0.

  Equal arguments give the same one, so that a fit is compiled once.
  """
  optimizer = choose(OPTIMIZERS, name, 'fit.optimizer')(learning_rate)
  if not clip:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(clip), optimizer)


def make_penalties(
  fit: ml_collections.ConfigDict,
) -> list[tuple[objectives.Penalty, float]]:
  """Returns what is added to the squared error, with weights."""
  return [(objectives.total_variation, fit.tv)] if fit.tv else []


def make_perceptual(
  fit: ml_collections.ConfigDict,
) -> tuple[features.Features, float] | None:
  """Returns the features that are compared, and the weight; None without."""
  if not fit.perceptual:
    return None
  network = make_features(
    fit.perceptual_weights,
    tuple(fit.perceptual_layers),
    'fit.perceptual_layers',
    fit.perceptual_factor,
  )
  return network, fit.perceptual


@functools.cache
def make_features(
  path: str, layers: tuple[str, ...], field: str, factor: int = 1
) -> features.Features:
  """Returns a feature network with the parameters of a file, on the device.

  Equal arguments give the same one, so that many fits share the parameters.

  Args:
    path: as of `weights.load_weights`.
    layers: of `features.LAYERS`.
    field: of the config that names them, for the error.
    factor: of `features.Features`.

  Raises:
    ValueError: no layers, unknown ones, a factor below 1, or the file.
  """
  for layer in layers:
    choose(dict.fromkeys(features.LAYERS), layer, field)
  if not layers or factor < 1:
    raise ValueError(
      f'{field} must name layers, and their factor be >= 1, got {layers}, '
      f'{factor}'
    )
  params = jax.tree.map(jnp.asarray, weights.load_weights(path).params)
  return features.Features(params, layers, factor)


def scale_features(
  network: features.Features, image: np.ndarray
) -> tuple[np.ndarray, jax.tree_util.Partial]:
  """Returns the features of an image, and what makes their largest 1.

  Features without a scale would have no PSNR. ValueError where all are 0.
  """
  found = jax.jit(lambda network, image: network(image))(network, image)
  if not np.any(found):
    raise ValueError(f'all features of {", ".join(network.layers)} are 0')
  scale = jax.tree_util.Partial(jnp.multiply, 1 / jnp.max(found))
  return np.asarray(found), scale


def _make_code_and_jitter(config):
  """Some errors have their own, see `dipjax.restore`."""
  if config.fit.error in objectives.OF_KNOWN_NOISE:
    return {'code': None, 'jitter': None}
  return {'code': make_code(config.network), 'jitter': config.fit.jitter}


def make_code(network: ml_collections.ConfigDict):
  """Returns the maker of the input code by its name."""
  makers = {
    'noise': functools.partial(
      codes.draw_uniform_noise, channels=network.code_channels
    ),
    'meshgrid': lambda key, size: codes.make_meshgrid(size),
  }
  return choose(makers, network.code, 'network.code')


def make_monitors(
  config: ml_collections.ConfigDict,
) -> dict[str, monitors.Monitor]:
  """Returns the stopping rule by its name."""
  stop = config.stop
  rules = {
    'wmv': lambda: monitors.wmv(
      of=stop.of,
      window=stop.window,
      patience=stop.patience,
      warmup=stop.warmup,
    ),
    'emv': lambda: monitors.emv(
      of=stop.of, patience=stop.patience, warmup=stop.warmup
    ),
    'discrepancy': lambda: monitors.discrepancy(of=stop.of),
    'pseudo_reference': lambda: monitors.pseudo_reference(
      patience=stop.patience, warmup=stop.warmup
    ),
    'sure': lambda: _make_sure(config.fit.error),
    'last': lambda: monitors.last(config.fit.steps),
    'mean': lambda: monitors.mean(burn_in=stop.warmup, every=stop.window),
  }
  return {stop.rule: choose(rules, stop.rule, 'stop.rule')()}


def _make_sure(error):
  if error != 'stein':
    raise ValueError(
      f"stop.rule='sure' watches the error 'stein', not {error!r}: set "
      'fit.error=stein'
    )
  return monitors.sure()


class Noisy(NamedTuple):
  """What is fitted, and what the error and the rule know of its noise."""

  measurement: np.ndarray
  sigma: float | None = None
  reference: np.ndarray | None = None


def prepare_noise(
  config: ml_collections.ConfigDict, measurement: np.ndarray
) -> Noisy:
  """Returns the arguments of `dipjax.restore` that tell of the noise.

  For the rule pseudo_reference the measurement is split in two; nothing else
  changes what is fitted.

  Args:
    config: of any restoration.
    measurement: of the problem, an image where fit.sigma is 0.

  Raises:
    ValueError: a fit.sigma or stop.tau that cannot be, or a measurement whose
      noise cannot be estimated.
  """
  split = config.stop.rule == 'pseudo_reference'
  told = split or config.stop.rule == 'discrepancy'
  needed = config.fit.error in objectives.OF_KNOWN_NOISE
  if not told and not needed:
    return Noisy(measurement)
  sigma = check_sigma(config.fit.sigma, 'fit.sigma') / 255
  sigma = sigma or noise.estimate_sigma(measurement)
  if needed and sigma < _LEAST_SIGMA:
    raise ValueError(
      f'fit.error={config.fit.error!r} needs noise, and none was found: give '
      'its standard deviation, of 255, as fit.sigma'
    )
  if not split:
    return Noisy(measurement, sigma)
  tau = config.stop.tau
  fitted, reference = noise.split_measurement(
    measurement, sigma, tau=tau, seed=config.seed
  )
  return Noisy(fitted, math.hypot(1, tau) * sigma, reference)


def choose(known: Mapping[str, Any], name: str, field: str) -> Any:
  """Returns what a name stands for; ValueError with the known ones."""
  if name not in known:
    raise ValueError(f'{field} {name!r} is not one of {", ".join(known)}')
  return known[name]
