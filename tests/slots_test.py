"""Many pictures through few lanes: each gives what it gives alone."""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from dipjax import Case, many, methods, monitors, operators
from dipjax.conv import choose
from dipjax.engine import history, lanes, loop, memory, slots
from dipjax.networks import pixels, plain_unet, skip

RECIPE = dipjax.Recipe(
  network=pixels.Pixels(), monitors={'last': monitors.Last(steps=100)}
)
NETWORK = skip.Skip(down=(4,), up=(4,), skip=(2,), outputs=3)
STEPS = (26, 9, 40, 14, 26)  # Of each picture.


def _make_pictures(count, height=8, width=8):
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:height, :width] / width
  waves = [np.sin((2 + n) * x + n * y) for n in range(count)]
  noise = 0.05 * (1 + np.arange(count) % 3)[:, None, None, None]
  clean = 0.5 + 0.3 * np.stack(waves)[..., None]
  noisy = clean + noise * rng.normal(size=(count, height, width, 3))
  return list(np.clip(noisy, 0, 1).astype(np.float32))


def _make_cases(recipe=RECIPE):
  """Five pictures that take different numbers of steps."""
  return [
    Case(noisy, recipe=recipe.replace(steps=steps))
    for noisy, steps in zip(_make_pictures(5), STEPS, strict=True)
  ]


@functools.cache
def _restore_alone(recipe=RECIPE):
  """What each of the five gives by itself."""
  return [
    dipjax.restore(case.measurement, recipe=case.recipe)
    for case in _make_cases(recipe)
  ]


def _assert_same(many, alone):
  """All that a restoration has is equal, to the last bit."""
  jax.tree.map(np.testing.assert_array_equal, many, alone)


@pytest.mark.parametrize(
  'network,count',
  [(RECIPE.network, 2), (RECIPE.network, 7), (NETWORK, 2)],
)
def test_each_picture_gives_what_it_gives_alone(network, count):
  recipe = RECIPE.replace(network=network)
  alone = _restore_alone(recipe)
  lanes.forget_programs()
  many = dipjax.restore_many(_make_cases(recipe), lanes=count, chunk=7)
  found = {}
  for index, restoration, error in many:
    assert error is None and restoration.stopped == STEPS[index]
    found[index] = restoration
  # One program for all of them.
  assert lanes.advance._cache_size() == 1
  assert lanes._draw._cache_size() == lanes._start._cache_size() == 1
  for index in range(5):
    _assert_same(found[index], alone[index])


def test_a_free_lane_is_filled_while_others_go_on():
  seen, active = [], []

  def watch(pictures, trace):
    seen.append(pictures)
    active.append(trace.active)

  many = dipjax.restore_many(iter(_make_cases()), lanes=2, chunk=5, watch=watch)
  assert sorted(index for index, _, _ in many) == list(range(5))
  together = [set(pictures) for pictures in seen]
  # A new picture came beside an old one, and at the end a lane was free.
  assert any(
    len(before & after) == 1 and None not in after and before != after
    for before, after in itertools.pairwise(together)
  )
  assert None in seen[-1]
  for pictures, chunk in zip(seen, active, strict=True):
    idle = [picture is None for picture in pictures]
    assert not chunk[idle].any() and chunk[~np.array(idle)].any(axis=1).all()


def test_shapes_and_operators_are_mixed():
  small, wide = _make_pictures(3), _make_pictures(2, 8, 12)
  reduce = operators.Downsample(2)
  low = np.asarray(reduce(wide[0]))
  cases = [
    Case(small[0], seed=3),
    wide[0],
    Case(low, reduce, size=(8, 12, 3)),
    small[1],
    small[2],
    wide[1],
  ]
  found = dict(
    (index, one)
    for index, one, _ in dipjax.restore_many(iter(cases), RECIPE, lanes=1)
  )
  alone = [
    dipjax.restore(small[0], None, RECIPE, seeds=(3,)),
    dipjax.restore(wide[0], None, RECIPE),
    dipjax.restore(low, reduce, RECIPE, size=(8, 12, 3)),
    dipjax.restore(small[1], None, RECIPE),
    dipjax.restore(small[2], None, RECIPE),
    dipjax.restore(wide[1], None, RECIPE),
  ]
  for index, one in enumerate(alone):
    _assert_same(found[index], one)


