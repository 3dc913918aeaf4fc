"""A fit that jumps returns to its last good state, the snapshot.

A jump is a loss, a gradient or an error that is not finite, or an error that is
far above the error of the last snapshot. After a jump the whole fit is as it
was at the snapshot, its steps are half as large from there on, and its
randomness is another. D. Ulyanov et al. (DmitryUlyanov/deep-image-prior) return
to the parameters of the snapshot alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dipjax.conv import choose
from dipjax.device import in_place

Array = jax.Array

EVERY = 50  # Steps from one snapshot to the next.
DROP = 5.0  # In dB: a larger drop of the PSNR to the measurement is a jump.
MOST = 20  # Jumps after which a fit ends: its steps are a millionth by then.

# Below this squared error, 60 dB, rounding decides the ratio of two errors.
_LEAST = 1e-6


class GuardState(struct.PyTreeNode):
  """What a fit needs to return to its last snapshot."""

  good: Any  # The fit at its last snapshot.
  error: Array  # The snapshot's squared error; infinite at first.
  jumps: Array  # How many jumps there were so far.


def start(fit: Any) -> GuardState:
  """Returns the guard of a fit before its first step; it copies all arrays."""
  return GuardState(
    good=jax.tree.map(jnp.copy, fit),
    error=jnp.array(jnp.inf, jnp.float32),
    jumps=jnp.int32(0),
  )


def has_jumped(
  state: GuardState, loss: Array, gradient: Any, error: Array
) -> Array:
  """Returns whether a step must not be taken.

  Args:
    state: the guard before the step.
    loss, gradient: the objective's value and gradient in the step.
    error: mean squared error of the prediction to the measurement.
  """
  # The first snapshot has an infinite error, which allows every finite error.
  finite = jnp.isfinite(loss) & _is_finite(gradient)
  allowed = 10 ** (DROP / 10) * (state.error + _LEAST)
  # The comparison is not turned around, because NaN fails every comparison.
  return ~(finite & jnp.isfinite(error) & (error <= allowed))


def _is_finite(gradient):
  """Whether all entries are finite, of which one norm tells."""
  if not choose.sums_once():
    return jnp.isfinite(optax.tree.norm(gradient))
  # The arrays of one shape are summed in one reduction, which is a kernel or
  # two.
  groups = {}
  for leaf in jax.tree.leaves(gradient):
    groups.setdefault(leaf.shape, []).append(jnp.square(leaf))
  add = lambda sums, more: tuple(map(jnp.add, sums, more))
  total = jnp.float32(0)
  for shape, squares in groups.items():
    zeros = (jnp.float32(0),) * len(squares)
    axes = tuple(range(len(shape)))
    total += sum(jax.lax.reduce(tuple(squares), zeros, add, axes))
  return jnp.isfinite(total)


def relate_error(error: Array, window: Array, deviation: Array) -> Array:
  """Returns the error of a window as one that is like those of all windows.

  A window of texture has a larger error than a flat one, however good the fit.
  No window has a larger one than its own variance and that of the noise while
  all is well: the number is 1 up to there, and their ratio beyond.

  Args:
    error: mean squared error of the prediction to the window.
    window: [H, W, C], what was measured there.
    deviation: standard deviation of the noise on the code.
  """
  scale = jnp.var(window) + jnp.square(deviation)
  return jnp.maximum(error / jnp.maximum(scale, _LEAST), 1)


def update(
  state: GuardState, fit: Any, step: Array, error: Array, jumped: Array
) -> tuple[Any, GuardState]:
  """Returns the fit to go on with, and the guard after a step.

  After a jump the fit is the last snapshot. Otherwise it is the fit that was
  given, and every EVERY steps this fit becomes the new snapshot.

  Args:
    state: the guard before the step.
    fit: the fit before the step; without a jump the step shows that it is good.
    step: the number of the step, from 0.
    error: see `has_jumped`.
    jumped: what `has_jumped` returned.
  """
  # Most steps neither jump nor take a snapshot, and write neither tree.
  due = ~jumped & (step % EVERY == 0)
  fit, good = in_place.perform_if(
    due | jumped,
    lambda both: (_choose(jumped, both[1], both[0]), _choose(due, *both)),
    (fit, state.good),
  )
  return fit, GuardState(
    good=good,
    error=jnp.where(due, error, state.error),
    jumps=state.jumps + jumped,
  )


def _choose(condition, new, old):
  return jax.tree.map(functools.partial(jnp.where, condition), new, old)


def scale_updates(
  state: GuardState, updates: Any, rate: Array | None = None
) -> Any:
  """Returns the updates times the rate, halved once for each jump so far."""
  rate = 0.5**state.jumps if rate is None else rate * 0.5**state.jumps
  return jax.tree.map(lambda update: rate * update, updates)


def fold_jumps(state: GuardState, step: Array) -> Array:
  """Returns a number for the randomness of a step, another after each jump.

  The number is the step itself before the first jump. Numbers differ between
  all steps and jumps of a fit of fewer than 2^24 steps.
  """
  # MOST jumps and 2^24 steps fit into the 32 bits of the number.
  return step + state.jumps * 2**24


def has_given_up(state: GuardState) -> Array:
  """Returns whether the fit has jumped too often to go on."""
  return state.jumps >= MOST
