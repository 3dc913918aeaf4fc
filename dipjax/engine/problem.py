"""The problem of one lane: what is fitted, as arguments of the compiled step.

A problem is a pytree of arrays. Another image, weight, jitter or number of
steps makes another problem but not another program: nothing compiles again.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from dipjax import codes, operators
from dipjax.conv import choose

Array = jax.Array
Code = Callable[[Array, tuple[int, int]], Array]


class Problem(struct.PyTreeNode):
  """One image to restore; all fields are arguments of the compiled step."""

  measurement: Array  # What operator(image) should be, of any shape.
  operator: Callable[[Array], Array]  # A pytree: image [H, W, C] -> prediction.
  crop: operators.Crop  # The real pixels of the network's output.
  code: Array  # [h, w, C], the input of the size that the network wants.
  weights: Array  # One for each penalty of the recipe, then the features' one.
  jitter: Array  # Standard deviation of the noise on the code, each step.
  steps: Array  # The most steps that a fit of this problem takes.
  features: operators.Shared | None = None  # Compared besides the pixels.
  target: Array | None = None  # features(measurement), computed once.
  # Some methods and monitors need sigma or the reference; None: not known.
  sigma: Array | None = None  # Standard deviation of the measurement's noise.
  reference: Array | None = None  # A second one, with independent noise.
  # Whether the lane's seed is even, for methods that fit seeds of two kinds.
  even: Array | bool = False
  rate: Array | None = None  # The optimiser's steps times this; None: as is.
  # Where a fit sees one window in each step: the `Picture`, or the `Pictures`,
  # of which measurement and code are a window. None: they are the whole.
  picture: 'operators.Shared | Own | None' = None


class Own(struct.PyTreeNode):
  """A picture that one lane has for itself, in the place of a `Shared` one."""

  operator: 'Picture'


class Picture(struct.PyTreeNode):
  """A noisy picture, of which a step sees a window."""

  pixels: Array  # [H, W, C]

  def __call__(self, corner: Array, size: tuple[int, int]) -> Array:
    """Returns [*size, C], whose first pixel is the one at the corner."""
    return jax.lax.dynamic_slice(
      self.pixels,
      (corner[0], corner[1], 0),
      (*size, self.pixels.shape[-1]),
      allow_negative_indices=False,
    )

  def draw(self, key: Array, size: tuple[int, int]) -> Array:
    """Returns a window [*size, C]; each place is as likely as any other."""
    return self(_draw_corner(key, self.pixels.shape[:2], size), size)


class Pictures(struct.PyTreeNode):
  """Noisy pictures that share one fit, of one of which a step sees a window."""

  pixels: Array  # [N, H, W, C]; nobody sees what is beyond a picture's size.
  sizes: Array  # int32 [N, 2], the height and width of each.

  def draw(self, key: Array, size: tuple[int, int]) -> Array:
    """Returns a window [*size, C] of one picture, at any place inside of it.

    Each picture is as likely as any other, whatever its size.

    Args:
      key: of the picture and the place.
      size: (height, width), at most those of the smallest picture.
    """
    which, place = jax.random.split(key)
    number = jax.random.randint(which, (), 0, len(self.sizes))
    height, width = self.sizes[number]
    top, left = _draw_corner(place, (height, width), size)
    window = jax.lax.dynamic_slice(
      self.pixels,
      (number, top, left, 0),
      (1, *size, self.pixels.shape[-1]),
      allow_negative_indices=False,
    )
    return window[0]


def _draw_corner(key, whole, size):
  places = [length - side + 1 for length, side in zip(whole, size)]
  return jax.random.randint(key, (2,), 0, jnp.array(places))


def make_problem(
  key: Array,
  measurement: Array,
  operator: operators.Operator,
  network: nn.Module,
  size: Sequence[int],
  *,
  code: Code,
  jitter: float,
  steps: int,
  weights: Sequence[float] = (),
  sigma: float | None = None,
  reference: Array | None = None,
) -> Problem:
  """Returns the problem of one lane, its code as large as the network needs.

  Args:
    key: the lane's key; the code is drawn from a stream of its own.
    measurement: what the operator gave.
    operator: a pytree, image [H, W, C] -> prediction.
    network: the network to fit, with a `code_size`.
    size: (H, W, ...) of the image.
    code: (key, (height, width)) -> the network's input.
    jitter: standard deviation of the noise on the code.
    steps: the most steps that a fit takes.
    weights: the weight of each penalty.
    sigma: standard deviation of the measurement's noise, where it is known.
    reference: a second measurement with independent noise, where there is one.
  """
  height, width, *_ = size
  # The fit draws from the key itself, so the code takes another stream. The
  # image is the middle of the output, which may be larger.
  drawn = code(jax.random.fold_in(key, 1), network.code_size(height, width))
  rows, columns, *_ = find_output(network, drawn.shape)
  return Problem(
    measurement=measurement,
    operator=operator,
    crop=operators.crop_center((rows, columns), (height, width)),
    code=drawn,
    weights=jnp.array(weights, jnp.float32),
    jitter=jnp.array(jitter, jnp.float32),
    steps=jnp.array(steps),
    sigma=None if sigma is None else jnp.array(sigma, jnp.float32),
    reference=reference,
    even=jax.random.key_data(key)[-1] % 2 == 0,
  )


def cut_window(
  problem: Problem, network: nn.Module, corner: Array, size: tuple[int, int]
) -> Problem:
  """Returns the problem of one window of the picture.

  The window alone is the measurement and, where the network's code is larger,
  reflected, the code; nothing else of the picture can be seen.

  Args:
    problem: has a picture.
    network: the network that is fitted.
    corner: (top, left), whole numbers.
    size: (height, width), at most the picture's.
  """
  picture: Any = problem.picture
  return _see_window(problem, network, picture.operator(corner, size))


def _see_window(problem, network, window):
  size = window.shape[:2]
  code = codes.extend_image(window, network.code_size(*size))
  rows, columns, *_ = find_output(network, code.shape)
  return problem.replace(
    measurement=window,
    code=code,
    crop=operators.crop_center((rows, columns), size),
  )


def draw_window(problem: Problem, network: nn.Module, key: Array) -> Problem:
  """Returns the problem of a window anywhere in the picture, or the pictures.

  Each place is as likely as any other. A problem without a picture stays as it
  is.

  Args:
    problem: its windows have the size of its measurement.
    network: see `cut_window`.
    key: of the place.
  """
  if problem.picture is None:
    return problem
  picture: Any = problem.picture
  height, width, _ = problem.measurement.shape
  window = picture.operator.draw(key, (height, width))
  return _see_window(problem, network, window)


def find_output(
  network: nn.Module, code_shape: tuple[int, ...]
) -> tuple[int, ...]:
  """Returns the shape of a network's output; computes nothing."""
  return find_shapes(network, code_shape).output.shape


class Shapes(NamedTuple):
  """What a network makes of a code, as shapes."""

  output: jax.ShapeDtypeStruct
  params: Any
  inputs: tuple[jax.ShapeDtypeStruct, ...]  # What kernels are applied to.


@functools.cache
def find_shapes(network: nn.Module, code_shape: tuple[int, ...]) -> Shapes:
  """Returns a network's shapes for a code in float32; computes nothing."""
  code = jax.ShapeDtypeStruct(code_shape, jnp.float32)
  draw: Any = network.init_with_output
  inputs, shapes = [], []

  def record(layer, args, kwargs, context):
    result = layer(*args, **kwargs)
    if context.module.has_variable('params', 'kernel'):
      for x in args:
        # Several kernels may share an input. No trace may outlive its function.
        if isinstance(x, jax.Array) and not any(x is seen() for seen in inputs):
          inputs.append(weakref.ref(x))
          shapes.append(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return result

  with choose.aim(choose.SHAPES), nn.intercept_methods(record):
    output, variables = jax.eval_shape(draw, jax.random.key(0), code)
  return Shapes(output, variables['params'], tuple(shapes))