def test_a_clean_image_reports_and_changes_nothing():
  case, *_ = _make_cases()
  seen = case._replace(clean=np.full((8, 8, 3), 0.5, np.float32))
  ((_, one, _),) = dipjax.restore_many([seen], lanes=2)
  assert {'oracle', 'oracle_output'} < one.monitors.keys()
  np.testing.assert_array_equal(one.images, _restore_alone()[0].images)


def test_all_lanes_share_the_features():
  """The arrays of the features are neither copied nor used up."""
  weigh = jax.tree_util.Partial(jnp.multiply, jnp.full((8, 8, 3), 0.5))
  cases = _make_cases()[:3]
  many = dipjax.restore_many(cases, lanes=2, perceptual=(weigh, 0.1))
  for index, one, error in many:
    assert error is None
    case = cases[index]
    alone = dipjax.restore(
      case.measurement, None, case.recipe, perceptual=(weigh, 0.1)
    )
    _assert_same(one, alone)


def test_a_bad_picture_stops_no_other():
  first, second, *_ = _make_cases()
  good = first.measurement
  nan = np.full((8, 8, 3), np.nan, np.float32)
  wild = Case(good, recipe=RECIPE.replace(penalties=[(_explode, 1.0)]))
  found = {
    one.index: one
    for one in dipjax.restore_many(
      [first, nan, 255 * good, Case(good, seed=-1), wild, second],
      RECIPE,
      lanes=2,
    )
  }
  assert sorted(found) == list(range(6))
  for index, message in {
    1: 'holds NaN',
    2: 'divide it by 255',
    3: 'seeds must be in',
  }.items():
    assert found[index].restoration is None
    assert message in str(found[index].error)
  assert isinstance(found[4].error, dipjax.DivergedError)
  assert found[4].restoration.diverged.all()
  alone = _restore_alone()
  _assert_same(found[0].restoration, alone[0])
  _assert_same(found[5].restoration, alone[1])


def _explode(image):
  return np.nan * image.mean()


def test_few_pictures_wait():
  asked = []

  def make():
    for index, picture in enumerate(_make_pictures(9)):
      asked.append(index)
      yield picture if index % 2 else picture[:, :6]

  many = dipjax.restore_many(make(), RECIPE, lanes=1, ahead=2)
  assert not asked
  order = []
  for done, (index, _, _) in enumerate(many):
    # Those that are done, the one in the slot, and two that wait.
    assert len(asked) <= done + 1 + 2
    order.append(index)
  assert sorted(order) == list(range(9)) and order != sorted(order)


class _Memory:
  """A store that saves every so many steps."""

  def __init__(self, every):
    self.saved, self._every, self._last, self.loaded = {}, every, 0, []

  def load(self, index, like):
    found = self.saved.get(index)
    if found is not None:
      self.loaded.append(index)
      jax.tree.map(lambda a, b: None, found, like)
    return found

  def is_due(self, step):
    due = step - self._last >= self._every
    self._last = step if due else self._last
    return due

  def save(self, progress):
    self.saved = jax.tree.map(jnp.copy, progress)


