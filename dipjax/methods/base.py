"""The contract of a method, and the terms that objectives have in common.

A method changes what a fit is made of before it begins (`prepare`), and gives
what the fit minimises (`make_objective`). The engine knows nothing else of it.

A penalty is a function of the image [H, W, C] that returns a number; its weight
is a part of the problem, so that another weight does not compile again and
lanes may differ in it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dipjax import codes, operators
from dipjax.engine.problem import Code, Problem

Array = jax.Array
Objective = Callable[[Any, Problem, Array], tuple[Array, Array]]
Penalty = Callable[[Array], Array]

NOISE_CODE = codes.UniformNoise(channels=32)
JITTER = 1 / 30


class Parts(NamedTuple):
  """What a fit is made of. A method may change each but the measurement."""

  measurement: Array
  operator: Callable[[Array], Array] | None  # None: the identity.
  network: nn.Module
  code: Code | None  # None: the method's.
  jitter: float | None  # None: the method's.
  optimizer: optax.GradientTransformation
  sigma: float | None = None  # Of the measurement's noise, where it is known.


@dataclasses.dataclass(frozen=True)
class Method:
  """How an image is found; a hashable value, equal where its fields are.

  Attributes:
    needs: what the problem must hold beside the measurement: 'sigma'.
    makes_code: whether code and jitter are the method's own, and the operator
      too: the method is for denoising alone.
    takes_terms: whether penalties and features can be added.
    passes: of the network in a step, for the memory of what is at work.
    estimates_risk: whether the loss estimates the squared error to the truth.
    precisions: of `recipe.PRECISIONS` that the objective can be computed in;
      empty stands for all.
  """

  needs: ClassVar[frozenset[str]] = frozenset()
  makes_code: ClassVar[bool] = False
  takes_terms: ClassVar[bool] = True
  passes: ClassVar[int] = 1
  estimates_risk: ClassVar[bool] = False
  precisions: ClassVar[tuple[str, ...]] = ()

  @property
  def name(self) -> str:
    """The method as messages call it."""
    return type(self).__name__.lower()

  def allows(self, precision: str) -> bool:
    """Returns whether the objective can be computed in a precision."""
    return not self.precisions or precision in self.precisions

  def check_task(self, *, operator: Any = None, code: Any = None) -> None:
    """Raises a ValueError, in one line, if the method is not for a task.

    Args:
      operator: of the task; None is denoising.
      code: that the task gives to the network; None leaves it to the method.
    """
    if self.makes_code and not (operator is None and code is None):
      raise ValueError(
        f'the method {self.name!r} is for denoising alone, where the '
        'measurement is the code: give neither an operator nor a code'
      )

  def prepare(self, parts: Parts) -> Parts:
    """Returns the parts with nothing left open.

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
      network: as `prepare` returned it; its output, cropped to the real pixels,
        is the image.
      penalties: added with problem.weights, one for each in this order.
    """
    raise NotImplementedError


def draw_image(
  network: nn.Module, params: Any, problem: Problem, key: Array
) -> tuple[Array, Array]:
  """Returns the image for a jittered code, [H, W, C], and that code."""
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
  problem has features; they are computed in the precision of the code.
  """
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
  utils/sr_utils.py, tv_loss with beta 0.5. Where both differences are 0, so is
  the derivative.
  """
  corner = image[:-1, :-1]
  square = (image[1:, :-1] - corner) ** 2 + (image[:-1, 1:] - corner) ** 2
  # The root has no finite slope at 0, which `where` alone would not hide.
  flat = square == 0
  return jnp.sum(jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, square))))
