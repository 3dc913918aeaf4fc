"""Measurement operators: what the camera did to the image, as pytrees.

An operator is a function of one image [H, W, C] that returns what would have
been measured. Arrays inside it are leaves, sizes are static, so that an
operator is an argument of a compiled step.
"""

from collections.abc import Callable

import jax
from flax import struct

Array = jax.Array
Operator = Callable[[Array], Array]  # And a pytree.


class Identity(struct.PyTreeNode):
  """The image itself: denoising, artefact removal."""

  def __call__(self, image: Array) -> Array:
    """Returns the image."""
    return image


class Function(struct.PyTreeNode):
  """Any function of an image that is no pytree itself, as an operator."""

  function: Callable[[Array], Array] = struct.field(pytree_node=False)

  def __call__(self, image: Array) -> Array:
    """Returns function(image)."""
    return self.function(image)


class Crop(struct.PyTreeNode):
  """The window of `height` x `width` pixels whose corner is (top, left)."""

  top: int = struct.field(pytree_node=False)
  left: int = struct.field(pytree_node=False)
  height: int = struct.field(pytree_node=False)
  width: int = struct.field(pytree_node=False)

  def __call__(self, image: Array) -> Array:
    """Returns [height, width, C]; ValueError if the image is smaller."""
    bottom, right = self.top + self.height, self.left + self.width
    outside = bottom > image.shape[0] or right > image.shape[1]
    if outside or min(self.top, self.left) < 0:
      raise ValueError(f'{self} reaches outside of an image {image.shape}')
    return image[self.top : bottom, self.left : right]


def crop_center(size: tuple[int, int], window: tuple[int, int]) -> Crop:
  """Returns the Crop of a centred window from an image of a given size."""
  top, left = (size[0] - window[0]) // 2, (size[1] - window[1]) // 2
  return Crop(top, left, *window)


def as_operator(function: Callable[[Array], Array] | None) -> Operator:
  """Returns a pytree that does what `function` does; None is the identity."""
  if function is None:
    return Identity()
  # A function is a leaf of its own tree; a pytree holds others.
  leaves = jax.tree.leaves(function)
  is_leaf = len(leaves) == 1 and leaves[0] is function
  return Function(function) if is_leaf else function
