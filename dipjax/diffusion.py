"""A plain diffusion model (DDPM, Ho et al. 2020): a baseline that is trained.

Unlike all else here it learns from many images; it is what staged fitting is
compared with. Images are batches [B, H, W, C] in [0, 1]; inside, values lie in
[-1, 1]. Steps count from 1 to T; levels[t - 1] is the noise after step t.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct

from dipjax import schedules

Array = jax.Array

# Of the average of the parameters: its horizon grows up to `decay`.
_WARMUP = 10


class TrainState(struct.PyTreeNode):
  """All that a training is, between two steps; arrays only."""

  step: Array  # Steps taken.
  params: Any
  average: Any  # Of the params, what samples are drawn with.
  opt_state: Any
  key: Array  # Never changes: a step's randomness is fold_in(key, step).


class Training(NamedTuple):
  """A training as two pure functions of arrays."""

  init: Callable[[Array, Array], TrainState]  # (key, images)
  step: Callable[[TrainState, Array], tuple[TrainState, Array]]


def make_training(
  network: nn.Module,
  optimizer: optax.GradientTransformation,
  levels: np.ndarray,
  *,
  batch: int,
  decay: float = 0.999,
) -> Training:
  """Returns the training of a network to predict noise.

  Each step draws `batch` of the images, a step of the diffusion and noise for
  each, all from the state's key and step: to go on from a state saved is to
  have never stopped.

  Args:
    network: (noisy images [B, H, W, C], steps [B]) -> noise [B, H, W, C].
    optimizer: of its parameters.
    levels: [T], see `schedules.cumulate_levels`.
    batch: images in a step, drawn with replacement.
    decay: of the average of the parameters, in [0, 1).

  Raises:
    ValueError: a batch under 1 or a decay outside [0, 1).
  """
  if batch < 1 or not 0 <= decay < 1:
    raise ValueError(
      f'batch must be >= 1 and decay in [0, 1), got {batch} and {decay}'
    )
  levels = np.asarray(levels, np.float32)

  def init(key, images):
    key, params_key = jax.random.split(key)
    steps = jnp.ones(1, jnp.int32)
    params = network.init(params_key, images[:1], steps)['params']
    return TrainState(
      step=jnp.int32(0),
      params=params,
      # Copies: a donated state must not hold an array twice.
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
      key=key,
    )

  def lose(params, key, images):
    keys = jax.random.split(key, 3)
    chosen = jax.random.randint(keys[0], (batch,), 0, len(images))
    steps = jax.random.randint(keys[1], (batch,), 1, len(levels) + 1)
    clean = 2 * images[chosen] - 1
    noise = jax.random.normal(keys[2], clean.shape)
    level = jnp.asarray(levels)[steps - 1][:, None, None, None]
    noisy = schedules.q_sample(clean, noise, level)
    predicted = network.apply({'params': params}, noisy, steps)
    return optax.squared_error(predicted, noise).mean()

  def step(state, images):
    key = jax.random.fold_in(state.key, state.step)
    loss, gradient = jax.value_and_grad(lose)(state.params, key, images)
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    share = jnp.minimum(decay, (1 + state.step) / (_WARMUP + state.step))
    average = jax.tree.map(
      lambda old, new: share * old + (1 - share) * new, state.average, params
    )
    return state.replace(
      step=state.step + 1, params=params, average=average, opt_state=opt_state
    ), loss

  return Training(init, step)


@functools.partial(jax.jit, static_argnums=0)
def begin(training: Training, key: Array, images: Array) -> TrainState:
  """Returns the state before the first step; images [N, H, W, C]."""
  return training.init(key, images)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train(
  training: Training, state: TrainState, images: Array
) -> tuple[TrainState, Array]:
  """Returns the state one step later and the loss; the given one is used up."""
  return training.step(state, images)


def choose_steps(first: int, count: int) -> np.ndarray:
  """Returns `count` falling steps from `first` to 1, evenly, without repeats.

  All of them, `first` many, are what a diffusion was trained with.

  Raises:
    ValueError: fewer than one step, or more than there are.
  """
  if not 1 <= count <= first:
    raise ValueError(f'there are 1 to {first} steps to take, got {count}')
  return np.linspace(first, 1, count).round().astype(np.int32)


def find_step(levels: np.ndarray, sigma: float) -> int:
  """Returns the step whose noise is nearest to that of image + N(0, sigma^2).

  Args:
    levels: [T].
    sigma: of images in [0, 1], so twice of those in [-1, 1].

  Raises:
    ValueError: sigma is not positive and finite.
  """
  if not (np.isfinite(sigma) and sigma > 0):
    raise ValueError(f'sigma must be a number > 0, got {sigma}')
  # sqrt(1 - level) (x + 2 sigma noise) has the noise sqrt(level).
  variance = (2 * sigma) ** 2
  level = variance / (1 + variance)
  return 1 + int(np.argmin(np.abs(np.asarray(levels) - level)))


def draw_samples(
  network: nn.Module,
  params: Any,
  levels: np.ndarray,
  key: Array,
  shape: tuple[int, ...],
  *,
  steps: np.ndarray,
  eta: float = 1.0,
) -> Array:
  """Returns images [B, H, W, C] in [0, 1], drawn from noise.

  Args:
    network, params, levels: as they were trained.
    key: of the draw.
    shape: (B, H, W, C).
    steps: falling, the first of them T; see `choose_steps`.
    eta: 1 is ancestral sampling, with all steps that of Ho et al.; 0 is DDIM
      (Song et al. 2021), which adds no noise.
  """
  start_key, key = jax.random.split(key)
  noise = jax.random.normal(start_key, shape)
  return _go_down(network, params, levels, key, noise, steps, eta)


def denoise(
  network: nn.Module,
  params: Any,
  levels: np.ndarray,
  key: Array,
  images: Array,
  *,
  sigma: float,
  eta: float = 0.0,
) -> Array:
  """Returns images without their noise: from the step that matches it to zero.

  Args:
    network, params, levels: as they were trained.
    key: of the draw, where eta is above 0.
    images: [B, H, W, C], in [0, 1] but for the noise.
    sigma: standard deviation of the noise.
    eta: as of `draw_samples`.
  """
  first = find_step(levels, sigma)
  scale = np.sqrt(1 - levels[first - 1])
  steps = choose_steps(first, first)
  noisy = jnp.asarray(scale * (2 * images - 1), jnp.float32)
  return _go_down(network, params, levels, key, noisy, steps, eta)


def _go_down(network, params, levels, key, noisy, steps, eta):
  after = np.append(steps[1:], 0)
  padded = np.append(0, levels)
  trip = steps, np.float32(padded[steps]), np.float32(padded[after])
  eta = jnp.asarray(eta, jnp.float32)
  return _follow(network, params, key, noisy, trip, eta)


@functools.partial(jax.jit, static_argnums=0)
def _follow(network, params, key, noisy, trip, eta):
  def go(noisy, now):
    step, level, lower = now
    noise = network.apply({'params': params}, noisy, jnp.full(len(noisy), step))
    clean = (noisy - jnp.sqrt(level) * noise) / jnp.sqrt(1 - level)
    clean = jnp.clip(clean, -1, 1)
    noise = (noisy - jnp.sqrt(1 - level) * clean) / jnp.sqrt(level)
    fresh = eta**2 * lower / level * (1 - (1 - level) / (1 - lower))
    drawn = jax.random.normal(jax.random.fold_in(key, step), noisy.shape)
    kept = jnp.sqrt(jnp.maximum(lower - fresh, 0))
    mean = jnp.sqrt(1 - lower) * clean + kept * noise
    return mean + jnp.sqrt(fresh) * drawn, None

  clean, _ = jax.lax.scan(go, noisy, trip)
  return jnp.clip((clean + 1) / 2, 0, 1)
