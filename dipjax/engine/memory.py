"""How much memory a fit takes, estimated before the fit takes the memory."""

import functools
from typing import Any

import jax
from flax import linen as nn

from dipjax import settings
from dipjax.conv import choose
from dipjax.device import packing
from dipjax.engine import fit as fit_lib
from dipjax.engine import mesh, tiles
from dipjax.engine.problem import Problem, find_shapes
from dipjax.recipe import PRECISIONS, Recipe

# How many pictures a fit with windows holds at its end: the measurement here
# and on the device, the mean of the lanes, their deviation and what it is made
# of; and those of each lane: its tiles' sum, its image, and its clipped image.
_PICTURES = 5
_PICTURES_OF_A_LANE = 3


@settings.pin()
def estimate_bytes(recipe: Recipe, problem: Problem, *, lanes: int = 1) -> int:
  """Returns about how many bytes a step of all lanes takes at its peak.

  The function traces the step and does not run it. It adds what the gradient of
  the method's objective keeps of the forward pass, or of its two passes; the
  state of the fit, that is parameters, moments, monitors and the guard's
  snapshot of them; a gradient; and a share for the arrays at work. A fit with
  windows takes what its pictures take, and what one tile takes if that is more
  than a step. `python -m
  benchmarks.memory` compares the estimate with what XLA plans. On a CPU the
  precision does not change the estimate: there XLA computes in float32.

  Where several devices have a memory each, the bytes are those of one device.

  Args:
    recipe: what `Recipe.prepare` returned, without oracles.
    problem: the problem of one lane; its shapes are enough.
    lanes: how many are fitted at once; a CPU fits one after the other.
  """
  return _count_all(problem, _measure(recipe, problem), lanes)


@settings.pin()
def count_slots(
  recipe: Recipe, problem: Problem, available: int | None, most: int
) -> int:
  """Returns how many slots of `engine.slots` fit into memory, from 0 to `most`.

  A slot is a lane. The picture that comes next is made beside them.

  Args:
    recipe, problem: see `estimate_bytes`.
    available: see `check_memory`.
    most: more are not asked for.
  """
  available = find_available(available)
  if available is None or not most:
    return most
  measured = _measure(recipe, problem)
  beside = measured[0] + sum(map(_count_bytes, jax.tree.leaves(problem)))
  needed = lambda lanes: _count_all(problem, measured, lanes) + beside
  return max(
    (n for n in range(1, most + 1) if needed(n) <= available), default=0
  )


def _count_all(problem: Problem, measured: tuple[int, int], lanes: int) -> int:
  """Returns the bytes of all lanes, of what `_measure` returned for one."""
  state, activations = measured
  each = mesh.count_each(lanes)
  at_once = 1 if choose.runs_in_turn() else each
  if choose.shares_memory():
    at_once *= mesh.count_used(lanes)
  else:
    lanes = each
  pictures = sum(map(_count_bytes, jax.tree.leaves(problem.picture)))
  pictures *= _PICTURES + lanes * _PICTURES_OF_A_LANE
  return lanes * state + at_once * activations + pictures


def _measure(recipe: Recipe, problem: Problem) -> tuple[int, int]:
  """The bytes of one lane's state and gradient, and those of its activations.

  Every lane holds its state all the time; activations exist only for the lanes
  that run at once. Pictures of one program and size are traced once.
  """
  shapes = jax.eval_shape(lambda problem: problem, problem)
  leaves, structure = jax.tree.flatten(shapes)
  program, target = recipe.find_program(), choose.find_target()
  return _measure_shapes(program, structure, tuple(leaves), target)


@functools.lru_cache(maxsize=16)
def _measure_shapes(recipe, structure, leaves, target):
  del target  # For which the program is traced: a part of the key.
  problem: Any = jax.tree.unflatten(structure, leaves)
  # On a CPU the estimate must not promise what bfloat16 does not save.
  if not choose.halves_memory():
    recipe = recipe.replace(precision='float32')
  dtype, _ = PRECISIONS[recipe.precision]
  # What a fit starts with is the same with and without remat, and traced once.
  fit = fit_lib.make_fit(_set_remat(recipe, False))
  objective = fit_lib.make_objective(recipe)

  # The pull-back of `jax.vjp` is a tree of the very arrays that the backward
  # pass needs, so that its leaves are what the gradient keeps. The tree itself
  # has the whole program, and JAX would never let go of it.
  def keep(key, problem, drawn):
    state = fit.start(key, problem, drawn)
    params = packing.unpack(state.params)
    seen = problem.replace(code=problem.code.astype(dtype))
    lose = lambda params: objective(params, seen, key)[0]
    return state, params, jax.tree.leaves(jax.vjp(lose, params)[1])

  # The network is traced once more for its gradient, and not for its start.
  drawn = find_shapes(fit.recipe.network, problem.code.shape).params
  shapes = jax.eval_shape(keep, jax.random.key(0), problem, drawn)
  state, gradient, kept = (
    [*map(_count_bytes, jax.tree.leaves(part))] for part in shapes
  )
  working = choose.count_working(fit.recipe != recipe)
  at_work = recipe.method.passes * working * max(kept)
  of_tile = _measure_tile(problem, working * max(kept))
  activations = max(sum(kept) + at_work, of_tile)
  return sum(state) + sum(gradient), activations


