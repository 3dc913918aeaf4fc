"""Branches that write arrays in place and copy none of them.

A step changes its state unless something went wrong. The choice between the old
and the new state must not copy the state. Devices differ in how they avoid the
copy; the result is the same on all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dipjax.conv import choose

Array = jax.Array


def perform_if(
  condition: Array, function: Callable[[Any], Any], tree: Any
) -> Any:
  """Returns function(tree) where condition holds, else the tree.

  Args:
    condition: a boolean.
    function: its result has the structure, shapes and types of the tree.
    tree: a pytree of arrays.
  """
  tree, _ = _perform(condition, function, tree)
  return tree


def update_in_turn(
  condition: Array,
  functions: Sequence[Callable[..., Any]],
  trees: Sequence[Any],
) -> list[Any]:
  """Returns each tree as its function of all old trees where condition holds.

  The trees are written one after the other, each in place. A tree that a later
  function reads is copied for that function, so that trees that no later
  function reads should come first. What two functions have in common is
  computed twice.

  Args:
    condition: a boolean.
    functions: each takes all trees as they were before, and returns the tree at
      its own place, in the same structure, shapes and types.
    trees: pytrees of arrays.
  """
  updated = []
  for place, function in enumerate(functions):
    before, after = trees[:place], trees[place + 1 :]

    def apply(own, function=function, before=before, after=after):
      return function(*before, own, *after)

    tree, pending = _perform(condition, apply, trees[place])
    updated.append(tree)
    # The next tree may be overwritten only after this function has read it: the
    # next condition waits for the False that `_perform` returns.
    condition = condition & ~pending
  return updated


def _perform(condition, function, tree):
  """Returns the tree of `perform_if`, and a False known only after the tree."""
  turn = lambda carry: (jnp.array(False), function(carry[1]))
  carry = condition, tree
  if choose.loops_in_place():
    # XLA changes the arrays of a loop in place, while a `cond` copies arrays.
    carry = jax.lax.while_loop(lambda carry: carry[0], turn, carry)
  else:
    # Under `vmap` a `cond` becomes a selection that asks nothing of the host.
    carry = jax.lax.cond(condition, turn, lambda carry: carry, carry)
  return carry[1], carry[0]
