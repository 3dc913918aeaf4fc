"""Image restoration with no training data: the deep image prior in JAX."""

from dipjax.api import restore
from dipjax.engine.loop import DivergedError, Restoration
from dipjax.recipe import Recipe

__all__ = ['DivergedError', 'Recipe', 'Restoration', 'restore']
__version__ = '0.2.0'
