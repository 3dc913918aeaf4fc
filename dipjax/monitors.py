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

from dipjax import metrics, noise

Array = jax.Array


class Observation(NamedTuple):
  """What a step shows to the monitors."""

  step: Array  # From 0.
  loss: Array
  output: Array  # [H, W, C], the network's output at this step.
  estimate: Array  # [H, W, C], the average of the outputs so far.
  # The objectives.Problem: its operator, measurement, reference and sigma.
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


class Monitor(NamedTuple):
  """`init(image, clean) -> state`, `update(state, observation) -> state`.

  `image` gives the shape only; `clean`, or None, is for the oracle's eyes only.
  A monitor that is done stays as it is, however long the others go on: its
  image, step and `spent` are those of a fit that it had to itself.
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
    return _move(state, seen, state.score, seen.step + 1 >= steps)

  return Monitor(lambda image, clean: _start(image), _until_done(update))


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

  The variance is taken anew in each step, not from running sums: of an average
  that hardly moves any more it is smaller than what these round off.

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
    state = _keep_least(state, seen, variance, counts, patience)
    return state.replace(memory=(chosen, ring))

  return Monitor(init, _until_done(update))


@functools.cache
def emv(
  *,
  of: str = 'estimate',
  alpha: float = 0.2,
  patience: int = 300,
  warmup: int = 0,
) -> Monitor:
  """Returns the estimate where the exponential variance was smallest.

  As `wmv`, with one image in the state and no window: d = x - m, m <- m + alpha
  d, v <- (1 - alpha) (v + alpha ||d||^2 / n), where m begins as the first image
  and v as 0. Wang et al. 2021 (sun-umn/Early_Stopping_for_DIP), who watch the
  outputs, of='output', with an alpha of 0.1 and a patience of 1000; of the
  averages it was the best rule of `python -m benchmarks.stopping`.

  Args:
    of: which images are watched, 'estimate' or 'output'.
    alpha: share of the newest image, in (0, 1).
    patience: steps to wait for a smaller variance.
    warmup: steps whose minimum does not count; 10 / alpha at the least, until
      v, which rises from 0, has forgotten where it began.

  Raises:
    ValueError: alpha outside (0, 1), patience below 1, warmup below 0, or `of`
      is neither.
  """
  _check_watched(of)
  if not 0 < alpha < 1 or patience < 1 or warmup < 0:
    raise ValueError(
      'emv needs 0 < alpha < 1, patience >= 1, warmup >= 0, got '
      f'{alpha}, {patience}, {warmup}'
    )

  def init(image, clean):
    del clean
    variance = jnp.zeros((), image.dtype)
    return _start(image, best=jnp.inf, memory=(jnp.zeros_like(image), variance))

  def update(state, seen):
    mean, variance = state.memory
    image = getattr(seen, of)
    mean = jnp.where(seen.step == 0, image, mean)
    difference = image - mean
    mean += alpha * difference
    square = jnp.mean(jnp.square(difference))
    variance = (1 - alpha) * (variance + alpha * square)
    counts = seen.step + 1 >= max(warmup, 10 / alpha)
    state = _keep_least(state, seen, variance, counts, patience)
    return state.replace(memory=(mean, variance))

  return Monitor(init, _until_done(update))


@functools.cache
def discrepancy(*, of: str = 'estimate', factor: float = 1.0) -> Monitor:
  """Returns the estimate where the residual has come down to the noise.

  Done at the first step whose mean((operator(image) - measurement)^2) is at
  most factor * problem.sigma^2 (Morozov's principle). A measurement that lies
  in [0, 1] was clipped, and part of its noise with it: then what is expected of
  such noise around the prediction takes the place of sigma^2.

  Args:
    of: whose residual, 'estimate' or 'output'.
    factor: above 1 is sooner.

  Raises:
    ValueError: factor not above 0, or `of` is neither; in the first step, a
      problem without sigma.
  """
  _check_watched(of)
  if not factor > 0:
    raise ValueError(f'factor must be > 0, got {factor}')

  def update(state, seen):
    sigma = _get_known(seen, 'sigma', 'discrepancy')
    measurement = seen.problem.measurement
    prediction = _predict(seen, of)
    error = jnp.mean(jnp.square(prediction - measurement))
    square = noise.expect_square(prediction, sigma)
    level = factor * jnp.where(
      noise.is_clipped(measurement), square, jnp.square(sigma)
    )
    return _move(state, seen, error, error <= level)

  return Monitor(lambda image, clean: _start(image), _until_done(update))


@functools.cache
def sure() -> Monitor:
  """Returns the estimate where the loss, an estimated risk, falls to zero.

  For a fit that minimises `objectives.stein_risk`, whose loss is an unbiased
  estimate of the squared error of a network that is not fitted to this noise:
  below 0 it is no longer one. The zero crossing of Jo et al., Rethinking Deep
  Image Prior for Denoising, ICCV 2021 (gistvision/DIP-denosing).
  """

  def update(state, seen):
    return _move(state, seen, seen.loss, seen.loss <= 0)

  return Monitor(lambda image, clean: _start(image), _until_done(update))


@functools.cache
def pseudo_reference(*, patience: int = 300, warmup: int = 0) -> Monitor:
  """Returns the estimate closest to problem.reference, a second measurement.

  Its noise must be independent of that of the measurement that is fitted:
  another exposure, or one split in two by `noise.split_measurement`. The
  squared error against it is that against the truth plus a constant.

  Args:
    patience: steps to wait for a smaller error.
    warmup: steps that do not count.

  Raises:
    ValueError: patience below 1 or warmup below 0; in the first step, a problem
      without a reference.
  """
  if patience < 1 or warmup < 0:
    raise ValueError(
      'pseudo_reference needs patience >= 1 and warmup >= 0, got '
      f'{patience}, {warmup}'
    )

  def update(state, seen):
    reference = _get_known(seen, 'reference', 'pseudo_reference')
    error = measure_error(seen, 'estimate', reference)
    counts = seen.step + 1 >= warmup
    return _keep_least(state, seen, error, counts, patience)

  return Monitor(
    lambda image, clean: _start(image, best=jnp.inf), _until_done(update)
  )


@functools.cache
def mean(*, burn_in: int, every: int = 50) -> Monitor:
  """Returns the mean of every `every`-th output from step `burn_in` on.

  Of samples of a posterior (`optimizers.langevin`) its mean; `memory` holds
  their number and the sum of the squared deviations from it, [H, W, C], see
  `compute_deviation`. Never done: a fit with it takes all of its steps. Before
  the first sample it is the estimate.

  Args:
    burn_in: the first step that counts.
    every: steps from one to the next.

  Raises:
    ValueError: burn_in below 0 or every below 1.
  """
  if burn_in < 0 or every < 1:
    raise ValueError(
      f'mean needs burn_in >= 0 and every >= 1, got {burn_in}, {every}'
    )

  def init(image, clean):
    del clean
    return _start(image, memory=(jnp.int32(0), jnp.zeros_like(image)))

  def update(state, seen):
    count, squares = state.memory
    sampled = (seen.step >= burn_in) & ((seen.step - burn_in) % every == 0)
    count = count + sampled
    before = jnp.where(count > 1, state.image, 0)
    difference = seen.output - before
    after = before + difference / jnp.maximum(count, 1)
    squares += jnp.where(sampled, difference * (seen.output - after), 0)
    kept = jnp.where(count > 0, state.image, seen.estimate)
    return state.replace(
      step=seen.step,
      image=jnp.where(sampled, after, kept),
      memory=(count, squares),
    )

  return Monitor(init, _until_done(update))


def compute_deviation(state: MonitorState) -> Array:
  """Returns the standard deviation of the samples of `mean`, [..., H, W, C].

  Of one state or of lanes; 0 of fewer than two samples.
  """
  count, squares = state.memory
  return jnp.sqrt(squares / jnp.maximum(count - 1, 1)[..., None, None, None])


@functools.cache
def at_horizon(monitor: Monitor, decay: float) -> Monitor:
  """Returns a monitor that sees an average of a decay of its own.

  Its images are those of `monitor` in a fit with that decay, so that one fit
  shows averages over several horizons; the state holds one image more.

  Args:
    monitor: any.
    decay: of the average, in [0, 1).

  Raises:
    ValueError: a decay outside of that.
  """
  if not 0 <= decay < 1:
    raise ValueError(f'decay must be in [0, 1), got {decay}')

  def init(image, clean):
    state = monitor.init(image, clean)
    return state.replace(memory=(jnp.zeros_like(image), state.memory))

  def update(state, seen):
    average, memory = state.memory
    average, estimate = update_average(
      average, seen.output, seen.step, decay=decay
    )
    after = monitor.update(
      state.replace(memory=memory), seen._replace(estimate=estimate)
    )
    return after.replace(memory=(average, after.memory))

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
    spent=jnp.int32(0),
    step=jnp.int32(0),
    image=jnp.zeros_like(image),
    score=jnp.array(jnp.nan, image.dtype),
    best=jnp.array(best, image.dtype),
    memory=memory,
  )


def _until_done(update):
  """Leaves a state that is done as it is, and counts the steps until then."""

  def watch(state, seen):
    count = lambda state: update(state, seen).replace(spent=state.spent + 1)
    return jax.lax.cond(state.done, lambda state: state, count, state)

  return watch


def _get_known(seen, name, rule):
  value = getattr(seen.problem, name)
  if value is None:
    raise ValueError(f'{rule} needs the {name} of the measurement: got none')
  return value


def measure_error(seen: Observation, of: str, measurement: Array) -> Array:
  """Returns the mean squared error of an image's prediction.

  Args:
    seen: of the step.
    of: 'estimate' or 'output'.
    measurement: what the prediction is compared with.
  """
  return jnp.mean(jnp.square(_predict(seen, of) - measurement))


def _predict(seen, of):
  return seen.problem.operator(getattr(seen, of))


def _move(state, seen, score, done):
  """Moves to the seen estimate, whatever its score."""
  return state.replace(
    done=done, step=seen.step, image=seen.estimate, score=score, best=score
  )


def _keep_least(state, seen, score, counts, patience):
  """Moves to the least score of those that count; done when it stays so."""
  score = jnp.where(counts, score, jnp.inf)
  state = _keep_best(state, seen, score, score < state.best)
  return state.replace(done=counts & (seen.step - state.step >= patience))


def _keep_best(state, seen, score, better, of='estimate'):
  """Moves to the seen image where it is better, or where none has been yet."""
  better = better | ~jnp.isfinite(state.best)
  return state.replace(
    score=score,
    best=jnp.where(better, score, state.best),
    step=jnp.where(better, seen.step, state.step),
    image=jnp.where(better, getattr(seen, of), state.image),
  )
