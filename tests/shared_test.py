"""One network that many pictures share: in the core, and in a folder."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dipjax
from dipjax import metrics, shared
from dipjax.engine import lanes, tiles
from dipjax.networks import plain_unet
from tests import fits

SIGMA = fits.SIGMA
NETWORK = plain_unet.PlainUNet(channels=(8,), residual=True)
RECIPE = fits.WINDOWS.replace(network=NETWORK)
SIZES = (24, 30), (24, 30), (30, 24)  # Of one program for all tests.


def _make_noisy(height=24, width=30, channels=3, seed=0):
  """A smooth picture and the same with noise."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  waves = np.sin((4 + seed) * x + (3 + 2 * seed) * y)[..., None]
  clean = np.float32(0.5 + 0.3 * waves * np.ones(channels))
  noise = np.random.RandomState(seed).normal(scale=SIGMA, size=clean.shape)
  return clean, np.clip(np.float32(clean + noise), 0, 1)


def _list_noisy(*sizes):
  return [_make_noisy(*size, seed=n)[1] for n, size in enumerate(sizes)]


# --- What a step sees.


def test_windows_lie_in_all_pictures_and_never_across_a_border():
  sizes = [(6, 9), (9, 5), (5, 5)]
  # Each value is a place of its own, and none is 0 but what lies beyond.
  arrays, begin = [], 1
  for height, width in sizes:
    count = height * width
    values = np.arange(begin, begin + count, dtype=np.float32)
    arrays.append(values.reshape(height, width, 1))
    begin += count
  stack = shared._stack(arrays)
  assert stack.pixels.shape == (3, 9, 9, 1)
  stack = jax.tree.map(jnp.asarray, stack)
  draw = jax.jit(lambda key: stack.draw(key, (4, 5)))
  windows = np.asarray(
    jax.vmap(draw)(jax.random.split(jax.random.key(0), 4000))
  )
  possible = [
    array[top : top + 4, left : left + 5]
    for array in arrays
    for top in range(array.shape[0] - 3)
    for left in range(array.shape[1] - 4)
  ]
  corners = {float(window[0, 0, 0]): window for window in possible}
  for window in windows:
    np.testing.assert_array_equal(window, corners[float(window[0, 0, 0])])
  # A picture is as likely as any other, and so is each place inside of it.
  found, counts = np.unique(windows[:, 0, 0, 0], return_counts=True)
  assert set(found) == set(corners)
  owners = np.digitize(found, [55, 100])
  for number, array in enumerate(arrays):
    own = counts[owners == number]
    assert abs(own.sum() - 4000 / 3) < 150
    places = (array.shape[0] - 3) * (array.shape[1] - 4)
    assert own.min() > 0.5 * 4000 / 3 / places


def test_other_pictures_of_the_same_shapes_compile_nothing():
  lanes.forget_programs()
  tiles.denoise_tile.clear_cache()
  for seed in range(2):
    noisy = _list_noisy(*SIZES)
    fitted = dipjax.fit_shared(noisy, RECIPE, sigma=0.1 + 0.01 * seed)
    for picture in noisy:
      fitted.restore(picture)
  assert lanes.advance._cache_size() == 1
  assert tiles.denoise_tile._cache_size() == len(set(SIZES))


def test_a_network_of_many_denoises_each_and_one_that_it_never_saw():
  pairs = [
    _make_noisy(*size, seed=n) for n, size in enumerate([*SIZES, (24, 30)])
  ]
  recipe = RECIPE.replace(steps=300)
  fitted = dipjax.fit_shared([n for _, n in pairs[:3]], recipe, sigma=SIGMA)
  for clean, noisy in pairs:
    image = fitted.restore(noisy).image
    assert metrics.psnr(image, clean) > metrics.psnr(noisy, clean) + 3


