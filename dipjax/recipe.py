"""How to fit: the network, the method, when to stop, how to descend.

A `Recipe` is what a config builds, what `dipjax.restore` takes, and, without
the numbers that a problem carries, the static argument of the compiled step.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.core import FrozenDict

from dipjax import methods, operators, optimizers
from dipjax import monitors as monitors_lib
from dipjax import noise as noise_lib
from dipjax.engine.problem import Code

Array = jax.Array

# By name: the type of the network's arrays, and the precision of its products.
PRECISIONS = {
  'float32': (jnp.float32, 'float32'),
  'tensorfloat32': (jnp.float32, 'tensorfloat32'),
  'bfloat16': (jnp.bfloat16, 'bfloat16'),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """How an image is fitted: a hashable value, equal where its fields are.

  Attributes:
    network: a module of `dipjax.networks` with as many outputs as the image has
      channels; None is the paper's skip network.
    method: what is minimised, of `dipjax.methods`. `Squared` is the paper's;
      `Absolute` is for values that are wrong altogether, as by impulse noise,
      and `Outliers` fits wrong values beside the image; `Recorrupted` and
      `Stein` are for Gaussian noise of a known sigma, which the network then
      learns later and less.
    code: (key, (height, width)) -> the network's input [height, width, I], of
      the size that the network wants; None leaves the code to the method: most
      methods take noise.
    jitter: standard deviation of the noise on the code, fresh in each step;
      None leaves the jitter to the method: most methods take 1/30.
    penalties: pairs (function of an image -> a number, weight >= 0), added to
      the mean error; for instance (methods.total_variation, 1e-7).
    monitors: the monitors that watch the fit, by name; kept as a frozen dict.
    rule: the name of the monitor whose image is returned; '' is the first.
    optimizer: what descends; its update may take the `key` of the step. The
      optimiser sees the parameters by the names of the network's parts, each as
      `packing.pack` makes it. Make it once and pass it on, so that a step
      compiles once: optax's optimisers are equal only to themselves, see
      `optimizers`.
    rate: what the steps of the optimiser are multiplied by; None is 1. Another
      rate compiles nothing again, and an optimiser of learning rate 1 with a
      rate is one of that learning rate.
    steps: the most steps that a lane takes.
    decay: weight of the older outputs in the running average, in [0, 1); with
      windows, of the older parameters.
    window: side of the windows; None is no windows. In each step the network
      then sees one window of the picture, at a place drawn anew, and after the
      last step it denoises the whole picture, tile by tile: a step costs the
      same for every picture. It needs a method that sees the measurement
      (`Recorrupted`), and the rule `Last`, since no rule ever sees the whole
      image. A network that normalises fails: take `networks.PlainUNet`. A
      window larger than the picture shrinks to it.
    tile: side of the tiles, at most; None: the whole picture, or tiles where
      the whole does not fit into memory. Each tile is a fit of its own, and
      neighbours are blended, see `engine.tiled`: memory and the size of a
      network's view do not grow with the picture. It needs an operator that
      says how far it sees, see `operators`. Penalties and features see a tile.
    precision: the precision of the network's products, of PRECISIONS.
      Parameters, statistics of normalisations, the image, the loss and the
      average are float32 in every precision; a processor without a precision
      computes in a finer one.

  Raises:
    ValueError: values that do not fit each other, named.
  """

  network: nn.Module | None = None
  method: methods.Method = methods.Squared()
  code: Code | None = None
  jitter: float | None = None
  penalties: tuple[tuple[methods.Penalty, float], ...] = ()
  monitors: Mapping[str, monitors_lib.Monitor] = FrozenDict(
    {'emv': monitors_lib.EMV()}
  )
  rule: str = ''
  optimizer: optax.GradientTransformation = optimizers.make_optimizer('adam')
  rate: float | None = None
  steps: int = 5000
  decay: float = 0.99
  window: int | None = None
  tile: int | None = None
  precision: str = 'float32'

  def __post_init__(self):
    # Callers may give a mapping and lists; the recipe keeps hashable copies.
    freeze = lambda name, value: object.__setattr__(self, name, value)
    freeze('monitors', FrozenDict(self.monitors))
    freeze('penalties', tuple((p, float(w)) for p, w in self.penalties))
    if not self.rule and self.monitors:
      freeze('rule', next(iter(self.monitors)))
    _check_numbers(self)
    _check_rule(self)
    _check_terms(self)
    _check_window(self)

  def replace(self, **changes: Any) -> 'Recipe':
    """Returns the recipe with the given fields changed."""
    return dataclasses.replace(self, **changes)

  def watch(self, **others: monitors_lib.Monitor) -> 'Recipe':
    """Returns the recipe with further monitors; the rule stays."""
    return self.replace(monitors={**self.monitors, **others})

  def prepare(
    self,
    measurement: Array,
    operator: Any = None,
    *,
    noise: noise_lib.Model | None = None,
  ) -> tuple['Recipe', operators.Operator]:
    """Returns the recipe as its method changes it, and the operator.

    The recipe that is returned has a code and a jitter.

    Args:
      measurement: the array to fit.
      operator: a function of an image; None is the identity.
      noise: of the measurement, where it is known.

    Raises:
      ValueError: a recipe without a network, or a task that the method is not
        for.
    """
    if self.network is None:
      raise ValueError('a recipe without a network cannot be prepared')
    parts = self.method.prepare(
      methods.Parts(
        measurement=measurement,
        operator=operator,
        network=self.network,
        code=self.code,
        jitter=self.jitter,
        optimizer=self.optimizer,
        noise=noise,
      )
    )
    prepared = self.replace(
      network=parts.network,
      code=parts.code,
      jitter=parts.jitter,
      optimizer=parts.optimizer,
    )
    return prepared, operators.as_operator(parts.operator)

  def find_program(self) -> 'Recipe':
    """Returns the recipe without what a problem carries.

    Recipes that differ in code, jitter, rate, steps, weights or rule alone
    share one program: these numbers are arguments of the step, the arguments
    have the size of the windows, and the rule chooses after the step.
    """
    defaults = {'code': None, 'jitter': None, 'rate': None, 'steps': 1}
    defaults |= {'window': None, 'tile': None}
    penalties = tuple((penalty, 0.0) for penalty, _ in self.penalties)
    rule = min(self.monitors)
    return self.replace(**defaults, penalties=penalties, rule=rule)


def _check_numbers(recipe: Recipe) -> None:
  if not 0 <= recipe.decay < 1:
    raise ValueError(f'decay must be in [0, 1), got {recipe.decay}')
  whole = isinstance(recipe.steps, int | np.integer)
  if not (whole and 1 <= recipe.steps < 2**31):  # Counted in 32 bits.
    raise ValueError(
      'steps must be a whole number, at least 1 and below 2**31, got '
      f'{recipe.steps!r}'
    )
  if recipe.precision not in PRECISIONS:
    raise ValueError(
      f'precision {recipe.precision!r} is not one of {", ".join(PRECISIONS)}'
    )
  for name in ('jitter', 'rate'):
    value = getattr(recipe, name)
    if value is not None and not (math.isfinite(value) and value >= 0):
      raise ValueError(f'{name} must be a number >= 0, got {value}')
  for penalty, weight in recipe.penalties:
    if not (math.isfinite(weight) and weight >= 0):
      raise ValueError(
        f'the weight of {penalty} must be a number >= 0, got {weight}'
      )


def _check_rule(recipe: Recipe) -> None:
  if not recipe.monitors:
    raise ValueError('a fit needs at least one monitor')
  if recipe.rule not in recipe.monitors:
    raise ValueError(
      f'rule {recipe.rule!r} is none of the monitors {list(recipe.monitors)}'
    )
  for name, monitor in recipe.monitors.items():
    if 'risk' in monitor.list_needs() and not recipe.method.estimates_risk:
      raise ValueError(
        f'the monitor {name!r} watches a loss that estimates the risk, as that '
        f"of the method 'stein', not of {recipe.method.name!r}"
      )


def _check_terms(recipe: Recipe) -> None:
  method = recipe.method
  if recipe.penalties and not method.takes_terms:
    raise ValueError(f'the method {method.name!r} takes no penalties')
  if not method.allows(recipe.precision):
    raise ValueError(
      f'the method {method.name!r} is for the precision '
      f'{" or ".join(method.precisions)}, got {recipe.precision!r}'
    )


def _check_window(recipe: Recipe) -> None:
  window, tile = recipe.window, recipe.tile
  if tile is not None and tile < 1:
    raise ValueError(f'tile must be at least 1, got {tile}')
  if window is None:
    return
  if tile is not None:
    raise ValueError(
      'windows make the whole picture by tiles of their own: leave out '
      f'tile={tile}'
    )
  if window < 1:
    raise ValueError(f'window must be at least 1, got {window}')
  if not recipe.method.makes_code:
    raise ValueError(
      "windows are for a method that sees the measurement, as 'recorrupted', "
      f'not for {recipe.method.name!r}'
    )
  monitor = recipe.monitors[recipe.rule]
  if len(recipe.monitors) > 1 or not isinstance(monitor, monitors_lib.Last):
    raise ValueError(
      'a fit with windows makes its image after the last step, where no rule '
      'but `last` can judge it: watch it with one monitor `Last`, got '
      f'{list(recipe.monitors)}'
    )
