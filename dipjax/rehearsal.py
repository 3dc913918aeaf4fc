"""`rehearse` goes on with the network of a fit with windows, part by part.

A restored image is a far better target than the noisy picture. From it, pairs
are made (`methods.Rehearsed`), and the network of a large picture becomes one
network for each of its parts.
"""

import functools
import itertools
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import api, methods, settings
from dipjax import noise as noise_lib
from dipjax.conv import choose
from dipjax.device import packing
from dipjax.engine import lanes, loop, tiles
from dipjax.engine.fit import make_fit
from dipjax.engine.problem import Own, Picture
from dipjax.recipe import Recipe

Array = jax.Array

MOST = 64  # Parts of a picture, so that a large one takes no longer.
SIDE = 192  # Of a part of a picture with fewer.
STEP = 32  # Pixels by which the side grows until there are no more.
_AT_ONCE = 16  # Parts that are lanes of one fit, where no threads are.
_WINDOW = 64  # Twice the steps of windows of 128 in the same time.
_RATE = 0.5  # Times the rate of the fit, which is over (benchmarks/NOTES.md).
_STREAM = 4  # Of a seed's key; a fit and its stages have the others.


class Store(Protocol):
  """Keeps the parts that are made, so that another process can go on.

  It is called by one thread at a time.
  """

  def load(self, name: str, like: np.ndarray) -> np.ndarray | None:
    """Returns a part that was saved, shaped like this; None for none."""
    ...

  def save(self, name: str, part: np.ndarray) -> None:
    """Saves a part, [h, w, C], under the name of its place."""
    ...


@settings.pin()
def rehearse(
  measurement: Any,
  image: Any,
  params: Any,
  recipe: Recipe,
  *,
  noise: noise_lib.Model,
  steps: int,
  seed: int = 0,
  chunk: int = 10,
  watch: loop.Watch | None = None,
  store: Store | None = None,
) -> np.ndarray | None:
  """Returns the picture by networks that went on with its parts, [H, W, C].

  There are at most 64 parts, so that a large picture takes no longer. In each
  the network begins with the parameters of the fit and goes on with windows of
  the image. Then it denoises the measurement there, and the parts are blended.
  The result errs otherwise than the image: a filter whose pilot is the mean of
  both gives more than either. Parts are fitted side by side: on a CPU one for
  each core, elsewhere as lanes.

  Args:
    measurement: the noisy picture, [H, W, C].
    image: restored from it, [H, W, C] in [0, 1].
    params: of the network that restored it, of one lane.
    recipe: of that fit, with a window.
    noise: of the measurement.
    steps: of each part.
    seed: of the windows and the noise on them.
    chunk, watch: see `dipjax.restore`. Lanes of a trace are parts.
    store: keeps finished parts of these arguments; no steps are taken for a
      part that it has.

  Returns:
    The picture, or None where the watch ended it.
  """
  ready = api.prepare(measurement, None, recipe, noise=noise)
  measurement = ready.task.measurement
  image = api.check_array(image, 'the image', measurement.shape)
  side = find_side(image.shape)
  own, operator = recipe.replace(
    network=ready.recipe.network,
    method=methods.Rehearsed(),
    window=min(_WINDOW, ready.recipe.window or _WINDOW),
    rate=_RATE * (1.0 if recipe.rate is None else recipe.rate),
    steps=steps,
  ).prepare(image, noise=noise)
  key = jax.random.fold_in(jax.random.key(seed), _STREAM)
  fit, ending, kept = make_fit(own), _Watch(watch), _Kept(store)

  def make(places: Sequence[tiles.Place]) -> list[np.ndarray]:
    """Makes parts as lanes of one fit, all or none of them."""
    parts = [measurement[place] for place in places]
    # Nothing is made once somebody asked to stop.
    if ending.stopped:
      return parts
    corners = [(rows.start, columns.start) for rows, columns in places]
    names = ['-'.join(map(str, corner)) for corner in corners]
    known = [kept.load(name, part) for name, part in zip(names, parts)]
    made = [part for part in known if part is not None]
    if len(made) == len(parts):
      return made
    keys = [functools.reduce(jax.random.fold_in, c, key) for c in corners]
    problems = []
    for one, place, part in zip(keys, places, parts):
      problem = lanes.pose_problem(
        own, one, image[place], operator, part.shape, sigma=noise.sigma
      )
      picture: Any = problem.picture
      problems.append(problem.replace(picture=Own(picture.operator)))
    states, _ = loop.run_lanes(
      fit,
      jnp.stack(keys),
      lanes.stack_lanes(problems),
      start=functools.partial(_begin, params),
      chunk=chunk,
      watch=ending,
    )
    learned = tiles.average_params(states, own.decay)
    for lane, problem in enumerate(problems):
      parts[lane] = tiles.denoise(
        ready.recipe,
        packing.unpack(lanes.take_lane(learned, lane)),
        problem.replace(picture=Own(Picture(jnp.asarray(parts[lane])))),
      )
    # The steps of these parts may have been ended as well.
    if not ending.stopped:
      for name, part in zip(names, parts):
        kept.save(name, part)
    return parts

  run = functools.partial(_make_side_by_side, make)
  made = tiles.blend(image.shape, side, run)
  return None if ending.stopped else np.clip(made, 0, 1)


def _make_side_by_side(make, places):
  """Yields the parts that `make` gives of groups of places."""
  if choose.prefers_threads():
    run, size = settings.map_in_threads, 1
  else:
    # One program serves all groups, which are of one size.
    sizes = range(1, _AT_ONCE + 1)
    run, size = map, max(n for n in sizes if len(places) % n == 0)
  groups = [places[i : i + size] for i in range(0, len(places), size)]
  yield from itertools.chain.from_iterable(run(make, groups))


def find_side(shape: tuple[int, ...]) -> int:
  """Returns the longest side of the parts of a picture [H, W, C]."""
  side = SIDE
  while tiles.count_tiles(shape, side) > MOST:
    side += STEP
  return side


def count_parts(shape: tuple[int, ...]) -> int:
  """Returns how many parts a picture [H, W, C] has."""
  return tiles.count_tiles(shape, find_side(shape))


class _Watch:
  """A watch of fits in several threads, which ends all of them at once."""

  def __init__(self, watch: loop.Watch | None):
    self._watch, self._lock, self.stopped = watch, threading.Lock(), False

  def __call__(self, states, trace):
    with self._lock:
      if self._watch and not self.stopped:
        self.stopped = bool(self._watch(states, trace))
      return self.stopped


class _Kept:
  """A store, or none, for several threads."""

  def __init__(self, store: Store | None):
    self._store, self._lock = store, threading.Lock()

  def load(self, name, like):
    with self._lock:
      return self._store.load(name, like) if self._store else None

  def save(self, name, part):
    with self._lock:
      if self._store:
        self._store.save(name, part)


def _begin(params, fresh):
  """Returns fresh states of lanes with a fit's parameters."""
  packed = packing.pack(jax.tree.map(jnp.asarray, params))
  copies = lambda leaf: jnp.stack([leaf] * len(fresh.step))
  begun = fresh.replace(params=jax.tree.map(copies, packed), guard=None)
  # A jump leads back to where the lane began.
  good = jax.tree.map(jnp.copy, begun)
  return begun.replace(guard=fresh.guard.replace(good=good))
