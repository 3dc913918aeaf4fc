"""The whole picture, denoised tile by tile after a fit with windows.

Time grows with the pixels, memory beyond the pictures themselves does not:
tiles have one size, and the program of one tile serves all of them. Neighbours
overlap, and where they do, the weight goes over from one to the other, so that
no seam shows. The code of a tile is the picture itself, without the noise that
each step adds: one pass is as good as the mean of eight with that noise
(benchmarks/NOTES.md).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import monitors
from dipjax.device import packing
from dipjax.engine import lanes
from dipjax.engine.fit import FitState
from dipjax.engine.problem import Problem, cut_window
from dipjax.recipe import PRECISIONS, Recipe

Array = jax.Array

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
  params = _average_params(states, recipe.decay)
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


def _average_params(states, decay):
  # A lane without a good step has no average; it keeps what it began with.
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
  shape = picture.operator.pixels.shape
  size = find_size(shape)
  weights = _make_weights(size)
  total = np.zeros(shape, np.float32)
  weight = np.zeros((*shape[:2], 1), np.float32)
  for top, left in place_tiles(shape[:2], size):
    corner = np.array([top, left], np.int32)
    image = denoise_tile(recipe.find_program(), size, params, problem, corner)
    place = slice(top, top + size[0]), slice(left, left + size[1])
    total[place] += weights * np.asarray(image)
    weight[place] += weights
  return np.divide(total, weight, out=total)


def find_size(shape: tuple[int, ...]) -> tuple[int, int]:
  """Returns (height, width) of the tiles of a picture [H, W, C].

  There are as few tiles as SIDE allows, and each is no larger than they need.
  """
  return _find_side(shape[0]), _find_side(shape[1])


def _find_side(length):
  count = _count_tiles(length, SIDE)
  side = -(-(length + (count - 1) * OVERLAP) // count)
  return min(length, SIDE, _MULTIPLE * -(-side // _MULTIPLE))


def _count_tiles(length, side):
  return 1 + max(0, -(-(length - side) // (side - OVERLAP)))


def place_tiles(
  whole: tuple[int, ...], size: tuple[int, ...]
) -> list[tuple[int, int]]:
  """Returns the corners (top, left) of tiles that cover a picture evenly.

  Neighbours share at least OVERLAP pixels.

  Args:
    whole: (height, width) of the picture.
    size: (height, width) of a tile, at most the picture's.
  """
  tops, lefts = map(_place_along, whole, size)
  return [(top, left) for top in tops for left in lefts]


def _place_along(length: int, side: int) -> list[int]:
  places = np.linspace(0, length - side, _count_tiles(length, side))
  return places.round().astype(int).tolist()


def _make_weights(size):
  """[*size, 1]: rising from the edges of a tile over the overlap to 1."""
  ramps = []
  for side in size:
    place = np.arange(side) + 0.5
    ramps.append(np.minimum(np.minimum(place, side - place) / OVERLAP, 1))
  return np.float32(np.multiply.outer(*ramps)[..., None])


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
