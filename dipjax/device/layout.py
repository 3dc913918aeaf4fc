"""The order of arrays in memory, where XLA would choose another.

XLA for a GPU gives a kernel the order that its library's convolutions want. All
that a fit keeps of the kernel follows: parameter, moments, and snapshots. A
call of the compiled steps would then hold its whole state twice, once in the
order of its arguments and once in the other.
"""

import jax
from jax.experimental import layout

from dipjax.conv import choose

Array = jax.Array


def keep_rows(array: Array) -> Array:
  """Returns the array, whose last axis is the innermost one in memory.

  That is the order of all arguments of a compiled program. The gradient keeps
  it too. On other devices than a GPU the function does nothing.
  """
  return _keep_order(array) if choose.changes_layouts() else array


def keep_lines(lines: Array) -> Array:
  """Returns lines of an image, in the order of `keep_rows`.

  XLA for a TPU would choose an order for what is computed of a few lines, and
  copy the whole image to have them in it. On other devices the function does
  nothing.
  """
  return _keep_order(lines) if choose.keeps_lines() else lines


def _keep_order(array):
  order = layout.Layout(tuple(range(array.ndim)))
  return layout.with_layout_constraint(array, order)
