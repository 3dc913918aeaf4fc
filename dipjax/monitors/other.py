"""Monitors that judge nothing: the last image, a mean, another horizon."""

import dataclasses

import jax
import jax.numpy as jnp

from dipjax.monitors import base

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Last(base.Rule):
  """The estimate after a fixed number of steps.

  Attributes:
    steps: after how many steps, at least 1; None is all that the problem
      allows.

  Raises:
    ValueError: fewer than 1 step.
  """

  steps: int | None = None

  def __post_init__(self):
    if self.steps is not None and self.steps < 1:
      raise ValueError(f'steps must be at least 1, got {self.steps}')

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    steps = seen.problem.steps if self.steps is None else self.steps
    return base.move(state, seen, state.score, seen.step + 1 >= steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean(base.Rule):
  """The mean of every `every`-th output from step `warmup` on.

  For samples of a posterior (`optimizers.langevin`) the image is the
  posterior's mean. `memory` holds the number of samples and the sum of their
  squared deviations from the mean, [H, W, C], see `find_deviation`. The rule is
  never done: a fit with it takes all of its steps. Before the first sample the
  image is the estimate.

  Attributes:
    warmup: the first step that counts, the burn-in.
    every: steps from one sample to the next.

  Raises:
    ValueError: warmup below 0 or every below 1.
  """

  warmup: int = 0
  every: int = 50

  def __post_init__(self):
    if self.warmup < 0 or self.every < 1:
      raise ValueError(
        f'mean needs warmup >= 0 and every >= 1, got {self.warmup}, '
        f'{self.every}'
      )

  def start(self, image: Array) -> base.MonitorState:
    """See `base.Rule.start`."""
    return base.start(image, memory=(jnp.int32(0), jnp.zeros_like(image)))

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    count, squares = state.memory
    since = seen.step - self.warmup
    sampled = (seen.step >= self.warmup) & (since % self.every == 0)
    # Welford's update keeps the sum of squares without a difference of large
    # sums, which would lose digits. Steps without a sample add nothing.
    count = count + sampled
    before = jnp.where(count > 1, state.image, 0)
    difference = seen.output - before
    after = before + difference / jnp.maximum(count, 1)
    squares += jnp.where(sampled, difference * (seen.output - after), 0)
    # A fit that ends before the first sample returns the running average.
    kept = jnp.where(count > 0, state.image, seen.estimate)
    return state.replace(
      step=seen.step,
      image=jnp.where(sampled, after, kept),
      memory=(count, squares),
    )

  def find_deviation(self, state: base.MonitorState) -> Array:
    """Returns the standard deviation of the samples, [..., H, W, C].

    The state belongs to one lane or to many lanes; the deviation of fewer than
    two samples is 0.
    """
    count, squares = state.memory
    return jnp.sqrt(squares / jnp.maximum(count - 1, 1)[..., None, None, None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtHorizon(base.Monitor):
  """A monitor that sees an average with a decay of its own.

  Its images equal the images of `monitor` in a fit with this decay, so that one
  fit shows averages over several horizons; the state holds one image more.

  Attributes:
    monitor: any monitor.
    decay: weight of the older outputs in the average, in [0, 1).

  Raises:
    ValueError: a decay outside [0, 1).
  """

  monitor: base.Monitor
  decay: float

  def __post_init__(self):
    if not 0 <= self.decay < 1:
      raise ValueError(f'decay must be in [0, 1), got {self.decay}')

  def list_needs(self) -> frozenset[str]:
    """See `base.Monitor.list_needs`."""
    return self.monitor.list_needs()

  def init(self, image: Array, clean: Array | None) -> base.MonitorState:
    """See `base.Monitor.init`."""
    state = self.monitor.init(image, clean)
    return state.replace(memory=(jnp.zeros_like(image), state.memory))

  def update(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Monitor.update`."""
    average, memory = state.memory
    average, estimate = base.update_average(
      average, seen.output, seen.step, decay=self.decay
    )
    after = self.monitor.update(
      state.replace(memory=memory), seen._replace(estimate=estimate)
    )
    return after.replace(memory=(average, after.memory))
