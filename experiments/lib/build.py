"""Makes the `Recipe` of a fit from a config; no later module reads configs.

Every field is read or refused: a field that a config sets and nothing reads is
an error that names the field.
"""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn

from dipjax import (
  Recipe,
  codes,
  features,
  finish,
  methods,
  monitors,
  noise,
  optimizers,
  rehearsal,
  wiener,
)
from dipjax.conv import choose
from dipjax.engine import loop
from dipjax.networks import NETWORKS
from experiments.lib import fields, weights

# Less noise than this share of the step between two values is none.
_LEAST_NOISE = 0.1
_SAMPLE = 1 << 18  # Values that show the step.
WRONG = 0.3  # The error of a level from which it is no help.

# Sections of the config, and fields of config.fit, that every fit reads.
_SECTIONS = {
  'seed',
  'data',
  'network',
  'method',
  'fit',
  'record',
  'checkpoint',
  'output',
}
_FIT = {
  'steps',
  'optimizer',
  'learning_rate',
  'schedule',
  'clip',
  'precision',
  'remat',
  'strength',
}
# Only fits that stop and average read the following sections and terms.
_STOPPING = {'lanes', 'stop', 'average'}
_TERMS = {
  'tv',
  'perceptual',
  'perceptual_layers',
  'perceptual_factor',
  'perceptual_weights',
}
_CODE = {'code', 'code_channels'}  # Fields of a network that make its code.


def make_recipe(
  config: ml_collections.ConfigDict,
  channels: int,
  *,
  own: Collection[str] = (),
  stops: bool = True,
  told: bool = True,
) -> Recipe:
  """Returns the recipe that a config describes, or refuses the config.

  Args:
    config: of any experiment that fits a network to a picture.
    channels: number of the image's channels.
    own: sections of the config that the experiment itself reads.
    stops: whether the experiment stops and averages its fits and adds terms to
      the loss. If not, the recipe has the monitor `Last`, and no average.
    told: whether the experiment reads fit.sigma, see `prepare_noise`.

  Raises:
    ValueError: a value that no network, method, fit or rule can have, or a
      field that nothing reads.
  """
  # Which fields are read depends on the method and on the rule.
  sections = _SECTIONS | set(own) | (_STOPPING if stops else set())
  fields.refuse_unread(config, sections)
  method = make_method(config.method)
  stopping = {'monitors': {'last': monitors.Last()}, 'decay': 0.0}
  if stops:
    stopping = {
      'monitors': make_monitors(config.stop),
      'decay': config.average.decay,
      'penalties': make_penalties(config.fit),
    }
  read = set(_FIT)
  if not method.makes_code:
    read |= {'jitter'}
  if stops and method.takes_terms:
    read |= _TERMS
  if stops:
    read |= {'tile'}
  if stops and method.makes_code:
    read |= {'window', 'rehearsal'}
  if told and _needs_sigma(method, stopping['monitors']):
    read |= {'sigma', 'finish'}
  fields.refuse_unread(config.fit, read, 'fit')
  # A method that makes its own code takes neither a code nor a jitter.
  drawn = (
    {}
    if method.makes_code
    else {'code': make_code(config.network), 'jitter': config.fit.jitter}
  )
  return Recipe(
    network=make_network(
      config.network, channels, remat=config.fit.remat, coded=bool(drawn)
    ),
    method=method,
    optimizer=make_optimizer(config.fit),
    steps=config.fit.steps,
    window=config.fit.get('window') or None,
    tile=config.fit.get('tile') or None,
    precision=_choose_precision(config.fit.precision, method),
    **drawn,
    **stopping,
  )


def _choose_precision(name, method):
  """The precision that the name says; 'auto' is the fast one of the device."""
  if name != 'auto':
    return name
  fast = choose.prefers_bfloat16() and method.allows('bfloat16')
  return 'bfloat16' if fast else 'float32'


def make_seeds(config: ml_collections.ConfigDict) -> list[int]:
  """Returns the seed of each lane."""
  return list(range(config.seed, config.seed + config.lanes))


def make_method(method: ml_collections.ConfigDict) -> methods.Method:
  """Returns the method that a section names, made from the section's fields."""
  return _make_choice('method', method, methods.METHODS)


def make_monitors(
  stop: ml_collections.ConfigDict,
) -> dict[str, monitors.Monitor]:
  """Returns {name: rule} for the stopping rule that a section names."""
  return {stop.name: _make_choice('stop', stop, monitors.MONITORS)}


def _make_choice(kind, chosen, table):
  """Returns the method or rule of a section that `kind=NAME` made."""
  given = chosen.to_dict()
  cls = fields.choose(table, given.pop('name', ''), f'{kind}.name')
  own = dataclasses.fields(cls)
  _refuse_foreign(kind, chosen, {field.name for field in own})
  # A default of None stands for a field that no config decides.
  needed = {field.name for field in own if field.default is not None}
  if needed - given.keys():
    raise ValueError(f'{kind}.name is {chosen.name!r}: {_advise(kind, chosen)}')
  return cls(**given)


