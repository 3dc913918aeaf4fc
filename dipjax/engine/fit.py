"""The fit of one lane: `init` makes a state, `step` moves it by one step.

Both functions are pure. They know neither the task, nor the network, nor how a
fit ends: the recipe has the network, the method and the monitors.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dipjax import metrics, monitors
from dipjax.device import in_place, packing
from dipjax.engine import guard
from dipjax.engine.problem import Problem, draw_window, find_output
from dipjax.methods import Objective
from dipjax.recipe import PRECISIONS, Recipe

Array = jax.Array


class FitState(struct.PyTreeNode):
  """All that a fit keeps between two steps; arrays only."""

  step: Array  # Steps taken.
  params: Any  # The network's parameters, as `packing.pack` makes them.
  opt_state: Any
  key: Array  # Never changes: each step folds its number into the key.
  average: Array  # [H, W, C], biased (monitors.update_average).
  # The average of the parameters, biased; None without windows.
  smooth: Any
  monitors: dict[str, monitors.MonitorState]
  guard: Any  # A GuardState; None in its own snapshot.


class Trace(NamedTuple):
  """What one step reports."""

  step: Array  # The step's number, from 0.
  active: Array  # False where the lane was finished: nothing happened, no loss.
  loss: Array
  psnr_measurement: Array  # The PSNR of the output's prediction, in dB.
  returned: Array  # The step that a jump led back to; -1 without a jump.
  scores: dict[str, Array]  # The score of each monitor, by its name.


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fit as two pure functions of arrays; `make_fit` makes it.

  A fit is a hashable value, equal where its recipe is, so that it can be a
  static argument of a compiled function.
  """

  recipe: Recipe

  def init(
    self, key: Array, problem: Problem, clean: Array | None = None
  ) -> FitState:
    """Returns the state before the first step.

    Args:
      key: the lane's key.
      problem: the lane's problem.
      clean: [H, W, C], for monitors named oracle, or None.
    """
    params = draw_params(self.recipe.network, key, problem.code)
    return self.start(key, problem, params, clean)

  def start(
    self, key: Array, problem: Problem, params: Any, clean: Array | None = None
  ) -> FitState:
    """Returns the state before the first step, from the network's parameters.

    Args:
      key, problem, clean: see `init`.
      params: what `draw_params` returned.
    """
    network: Any = self.recipe.network
    params = packing.pack(params)
    image = problem.crop(jnp.zeros(find_output(network, problem.code.shape)))
    key, _ = jax.random.split(key)
    state = FitState(
      # Not a weak type: the step would compile again for the type that it
      # returns.
      step=jnp.int32(0),
      params=params,
      opt_state=self.recipe.optimizer.init(params),
      key=key,
      average=image,
      smooth=_start_average(params, problem),
      monitors={
        name: monitor.init(image, clean)
        for name, monitor in self.recipe.monitors.items()
      },
      guard=None,
    )
    return state.replace(guard=guard.start(state))

  def step(self, state: FitState, problem: Problem) -> tuple[FitState, Trace]:
    """Returns the state one step later, and what the step reports.

    A lane is finished when every monitor is done or problem.steps are taken. A
    step of a finished lane changes nothing, so that neither the number of steps
    in a call nor the other lanes ever change a result. Where lanes run one
    after the other, a step of a finished lane costs nothing either. A lane that
    diverges returns to its last good state, see `guard`.
    """
    return in_place.perform_if(
      ~is_finished(state, problem),
      lambda carry: _advance(self.recipe, carry[0], problem),
      (state, _trace_nothing(state)),
    )


def draw_params(network: Any, key: Array, code: Array) -> Any:
  """Returns the first parameters of a network, as the network names them.

  Args:
    network: the network that is fitted.
    key: the lane's key; the parameters are drawn from a stream of their own.
    code: of the shape of the network's input, which is all that is used of it.
  """
  _, params_key = jax.random.split(key)
  return network.init(params_key, code)['params']


