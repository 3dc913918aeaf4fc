"""Measurement operators: what the camera did to the image, as pytrees.

An operator is a function of one image [H, W, C]. It returns what the camera
would have measured, and raises a ValueError for an image that does not fit.
The arrays of an operator are leaves of a pytree, so an operator is an argument
of a compiled step: a new mask or kernel of the same shape does not compile
again, and lanes may have different masks or kernels. Sizes and names are
static.

Where values need a check or a conversion, a function makes the operator
(`make_mask`, `make_blur`, `compose`, `as_operator`). A class checks nothing
when it is made, because JAX makes it anew inside every transformation.

`adjoint` is written once and transposes every linear operator, a user's own
operator too.

A picture is fitted in tiles if the operator says how far it sees, so that a
measurement can be cut (`find_reach`, `cut`). Such an operator has

- `reach`: the pixels beyond its own place that a measured value depends on. A
  value's place is the square of `step` x `step` pixels at `step` times its row
  and column; up to `reach` pixels around that square count too.
- `step`: as above; 1 where it is missing.
- `cut(window)`: the operator of a window of the image. Where it is missing the
  operator is the same everywhere, and its own window.

`make_local` says it of a function that is the same everywhere.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dipjax import blurring, noise, resampling

Array = jax.Array
Operator = Callable[[Array], Array]  # An operator is also a pytree.

# Noise whose neighbours correlate by less counts as white.
_WHITE = 0.05


class Identity(struct.PyTreeNode):
  """The image itself, for denoising and the removal of artefacts."""

  reach = 0

  def __call__(self, image: Array) -> Array:
    """Returns the image."""
    return image


class Noisy(struct.PyTreeNode):
  """The average of the image with noise on it, and what that noise is.

  A camera clips very dark and very bright pixels, which makes black brighter
  and white darker on average. With this operator a fit expects the average, so
  black stays black and white stays white. `make_noisy` makes it.
  """

  constant: Array  # The variance at brightness 0, before clipping.
  least: Array  # No variance is less.
  gain: Array | None = None  # The variance that a brightness of 1 adds.
  # [h, w], the filter that makes of white noise what neighbours share; None:
  # the noise is white.
  spread: Array | None = None
  # The correlation between two channels; None: each has noise of its own.
  channels: Array | None = None
  black: bool = struct.field(pytree_node=False, default=False)  # Clipped at 0.
  white: bool = struct.field(pytree_node=False, default=False)  # Clipped at 1.
  reach = 0

  def __call__(self, image: Array) -> Array:
    """Returns the mean of the measurement of an image, see noise."""
    if not (self.black or self.white):
      return image
    # Less noise is expected at another brightness, which is no reason for the
    # image to move there.
    deviation = jnp.sqrt(self.find_unclipped(jax.lax.stop_gradient(image)))
    return noise.expect_clipped(
      image, deviation, black=self.black, white=self.white
    )

  def find_variance(self, image: Array) -> Array:
    """Returns the variance of what was measured; it has no gradient."""
    image = jax.lax.stop_gradient(image)
    variance = self.find_unclipped(image)
    if not (self.black or self.white):
      return variance
    return noise.expect_variance(
      image, jnp.sqrt(variance), black=self.black, white=self.white
    )

  def find_unclipped(self, image: Array) -> Array:
    """Returns the variance of the noise before it is clipped."""
    if self.gain is None:
      return jnp.maximum(self.constant, self.least)
    return jnp.maximum(self.constant + self.gain * image, self.least)


def make_noisy(model: noise.Model) -> Operator:
  """Returns the operator of images with the noise of a model."""
  # What is not there costs nothing in a step.
  scalar = lambda value: jnp.float32(value)
  white = abs(model.neighbours) < _WHITE
  return Noisy(
    constant=scalar(model.constant),
    least=scalar(model.least),
    gain=scalar(model.gain) if model.gain else None,
    spread=None if white else jnp.asarray(model.make_filter(), jnp.float32),
    channels=scalar(model.channels) if model.channels else None,
    black=bool(model.black),
    white=bool(model.white),
  )


class Function(struct.PyTreeNode):
  """A function of an image, itself no pytree, as an operator."""

  function: Callable[[Array], Array] = struct.field(pytree_node=False)
  reach: int | None = struct.field(pytree_node=False, default=None)
  step: int = struct.field(pytree_node=False, default=1)

  def __call__(self, image: Array) -> Array:
    """Returns function(image)."""
    return self.function(image)


def make_local(
  function: Callable[[Array], Array], reach: int, step: int = 1
) -> Function:
  """Returns a function that is the same everywhere as one that can be cut.

  The function gives [H / step, W / step, C] of an image, or [H / step, W /
  step, ...]. What it makes of a part of an image is the same part of what it
  makes of the whole, but for `reach` pixels at the part's ends.

  Args:
    function: of an image [H, W, C].
    reach, step: see the module.

  Raises:
    ValueError: a reach below 0 or a step below 1.
  """
  if reach < 0 or step < 1:
    raise ValueError(
      f'a reach is at least 0, a step at least 1, got {reach} and {step}'
    )
  return Function(function, reach, step)


class Crop(struct.PyTreeNode):
  """The window of `height` x `width` pixels whose corner is (top, left)."""

  top: int = struct.field(pytree_node=False)
  left: int = struct.field(pytree_node=False)
  height: int = struct.field(pytree_node=False)
  width: int = struct.field(pytree_node=False)

  def __call__(self, image: Array) -> Array:
    """Returns [height, width, C]; ValueError if the window does not fit."""
    bottom, right = self.top + self.height, self.left + self.width
    outside = bottom > image.shape[0] or right > image.shape[1]
    if outside or min(self.top, self.left) < 0:
      raise ValueError(f'{self} reaches outside of an image {image.shape}')
    return image[self.top : bottom, self.left : right]


def crop_center(size: tuple[int, int], window: tuple[int, int]) -> Crop:
  """Returns the Crop of the centred window in images of one size."""
  top, left = (size[0] - window[0]) // 2, (size[1] - window[1]) // 2
  return Crop(top, left, *window)


class Mask(struct.PyTreeNode):
  """The image times weights, for inpainting; `make_mask` makes a Mask."""

  weights: Array  # [H, W, 1] or [H, W, C], in [0, 1].
  reach = 0

  def cut(self, window: Crop) -> 'Mask':
    """Returns the Mask of a window of the image."""
    return Mask(window(self.weights))

  def __call__(self, image: Array) -> Array:
    """Returns [H, W, C]; ValueError if the weights do not fit the image."""
    *size, channels = self.weights.shape
    if list(image.shape[:-1]) != size or channels not in (1, image.shape[-1]):
      raise ValueError(
        f'a mask {self.weights.shape} does not fit an image {image.shape}'
      )
    return image * self.weights


def make_mask(mask: Any) -> Mask:
  """Returns the Mask that keeps seen pixels and sets missing pixels to 0.

  Args:
    mask: [H, W], [H, W, 1] or [H, W, C], booleans or floats. 1 is seen, 0 is
      missing, a value between 0 and 1 is the weight of a pixel.

  Raises:
    ValueError: another shape, integers, a value outside of [0, 1] or NaN, or a
      mask that misses everything.
  """
  mask = np.asarray(mask)
  mask = mask.astype(np.float32) if mask.dtype == bool else mask
  mask = _check_floats(mask, 'a mask', 'booleans, as mask > 127 for 8 bits')
  if mask.ndim not in (2, 3):
    raise ValueError(f'a mask is [H, W] or [H, W, C], got {mask.shape}')
  if mask.min() < 0 or mask.max() > 1:
    raise ValueError(
      f'a mask lies in [0, 1], got {mask.min()} to {mask.max()}: divide it by '
      'its white level, such as 255'
    )
  if not mask.any():
    raise ValueError(f'the mask misses all of its {mask.size} pixels')
  mask = mask[..., None] if mask.ndim == 2 else mask
  return Mask(jnp.asarray(mask, jnp.float32))


class Downsample(struct.PyTreeNode):
  """The image reduced by an integer factor, for super-resolution.

  Attributes:
    factor: at least 1; a factor of 1 is the identity. The factor divides both
      sides of the image.
    name: the filter, 'lanczos2', 'lanczos3', 'bicubic' or 'box'; see
      `resampling.make_kernel`.
  """

  factor: int = struct.field(pytree_node=False)
  name: str = struct.field(pytree_node=False, default='lanczos2')

  @property
  def step(self) -> int:
    """See the module."""
    return self.factor

  @property
  def reach(self) -> int:
    """See the module."""
    taps = len(resampling.make_kernel(self.name, self.factor))
    return (taps - self.factor) // 2

  def __call__(self, image: Array) -> Array:
    """Returns [H / factor, W / factor, C].

    Raises:
      ValueError: a side that the factor does not divide, or as
        `resampling.make_kernel`.
    """
    kernel = resampling.make_kernel(self.name, self.factor)
    return resampling.reduce_image(image, kernel, self.factor)


class Blur(struct.PyTreeNode):
  """The image convolved with a kernel; `make_blur` makes a Blur."""

  kernel: Array  # [h, w], h and w odd.

  @property
  def reach(self) -> int:
    """See the module."""
    return max(self.kernel.shape) // 2

  def __call__(self, image: Array) -> Array:
    """Returns [H, W, C]; see `blurring.blur_image`."""
    return blurring.blur_image(image, self.kernel)


def make_blur(kernel: Any) -> Blur:
  """Returns the Blur by a kernel, scaled to keep the image's brightness.

  The kernel is divided by its sum.

  Args:
    kernel: [h, w], floats, h and w odd: the picture of one bright point, for
      instance `blurring.make_gaussian_kernel(2)`.

  Raises:
    ValueError: another shape, integers, NaN or infinite values, or a sum that
      is not positive beyond rounding.
  """
  kernel = _check_floats(np.asarray(kernel), 'a kernel', 'kernel.astype(float)')
  if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
    raise ValueError(f'a kernel is [h, w], both odd, got {kernel.shape}')
  # A sum of nothing but rounding errors gives the kernel no meaningful scale.
  total = kernel.sum()
  if total <= 1e-6 * np.abs(kernel).sum():
    raise ValueError(f'the sum of a kernel must be positive, got {total}')
  return Blur(jnp.asarray(kernel / total, jnp.float32))


class Shared(struct.PyTreeNode):
  """An operator that all lanes share; memory holds it once.

  The arrays of other operators get an axis of lanes; the arrays of a Shared
  operator do not. Share an operator that is large, for instance a pretrained
  network.
  """

  operator: Operator

  def __call__(self, image: Array) -> Array:
    """Returns operator(image)."""
    return self.operator(image)


class Compose(struct.PyTreeNode):
  """Operators applied one after the other; `compose` makes a Compose."""

  operators: tuple[Operator, ...]

  def __call__(self, image: Array) -> Array:
    """Returns the output of the last operator."""
    for operator in self.operators:
      image = operator(image)
    return image

  @property
  def reach(self) -> int | None:
    """See the module; None where one of the operators does not say it."""
    pixels, step = 0, 1
    for operator in self.operators:
      found = find_reach(operator)
      if found is None:
        return None
      pixels, step = pixels + step * found.pixels, step * found.step
    return pixels

  @property
  def step(self) -> int:
    """See the module."""
    return math.prod(getattr(part, 'step', 1) for part in self.operators)

  def cut(self, window: Crop) -> 'Compose':
    """Returns the operators of a window of the image."""
    parts = []
    for operator in self.operators:
      parts.append(cut(operator, window))
      step = getattr(operator, 'step', 1)
      window = Crop(*(side // step for side in dataclasses.astuple(window)))
    return Compose(tuple(parts))


def compose(*functions: Callable[[Array], Array]) -> Compose:
  """Returns one operator that applies the given ones in order.

  Without any operator the result is the identity.
  """
  return Compose(tuple(as_operator(function) for function in functions))


def as_operator(function: Callable[[Array], Array] | None) -> Operator:
  """Returns a pytree that computes `function`; None gives the identity."""
  if function is None:
    return Identity()
  # JAX takes a plain function for a leaf, which is its own only leaf; a pytree
  # has other leaves and needs no wrapper.
  leaves = jax.tree.leaves(function)
  is_leaf = len(leaves) == 1 and leaves[0] is function
  return Function(function) if is_leaf else function


class Reach(NamedTuple):
  """How far an operator sees."""

  pixels: int  #: Around the place of a measured value.
  step: int  #: Side of that place.


def find_reach(operator: Callable[[Array], Array] | None) -> Reach | None:
  """Returns how far an operator sees; None: it does not say.

  An operator that does not say is taken for one that sees everything at once.
  """
  operator = Identity() if operator is None else operator
  pixels = getattr(operator, 'reach', None)
  return None if pixels is None else Reach(pixels, getattr(operator, 'step', 1))


def cut(operator: Any, window: Crop) -> Any:
  """Returns the operator of a window of the image; None stays None.

  What it makes of the window is what the whole operator makes of it, but for
  values whose reach goes beyond the window.

  Args:
    operator: one that says its reach.
    window: its numbers are multiples of the operator's step.
  """
  own = getattr(operator, 'cut', None)
  return own(window) if own else operator


def adjoint(
  operator: Callable[[Array], Array],
  measurement: Array,
  shape: tuple[int, int, int],
) -> Array:
  """Returns the adjoint of a linear operator, applied to a measurement.

  The adjoint is the image a with <a, x> = <measurement, operator(x)> for every
  image x.

  Args:
    operator: any linear function, also one from outside this module.
    measurement: has the shape that the operator returns.
    shape: (H, W, C) of the images that the operator takes.

  Returns:
    [H, W, C]. A constant that the operator adds is left out.

  Raises:
    ValueError: an operator that is not linear, or a measurement of another
      shape.
  """
  # Compare the shapes first: JAX would fail inside the transpose, with an error
  # that does not mention the measurement.
  image = jax.ShapeDtypeStruct(shape, measurement.dtype)
  predicted = jax.eval_shape(operator, image).shape
  if predicted != measurement.shape:
    raise ValueError(
      f'the operator turns an image {shape} into {predicted}, but the '
      f'measurement is {measurement.shape}'
    )
  # JAX has no transpose for an operation that is not linear, and says so by
  # either of the two errors.
  try:
    (transposed,) = jax.linear_transpose(operator, image)(measurement)
  except (AssertionError, NotImplementedError) as error:
    raise ValueError(f'{operator} is not linear') from error
  return transposed


def _check_floats(array: np.ndarray, name: str, instead: str) -> np.ndarray:
  if not np.issubdtype(array.dtype, np.floating):
    raise ValueError(
      f'{name} must hold floats, got {array.dtype}: give {instead}'
    )
  if array.size == 0 or not np.all(np.isfinite(array)):
    raise ValueError(
      f'{name} must hold finite values, got shape {array.shape} with '
      f'{np.sum(~np.isfinite(array))} NaN or infinite'
    )
  return array