def test_what_was_interrupted_goes_on_in_any_slot():
  cases, alone = _make_cases(), _restore_alone()
  store, chunks = _Memory(10), []

  def watch(pictures, trace):
    chunks.append(pictures)
    return len(chunks) == 3

  first = list(
    dipjax.restore_many(cases, lanes=2, chunk=7, watch=watch, store=store)
  )
  left = [i for i in range(5) if i not in [one.index for one in first]]
  assert store.saved and store.saved.keys() <= set(left)
  # The next process has another number of slots.
  going = _Memory(10**9)
  going.saved = {left.index(i): one for i, one in store.saved.items()}
  again = list(
    dipjax.restore_many([cases[i] for i in left], lanes=3, store=going)
  )
  assert set(going.loaded) == going.saved.keys()
  for one in first:
    _assert_same(one.restoration, alone[one.index])
  for one in again:
    _assert_same(one.restoration, alone[left[one.index]])
  assert len(first) + len(again) == 5


def test_windows_are_fitted_alone(monkeypatch):
  noisy = _make_pictures(2, 16, 20)
  windows = dipjax.Recipe(
    network=plain_unet.PlainUNet(channels=(4,), residual=True, outputs=3),
    method=methods.Recorrupted(ratio=1.0),
    monitors={'last': monitors.Last(steps=9)},
    window=8,
  )
  cases = [Case(noisy[0], recipe=windows, sigma=0.1), noisy[1]]
  fitted = []

  def fit(ready, plan, keys, **rest):
    fitted.append((ready.recipe.window, plan, len(keys)))
    return 'as dipjax.restore does'

  monkeypatch.setattr(dipjax.api, 'fit_ready', fit)
  found = {one.index: one for one in dipjax.restore_many(cases, RECIPE)}
  assert fitted == [(8, None, 1)]
  assert found[0].restoration == 'as dipjax.restore does'
  assert found[1].restoration.image.shape == (16, 20, 3)


def test_an_interrupted_fit_in_tiles_goes_on():
  (noisy,) = _make_pictures(1, 16, 20)
  tiles = RECIPE.replace(tile=12, steps=30)
  store, chunks = _Memory(10), []

  def watch(pictures, trace):
    chunks.append(pictures)
    return len(chunks) == 4

  many = functools.partial(dipjax.restore_many, [noisy], tiles, store=store)
  assert not list(many(watch=watch))
  assert list(store.saved) == [0]
  ((_, one, _),) = many()
  assert store.loaded == [0]
  _assert_same(one, dipjax.restore(noisy, None, tiles))


