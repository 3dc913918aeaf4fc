"""From a config to the arguments of `dipjax.restore`; configs end here."""

import functools
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from dipjax import codes, corruptions, fit, monitors
from dipjax.networks import skip
from experiments import images


class Data(NamedTuple):
  """What is to be restored, and what it may be compared with."""

  measurement: np.ndarray  # [H, W, C]
  clean: np.ndarray | None  # [H, W, C]


def load_denoising(data: ml_collections.ConfigDict) -> Data:
  """Returns the noisy image, and the clean one if it is known.

  With data.sigma > 0 the image is the clean one and noise is added; with 0 it
  is the measurement, and data.clean, if given, what it is compared with.

  Raises:
    ValueError: files, sizes or numbers that do not fit, in one line.
  """
  if not (math.isfinite(data.sigma) and data.sigma >= 0):
    raise ValueError(f'data.sigma must be a number >= 0, got {data.sigma}')
  if data.sigma and data.clean:
    raise ValueError(
      'with data.sigma > 0 data.image is the clean image itself: leave out '
      f'data.clean={data.clean!r}, or set data.sigma=0'
    )
  image = _read(data.image, data.crop)
  if data.sigma:
    noisy = corruptions.add_gaussian_noise(
      image, data.sigma / 255, seed=data.noise_seed, clip=data.clip
    )
    return Data(noisy, image)
  return Data(image, _read_clean(data, image) if data.clean else None)


def _read(source, crop):
  return images.crop_image(images.read_image(source), tuple(crop))


def _read_clean(data, image):
  clean = images.read_image(data.clean)
  whole = images.read_image(data.image)
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
  for name, least in (('steps', 1), ('learning_rate', 0), ('jitter', 0)):
    value = config.fit[name]
    if not (math.isfinite(value) and value >= least):
      raise ValueError(f'fit.{name} must be at least {least}, got {value}')
  if not 0 <= config.average.decay < 1:
    raise ValueError(
      f'average.decay must be in [0, 1), got {config.average.decay}'
    )
  if config.record.every < 1:
    raise ValueError(f'record.every must be >= 1, got {config.record.every}')
  return {
    'network': make_network(config.network, channels).clone(
      remat=config.fit.remat
    ),
    'code': make_code(config.network),
    'jitter': config.fit.jitter,
    'optimizer': optax.adam(config.fit.learning_rate),
    'steps': config.fit.steps,
    'decay': config.average.decay,
    'precision': _check_precision(config.fit.precision),
    'monitors': make_monitors(config),
    'rule': config.stop.rule,
    'chunk': config.record.every,
    'seeds': make_seeds(config),
    'memory': _find_memory(),
  }


def _find_memory() -> int | None:
  """The machine's memory for a CPU; a GPU is asked by dipjax itself."""
  if jax.default_backend() != 'cpu' or not hasattr(os, 'sysconf'):
    return None
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _check_precision(name):
  _choose(fit.PRECISIONS, name, 'fit.precision')
  return name


def make_network(
  network: ml_collections.ConfigDict, channels: int
) -> nn.Module:
  """Returns the network by its name, with its other fields as arguments."""
  networks = {'skip': skip.Skip}
  fields = network.to_dict()
  cls = _choose(networks, fields.pop('name'), 'network.name')
  del fields['code'], fields['code_channels']
  return cls(outputs=channels, **fields)


def make_code(network: ml_collections.ConfigDict):
  """Returns the maker of the input code by its name."""
  makers = {
    'noise': functools.partial(
      codes.draw_uniform_noise, channels=network.code_channels
    ),
    'meshgrid': lambda key, size: codes.make_meshgrid(size),
  }
  return _choose(makers, network.code, 'network.code')


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
    'last': lambda: monitors.last(config.fit.steps),
  }
  return {stop.rule: _choose(rules, stop.rule, 'stop.rule')()}


def _choose(known: Mapping[str, Any], name: str, field: str) -> Any:
  if name not in known:
    raise ValueError(f'{field} {name!r} is not one of {", ".join(known)}')
  return known[name]