def _refuse_foreign(kind, chosen, known):
  """Raises a ValueError for a field of another network, method or rule."""
  for name in chosen:
    old = f'{kind}.{name}'
    if old in fields.RENAMED:
      raise ValueError(f'{old} is now {fields.RENAMED[old]}')
    if name not in known | {'name'}:
      raise ValueError(
        f'{old} is set and nothing reads it: the {kind} {chosen.name!r} has '
        f'{", ".join(sorted(known)) or "no fields"}; {_advise(kind, chosen)}'
      )


def _advise(kind, chosen):
  return f'choose it by {kind}={chosen.name} behind the colon of the config'


def make_network(
  network: ml_collections.ConfigDict,
  channels: int,
  *,
  remat: bool = False,
  coded: bool = True,
) -> nn.Module:
  """Returns the network that a section names, made from the section's fields.

  Args:
    network: a section of a config.
    channels: number of the image's channels.
    remat: the network's field `remat`.
    coded: whether the section also has the fields of the network's code.

  Raises:
    ValueError: an unknown name, a field that this network does not have, or a
      value that the field cannot have.
  """
  cls: Any = fields.choose(NETWORKS, network.name, 'network.name').module
  own = {field.name for field in dataclasses.fields(cls)}
  known = own - {'outputs', 'remat', 'parent', 'name'}
  _refuse_foreign('network', network, known | (_CODE if coded else set()))
  given = {name: network[name] for name in known if name in network}
  if 'remat' in own:
    given['remat'] = remat
  return cls(outputs=channels, **given)


def make_code(network: ml_collections.ConfigDict):
  """Returns the function that makes the input code, by its name."""
  makers = {
    'noise': codes.UniformNoise(channels=network.code_channels),
    'meshgrid': codes.Meshgrid(),
  }
  return fields.choose(makers, network.code, 'network.code')


def make_optimizer(fit: ml_collections.ConfigDict):
  """Returns the optimiser by its name; equal fields give the same optimiser."""
  return optimizers.make_optimizer(
    fit.optimizer, fit.learning_rate, fit.clip, fit.schedule
  )


def make_penalties(
  fit: ml_collections.ConfigDict,
) -> list[tuple[methods.Penalty, float]]:
  """Returns the penalties with their weights, see `Recipe.penalties`."""
  weight = fit.get('tv', 0.0)
  return [(methods.total_variation, weight)] if weight else []


