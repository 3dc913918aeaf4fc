"""A fit that diverges for good is one error with the last good image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import dipjax
from dipjax import Recipe, monitors
from dipjax.networks import pixels

MEASUREMENT = np.random.RandomState(0).uniform(0.2, 0.8, (8, 10, 3))
STEPS = 80


class _Scaled(nn.Module):
  """Each value is a parameter; the code shifts them all."""

  outputs: int = 3

  def code_size(self, height, width):
    """The size of the image."""
    return height, width

  @nn.compact
  def __call__(self, code):
    """[H, W, 1] -> [H, W, outputs]."""
    shape = (*code.shape[:2], self.outputs)
    return nn.sigmoid(self.param('x', nn.initializers.zeros, shape) + code)


def _restore(operator=None, *, seeds=(0,), **changes):
  fields = {
    'network': pixels.Pixels(),
    'monitors': {'last': monitors.Last(steps=STEPS)},
    'steps': STEPS,
  }
  recipe = Recipe(**{**fields, **changes})
  return dipjax.restore(np.float32(MEASUREMENT), operator, recipe, seeds=seeds)


def _be_nan(image):
  return image * jnp.nan


def _take_log(image):
  """A penalty without a number, since the image starts darker."""
  return jnp.log(jnp.mean(image) - 0.9)


# The guard returns to step 50, and from there the fit fails again.
_FAILING = optax.chain(
  optax.sgd(1.0),
  optax.scale_by_schedule(lambda step: jnp.where(step < 70, 1.0, jnp.nan)),
)


CASES = {
  'an operator that is NaN at once': lambda **more: _restore(_be_nan, **more),
  'a penalty that is NaN at once': lambda **more: _restore(
    penalties=[(_take_log, 1.0)], **more
  ),
  'updates that are NaN later': lambda **more: _restore(
    optimizer=_FAILING, **more
  ),
  'an absurd learning rate': lambda **more: _restore(
    optimizer=optax.sgd(1e30), **more
  ),
}


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
@pytest.mark.parametrize('diverge', CASES.values(), ids=CASES)
def test_a_fit_that_diverges_for_good_is_one_error(diverge, seeds):
  with pytest.raises(dipjax.DivergedError) as caught:
    diverge(seeds=seeds)
  assert isinstance(caught.value, ValueError)
  assert '\n' not in str(caught.value)
  restoration = caught.value.restoration
  assert restoration.image.shape == MEASUREMENT.shape
  assert np.all(np.isfinite(restoration.image))
  assert restoration.diverged.dtype == bool
  np.testing.assert_array_equal(restoration.diverged, [True] * len(seeds))


def test_the_last_good_image_is_that_of_the_last_snapshot():
  """Fifty steps were good: the image is what they give alone."""
  with pytest.raises(dipjax.DivergedError) as caught:
    CASES['updates that are NaN later']()
  alone = _restore(optimizer=_FAILING, steps=50)
  image = caught.value.restoration.image
  np.testing.assert_allclose(image, alone.image, atol=1e-6)
  assert image.min() > 0


def test_a_fit_that_goes_well_has_not_diverged():
  np.testing.assert_array_equal(_restore(seeds=(0, 1)).diverged, [False, False])


def test_lanes_that_diverged_are_left_out_of_the_mean():
  """The code of one seed is NaN, and with it every image of that lane."""
  draws = [
    float(jax.random.uniform(jax.random.fold_in(jax.random.key(seed), 1)))
    for seed in (0, 1)
  ]
  middle = sum(draws) / 2

  def code(key, size):
    bad = jax.random.uniform(key) > middle
    return jnp.where(bad, jnp.nan, jnp.zeros((*size, 1)))

  result = _restore(seeds=(0, 1), network=_Scaled(), code=code)
  good = int(np.argmin(draws))
  np.testing.assert_array_equal(result.diverged, [good != 0, good != 1])
  np.testing.assert_array_equal(result.image, result.images[good])
  assert np.all(np.isfinite(result.deviation))
  assert np.all(np.isfinite(result.images))