def _count_least(recipe: Recipe, problem: Problem) -> int:
  """The bytes that one lane takes at least, whatever saves memory.

  The shapes of the forward pass tell them, in a fraction of the time that a
  gradient takes to trace. With remat the arrays at work are what is left. The
  largest image that a kernel is applied to may be one that was doubled, so that
  it counts as the smaller one, a quarter.
  """
  _, params, inputs = find_shapes(recipe.network, problem.code.shape)
  state = 2 * sum(map(_count_bytes, jax.tree.leaves(params)))  # And a gradient.
  largest = max(map(_count_bytes, inputs), default=0)
  at_work = recipe.method.passes * choose.count_working(True) * largest
  return _count_all(problem, (state, at_work // 4), 1)


def _measure_tile(problem: Problem, at_work: int) -> int:
  """The bytes of the arrays at work for a tile; 0 without windows.

  Args:
    problem: of a window.
    at_work: bytes of the arrays at work for a window.
  """
  if problem.picture is None:
    return 0
  picture: Any = problem.picture
  height, width = tiles.find_size(picture.operator.pixels.shape)
  pixels = problem.crop.height * problem.crop.width
  return at_work * height * width // pixels


def _count_bytes(leaf: Any) -> int:
  return leaf.size * leaf.dtype.itemsize


def _set_remat(recipe: Recipe, remat: bool) -> Recipe:
  return recipe.replace(network=_clone(recipe.network, remat))


def _clone(network: Any, remat: bool) -> nn.Module:
  """Returns the network with another remat, also inside of a wrapper."""
  if hasattr(network, 'remat'):
    return network.clone(remat=remat)
  if hasattr(network, 'network'):
    return network.clone(network=_clone(network.network, remat))
  return network


def find_available(given: int | None) -> int | None:
  """Returns the bytes that a fit may take: those given, or the device's own.

  None where the device says nothing, as a CPU does.
  """
  if given is not None:
    return given
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('bytes_limit')


@settings.pin()
def check_memory(
  recipe: Recipe, problem: Problem, available: int | None, *, lanes: int = 1
) -> None:
  """Raises a ValueError, with the settings that would fit, if a fit does not.

  Where no setting would fit by far, the function traces no gradient.

  Args:
    recipe, problem, lanes: see `estimate_bytes`.
    available: bytes that the fit may take; None is what the device says it has.
      Where the device says nothing, as a CPU does, every fit is allowed.
  """
  available = find_available(available)
  if available is None:
    return
  height, width = problem.crop.height, problem.crop.width
  if problem.picture is not None:
    picture: Any = problem.picture
    height, width, _ = picture.operator.pixels.shape
  say = lambda size: (
    f'{width}x{height} in {lanes} lane{"s" * (lanes > 1)} takes {size}, there '
    f'are {_format(available)}; '
  )
  # What no setting would make small enough is refused at once.
  least = 0 if choose.halves_memory() else _count_least(recipe, problem)
  if least > available:
    raise ValueError(say(f'at least {_format(least)}') + 'crop the image')
  measured = _measure(recipe, problem)
  total = lambda measured, lanes: _count_all(problem, measured, lanes)
  needed = total(measured, lanes)
  if needed <= available:
    return
  # Settings that save memory, from the least change to the largest; the error
  # names those that are small enough.
  sizes = {}
  for name, saving in _list_savings(recipe).items():
    measured_saving = _measure(saving, problem)
    sizes[name] = total(measured_saving, lanes)
    if lanes > 1:
      sizes[f'one lane with {name}'] = total(measured_saving, 1)
  if lanes > 1:
    sizes['one lane'] = total(measured, 1)
  fitting = [
    f'{name} ({_format(size)})'
    for name, size in sizes.items()
    if size <= available and size < needed
  ]
  raise ValueError(
    say(f'about {_format(needed)}')
    + (f'what would fit: {", ".join(fitting)}' if fitting else 'crop the image')
  )


def _list_savings(recipe: Recipe) -> dict[str, Recipe]:
  """The recipes that save memory; a CPU and some methods have fewer."""
  frugal = _set_remat(recipe, True)
  if not (choose.halves_memory() and recipe.method.allows('bfloat16')):
    return {'remat': frugal}
  half, least = (r.replace(precision='bfloat16') for r in (recipe, frugal))
  return {'bfloat16': half, 'remat': frugal, 'bfloat16 and remat': least}


def _format(count: int) -> str:
  return f'{count / 1e9:.3g} GB'