def make_perceptual(
  fit: ml_collections.ConfigDict,
) -> tuple[features.Features, float] | None:
  """Returns the features to compare and their weight, or None at weight 0."""
  if not fit.get('perceptual', 0.0):
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

  Equal arguments give the same network, so that many fits share the parameters.

  Args:
    path: the file, see `weights.load_weights`.
    layers: names of `features.LAYERS`.
    field: the config's field that names the layers, for the error.
    factor: see `features.Features`.

  Raises:
    ValueError: no layers, unknown layers, a factor below 1, or a wrong file.
  """
  for layer in layers:
    fields.choose(dict.fromkeys(features.LAYERS), layer, field)
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
  """Returns an image's features, and a function that scales the largest to 1.

  Features without a scale would have no PSNR.

  Raises:
    ValueError: all features are 0.
  """
  found = jax.jit(lambda network, image: network(image))(network, image)
  if not np.any(found):
    raise ValueError(f'all features of {", ".join(network.layers)} are 0')
  scale = jax.tree_util.Partial(jnp.multiply, 1 / jnp.max(found))
  return np.asarray(found), scale


class Noisy(NamedTuple):
  """A measurement, and what the method and the rule know of its noise."""

  measurement: np.ndarray
  model: noise.Model | None = None
  reference: np.ndarray | None = None


def prepare_noise(
  config: ml_collections.ConfigDict, recipe: Recipe, measurement: np.ndarray
) -> Noisy:
  """Returns the arguments of `dipjax.restore` that describe the noise.

  For a rule that needs a reference the function splits the measurement in two;
  otherwise the measurement stays as it is.

  Args:
    config: the config of any restoration.
    recipe: the recipe by this config.
    measurement: what is to be fitted; an image where fit.sigma is 0.

  Raises:
    ValueError: a measurement whose noise cannot be estimated.
  """
  if not _needs_sigma(recipe.method, recipe.monitors):
    return Noisy(measurement)
  found = find_noise(measurement, config.fit.sigma / 255)
  if 'sigma' in recipe.method.needs and not found.sigma:
    raise ValueError(
      f'the method {recipe.method.name!r} needs noise, and none was found: '
      'give its standard deviation, of 255, as fit.sigma'
    )
  rule = recipe.monitors[recipe.rule]
  if 'reference' not in rule.list_needs():
    return Noisy(measurement, found)
  # Splitting adds noise of tau times sigma to the part that is fitted.
  tau = noise.choose_tau(np.size(measurement))
  fitted, reference = noise.split_measurement(
    measurement,
    expect_noise(measurement, found),
    tau=tau,
    seed=config.seed,
  )
  return Noisy(fitted, found.scale(1 + tau**2), reference)


def find_noise(measurement: np.ndarray, sigma: float = 0.0) -> noise.Model:
  """Returns the noise that was told, or that is found in the measurement.

  Less noise than the rounding of the values is none.

  Args:
    measurement: an image where sigma is 0.
    sigma: what the user says; 0: nothing.
  """
  clipped = bool(noise.is_clipped(jnp.asarray(measurement)))
  if sigma:
    return noise.Model.make_white(sigma, clipped=clipped)
  found = noise.estimate_noise(measurement)
  # Where nothing is sure, the finest wavelets are right for white noise.
  if found.error > WRONG:
    level = noise.estimate_by_wavelets(measurement)
    found = noise.Model.make_white(level, clipped=clipped).replace(
      error=found.error,
      impulses=found.impulses,
      evidence=found.evidence,
      channels=found.channels,
    )
  # The step between two values is that of 8 bits, or less.
  levels = np.unique(np.ravel(measurement)[:_SAMPLE])
  step = min(1 / 255, np.diff(levels).min()) if levels.size > 1 else 1 / 255
  if found.sigma < _LEAST_NOISE * step:
    return noise.Model.make_white(0.0)
  return found


def expect_noise(measurement: np.ndarray, found: noise.Model) -> noise.Model:
  """Returns the noise that a rule should expect: a guess where it is not sure.

  Where neighbours share noise, the finest wavelets show too little of it; where
  the flattest parts have texture, they show too much. The guess is the average
  of both.

  Args:
    measurement: an image where the noise was not told.
    found: of `find_noise`; by the finest wavelets where it is not sure.
  """
  if found.error <= WRONG:
    return found
  flattest = noise.estimate_noise(measurement, flattest=True)
  return found.mix(flattest).replace(error=found.error)


def finish_image(
  config: ml_collections.ConfigDict, noisy: Noisy, image: np.ndarray
) -> tuple[np.ndarray, float]:
  """Returns the image after `finish`, where the config asks for it.

  Args:
    config: its field fit.finish asks; what follows needs the noise.
    noisy: what was restored.
    image: the restored image, [H, W, C].

  Returns:
    The image, and the share of what was removed that came back.
  """
  if noisy.model is None or not config.fit.get('finish'):
    return image, 0.0
  if config.fit.get('window'):
    return _finish(noisy, image, finish.WINDOWS, finish.WIDE)
  return _finish(noisy, image, finish.FIT, wiener.REACH)


def _finish(noisy, image, parts, reach):
  image, share = finish.finish(
    image, noisy.measurement, noisy.model, parts=parts, reach=reach
  )
  return image, float(share.mean())


def find_deviation(
  config: ml_collections.ConfigDict,
  noisy: Noisy,
  restoration: Any,
  image: np.ndarray,
) -> np.ndarray:
  """Returns how far the image of several seeds may err; 0 for one seed.

  Args:
    config, noisy: see `finish_image`.
    restoration: what the fit gave; seeds that diverged for good do not count.
    image: the last one made of it, see `finish.find_deviation`.
  """
  if len(restoration.images) == 1:
    return restoration.deviation
  good = loop.choose_good(restoration.images, restoration.diverged)
  model = noisy.model if config.fit.get('finish') else None
  return finish.find_deviation(good, image, model)


def find_rehearsal(
  config: ml_collections.ConfigDict, recipe: Recipe, noisy: Noisy
) -> int:
  """Returns the steps of each part after a fit; 0 where no rehearsal follows.

  It follows fits with windows alone, whose image is filtered.

  Args:
    config, recipe, noisy: see `rehearse_image`.
  """
  follows = recipe.window and noisy.model and config.fit.get('finish')
  return config.fit.get('rehearsal', 0) if follows else 0


def rehearse_image(
  config: ml_collections.ConfigDict,
  recipe: Recipe,
  noisy: Noisy,
  restoration: Any,
  finished: tuple[np.ndarray, float],
  following: Any = None,
) -> tuple[np.ndarray, float]:
  """Returns the image after `rehearsal`, where the config asks for it.

  Args:
    config: its field fit.rehearsal tells the steps; the image must be finished.
    recipe: of the fit.
    noisy: what was restored.
    restoration: what the fit gave; its first good lane goes on.
    finished: what `finish_image` returned.
    following: a `recorder.Following`; where it ends the steps, what was
      finished stays as it is.
  """
  steps = find_rehearsal(config, recipe, noisy)
  if not steps:
    return finished
  assert noisy.model  # A rehearsal has it.
  lane = int(np.argmin(restoration.diverged))
  made = rehearsal.rehearse(
    noisy.measurement,
    finished[0],
    jax.tree.map(lambda leaf: leaf[lane], restoration.params),
    recipe,
    noise=noisy.model,
    steps=steps,
    seed=config.seed + lane,
    chunk=config.record.every,
    watch=following,
    store=following,
  )
  if made is None:
    return finished
  image = (made + finished[0]) / 2
  return _finish(noisy, image, finish.FILTERED, finish.WIDE)


def _needs_sigma(method, rules):
  """Returns whether the noise's sigma must be known or estimated."""
  needs = method.needs.union(*(rule.list_needs() for rule in rules.values()))
  return bool({'sigma', 'reference'} & needs)
