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
  return keep_order(array) if choose.changes_layouts() else array


def keep_order(array: Array) -> Array:
  """Returns the array, as `keep_rows` does on a GPU, on every device."""
  order = layout.Layout(tuple(range(array.ndim)))
  return layout.with_layout_constraint(array, order)
