"""What a fit returns to when it jumps: the last state that was good.

A jump is a loss, a gradient or an error that is not finite, or an error that is
far above the one of the last snapshot. Then all of the fit is again as it was
at the snapshot, its steps are half as large from there on, and its randomness
is another; D. Ulyanov et al. (DmitryUlyanov/deep-image-prior) return to the
parameters alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dipjax.device import in_place

Array = jax.Array

EVERY = 50  # Steps from one snapshot to the next.
DROP = 5.0  # In dB, of the fit to the measurement; more is a jump.
MOST = 20  # After so many jumps a fit ends: its steps are a millionth.

# Below this squared error, 60 dB, ratios of errors are those of roundings.
_LEAST = 1e-6


class GuardState(struct.PyTreeNode):
  """A fit's way back."""

  good: Any  # The fit at its last snapshot.
  error: Array  # Of that, squared, to the measurement; infinite at first.
  jumps: Array  # How many there were so far.


def start(fit: Any) -> GuardState:
  """Returns the guard of a fit before its first step; arrays are copied."""
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
    state: of the guard.
    loss, gradient: of the step.
    error: mean squared, of the fit to the measurement.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
  allowed = 10 ** (DROP / 10) * (state.error + _LEAST)
  # Not a number fails the comparison.
  return ~(finite & jnp.isfinite(error) & (error <= allowed))


def update(
  state: GuardState, fit: Any, step: Array, error: Array, jumped: Array
) -> tuple[Any, GuardState]:
  """Returns the fit to go on with, and the guard after a step.

  After a jump that is the last snapshot. Else it is the fit that was given,
  which may have become the new one.

  Args:
    state: of the guard.
    fit: before the step, which has shown that it is good unless it jumped.
    step: of the fit, from 0.
    error, jumped: as of `has_jumped`.
  """
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


def scale_updates(state: GuardState, updates: Any) -> Any:
  """Returns the updates, halved once for each jump so far."""
  rate = 0.5**state.jumps
  return jax.tree.map(lambda update: rate * update, updates)


def fold_jumps(state: GuardState, step: Array) -> Array:
  """Returns a number for the randomness of a step, another after a jump.

  Without a jump the step itself; of fits of fewer than 2^24 steps.
  """
  return step + state.jumps * 2**24


def has_given_up(state: GuardState) -> Array:
  """Returns whether the fit has jumped too often to go on."""
  return state.jumps >= MOST
