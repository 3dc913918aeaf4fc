"""The tests of a process that has four devices; `mesh_test` runs them there."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from benchmarks import hlo, programs
from dipjax import Case, api, monitors
from dipjax.conv import choose
from dipjax.engine import lanes, memory
from dipjax.networks import pixels, skip

PIXELS = pixels.Pixels()
RECIPE = dipjax.Recipe(
  network=PIXELS, monitors={'last': monitors.Last()}, steps=25
)
NETWORK = skip.Skip(down=(4,), up=(4,), skip=(0,), outputs=3, remat=True)
STEPS = (26, 9, 40, 14, 26)  # Of each picture.


def _use(count, platform='cpu'):
  """Lets so many devices share the lanes."""
  devices = tuple(jax.devices()[:count])
  return choose.aim(choose.Target(platform, devices=devices))


def _make_pictures(count):
  rng = np.random.default_rng(0)
  noisy = 0.5 + 0.2 * rng.normal(size=(count, 8, 8, 3))
  return list(np.clip(noisy, 0, 1).astype(np.float32))


def _make_cases():
  return [
    Case(noisy, recipe=RECIPE.replace(steps=steps))
    for noisy, steps in zip(_make_pictures(5), STEPS, strict=True)
  ]


def _assert_same(ours, theirs):
  """All that a restoration has is equal, to the last bit."""
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def _restore(count, seeds, network=PIXELS, **arguments):
  """A fit of several seeds, which share an array."""
  (noisy,), recipe = _make_pictures(1), RECIPE.replace(network=network)
  weigh = jax.tree_util.Partial(jnp.multiply, jnp.full((8, 8, 3), 0.5))
  with _use(count):
    return dipjax.restore(
      noisy,
      None,
      recipe,
      seeds=range(seeds),
      perceptual=(weigh, 0.1),
      chunk=7,
      **arguments,
    )


@functools.cache
def _restore_alone(platform='cpu'):
  """The five pictures, each alone on one device."""
  with _use(1, platform):
    return [
      dipjax.restore(case.measurement, None, RECIPE.replace(steps=steps))
      for case, steps in zip(_make_cases(), STEPS, strict=True)
    ]


def test_all_devices_share_lanes_unless_others_are_told():
  assert choose.find_devices() == tuple(jax.devices())
  with _use(3):
    assert choose.find_devices() == tuple(jax.devices()[:3])


@pytest.mark.parametrize(
  'seeds,used,network', [(4, 4, NETWORK), (5, 3, PIXELS)]
)
def test_seeds_give_what_they_give_on_one_device(seeds, used, network):
  seen = set()

  def watch(states, trace):
    assert len(states.step) == len(trace.step) == seeds
    seen.add(len(states.step.sharding.device_set))

  alone = _restore(1, seeds, network)
  _assert_same(_restore(4, seeds, network, watch=watch), alone)
  assert seen == {used}


class _Memory:
  """A store that saves once, after so many steps."""

  def __init__(self, step):
    self.saved, self._step, self.loaded = None, step, 0

  def load(self, like):
    if self.saved is not None:
      jax.tree.map(lambda a, b: None, self.saved, like)
      self.loaded += 1
    return self.saved

  def is_due(self, step):
    return step == self._step

  def save(self, progress):
    self.saved = jax.tree.map(jnp.copy, jax.device_get(progress))


@pytest.mark.parametrize('first,then', [(4, 2), (1, 4)])
def test_a_fit_goes_on_with_another_number_of_devices(first, then):
  store = _Memory(14)
  stop = lambda states, trace: int(states.step[0]) == 14
  _restore(first, 5, watch=stop, store=store)
  found = _restore(then, 5, store=store)
  assert store.loaded == 1
  _assert_same(found, _restore(1, 5))


class _Shelf(_Memory):
  """The same for slots."""

  def load(self, index, like):
    self.saved, all_saved = (self.saved or {}).get(index), self.saved
    found, self.saved = super().load(like), all_saved
    return found

  def is_due(self, step):
    return True


@pytest.mark.parametrize(
  'platform,devices,count', [('cpu', 2, 3), ('gpu', 4, 3)]
)
def test_slots_give_what_each_picture_gives_alone(platform, devices, count):
  store, chunks = _Shelf(0), []

  def watch(pictures, trace):
    assert len(pictures) == len(trace.step) == count
    chunks.append(pictures)
    return len(chunks) == 2

  with _use(devices, platform):
    many = functools.partial(
      dipjax.restore_many, lanes=count, chunk=7, store=store
    )
    first = {one.index: one for one in many(_make_cases(), watch=watch)}
    again = {one.index: one for one in many(_make_cases())}
  assert store.loaded and len(again) == 5 and set(first) == {1}
  for index, one in enumerate(_restore_alone(platform)):
    _assert_same(again[index].restoration, one)


# --- What is compiled.


def _shape_lanes(count):
  one = programs.make_fit(PIXELS, 'float32')
  problem = jax.eval_shape(lambda: programs.make_problem(8))
  return one, *programs.shape_lanes(one, problem, count)


def test_no_program_has_a_collective():
  with _use(4):
    one, states, problems = _shape_lanes(8)
    leaves = jax.tree.leaves(states)
    single = [
      jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype) for leaf in leaves
    ]
    lowered = {
      'advance': lanes.advance.lower(one, 10, states, problems),
      'find_finished': lanes.find_finished.lower(states, problems),
      'put': lanes._put.lower(leaves, single, 3),
    }
  for name, program in lowered.items():
    text: Any = program.compile().as_text()
    assert 'num_partitions=4' in text, name
    assert hlo.find_collectives(text) == [], name


def test_a_collective_is_found():
  with _use(4):
    _, states, _ = _shape_lanes(4)
  program = jax.jit(lambda states: states.average.sum()).lower(states)
  text: Any = program.compile().as_text()
  assert hlo.find_collectives(text) == ['all-reduce']


# --- Memory.


def test_memory_is_that_of_one_device():
  ready = api.prepare(_make_pictures(1)[0], None, RECIPE)
  count = lambda n: memory.estimate_bytes(ready.recipe, ready.shapes, lanes=n)
  with _use(1, 'gpu'):
    single = [count(n) for n in range(4)]
  with _use(4, 'gpu'):
    assert [count(n) for n in (1, 3, 4, 5, 8, 9)] == [
      single[n] for n in (1, 1, 1, 2, 2, 3)
    ]
    available = single[3] - 1
    most = memory.count_slots(ready.recipe, ready.shapes, available, 20)
  with _use(1, 'gpu'):
    each = memory.count_slots(ready.recipe, ready.shapes, available, 20)
  assert most == 4 * each > 0
  # The devices of a CPU share one memory, and run at the same time.
  with _use(1):
    alone = [count(n) for n in (1, 2)]
  with _use(4):
    own = alone[1] - alone[0]  # The state of a lane.
    assert count(4) == 4 * alone[0]
    assert count(8) == 4 * alone[0] + 4 * own
