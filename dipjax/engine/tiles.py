"""The whole picture, denoised tile by tile after a fit with windows.

Time grows with the pixels, memory beyond the pictures themselves does not:
tiles have one size, and the program of one tile serves all of them. Neighbours
overlap, and where they do, the weight goes over from one to the other, so that
no seam shows, see `cover`. The code of a tile is the picture itself, without
the noise that each step adds: one pass is as good as the mean of eight with
that noise (benchmarks/NOTES.md).
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import monitors
from dipjax.device import packing
from dipjax.engine import cover, lanes
from dipjax.engine.fit import FitState
from dipjax.engine.problem import Problem, cut_window
from dipjax.recipe import PRECISIONS, Recipe

Array = jax.Array
Place = tuple[slice, slice]  # The rows and columns of a tile.

SIDE = 512  # The longest of a tile.
OVERLAP = 48  # The least number of pixels that two neighbours share.
_MULTIPLE = 32  # Of a tile's side, so that few networks extend a tile.


def finish_lanes(
  recipe: Recipe, states: FitState, problems: Problem
) -> FitState:
  """Returns the states with averaged parameters and whole images.

  Args:
    recipe: what `Recipe.prepare` returned; its one monitor gets the image.
    states, problems: of all lanes, after their last step.

  Returns:
    States whose monitor has images [lanes, H, W, C], NumPy arrays.
  """
  params = average_params(states, recipe.decay)
  images = []
  for lane in range(len(states.step)):
    problem = lanes.take_lane(problems, lane)
    own = packing.unpack(lanes.take_lane(params, lane))
    images.append(denoise(recipe, own, problem))
  watched = {
    name: state.replace(image=np.stack(images))
    for name, state in states.monitors.items()
  }
  return states.replace(params=params, monitors=watched)


@functools.partial(jax.jit, static_argnums=1)
def average_params(states: FitState, decay: float) -> Any:
  """Returns the averages of the parameters over the steps, as packed.

  A lane without a good step has no average; it keeps what it began with.

  Args:
    states: of all lanes of a fit with windows.
    decay: of the recipe.
  """
  steps = states.step

  def unbias(mean, leaf):
    taken = steps.reshape(-1, *[1] * (leaf.ndim - 1))
    mean = monitors.unbias_average(mean, jnp.maximum(taken, 1), decay=decay)
    return jnp.where(taken > 0, mean, leaf)

  return jax.tree.map(unbias, states.smooth, states.params)


def denoise(recipe: Recipe, params: Any, problem: Problem) -> np.ndarray:
  """Returns the whole image, [H, W, C].

  Args:
    recipe: its network and precision are read.
    params: the network's parameters.
    problem: of one lane; has a picture.
  """
  picture: Any = problem.picture

  def denoise_place(place):
    rows, columns = place
    corner = np.array([rows.start, columns.start], np.int32)
    size = rows.stop - rows.start, columns.stop - columns.start
    return denoise_tile(recipe.find_program(), size, params, problem, corner)

  make = functools.partial(map, denoise_place)
  return blend(picture.operator.pixels.shape, SIDE, make)


def blend(
  shape: tuple[int, ...],
  side: int,
  make: Callable[[Sequence[Place]], Iterable[Any]],
) -> np.ndarray:
  """Returns an image that is made in tiles, [H, W, C].

  Args:
    shape: of the image.
    side: the longest of a tile.
    make: gives the images of tiles, in their order.
  """
  size = find_size(shape, side)
  tops, lefts = (
    cover.place(length, own, OVERLAP) for length, own in zip(shape, size)
  )
  rows, columns = (
    cover.weigh(length, own, places, OVERLAP)
    for length, own, places in zip(shape, size, (tops, lefts))
  )
  places = [
    (slice(top, top + size[0]), slice(left, left + size[1]))
    for top in tops
    for left in lefts
  ]
  weights = itertools.product(rows, columns)
  total = np.zeros(shape, np.float32)
  for place, (row, column), image in zip(places, weights, make(places)):
    total[place] += np.outer(row, column)[..., None] * np.asarray(image)
  return total


def count_tiles(shape: tuple[int, ...], side: int) -> int:
  """Returns how many tiles cover a picture [H, W, C]; `side` as of `blend`."""
  return math.prod(
    len(cover.place(length, own, OVERLAP))
    for length, own in zip(shape, find_size(shape, side))
  )


def find_size(
  shape: tuple[int, ...], side: int | None = None
) -> tuple[int, int]:
  """Returns (height, width) of the tiles of a picture [H, W, C].

  Args:
    shape: of the picture.
    side: the longest of a tile; None is SIDE.
  """
  side = side or SIDE
  height, width = (
    cover.find_side(length, side, OVERLAP, _MULTIPLE) for length in shape[:2]
  )
  return height, width


@functools.partial(jax.jit, static_argnums=(0, 1))
def denoise_tile(
  recipe: Recipe,
  size: tuple[int, int],
  params: Any,
  problem: Problem,
  corner: Array,
) -> Array:
  """Returns the image of one tile, [*size, C]; see `denoise`."""
  network: Any = recipe.network
  dtype, products = PRECISIONS[recipe.precision]
  tile = cut_window(problem, network, corner, size)
  with jax.default_matmul_precision(products):
    return tile.crop(network.apply({'params': params}, tile.code.astype(dtype)))
