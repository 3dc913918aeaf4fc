"""Fits, as tests call them, and a small network of features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import dipjax
from dipjax import features, methods, monitors, optimizers
from dipjax.networks import plain_unet

_FIELDS = {field.name for field in dataclasses.fields(dipjax.Recipe)}

SIGMA = 0.1  # Of the noise of `make_noisy`.

# A fit with windows, of few steps.
WINDOWS = dipjax.Recipe(
  network=plain_unet.PlainUNet(channels=(8, 8), residual=True),
  method=methods.Recorrupted(ratio=1.0),
  monitors={'last': monitors.Last()},
  # Made once: an optimiser is equal only to itself.
  optimizer=optimizers.make_optimizer('adam', 0.01, 0.0, 'cosine'),
  window=16,
  steps=20,
)


def make_noisy(height, width, channels=3, seed=0):
  """A smooth picture and the same with noise of SIGMA, clipped."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  clean = 0.5 + 0.3 * np.sin(6 * x + 4 * y)[..., None] * np.ones(channels)
  drawn = np.random.RandomState(seed).normal(scale=SIGMA, size=clean.shape)
  return np.float32(clean), np.clip(np.float32(clean + drawn), 0, 1)


def restore(measurement, operator=None, **arguments):
  """Returns dipjax.restore(...) with the recipe of all fields among them."""
  given = {name: arguments.pop(name) for name in _FIELDS & arguments.keys()}
  recipe = dipjax.Recipe(**given)
  return dipjax.restore(measurement, operator, recipe, **arguments)


def draw_features(*channels):
  """Returns parameters like those of `features.draw_params`.

  NumPy draws them, so that modules that have them compile nothing when they are
  imported, by each process of pytest-xdist.
  """
  rng = np.random.default_rng(0)

  def draw(leaf):
    if leaf.ndim == 1:
      return jnp.asarray(np.zeros(leaf.shape, np.float32))
    deviation = np.sqrt(2 * leaf.shape[-1] / leaf.size)
    return jnp.asarray(np.float32(deviation * rng.normal(size=leaf.shape)))

  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda key: features.draw_params(key, channels), key)
  return jax.tree.map(draw, shapes)


class Store:
  """Keeps the progress of a fit where its watch ends it."""

  def __init__(self):
    self.kept = None

  def load(self, like):
    del like
    return self.kept

  def is_due(self, step):
    del step
    return False

  def save(self, progress):
    self.kept = jax.tree.map(jnp.copy, progress)