def test_a_picture_of_any_size_is_what_the_one_network_makes_of_it():
  noisy = _list_noisy(*SIZES)
  fitted = dipjax.fit_shared(noisy, RECIPE, sigma=SIGMA)
  for picture in (noisy[0], noisy[2], _make_noisy(20, 34, seed=5)[1]):
    found = fitted.restore(picture)
    params = jax.tree.map(lambda leaf: leaf[0], found.params)
    image = NETWORK.apply({'params': params}, jnp.asarray(picture))
    np.testing.assert_allclose(found.image, np.clip(image, 0, 1), atol=1e-6)
    assert (found.rule, found.stopped.tolist()) == ('last', [20])
    assert np.abs(found.image - picture).max() > 1e-3


def test_a_shared_fit_that_goes_on_ends_equal_to_the_last_bit():
  noisy, store = _list_noisy(*SIZES), fits.Store()
  fit = lambda **given: dipjax.fit_shared(noisy, RECIPE, sigma=SIGMA, **given)
  whole = fit().restore(noisy[0])
  fit(store=store, watch=lambda states, trace: True)
  assert store.kept.states.step.tolist() == [10]
  again = fit(store=store).restore(noisy[0])
  np.testing.assert_array_equal(again.images, whole.images)
  np.testing.assert_array_equal(again.trace.loss, whole.trace.loss)


class _StopError(Exception):
  """Ends a fit before it begins."""


@pytest.mark.parametrize(
  'sizes,drawn',
  [
    (((24, 30), (12, 40), (16, 16)), [(24, 30, 3), (16, 16, 3)]),
    # Where none is large enough, the window shrinks.
    (((10, 12), (9, 8), (12, 12)), [(12, 12, 3)]),
  ],
)
def test_pictures_smaller_than_the_window_are_not_drawn(
  sizes, drawn, monkeypatch
):
  def stop(arrays):
    raise _StopError([array.shape for array in arrays])

  monkeypatch.setattr(shared, '_stack', stop)
  with pytest.raises(_StopError) as stopped:
    dipjax.fit_shared(_list_noisy(*sizes), RECIPE, sigma=SIGMA)
  assert stopped.value.args == (drawn,)


@pytest.mark.parametrize(
  'pictures,changes,message',
  [
    ([(24, 30)], {'window': None}, 'needs windows: set Recipe.window'),
    ([], {}, 'at least one picture, got none'),
    ([(24, 30), (24, 30, 1)], {}, r'equal C: picture 0 is .* picture 1 is'),
    ([(24, 30)], {'memory': 0}, '30x24 in 1 lane takes at least'),
    ([(24, 30)], {'network': NETWORK.clone(outputs=1)}, 'channels'),
    ([(24, 30)], {'sigma': 25.0}, 'sigma'),
    ([(24, 30)], {'sigma': None}, 'needs the sigma of the noise'),
  ],
)
def test_what_a_shared_fit_cannot_have_is_refused(pictures, changes, message):
  noisy = _list_noisy(*pictures)
  given = {'sigma': SIGMA, **changes}
  own = {k: given.pop(k) for k in ('window', 'network') if k in given}
  with pytest.raises(ValueError, match=message) as refused:
    dipjax.fit_shared(noisy, RECIPE.replace(**own), **given)
  assert len(str(refused.value).splitlines()) == 1


def test_another_unit_and_other_channels_are_refused():
  noisy = _list_noisy(*SIZES)
  with pytest.raises(ValueError, match='picture 1 is floats of'):
    dipjax.fit_shared([noisy[0], 255 * noisy[1]], RECIPE, sigma=SIGMA)
  fitted = dipjax.fit_shared(noisy, RECIPE.replace(steps=1), sigma=SIGMA)
  with pytest.raises(ValueError, match='lie in'):
    fitted.restore(255 * noisy[0])
  with pytest.raises(ValueError, match='channels'):
    fitted.restore(noisy[0][..., :1])


def test_the_example_runs():
  example = doctest.DocTestParser().get_doctest(
    shared.fit_shared.__doc__ or '',
    {'photos': _list_noisy(*SIZES), 'windows': RECIPE},
    'fit_shared',
    None,
    None,
  )
  results = doctest.DocTestRunner(verbose=False).run(example)
  assert results.attempted == 5 and not results.failed
