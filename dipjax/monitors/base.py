"""The contract of a monitor: when a fit stops, and which image it returns.

A monitor is a frozen value with two pure functions over a `MonitorState`.
Several monitors watch one fit side by side, each with its own image. Monitors
see the network's output and the running average of the outputs, never the clean
image. Only `Oracle` sees the clean image, and `Oracle` never decides when a fit
stops.
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

  step: Array  #: The step's number, from 0.
  loss: Array
  output: Array  #: [H, W, C], the network's output at this step.
  estimate: Array  #: [H, W, C], the average of the outputs so far.
  #: The `Problem`, with operator, measurement, reference, sigma and steps.
  problem: Any = None


class MonitorState(struct.PyTreeNode):
  """The state of a monitor, with the same fields for every monitor."""

  done: Array  #: Whether the monitor needs no further step.
  spent: Array  #: Steps that the monitor has watched until it was done.
  step: Array  #: The step whose image the monitor would return.
  image: Array  #: [H, W, C], the image that the monitor would return.
  score: Array  #: The number by which the monitor judged the last step.
  best: Array  #: The score at `step`.
  memory: Any  #: Arrays that only this monitor reads.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitor:
  """A monitor: a hashable value, equal where its fields are.

  Attributes:
    needs: what the monitor needs to know: 'sigma', 'reference', 'risk' (a
      method whose loss estimates the risk) or 'clean'.
    waits: whether the monitor ends a fit by itself, once patience has run out.
  """

  needs: ClassVar[frozenset[str]] = frozenset()
  waits: ClassVar[bool] = False

  def init(self, image: Array, clean: Array | None) -> MonitorState:
    """Returns the state before the first step.

    Args:
      image: [H, W, C], gives the shape only.
      clean: [H, W, C] or None; only the oracle reads it.
    """
    raise NotImplementedError

  def update(self, state: MonitorState, seen: Observation) -> MonitorState:
    """Returns the state after a step.

    A monitor that is done stays as it is, however long the others go on: its
    image, step and `spent` are the same as in a fit without other monitors.
    """
    raise NotImplementedError

  def list_needs(self) -> frozenset[str]:
    """Returns the needs of the monitor and of the monitors within it."""
    return self.needs

  def find_deviation(self, state: MonitorState) -> Array | None:
    """Returns the deviation of the samples whose mean is the monitor's image.

    The deviation is [..., H, W, C]; None for a monitor whose image is no mean
    of samples.
    """
    del state
    return None


class Rule(Monitor):
  """A monitor that counts its steps and changes no more once it is done."""

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
    """Returns the state after a step, where the rule was not done before it."""
    raise NotImplementedError


def update_average(
  average: Array, image: Array, step: Array, *, decay: float
) -> tuple[Array, Array]:
  """Returns the exponential average with `image` added, and its unbiased value.

  The weights are decay^age: average <- decay * average + (1 - decay) * image
  from zero, unbiased by 1 / (1 - decay^(step + 1)). A decay of 0 is no
  averaging.

  Args:
    average: [H, W, C], the biased average so far; zero before step 0.
    image: [H, W, C], the image of this step.
    step: the image's step, from 0.
    decay: in [0, 1).

  Returns:
    The biased average, for the next call, and the unbiased average, to be used.
  """
  # The biased average begins at zero, and after n steps its weights add up to
  # 1 - decay^n: the division makes them add up to 1.
  average = decay * average + (1 - decay) * image
  return average, unbias_average(average, step + 1, decay=decay)


def unbias_average(average: Array, steps: Array, *, decay: float) -> Array:
  """Returns the unbiased value of a biased average of `steps` >= 1 images."""
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
    done: whether the monitor asks for no step at all.
    best: a score that any other score beats.
    memory: arrays that only this monitor reads.
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
  """Returns a field of the problem; ValueError, naming the rule, for None."""
  value = getattr(seen.problem, name)
  if value is None:
    raise ValueError(f'{rule} needs the {name} of the measurement: got none')
  return value


def predict(seen: Observation, of: str) -> Array:
  """Returns the operator's prediction for the 'estimate' or the 'output'."""
  return seen.problem.operator(getattr(seen, of))


def measure_error(seen: Observation, of: str, measurement: Array) -> Array:
  """Returns the mean squared error of an image's prediction.

  Args:
    seen: what the step shows.
    of: which image is predicted from, 'estimate' or 'output'.
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
  """Returns the state at the least score, done once the patience has run out.

  Args:
    state: the state before the step.
    seen: what the step shows.
    score: the step's score.
    counts: whether the score of this step counts.
    patience: steps without a smaller score after which the rule is done.
  """
  # An infinite score is never the least, so that a step that does not count
  # selects no image and starts no wait.
  score = jnp.where(counts, score, jnp.inf)
  # As long as no score is finite, the latest image is kept: a fit that ends
  # early still returns an image.
  better = (score < state.best) | ~jnp.isfinite(state.best)
  state = keep_best(state, seen, score, better)
  return state.replace(done=counts & (seen.step - state.step >= patience))


def keep_best(
  state: MonitorState,
  seen: Observation,
  score: Array,
  better: Array,
  of: str = 'estimate',
) -> MonitorState:
  """Returns the state at the seen image where that image is better."""
  return state.replace(
    score=score,
    best=jnp.where(better, score, state.best),
    step=jnp.where(better, seen.step, state.step),
    image=jnp.where(better, getattr(seen, of), state.image),
  )
