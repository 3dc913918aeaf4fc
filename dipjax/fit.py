"""The fit of one lane: `init` makes a state, `step` is one step of it.

Both are pure and know neither the task, nor the network, nor how a fit ends;
those are the objective and the monitors that are passed in.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from dipjax import guard, metrics, monitors, objectives
from dipjax.device import in_place, packing

Array = jax.Array

# What the network computes in, and what its products are rounded to.
PRECISIONS = {
  'float32': (jnp.float32, 'float32'),
  'tensorfloat32': (jnp.float32, 'tensorfloat32'),
  'bfloat16': (jnp.bfloat16, 'bfloat16'),
}


class FitState(struct.PyTreeNode):
  """All that a fit is, between two steps; arrays only."""

  step: Array  # Steps taken.
  params: Any  # As `packing.pack` makes them.
  opt_state: Any
  key: Array  # Never changes: a step's randomness is folded in.
  average: Array  # [H, W, C], biased (monitors.update_average).
  monitors: dict[str, monitors.MonitorState]
  guard: Any  # A GuardState; None in its own snapshot.


class Trace(NamedTuple):
  """What one step reports."""

  step: Array  # From 0.
  active: Array  # False where the lane was finished: nothing happened, no loss.
  loss: Array
  psnr_measurement: Array  # Of the output's prediction, in dB.
  returned: Array  # The step that a jump led back to; -1 without a jump.
  scores: dict[str, Array]  # Of each monitor.


class Fit(NamedTuple):
  """A fit as two pure functions of arrays."""

  init: Callable[[Array, objectives.Problem, Array | None], FitState]
  step: Callable[[FitState, objectives.Problem], tuple[FitState, Trace]]


def make_fit(
  network: nn.Module,
  objective: objectives.Objective,
  optimizer: optax.GradientTransformation,
  watchers: Mapping[str, monitors.Monitor],
  *,
  decay: float = 0.99,
  precision: str = 'float32',
) -> Fit:
  """Returns the fit of `network`'s parameters to a problem.

  A lane is finished when every watcher is done or problem.steps are taken; a
  step of a finished lane changes nothing, so that neither the number of steps
  in a call nor the other lanes ever change a result. Where lanes run one after
  the other it costs nothing either. A lane that diverges returns to its last
  good state, see `guard`.

  Args:
    network: whose parameters are fitted.
    objective: what is minimised, a function of those parameters.
    optimizer: how; its update may take the `key` of the step. It sees the
      parameters by the names of the network's parts, each as `packing.pack`
      makes it.
    watchers: by name; they see each step's image before its update.
    decay: of the average over the outputs, in [0, 1).
    precision: of the network's products, of PRECISIONS. Parameters, statistics
      of normalisations, the image, the loss and the average are float32 in all
      of them; a processor without a precision computes in a finer one.

  Raises:
    ValueError: decay outside [0, 1), no watchers or an unknown precision.
  """
  if not 0 <= decay < 1:
    raise ValueError(f'decay must be in [0, 1), got {decay}')
  if not watchers:
    raise ValueError('a fit needs at least one monitor')
  if precision not in PRECISIONS:
    raise ValueError(
      f'precision {precision!r} is not one of {", ".join(PRECISIONS)}'
    )
  dtype, products = PRECISIONS[precision]
  optimizer = optax.with_extra_args_support(optimizer)

  def init(key, problem, clean=None):
    key, params_key = jax.random.split(key)
    output, variables = network.init_with_output(params_key, problem.code)
    params = packing.pack(variables['params'])
    image = jnp.zeros_like(problem.crop(output))
    state = FitState(
      # No weak types: with other types after a step it would compile twice.
      step=jnp.int32(0),
      params=params,
      opt_state=optimizer.init(params),
      key=key,
      average=image,
      monitors={
        name: watcher.init(image, clean) for name, watcher in watchers.items()
      },
      guard=None,
    )
    return state.replace(guard=guard.start(state))

  def step(state, problem):
    return in_place.perform_if(
      ~is_finished(state, problem),
      lambda carry: advance(carry[0], problem),
      (state, _trace_nothing(state)),
    )

  def advance(state, problem):
    step = state.step
    randomness = guard.fold_jumps(state.guard, step)
    key = jax.random.fold_in(state.key, randomness)
    seen_problem = problem.replace(code=problem.code.astype(dtype))
    with jax.default_matmul_precision(products):
      (loss, output), gradient = packing.value_and_grad(objective)(
        state.params, seen_problem, key
      )
    prediction = problem.operator(output)
    error = jnp.mean(jnp.square(prediction - problem.measurement))
    jumped = guard.has_jumped(state.guard, loss, gradient, error)
    state, guarded = guard.update(
      state.guard, state.replace(guard=None), step, error, jumped
    )

    def optimize(params, opt_state):
      key_of_update = jax.random.fold_in(key, 1)
      return optimizer.update(gradient, opt_state, params, key=key_of_update)

    def move(moved, opt_state):
      params, average, watched = moved
      updates, _ = optimize(params, opt_state)
      updates = guard.scale_updates(guarded, updates)
      average, estimate = monitors.update_average(
        average, output, step, decay=decay
      )
      seen = monitors.Observation(step, loss, output, estimate, problem)
      watched = {
        name: watcher.update(watched[name], seen)
        for name, watcher in watchers.items()
      }
      return optax.apply_updates(params, updates), average, watched

    def remember(moved, opt_state):
      return optimize(moved[0], opt_state)[1]

    # The optimiser's state comes last: its update needs no old parameters.
    (params, average, watched), opt_state = in_place.update_in_turn(
      ~jumped,
      [move, remember],
      [(state.params, state.average, state.monitors), state.opt_state],
    )
    after = FitState(
      step=state.step + ~jumped,
      params=params,
      opt_state=opt_state,
      key=state.key,
      average=average,
      monitors=watched,
      guard=guarded,
    )
    return after, Trace(
      step=step,
      active=jnp.array(True),
      loss=loss,
      psnr_measurement=metrics.psnr(prediction, problem.measurement),
      returned=jnp.where(jumped, after.step, -1),
      scores=_get_scores(watched),
    )

  return Fit(init, step)


def is_finished(state: FitState, problem: objectives.Problem) -> Array:
  """Returns whether every monitor is done or no further step may be taken."""
  done = jnp.array([watcher.done for watcher in state.monitors.values()])
  over = (state.step >= problem.steps) | guard.has_given_up(state.guard)
  return jnp.all(done) | over


def _trace_nothing(state):
  return Trace(
    step=state.step,
    active=jnp.array(False),
    loss=jnp.array(jnp.nan, jnp.float32),
    psnr_measurement=jnp.array(jnp.nan, jnp.float32),
    returned=jnp.int32(-1),
    scores=_get_scores(state.monitors),
  )


def _get_scores(states):
  return {name: state.score for name, state in states.items()}