def make_fit(recipe: Recipe) -> Fit:
  """Returns the fit of a recipe; recipes of one program give equal fits.

  Args:
    recipe: what `Recipe.prepare` returned.

  Raises:
    ValueError: a recipe without a network.
  """
  if recipe.network is None:
    raise ValueError('a fit needs a network')
  return Fit(recipe.find_program())


def _advance(recipe, state, problem):
  """Takes one step: loss, gradient, guard, update, average, monitors."""
  # After a jump the same step has another key, so that it goes another way.
  step = state.step
  key = jax.random.fold_in(state.key, guard.fold_jumps(state.guard, step))

  # All that follows sees the window alone. Its place has a stream of its own.
  network: Any = recipe.network
  problem = draw_window(problem, network, jax.random.fold_in(key, 2))

  (loss, output), gradient = _differentiate(recipe, state.params, problem, key)

  # The guard compares the output with the measurement itself, because the loss
  # of some methods is no error. After a jump the lane goes on from its last
  # good state.
  prediction = problem.operator(output)
  error = jnp.mean(jnp.square(prediction - problem.measurement))
  if problem.picture is not None:
    error = guard.relate_error(error, problem.measurement, problem.jitter)
  jumped = guard.has_jumped(state.guard, loss, gradient, error)
  state, guarded = guard.update(
    state.guard, state.replace(guard=None), step, error, jumped
  )

  # The optimiser's randomness has a stream of its own beside the objective's.
  optimizer = optax.with_extra_args_support(recipe.optimizer)
  optimize = lambda params, opt_state: optimizer.update(
    gradient,
    opt_state,
    params,
    key=jax.random.fold_in(key, 1),
    progress=step / problem.steps,
  )

  def descend(params, opt_state):
    updates, _ = optimize(params, opt_state)
    updates = guard.scale_updates(guarded, updates, problem.rate)
    return optax.apply_updates(params, updates)

  # Outputs of different windows have no average, but their parameters have.
  windows = problem.picture is not None
  decay = 0.0 if windows else recipe.decay

  def observe(average, watched):
    average, estimate = monitors.update_average(
      average, output, step, decay=decay
    )
    seen = monitors.Observation(step, loss, output, estimate, problem)
    return average, {
      name: monitor.update(watched[name], seen)
      for name, monitor in recipe.monitors.items()
    }

  # The old optimiser's state decides how the parameters move, so that it is
  # overwritten after the parameters. After a jump nothing is overwritten.
  def move(moved, old):
    params, smooth, *others = moved
    params = descend(params, old)
    smooth = jax.tree.map(
      lambda mean, leaf: recipe.decay * mean + (1 - recipe.decay) * leaf,
      smooth,
      params if windows else None,
    )
    return params, smooth, *observe(*others)

  (params, smooth, average, watched), opt_state = in_place.update_in_turn(
    ~jumped,
    [move, lambda moved, old: optimize(moved[0], old)[1]],
    [
      (state.params, state.smooth, state.average, state.monitors),
      state.opt_state,
    ],
  )
  after = FitState(
    step=state.step + ~jumped,
    params=params,
    opt_state=opt_state,
    key=state.key,
    average=average,
    smooth=smooth,
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


def _start_average(params, problem):
  if problem.picture is None:
    return None
  return jax.tree.map(jnp.zeros_like, params)


def _differentiate(recipe, params, problem, key):
  """Returns ((loss, image), gradient), computed in the recipe's precision."""
  dtype, products = PRECISIONS[recipe.precision]
  with jax.default_matmul_precision(products):
    return packing.value_and_grad(make_objective(recipe))(
      params, problem.replace(code=problem.code.astype(dtype)), key
    )


def make_objective(recipe: Recipe) -> Objective:
  """Returns the objective of a recipe's method, see `methods.Method`."""
  network: Any = recipe.network
  penalties: tuple[Callable[[Array], Array], ...] = tuple(
    penalty for penalty, _ in recipe.penalties
  )
  return recipe.method.make_objective(network, penalties)


def is_finished(state: FitState, problem: Problem) -> Array:
  """Returns whether every monitor is done or no further step is allowed."""
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
