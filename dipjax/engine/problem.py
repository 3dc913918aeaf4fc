"""The problem of one lane: what is fitted, as arguments of the compiled step.

A problem is a pytree of arrays. Another image, weight, jitter or number of
steps is another problem and the same program: nothing compiles again.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from dipjax import operators

Array = jax.Array
Code = Callable[[Array, tuple[int, int]], Array]


class Problem(struct.PyTreeNode):
  """One image to restore, all of it arguments of the compiled step."""

  measurement: Array  # What operator(image) should be, any shape.
  operator: Callable[[Array], Array]  # A pytree: image [H, W, C] -> prediction.
  crop: operators.Crop  # The real pixels of the network's output.
  code: Array  # [h, w, C], of the size that the network wants.
  weights: Array  # Of each penalty of the recipe, then of the features.
  jitter: Array  # Standard deviation of the noise on the code, each step.
  steps: Array  # A fit of this problem takes at most so many.
  features: operators.Shared | None = None  # What else is to agree, or none:
  target: Array | None = None  # features(measurement), computed once.
  # What some methods and monitors need, where it is known.
  sigma: Array | None = None  # Standard deviation of the measurement's noise.
  reference: Array | None = None  # Another measurement, independent noise.


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
    key: of the lane; the code is drawn from a stream of its own.
    measurement: what the operator gave.
    operator: a pytree.
    network: that is fitted, with a `code_size`.
    size: (H, W, ...) of the image.
    code: (key, (height, width)) -> the network's input.
    jitter: standard deviation of the noise on the code.
    steps: at most so many.
    weights: of the penalties.
    sigma: standard deviation of the measurement's noise, where it is known.
    reference: another measurement, where there is one.
  """
  height, width, *_ = size
  # The fit draws from the key itself, so that the code has another stream.
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
  )


@functools.cache
def find_output(
  network: nn.Module, code_shape: tuple[int, ...]
) -> tuple[int, ...]:
  """Returns the shape of a network's output; computes nothing."""
  code = jax.ShapeDtypeStruct(code_shape, jnp.float32)
  draw: Any = lambda key, code: network.init_with_output(key, code)[0]
  return jax.eval_shape(draw, jax.random.key(0), code).shape
