"""The contract of a monitor: when a fit stops, and which image it returns.

A monitor is a frozen value with two pure functions over a `MonitorState`.
Several watch one fit side by side, each with its own image. They see the
network's output and the running average of the outputs, never the clean image;
only `Oracle` does, and it has no say in when a fit stops.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

WATCHED = ('estimate', 'output')


class Observation(NamedTuple):
  """What a step shows to the monitors."""

  step: Array  # From 0.
  loss: Array
  output: Array  # [H, W, C], the network's output at this step.
  estimate: Array  # [H, W, C], the average of the outputs so far.
  # The Problem: its operator, measurement, reference, sigma and steps.
  problem: Any = None


class MonitorState(struct.PyTreeNode):
  """A monitor's state; every monitor has this one."""

  done: Array  # Whether it needs no further step.
  spent: Array  # Steps it has watched until it was done.
  step: Array  # The step whose image it would return.
  image: Array  # [H, W, C], the image it would return.
  score: Array  # What it judged the last step by.
  best: Array  # The score at `step`.
  memory: Any  # Arrays of the rule's own.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitor:
  """A monitor; a hashable value, equal where its fields are.

  Attributes:
    needs: what must be known for it: 'sigma', 'reference', 'risk' (a method
      whose loss estimates the risk) or 'clean'.
    waits: whether it ends a fit by itself, once patience has run out.
  """

  needs: ClassVar[frozenset[str]] = frozenset()
  waits: ClassVar[bool] = False

  def init(self, image: Array, clean: Array | None) -> MonitorState:
    """Returns the state before the first step.

    Args:
      image: [H, W, C], gives the shape only.
      clean: [H, W, C] or None, for the oracle's eyes only.
    """
    raise NotImplementedError

  def update(self, state: MonitorState, seen: Observation) -> MonitorState:
    """Returns the state after a step.

    A monitor that is done stays as it is, however long the others go on: its
    image, step and `spent` are those of a fit that it had to itself.
    """
    raise NotImplementedError

  def list_needs(self) -> frozenset[str]:
    """Returns what must be known for it and for monitors within it."""
    return self.needs

  def find_deviation(self, state: MonitorState) -> Array | None:
    """Returns the deviation at each pixel of what its image is a mean of.

    None for a monitor whose image is no mean of samples.
    """
    del state
    return None


class Rule(Monitor):
  """A monitor that stops: it counts its steps, and rests when it is done."""

  def init(self, image: Array, clean: Array | None) -> MonitorState:
    """See `Monitor.init`."""
    del clean
    return self.start(image)

  def start(self, image: Array) -> MonitorState:
    """Returns the state before the first step, without the clean image."""
    return start(image)

  def update(self, state: MonitorState, seen: Observation) -> MonitorState:
    """See `Monitor.update`."""
    count = lambda state: self.watch(state, seen).replace(spent=state.spent + 1)
    return jax.lax.cond(state.done, lambda state: state, count, state)

  def watch(self, state: MonitorState, seen: Observation) -> MonitorState:
    """Returns the state after a step, of a rule that is not done."""
    raise NotImplementedError


def update_average(
  average: Array, image: Array, step: Array, *, decay: float
) -> tuple[Array, Array]:
  """Returns the exponential average with `image` added, and its unbiased value.

  With weights decay^age: average <- decay * average + (1 - decay) * image from
  zero, unbiased by 1 / (1 - decay^(step + 1)). A decay of 0 is no averaging.

  Args:
    average: [H, W, C], zero before step 0.
    image: [H, W, C], of this step.
    step: of the image, from 0.
    decay: in [0, 1).

  Returns:
    The biased average, for the next call, and the unbiased one, to be used.
  """
  average = decay * average + (1 - decay) * image
  return average, unbias_average(average, step + 1, decay=decay)


def unbias_average(average: Array, steps: Array, *, decay: float) -> Array:
  """Returns the value of a biased average of so many steps, at least one."""
  return average / (1 - decay ** (steps + 0.0))


def check_watched(of: str) -> None:
  """Raises a ValueError unless `of` is 'estimate' or 'output'."""
  if of not in WATCHED:
    raise ValueError(f"of must be 'estimate' or 'output', got {of!r}")


def start(
  image: Array, *, done: bool = False, best: float = jnp.nan, memory: Any = ()
) -> MonitorState:
  """Returns the state of a monitor that has seen nothing.

  Args:
    image: [H, W, C], gives the shape only.
    done: whether it asks for no step at all.
    best: the score that any other beats.
    memory: arrays of the rule's own.
  """
  return MonitorState(
    done=jnp.array(done),
    spent=jnp.int32(0),
    step=jnp.int32(0),
    image=jnp.zeros_like(image),
    score=jnp.array(jnp.nan, image.dtype),
    best=jnp.array(best, image.dtype),
    memory=memory,
  )


def get_known(seen: Observation, name: str, rule: str) -> Array:
  """Returns what a rule needs of the problem; ValueError where it has none."""
  value = getattr(seen.problem, name)
  if value is None:
    raise ValueError(f'{rule} needs the {name} of the measurement: got none')
  return value


def predict(seen: Observation, of: str) -> Array:
  """Returns what the operator makes of the 'estimate' or of the 'output'."""
  return seen.problem.operator(getattr(seen, of))


def measure_error(seen: Observation, of: str, measurement: Array) -> Array:
  """Returns the mean squared error of an image's prediction.

  Args:
    seen: of the step.
    of: 'estimate' or 'output'.
    measurement: what the prediction is compared with.
  """
  return jnp.mean(jnp.square(predict(seen, of) - measurement))


def move(
  state: MonitorState, seen: Observation, score: Array, done: Array
) -> MonitorState:
  """Returns the state at the seen estimate, whatever its score."""
  return state.replace(
    done=done, step=seen.step, image=seen.estimate, score=score, best=score
  )


def keep_least(
  state: MonitorState,
  seen: Observation,
  score: Array,
  counts: Array,
  patience: int,
) -> MonitorState:
  """Returns the state at the least score; done when that stays the least.

  Args:
    state: before the step.
    seen: in the step.
    score: of the step.
    counts: whether the score of this step counts.
    patience: steps without a smaller score after which the rule is done.
  """
  score = jnp.where(counts, score, jnp.inf)
  state = keep_best(state, seen, score, score < state.best)
  return state.replace(done=counts & (seen.step - state.step >= patience))


def keep_best(
  state: MonitorState,
  seen: Observation,
  score: Array,
  better: Array,
  of: str = 'estimate',
) -> MonitorState:
  """Returns the state at the seen image if it is better, or the first one."""
  better = better | ~jnp.isfinite(state.best)
  return state.replace(
    score=score,
    best=jnp.where(better, score, state.best),
    step=jnp.where(better, seen.step, state.step),
    image=jnp.where(better, getattr(seen, of), state.image),
  )
