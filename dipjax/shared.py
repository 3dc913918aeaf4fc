"""`fit_shared` fits one network to many pictures, and applies it to any.

Pictures of one camera and setting have the same noise. A fit with windows sees
one window in each step, so that it costs the same for many pictures as for one.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import api, operators, settings, units
from dipjax import noise as noise_lib
from dipjax.engine import lanes, loop, tiles
from dipjax.engine import memory as memory_lib
from dipjax.engine.fit import FitState, Trace, make_fit
from dipjax.engine.problem import Picture, Pictures, Problem
from dipjax.recipe import Recipe

# Of the pictures that are fitted: as they are given, stacked, on the device.
_COPIES = 3


class SharedFit:
  """A network that denoises pictures of one kind of noise; see `fit_shared`."""

  def __init__(
    self,
    recipe: Recipe,
    noise: noise_lib.Model | None,
    memory: int | None,
    states: FitState,
    trace: Trace,
    problems: Problem,
  ):
    """Keeps what `fit_shared` has made; restores nothing yet.

    Args:
      recipe: as it was given.
      noise: of all pictures.
      memory: bytes that a restoration may take.
      states, trace: of all lanes, after their last step.
      problems: of all lanes, without pictures.
    """
    self._recipe, self._noise, self._memory = recipe, noise, memory
    self._states, self._trace, self._problems = states, trace, problems
    self._checked: set[tuple[int, ...]] = set()

  @settings.pin()
  def restore(self, measurement: Any) -> loop.Restoration:
    """Returns what `dipjax.restore` gives for a fit with windows.

    The network is applied tile by tile, without a further step. The picture may
    be one that the fit has seen, or any other of the same noise.

    Args:
      measurement: the noisy picture, [H, W, C] in [0, 1], of any size.

    Raises:
      ValueError: a picture that does not fit to the network or into memory.
      DivergedError: see `dipjax.restore`.
    """
    ready = api.prepare(measurement, None, self._recipe, noise=self._noise)
    count = len(self._states.step)
    # Shapes tell the memory, and to ask takes as long as to restore a picture.
    if ready.task.size not in self._checked:
      api.plan_tiles(ready, seeds=count, memory=self._memory)
      self._checked.add(ready.task.size)
    api.check_units(ready)
    picture: Any = Picture(jnp.asarray(ready.task.measurement))
    problems = self._problems.replace(picture=operators.Shared(picture))
    states = tiles.finish_lanes(ready.recipe, self._states, problems)
    return loop.collect(states, self._trace, ready.recipe.rule)


@settings.pin()
def fit_shared(
  pictures: Sequence[Any],
  recipe: Recipe,
  *,
  sigma: float | None = None,
  noise: noise_lib.Model | None = None,
  seeds: Sequence[int] = (0,),
  memory: int | None = None,
  chunk: int = 10,
  watch: loop.Watch | None = None,
  store: loop.Store | None = None,
) -> SharedFit:
  """Returns one network for all pictures, fitted to windows of all of them.

  In each step a lane sees one window of one picture: first a picture is drawn,
  each as likely as any other, then a place inside of it. A step costs the same
  for any number of pictures. All pictures are in memory; where they are too
  many, give parts of some of them.

  Args:
    pictures: noisy pictures, [H, W, C] in [0, 1], of any sizes and of equal C.
      The window is the largest that a picture has room for, up to
      `recipe.window`; smaller pictures are not drawn.
    recipe: how to fit, with a `window`.
    sigma, noise: of all pictures, one of the two; see `dipjax.restore`.
    seeds, memory, chunk, watch, store: see `dipjax.restore`.

  Raises:
    ValueError: arguments that do not fit each other, named with their values.

  Examples:
    Here `photos` are images, NumPy floats [H, W, 3] in [0, 1], and `windows`
    is the recipe with windows of `dipjax.restore`.

    >>> import dipjax
    >>> from dipjax import corruptions
    >>> noisy = [
    ...   corruptions.add_gaussian_noise(photo, 0.1, seed=0) for photo in photos
    ... ]
    >>> shared = dipjax.fit_shared(noisy, windows, sigma=0.1)
    >>> images = [shared.restore(picture).image for picture in noisy]
  """
  seeds = api.find_seeds(seeds)
  api.check_chunk(chunk)
  if not recipe.window:
    raise ValueError(
      'one network for many pictures needs windows: set Recipe.window, as 128'
    )
  arrays = _check_pictures(pictures)
  if noise is None and sigma is not None:
    clipped = all(
      bool(noise_lib.is_clipped(jnp.asarray(array))) for array in arrays
    )
    level = units.check_sigma(sigma)
    noise, sigma = noise_lib.Model.make_white(level, clipped=clipped), None
  side: int = recipe.window
  find_room = lambda array: tuple(min(side, n) for n in array.shape[:2])
  first = max(arrays, key=lambda array: math.prod(find_room(array)))
  height, width = find_room(first)
  stack = _stack(
    [a for a in arrays if a.shape[0] >= height and a.shape[1] >= width]
  )
  ready = api.prepare(first, None, recipe, sigma=sigma, noise=noise)
  available = memory_lib.find_available(memory)
  if available is not None:
    available = max(available - _COPIES * stack.pixels.nbytes, 0)
  api.plan_tiles(ready, seeds=len(seeds), memory=available)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  shared: Any = operators.Shared(jax.tree.map(jnp.asarray, stack))  # pyright: ignore
  problems = lanes.stack_lanes(
    [ready.pose(key, first).replace(picture=shared) for key in keys]
  )
  states, trace = loop.run_lanes(
    make_fit(ready.recipe),
    keys,
    problems,
    chunk=chunk,
    watch=watch,
    store=store,
  )
  alone = problems.replace(picture=None)
  return SharedFit(recipe, noise, memory, states, trace, alone)


def _check_pictures(pictures):
  """Returns the pictures as float32 arrays [H, W, C] of equal C."""
  arrays = [
    api.check_array(picture, f'picture {number}')
    for number, picture in enumerate(pictures)
  ]
  if not arrays:
    raise ValueError('one network needs at least one picture, got none')
  for number, array in enumerate(arrays):
    if array.ndim != 3 or array.shape[-1] != arrays[0].shape[-1]:
      raise ValueError(
        'pictures that share a network are [H, W, C] of equal C: picture 0 is '
        f'{arrays[0].shape}, picture {number} is {array.shape}'
      )
    units.check_image(array, f'picture {number}')
  return arrays


def _stack(arrays):
  """Returns the pictures as one array, each in the corner of its place."""
  sizes = np.array([array.shape[:2] for array in arrays], np.int32)
  shape = len(arrays), *sizes.max(axis=0), arrays[0].shape[-1]
  pixels = np.zeros(shape, np.float32)
  for place, array in zip(pixels, arrays):
    place[: array.shape[0], : array.shape[1]] = array
  return Pictures(pixels, sizes)  # pyright: ignore
