"""A branch of the step that is seldom taken must not cost a copy of the state.

Written once here, because the devices differ.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def perform_if(
  condition: Array, function: Callable[[Any], Any], tree: Any
) -> tuple[Any, Array]:
  """Returns function(tree) where condition holds, else tree; and False.

  On the CPU a loop of at most one turn, whose arrays XLA changes in place: a
  `cond` copies them. On other devices, where lanes run at once, a `cond`, which
  `vmap` makes a selection without a word to the host.

  The False is there for order. It is known only after the function, so that a
  condition made with it comes later, and may use what the function overwrote.

  Args:
    condition: a boolean.
    function: whose result has the structure, shapes and types of the tree.
    tree: of arrays.
  """
  turn = lambda carry: (jnp.array(False), function(carry[1]))
  carry = condition, tree
  if jax.default_backend() == 'cpu':
    carry = jax.lax.while_loop(lambda carry: carry[0], turn, carry)
  else:
    carry = jax.lax.cond(condition, turn, lambda carry: carry, carry)
  return carry[1], carry[0]