def test_memory_decides_how_many_are_fitted_at_once(monkeypatch):
  noisy, recipe = _make_pictures(3, 96, 64), RECIPE.replace(steps=7)
  ready = dipjax.api.prepare(noisy[0], None, recipe)
  least = memory.estimate_bytes(ready.recipe, ready.shapes)
  count = lambda size: memory.count_slots(ready.recipe, ready.shapes, size, 3)
  sizes = [least - 1, *(least * n // 32 for n in range(32, 160))]
  counts = [count(size) for size in sizes]
  assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}
  assert count(None) == 3
  told, seen = [], []
  many = functools.partial(
    dipjax.restore_many,
    noisy,
    recipe,
    lanes=3,
    watch=lambda pictures, trace: seen.append(len(pictures)),
  )
  two = sizes[counts.index(2)]
  assert len(list(many(memory=two, tell=told.append))) == 3
  assert set(seen) == {2} and len(told) == 1
  assert 'at once, because no 3 fit' in told[0]
  # Not one lane of a network fits, but tiles of the picture do.
  larger = dipjax.Recipe(network=NETWORK, steps=1)
  ready = dipjax.api.prepare(noisy[0], None, larger)
  short = memory.estimate_bytes(ready.recipe, ready.shapes) * 9 // 10
  with monkeypatch.context() as patch:
    fit = lambda ready, plan, keys, **rest: plan
    patch.setattr(dipjax.api, 'fit_ready', fit)
    with pytest.warns(UserWarning, match='fitted in 2 tiles'):
      ((_, plan, _),) = dipjax.restore_many(noisy[:1], larger, memory=short)
  assert len(plan.corners) == 2
  (*_, last) = many(memory=1)
  assert 'takes at least' in str(last.error)


@pytest.mark.parametrize(
  'pictures,most,slots', [(5, 4, 3), (5, 8, 5), (4, 4, 4), (9, 4, 3)]
)
def test_no_slot_is_left_over(pictures, most, slots):
  seen = []
  noisy = _make_pictures(5) * 2
  many = dipjax.restore_many(
    noisy[:pictures],
    RECIPE.replace(steps=2),
    lanes=most,
    watch=lambda indices, trace: seen.append(len(indices)),
  )
  assert len(list(many)) == pictures and set(seen) == {slots}


def test_lanes_at_once_have_slots_too():
  """As on a GPU, where all lanes run at once."""
  cases = _make_cases()[:3]
  with choose.aim(choose.Target('gpu')):
    found = sorted(
      dipjax.restore_many(cases, lanes=2), key=lambda one: one.index
    )
    again = sorted(
      dipjax.restore_many(reversed(cases), lanes=2),
      key=lambda one: -one.index,
    )
  for one, other in zip(found, again, strict=True):
    _assert_same(one.restoration, other.restoration)


class _Queue(slots.Slots):
  """Slots whose pictures are never ahead of those that wait."""

  def count_taken(self, index):
    return 0


def test_the_last_pictures_take_turns(monkeypatch):
  """Lanes are busier, and each picture is the one that it is without turns."""
  monkeypatch.setattr(many, '_TURN', 10)
  # The longest comes last, and would be alone.
  cases, seen = [_make_cases()[i] for i in np.argsort(STEPS)], {}

  def restore(name, kind):
    seen[name] = []
    monkeypatch.setattr(slots, 'Slots', kind)
    watch = lambda pictures, trace: seen[name].append((pictures, trace.active))
    found = dipjax.restore_many(cases, lanes=2, chunk=5, watch=watch)
    return {one.index: one.restoration for one in found}

  with choose.aim(choose.Target('gpu')):
    lanes.forget_programs()
    turns, queue = restore('turns', slots.Slots), restore('queue', _Queue)
    assert lanes.advance._cache_size() == 1
  assert queue.keys() == turns.keys() == set(range(5))
  for index, one in queue.items():
    _assert_same(turns[index], one)
  size = {name: sum(a.size for _, a in seen[name]) for name in seen}
  busy = {name: sum(a.sum() for _, a in seen[name]) for name in seen}
  assert busy['turns'] == busy['queue'] == sum(STEPS)
  assert size['turns'] < size['queue']
  # Some left their lane, and came back.
  gaps = 0
  for index in range(5):
    there = [index in pictures for pictures, _ in seen['turns']]
    first, last = there.index(True), len(there) - there[::-1].index(True)
    gaps += not all(there[first:last])
  assert gaps


def test_where_lanes_run_in_turn_pictures_are_finished_one_by_one(monkeypatch):
  """A free lane costs nothing there, and whoever stops has more pictures."""
  monkeypatch.setattr(many, '_TURN', 10)
  monkeypatch.setattr(slots.Slots, 'park', None)
  assert len(list(dipjax.restore_many(_make_cases(), lanes=2, chunk=5))) == 5


def test_a_picture_that_lost_its_turn_is_saved_and_goes_on(monkeypatch):
  monkeypatch.setattr(many, '_TURN', 10)
  cases, store, chunks = _make_cases(), _Memory(10**9), []

  def watch(pictures, trace):
    chunks.append(pictures)
    return len(chunks) == 5

  restore = functools.partial(dipjax.restore_many, cases, lanes=2, chunk=5)
  with choose.aim(choose.Target('gpu')):
    whole = {one.index: one.restoration for one in restore()}
    first = list(restore(watch=watch, store=store))
    # More of them began than there are lanes.
    assert len(store.saved) > 2
    done = {one.index for one in first}
    assert not done & store.saved.keys()
    going = _Memory(10**9)
    going.saved = dict(store.saved)
    again = list(restore(store=going))
  assert set(going.loaded) == store.saved.keys()
  for one in [*first, *again]:
    _assert_same(one.restoration, whole[one.index])


def test_a_bad_picture_takes_no_turn(monkeypatch):
  monkeypatch.setattr(many, '_TURN', 10)
  first, *others = _make_cases()
  bad = Case(255 * first.measurement, recipe=first.recipe)
  with choose.aim(choose.Target('gpu')):
    cases = [first, *others[:2], bad, *others[2:]]
    found = {
      one.index: one for one in dipjax.restore_many(cases, lanes=2, chunk=5)
    }
  assert sorted(found) == list(range(6))
  assert [index for index, one in found.items() if one.error] == [3]


@pytest.mark.parametrize('slot', [0, 1])
def test_a_parked_picture_goes_on_in_any_slot(slot):
  (case, *_), (alone, *_) = _make_cases(), _restore_alone()
  ready = dipjax.api.prepare(case.measurement, None, case.recipe)
  key = jax.random.key(0)
  problem = ready.pose(key, ready.task.measurement)
  two = slots.Slots(dipjax.engine.fit.make_fit(ready.recipe), 2, chunk=7)
  two.fill(5, key, problem)
  two.advance()
  two.park(5)
  assert two.free == 2 and two.count_taken(5) == 7 and two.count_taken(6) == 0
  assert two.find_progress().keys() == {5}
  if slot:
    two.fill(6, key, problem)
  two.fill(5, key, problem)
  assert two.pictures[slot] == 5
  for _ in range(3):
    two.advance()
  ((index, states, trace),) = [
    one for one in two.take_finished() if one[0] == 5
  ]
  assert index == 5
  _assert_same(loop.collect(states, trace, ready.recipe.rule), alone)


def test_a_trace_is_extended_as_it_is_beside_a_longer_one():
  cases, key = _make_cases()[:2], jax.random.key(0)
  ready = [
    dipjax.api.prepare(case.measurement, None, case.recipe) for case in cases
  ]
  problems = [one.pose(key, one.task.measurement) for one in ready]
  _, together = loop.run_lanes(
    dipjax.engine.fit.make_fit(ready[0].recipe),
    jnp.stack([key, key]),
    lanes.stack_lanes(problems),
  )
  assert together.active.sum(axis=1).tolist() == [26, 9]
  short = history.extend(_restore_alone()[1].trace, 26)
  _assert_same(short, jax.tree.map(lambda leaf: leaf[1:], together))


def test_slots_without_a_picture_take_no_step():
  empty = slots.Slots(dipjax.engine.fit.make_fit(RECIPE), 2)
  assert empty.free == 2 and empty.take_finished() == []
  ready = dipjax.api.prepare(_make_pictures(1)[0], None, RECIPE)
  key = jax.random.key(0)
  empty.fill(7, key, ready.pose(key, ready.task.measurement))
  trace = empty.advance()
  assert empty.pictures == [7, None] and empty.free == 1
  assert trace.active[0].all() and not trace.active[1].any()


def test_the_example_runs():
  names = {'photos': _make_pictures(2)}
  source = dipjax.restore_many.__doc__.replace('lanes=2', 'RECIPE, lanes=2')
  example = doctest.DocTestParser().get_doctest(
    source, names | {'RECIPE': RECIPE}, 'restore_many', None, 0
  )
  report = []
  results = doctest.DocTestRunner(verbose=False).run(
    example, out=report.append, clear_globs=False
  )
  assert results.attempted == 4 and not results.failed, ''.join(report)
  assert example.globs['image'].shape == (8, 8, 3)


@pytest.mark.parametrize('name', ['lanes', 'ahead', 'chunk'])
@pytest.mark.parametrize('value', [0, 1.5])
def test_numbers_out_of_range_are_refused_at_once(name, value):
  with pytest.raises(ValueError, match=f'{name} must be a whole number'):
    dipjax.restore_many([], **{name: value})


def test_no_picture_yields_nothing():
  assert list(dipjax.restore_many([])) == []
