"""What watches a fit: when to stop, and which image to return.

A monitor is a pair of pure functions over a `MonitorState`. Several watch one
fit side by side, each with its own image. They see the network's output and the
running average of the outputs, never the clean image; only the monitor named
`oracle` does, and it has no say in when a fit stops.

Equal arguments give the same monitor, so that a fit is compiled once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from dipjax import metrics

Array = jax.Array


class Observation(NamedTuple):
  """What a step shows to the monitors."""

  step: Array  # From 0.
  loss: Array
  output: Array  # [H, W, C], the network's output at this step.
  estimate: Array  # [H, W, C], the average of the outputs so far.
  noise: Array | float = 0.0  # Of the problem.


class MonitorState(struct.PyTreeNode):
  """A monitor's state; every monitor has this one."""

  done: Array  # Whether it needs no further step.
  step: Array  # The step whose image it would return.
  image: Array  # [H, W, C], the image it would return.
  score: Array  # What it judged the last step by.
  best: Array  # The score at `step`.
  memory: Any  # Arrays of the rule's own.


class Monitor(NamedTuple):
  """`init(image, clean) -> state`, `update(state, observation) -> state`.

  `image` gives the shape only; `clean`, or None, is for the oracle's eyes only.
  """

  init: Callable[[Array, Array | None], MonitorState]
  update: Callable[[MonitorState, Observation], MonitorState]


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


@functools.cache
def last(steps: int) -> Monitor:
  """Returns the estimate after `steps` steps, for those who know how many."""
  if steps < 1:
    raise ValueError(f'steps must be at least 1, got {steps}')

  def update(state, seen):
    return state.replace(
      done=seen.step + 1 >= steps, step=seen.step, image=seen.estimate
    )

  return Monitor(lambda image, clean: _start(image), update)


@functools.cache
def wmv(
  *,
  of: str = 'estimate',
  window: int = 50,
  patience: int = 300,
  warmup: int = 0,
  pixels: int = 16384,
) -> Monitor:
  """Returns the estimate where the windowed variance was smallest.

  The variance of the last `window` images falls while the picture is learned
  and rises when the noise is. Done once `patience` steps have not beaten the
  minimum. Wang et al. 2021 (sun-umn/Early_Stopping_for_DIP) watch the outputs,
  of='output', with a window of 100 and a patience of 1000; the average lags
  behind the outputs, so that their valley comes too early for it.

  Args:
    of: which images are watched, 'estimate' or 'output'.
    window: images in the variance.
    patience: steps to wait for a smaller variance.
    warmup: steps whose minimum does not count: early valleys are false.
    pixels: how many values of the image, a fixed random choice, are looked at;
      the state holds window * pixels numbers.

  Raises:
    ValueError: window below 2, patience or pixels below 1, warmup below 0, or
      `of` is neither.
  """
  _check_watched(of)
  if window < 2 or patience < 1 or warmup < 0 or pixels < 1:
    raise ValueError(
      'wmv needs window >= 2, patience >= 1, warmup >= 0, pixels >= 1, got '
      f'{window}, {patience}, {warmup}, {pixels}'
    )

  def init(image, clean):
    del clean
    count = min(pixels, image.size)
    chosen = jax.random.choice(
      jax.random.key(0), image.size, (count,), replace=False
    )
    ring = jnp.zeros((window, count), image.dtype)
    return _start(image, best=jnp.inf, memory=(chosen, ring))

  def update(state, seen):
    chosen, ring = state.memory
    ring = ring.at[seen.step % window].set(
      getattr(seen, of).reshape(-1)[chosen]
    )
    variance = jnp.mean(jnp.var(ring, axis=0))
    counts = seen.step + 1 >= max(window, warmup)
    score = jnp.where(counts, variance, jnp.inf)
    state = _keep_best(state, seen, score, score < state.best)
    waited = seen.step - state.step >= patience
    return state.replace(done=waited & counts, memory=(chosen, ring))

  return Monitor(init, update)


@functools.cache
def oracle(*, of: str = 'estimate') -> Monitor:
  """Returns the image of the highest PSNR against the clean image.

  Ground truth: for comparison with the other monitors, never to stop or select.
  Always done, so that it never asks for a step.

  Args:
    of: which image is judged and kept, 'estimate' or 'output'.
  """
  _check_watched(of)

  def init(image, clean):
    if clean is None:
      raise ValueError('the oracle needs the clean image')
    return _start(image, done=True, best=-jnp.inf, memory=clean)

  def update(state, seen):
    score = metrics.psnr(getattr(seen, of), state.memory)
    return _keep_best(state, seen, score, score > state.best, of)

  return Monitor(init, update)


def _check_watched(of):
  if of not in ('estimate', 'output'):
    raise ValueError(f"of must be 'estimate' or 'output', got {of!r}")


def _start(image, *, done=False, best=jnp.nan, memory=()):
  return MonitorState(
    done=jnp.array(done),
    step=jnp.array(0),
    image=jnp.zeros_like(image),
    score=jnp.array(jnp.nan, image.dtype),
    best=jnp.array(best, image.dtype),
    memory=memory,
  )


def _keep_best(state, seen, score, better, of='estimate'):
  """Moves to the seen image where it is better, or where none has been yet."""
  better = better | ~jnp.isfinite(state.best)
  return state.replace(
    score=score,
    best=jnp.where(better, score, state.best),
    step=jnp.where(better, seen.step, state.step),
    image=jnp.where(better, getattr(seen, of), state.image),
  )
