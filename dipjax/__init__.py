"""Image restoration with no training data: the deep image prior in JAX."""

from dipjax.restore import Restoration, restore

__all__ = ['Restoration', 'restore']
__version__ = '0.2.0'
