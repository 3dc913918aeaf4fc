"""Fits, as tests call them, and a small network of features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import dipjax
from dipjax import features

_FIELDS = {field.name for field in dataclasses.fields(dipjax.Recipe)}


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
