"""A plain diffusion model (DDPM, Ho et al. 2020): a baseline that is trained.

The model learns from many images; nothing else in dipjax does. Staged fitting
is compared with it.

Images are batches [B, H, W, C] in [0, 1]; the network sees them scaled to
[-1, 1]. Steps count from 1 to T. levels[t - 1] is the variance of the noise
after step t, and the noisy image there is
sqrt(1 - level) clean + sqrt(level) noise (`schedules.q_sample`).
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

from dipjax import schedules, settings

Array = jax.Array

# At step n the average keeps at most (1 + n) / (_WARMUP + n) of its old value:
# the random start is forgotten at first, and `decay` holds later.
_WARMUP = 10


class TrainState(struct.PyTreeNode):
  """All that a training is between two steps, as arrays only."""

  step: Array  # Steps taken.
  params: Any
  average: Any  # The running average of params; samples are drawn with it.
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
  """Returns the training of a network that predicts the noise in an image.

  Each step draws `batch` images, and for each image a step of the diffusion and
  noise. The state's key and step decide every draw, so a training that goes on
  from a saved state gives what an uninterrupted training gives. The loss is the
  mean squared error of the predicted noise.

  Args:
    network: (noisy images [B, H, W, C], steps [B]) -> noise [B, H, W, C].
    optimizer: updates the network's parameters.
    levels: [T], see `schedules.cumulate_levels`.
    batch: images in a step, drawn with replacement.
    decay: share of its old value that the average of the parameters keeps in
      each step, in [0, 1); the first steps keep less.

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
      # `train` donates the state, and no array may be donated twice: the
      # average begins as a copy.
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
      key=key,
    )

  def lose(params, key, images):
    # One batch: every image gets a step of its own, uniform in 1 to T, so that
    # a batch covers all levels.
    keys = jax.random.split(key, 3)
    chosen = jax.random.randint(keys[0], (batch,), 0, len(images))
    steps = jax.random.randint(keys[1], (batch,), 1, len(levels) + 1)
    clean = 2 * images[chosen] - 1
    # The simple loss of Ho et al. (Eq. 14): the network predicts the noise, and
    # all levels weigh the same.
    noise = jax.random.normal(keys[2], clean.shape)
    level = jnp.asarray(levels)[steps - 1][:, None, None, None]
    noisy = schedules.q_sample(clean, noise, level)
    predicted = network.apply({'params': params}, noisy, steps)
    return optax.squared_error(predicted, noise).mean()

  def step(state, images):
    # The key depends on the number of the step alone: a resumed training draws
    # what an uninterrupted one would have drawn.
    key = jax.random.fold_in(state.key, state.step)
    loss, gradient = jax.value_and_grad(lose)(state.params, key, images)
    updates, opt_state = optimizer.update(
      gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    # Samples are drawn with the average of the parameters, which jumps less
    # from step to step than the parameters do.
    share = jnp.minimum(decay, (1 + state.step) / (_WARMUP + state.step))
    average = jax.tree.map(
      lambda old, new: share * old + (1 - share) * new, state.average, params
    )
    return state.replace(
      step=state.step + 1, params=params, average=average, opt_state=opt_state
    ), loss

  return Training(init, step)


@settings.pin()
@functools.partial(jax.jit, static_argnums=0)
def begin(training: Training, key: Array, images: Array) -> TrainState:
  """Returns the state before the first step, for images [N, H, W, C]."""
  return training.init(key, images)


@settings.pin()
@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train(
  training: Training, state: TrainState, images: Array
) -> tuple[TrainState, Array]:
  """Returns the state one step later and the loss; `state` is used up."""
  return training.step(state, images)


def choose_steps(first: int, count: int) -> np.ndarray:
  """Returns `count` steps that fall evenly from `first` to 1.

  No step is repeated. With count = first all steps are taken, as the diffusion
  was trained. With count = 1 the result is [first].

  Returns:
    [count], int32.

  Raises:
    ValueError: count below 1 or above `first`.
  """
  if not 1 <= count <= first:
    raise ValueError(f'there are 1 to {first} steps to take, got {count}')
  # Neighbours lie at least 1 apart: rounding makes no two of them equal.
  return np.linspace(first, 1, count).round().astype(np.int32)


def find_step(levels: np.ndarray, sigma: float) -> int:
  """Returns the step whose noise level is nearest to image + N(0, sigma^2).

  Args:
    levels: [T].
    sigma: standard deviation of the noise of an image in [0, 1].

  Returns:
    1 to T.

  Raises:
    ValueError: sigma is not positive and finite.
  """
  if not (np.isfinite(sigma) and sigma > 0):
    raise ValueError(f'sigma must be a number > 0, got {sigma}')
  # An image scaled to [-1, 1] has noise of 2 sigma. A diffusion scales the
  # noisy image by sqrt(1 - level), and its noise is then sqrt(level):
  # (1 - level) (2 sigma)^2 = level, solved for the level.
  variance = (2 * sigma) ** 2
  level = variance / (1 + variance)
  return 1 + int(np.argmin(np.abs(np.asarray(levels) - level)))


@settings.pin()
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
    key: decides the draw.
    shape: (B, H, W, C).
    steps: falling; the first step must be T. See `choose_steps`.
    eta: 1 is ancestral sampling, which with all steps is the sampling of Ho et
      al.; 0 is DDIM (Song et al. 2021), which adds no noise.
  """
  # At step T hardly anything of an image is left, so that pure noise is taken
  # for a noisy image.
  start_key, key = jax.random.split(key)
  noise = jax.random.normal(start_key, shape)
  return _go_down(network, params, levels, key, noise, steps, eta)


@settings.pin()
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
  """Returns the images without their noise, [B, H, W, C] in [0, 1].

  The noisy images are taken for samples of the diffusion at the step whose
  level matches sigma. All steps from there to the clean image are taken.

  Args:
    network, params, levels: as they were trained.
    key: decides the noise that is added; eta = 0 adds none.
    images: [B, H, W, C], in [0, 1] but for the noise.
    sigma: standard deviation of the noise.
    eta: see `draw_samples`.

  Raises:
    ValueError: as `find_step`.
  """
  first = find_step(levels, sigma)
  # The network has only seen noisy images that were scaled by sqrt(1 - level):
  # the measurement gets the same scale.
  scale = np.sqrt(1 - levels[first - 1])
  steps = choose_steps(first, first)
  noisy = jnp.asarray(scale * (2 * images - 1), jnp.float32)
  return _go_down(network, params, levels, key, noisy, steps, eta)


def _go_down(network, params, levels, key, noisy, steps, eta):
  # Step 0 is the clean image, of level 0. The trip is a row of pairs of levels,
  # so that one compiled loop serves every choice of steps of one length.
  after = np.append(steps[1:], 0)
  padded = np.append(0, levels)
  trip = steps, np.float32(padded[steps]), np.float32(padded[after])
  eta = jnp.asarray(eta, jnp.float32)
  return _follow(network, params, key, noisy, trip, eta)


@functools.partial(jax.jit, static_argnums=0)
def _follow(network, params, key, noisy, trip, eta):
  def go(noisy, now):
    # The clean image that the predicted noise implies. The clip holds it among
    # images: close to level 1 the division makes small errors large.
    step, level, lower = now
    noise = network.apply({'params': params}, noisy, jnp.full(len(noisy), step))
    clean = (noisy - jnp.sqrt(level) * noise) / jnp.sqrt(1 - level)
    clean = jnp.clip(clean, -1, 1)
    # The noise that agrees with the clipped image, in place of the predicted.
    noise = (noisy - jnp.sqrt(1 - level) * clean) / jnp.sqrt(level)
    # DDIM's variance of fresh noise (Song et al. 2021, Eq. 16; alpha there is
    # 1 - level here). It is 0 in the last step: nothing is added to the result.
    fresh = eta**2 * lower / level * (1 - (1 - level) / (1 - lower))
    drawn = jax.random.normal(jax.random.fold_in(key, step), noisy.shape)
    # DDIM's step (Eq. 12). Kept and fresh noise have the variance `lower`
    # together; rounding may take their difference below 0.
    kept = jnp.sqrt(jnp.maximum(lower - fresh, 0))
    mean = jnp.sqrt(1 - lower) * clean + kept * noise
    return mean + jnp.sqrt(fresh) * drawn, None

  clean, _ = jax.lax.scan(go, noisy, trip)
  return jnp.clip((clean + 1) / 2, 0, 1)
