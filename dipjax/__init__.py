"""Image restoration with no training data: the deep image prior in JAX."""

from dipjax.api import restore
from dipjax.engine.loop import DivergedError, Restoration
from dipjax.many import Case, restore_many
from dipjax.recipe import Recipe
from dipjax.shared import SharedFit, fit_shared

__all__ = [
  'Case',
  'DivergedError',
  'Recipe',
  'Restoration',
  'SharedFit',
  'fit_shared',
  'restore',
  'restore_many',
]
__version__ = '0.2.0'
