"""The contract of a method, and the terms that objectives have in common.

A method changes the parts of a fit before the fit begins (`prepare`), and gives
what the fit minimises (`make_objective`). The engine knows no more of a method.

A penalty is a function of the image [H, W, C] that returns a number. The weight
of a penalty is a part of the problem, so that another weight does not compile
again and lanes may have different weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dipjax import codes, operators
from dipjax import noise as noise_lib
from dipjax.engine.problem import Code, Problem

Array = jax.Array
Objective = Callable[[Any, Problem, Array], tuple[Array, Array]]
Penalty = Callable[[Array], Array]

NOISE_CODE = codes.UniformNoise(channels=32)
JITTER = 1 / 30


class Parts(NamedTuple):
  """The parts of a fit; a method may change all but the measurement."""

  measurement: Array
  operator: Callable[[Array], Array] | None  #: None is the identity.
  network: nn.Module
  code: Code | None  #: None leaves it to the method.
  jitter: float | None  #: None leaves it to the method.
  optimizer: optax.GradientTransformation
  noise: noise_lib.Model | None = None  #: Of the measurement, if known.


@dataclasses.dataclass(frozen=True)
class Method:
  """How an image is found: a hashable value, equal where its fields are.

  Attributes:
    needs: what the problem must hold beside the measurement: 'sigma'.
    makes_code: whether the method makes the code, the jitter and the operator
      itself, and is for denoising alone.
    takes_terms: whether penalties and features can be added.
    passes: how often a step runs the network, for the estimate of memory.
    estimates_risk: whether the loss estimates the squared error to the truth.
    precisions: names of `recipe.PRECISIONS` in which the objective can be
      computed; empty stands for all.
  """

  needs: ClassVar[frozenset[str]] = frozenset()
  makes_code: ClassVar[bool] = False
  takes_terms: ClassVar[bool] = True
  passes: ClassVar[int] = 1
  estimates_risk: ClassVar[bool] = False
  precisions: ClassVar[tuple[str, ...]] = ()

  @property
  def name(self) -> str:
    """The method's name in messages."""
    return type(self).__name__.lower()

  def allows(self, precision: str) -> bool:
    """Returns whether the objective can be computed in a precision."""
    return not self.precisions or precision in self.precisions

  def check_task(self, *, operator: Any = None, code: Any = None) -> None:
    """Raises a ValueError, in one line, if the method is not for a task.

    Args:
      operator: the task's operator; None is denoising.
      code: what the task gives to the network; None leaves the code to the
        method.
    """
    if self.makes_code and not (operator is None and code is None):
      raise ValueError(
        f'the method {self.name!r} is for denoising alone, where the '
        'measurement is the code: give neither an operator nor a code'
      )

  def prepare(self, parts: Parts) -> Parts:
    """Returns the parts with an operator, a code and a jitter.

    Raises:
      ValueError: parts that the method is not for.
    """
    self.check_task(operator=parts.operator, code=parts.code)
    return parts._replace(
      operator=operators.as_operator(parts.operator),
      code=NOISE_CODE if parts.code is None else parts.code,
      jitter=JITTER if parts.jitter is None else parts.jitter,
    )

  def make_objective(
    self, network: nn.Module, penalties: tuple[Penalty, ...] = ()
  ) -> Objective:
    """Returns (params, problem, key) -> (loss, image [H, W, C]).

    Args:
      network: what `prepare` returned; its output, cropped to the real pixels,
        is the image.
      penalties: functions of the image; the objective adds each with its entry
        of problem.weights, in this order.
    """
    raise NotImplementedError


def draw_image(
  network: nn.Module, params: Any, problem: Problem, key: Array
) -> tuple[Array, Array]:
  """Returns the image for a jittered code, [H, W, C], and the jittered code."""
  code = codes.jitter_code(key, problem.code, problem.jitter)
  output: Any = network.apply({'params': params}, code)
  return problem.crop(output), code


def add_terms(
  loss: Array,
  penalties: tuple[Penalty, ...],
  problem: Problem,
  image: Array,
  predicted: Array,
) -> Array:
  """Returns the loss with the weighted penalties and the perceptual error.

  The perceptual error is mean((features(predicted) - target)^2), where the
  problem has features; the features are computed in the precision of the code.
  """
  # Weights are arrays of the problem, in the order of the penalties; the weight
  # of the features comes last.
  for i, penalty in enumerate(penalties):
    loss += problem.weights[i] * penalty(image)
  if problem.features is None:
    return loss
  target: Any = problem.target
  features = problem.features(predicted.astype(problem.code.dtype))
  distance = jnp.mean(jnp.square(features - target))
  return loss + problem.weights[len(penalties)] * distance


def total_variation(image: Array) -> Array:
  """Returns the sum of the lengths of the image's gradients; a penalty.

  The sum runs over channels and over all pixels but the last row and column of
  sqrt((below - pixel)^2 + (right - pixel)^2): DmitryUlyanov/deep-image-prior,
  utils/sr_utils.py, tv_loss with beta 0.5. Where both differences are 0, the
  derivative is 0 too.
  """
  corner = image[:-1, :-1]
  square = (image[1:, :-1] - corner) ** 2 + (image[:-1, 1:] - corner) ** 2
  # The root has no finite slope at 0, and an outer `where` alone would turn the
  # slope into NaN: flat places take the root of 1 instead.
  flat = square == 0
  return jnp.sum(jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, square))))
