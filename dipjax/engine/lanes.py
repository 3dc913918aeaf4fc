"""Many fits at once: the functions of one lane, mapped over the first axis.

Lanes of the same shapes share one compiled program. A lane gives the same
result alone as among others, and in any slot. Where there are several devices,
each has its share of the lanes, see `mesh`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import codes, operators, settings
from dipjax.conv import choose
from dipjax.device import packing
from dipjax.engine import fit as fit_lib
from dipjax.engine import mesh
from dipjax.engine.mesh import is_shared
from dipjax.engine.problem import Picture, Problem, find_shapes, make_problem
from dipjax.methods import perceptual as perceptual_lib
from dipjax.recipe import Recipe

Array = jax.Array
Perceptual = tuple[Callable[[Array], Array], float]

# The programs that are kept. One of the default network takes about 150 MB and
# 1700 mappings of memory, of which Linux allows a process 65530.
MOST_PROGRAMS = 8

_programs: set[Any] = set()  # What is kept, of `make_room`.


@settings.pin()
def pose_problem(
  recipe: Recipe,
  key: Array,
  measurement: Array,
  operator: operators.Operator,
  size: Sequence[int],
  *,
  sigma: float | None = None,
  reference: Array | None = None,
  perceptual: Perceptual | None = None,
) -> Problem:
  """Returns the problem of one lane of a prepared recipe.

  The problem of a recipe with windows is the problem of one window, the first,
  and has the measurement as its picture.

  Args:
    recipe, operator: what `Recipe.prepare` returned.
    key: the lane's key.
    measurement: float32, what the operator gave.
    size: (H, W, C) of the image.
    sigma, reference, perceptual: see `dipjax.restore`.

  Raises:
    ValueError: a weight of the features that is no number >= 0, or a
      measurement from which the features cannot be computed.
  """
  code: Any = recipe.code
  network: Any = recipe.network
  picture = None
  if recipe.window:
    whole: Any = Picture(jnp.asarray(measurement))
    picture = operators.Shared(whole)
    measurement = measurement[: recipe.window, : recipe.window]
    size, code = measurement.shape, codes.use_image(measurement)
  problem = make_problem(
    key,
    measurement,
    operator,
    network,
    size,
    code=code,
    jitter=recipe.jitter or 0.0,
    steps=recipe.steps,
    weights=[weight for _, weight in recipe.penalties],
    sigma=sigma,
    reference=reference,
  ).replace(
    picture=picture,
    rate=None if recipe.rate is None else jnp.float32(recipe.rate),
  )
  if not perceptual:
    return problem
  return perceptual_lib.add_features(problem, *perceptual)


def stack_lanes(trees: Sequence[Any]) -> Any:
  """Returns one tree whose arrays have a new first axis, one entry a lane.

  A part that is `operators.Shared` is taken from the first tree unchanged.
  """
  stack = lambda first, *others: (
    first if is_shared(first) else jnp.stack([first, *others])
  )
  return jax.tree.map(stack, *trees, is_leaf=is_shared)


def take_lane(tree: Any, lane: int) -> Any:
  """Returns the tree of one lane from the trees that were stacked."""
  take = functools.partial(
    jax.lax.dynamic_index_in_dim,
    index=lane,
    keepdims=False,
    allow_negative_indices=False,
  )
  return jax.tree.map(
    lambda leaf: leaf if is_shared(leaf) else take(leaf),
    tree,
    is_leaf=is_shared,
  )


def repeat_lane(tree: Any, count: int) -> Any:
  """Returns the tree of `count` lanes, each as the only lane of `tree`."""
  return _change_own(lambda own: _repeat(own, count), tree)


def spread(
  states: fit_lib.FitState, problems: Problem
) -> tuple[fit_lib.FitState, Problem]:
  """Returns states and problems as `advance` takes them on several devices.

  Each lane lies on the device that runs it. Where devices would have different
  numbers of lanes, there are further lanes, which take no step.
  """
  count = len(states.step)
  total = mesh.pad(count)
  if total > count:
    repeat = lambda leaf: jnp.concatenate(
      [leaf, *[leaf[-1:]] * (total - count)]
    )
    states, problems = (
      _change_own(lambda own: [*map(repeat, own)], tree)
      for tree in (states, problems)
    )
    steps = problems.steps.at[count:].set(0)
    problems = problems.replace(steps=steps)
  return mesh.place(states, total), mesh.place(problems, total)


def take_first(tree: Any, count: int) -> Any:
  """Returns the first lanes of a tree, without those that `spread` added."""
  return jax.tree.map(
    lambda leaf: leaf if len(leaf) == count else leaf[:count], tree
  )


def put_lane(tree: Any, slot: int, one: Any) -> Any:
  """Returns the tree of many lanes with another lane in a slot.

  The slot is an argument of the compiled program, so that all slots have one
  program. The given tree is used up (donated).

  Args:
    tree: arrays [lanes, ...].
    slot: the place of the lane.
    one: arrays [1, ...], of the same shapes otherwise.
  """

  def put(own, one):
    return _put(own, mesh.place_everywhere(one, len(own[0])), slot)

  return _change_own(put, tree, one)


def copy_lane(tree: Any, slot: int) -> Any:
  """Returns the tree of the lane in a slot, arrays [1, ...]."""

  def copy(own):
    return mesh.gather(_take(*mesh.find_part(own, slot)), len(own[0]))

  return _change_own(copy, tree)


def _change_own(function, *trees):
  """Returns the first tree with function(what is not shared of each tree)."""
  leaves, structure = jax.tree.flatten(trees[0], is_leaf=is_shared)
  places = [i for i, leaf in enumerate(leaves) if not is_shared(leaf)]
  all_leaves = [jax.tree.leaves(tree, is_leaf=is_shared) for tree in trees]
  own = function(*([each[i] for i in places] for each in all_leaves))
  for place, leaf in zip(places, own, strict=True):
    leaves[place] = leaf
  return jax.tree.unflatten(structure, leaves)


@functools.partial(jax.jit, static_argnums=1)
def _repeat(leaves, count):
  return [jnp.broadcast_to(leaf, (count, *leaf.shape[1:])) for leaf in leaves]


_put = jax.jit(mesh.put, donate_argnums=0)
_take = jax.jit(mesh.take)


def _map_at_once(function: Callable) -> Callable:
  """Maps a function over the first axis of all that is not shared."""

  def mapped(*lanes):
    # The leaves of each lane are mapped; shared leaves come from outside of the
    # mapped function, so that `vmap` neither copies nor slices them.
    leaves, structure = jax.tree.flatten(lanes, is_leaf=is_shared)
    own = [None if is_shared(leaf) else leaf for leaf in leaves]

    def apply(own):
      joined = [
        leaf if mine is None else mine for leaf, mine in zip(leaves, own)
      ]
      return function(*jax.tree.unflatten(structure, joined))

    return jax.vmap(apply)(own)

  return mapped


def init(
  fit: fit_lib.Fit,
  keys: Array,
  problems: Problem,
  cleans: Array | None = None,
) -> fit_lib.FitState:
  """Returns the states of all lanes before their first step.

  Args:
    fit: the fit of one lane.
    keys: [lanes].
    problems: every array has a first axis of lanes, except in parts that are
      `operators.Shared`.
    cleans: [lanes, H, W, C], for monitors named oracle, or None.
  """
  # Most of what has to be compiled is the same for any number of lanes, and
  # whatever is minimised and watched.
  network = fit.recipe.network
  least = _find_least_code(network, problems.code.shape[1:])
  params = [_draw(network, key, least) for key in keys]
  return _start(fit, keys, problems, params, cleans)


def _find_least_code(network, code_shape):
  """The smallest code from which the parameters of such a code are drawn.

  The parameters depend on the shape of the code alone, and those of kernels not
  on its size: all sizes of pictures have one program.
  """
  least = np.zeros((*network.code_size(1, 1), code_shape[-1]), np.float32)
  drawn = _draw.eval_shape(network, jax.random.key(0), least)
  if drawn == find_shapes(network, code_shape).params:
    return least
  return np.zeros(code_shape, np.float32)


def shape(
  fit: fit_lib.Fit,
  keys: Array,
  problems: Problem,
  cleans: Array | None = None,
) -> fit_lib.FitState:
  """Returns the shapes of what `init` returns; shapes are enough."""
  drawn = find_shapes(fit.recipe.network, problems.code.shape[1:]).params
  return _start.eval_shape(fit, keys, problems, [drawn] * len(keys), cleans)


# What runs once: LLVM's optimisations would take longer than they save.
_QUICKLY = {'xla_backend_optimization_level': 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICKLY)
def _draw(network, key, code):
  return fit_lib.draw_params(network, key, code)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICKLY)
def _start(fit, keys, problems, params, cleans):
  return _map_at_once(fit.start)(keys, problems, stack_lanes(params), cleans)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def advance(
  fit: fit_lib.Fit,
  steps: int,
  states: fit_lib.FitState,
  problems: Problem,
) -> tuple[fit_lib.FitState, fit_lib.Trace]:
  """Returns all lanes `steps` steps later and their traces [lanes, steps].

  Finished lanes stay as they are. The given states are used up (donated).
  """

  def advance_lane(state, problem):
    turn = lambda state, _: fit.step(state, problem)
    scan = jax.lax.scan if choose.runs_in_turn() else packing.scan_joined
    return scan(turn, state, length=steps)

  run = _run_in_turn if choose.runs_in_turn() else _run_at_once
  return mesh.share_out(functools.partial(run, advance_lane), states, problems)


def _run_in_turn(advance_lane, states, problems):
  """Runs one lane after the other, each with all cores.

  The program is the same for any number of lanes, so that a lane's result is
  the same to the last bit. The states are changed in place.
  """

  # Each turn takes one lane out of the stack and writes it back at its place.
  def turn(states, lane):
    state, trace = advance_lane(*take_lane((states, problems), lane))
    put = lambda lanes, one: jax.lax.dynamic_update_index_in_dim(
      lanes, one, lane, 0, allow_negative_indices=False
    )
    return jax.tree.map(put, states, state), trace

  count = jax.tree.leaves(states)[0].shape[0]
  return jax.lax.scan(turn, states, jnp.arange(count))


def _run_at_once(advance_lane, states, problems):
  return _map_at_once(advance_lane)(states, problems)


def make_room(fit: fit_lib.Fit, steps: int, problems: Problem) -> None:
  """Frees all compiled programs before there would be one too many.

  Whoever makes an operator, a penalty or an optimiser anew for each picture
  makes a program for each picture, as do pictures of many sizes. JAX keeps
  thousands of programs, which no process has memory for.

  Args:
    fit, steps, problems: what `advance` is about to be called with.
  """
  leaves, structure = jax.tree.flatten(problems)
  kinds = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
  program = fit, steps, structure, kinds, choose.find_target()
  if program not in _programs and len(_programs) >= MOST_PROGRAMS:
    forget_programs()
  _programs.add(program)


def forget_programs() -> None:
  """Frees all compiled programs of this module."""
  functions: Any = _draw, _start, advance, find_finished, _repeat, _put, _take
  for function in functions:
    function.clear_cache()
  _programs.clear()


@jax.jit
def find_finished(states: fit_lib.FitState, problems: Problem) -> Array:
  """Returns which lanes are finished, [lanes]."""
  is_finished = _map_at_once(fit_lib.is_finished)
  return mesh.share_out(is_finished, states, problems)
