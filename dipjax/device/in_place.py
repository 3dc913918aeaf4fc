"""Branches that write arrays in place and copy none of them.

A step changes its state unless something went wrong. The state must not be
copied for the choice between the two. How that is done differs between devices;
what is returned does not.
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
    function: whose result has the structure, shapes and types of the tree.
    tree: of arrays.
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
  function reads is copied for that function: trees that no later function reads
  come first. What two functions have in common is computed twice.

  Args:
    condition: a boolean.
    functions: each takes all trees as they were before, and returns the tree at
      its own place, in the same structure, shapes and types.
    trees: of arrays.
  """
  updated = []
  for place, function in enumerate(functions):
    before, after = trees[:place], trees[place + 1 :]

    def apply(own, function=function, before=before, after=after):
      return function(*before, own, *after)

    tree, pending = _perform(condition, apply, trees[place])
    updated.append(tree)
    # The next tree may be overwritten when this function has read it, not
    # before: its condition waits for the False that comes out.
    condition = condition & ~pending
  return updated


def _perform(condition, function, tree):
  """The tree of `perform_if`; and False, which is known only after it."""
  turn = lambda carry: (jnp.array(False), function(carry[1]))
  carry = condition, tree
  if choose.loops_in_place():
    # XLA changes the arrays of a loop in place, while a `cond` copies them.
    carry = jax.lax.while_loop(lambda carry: carry[0], turn, carry)
  else:
    # Under `vmap` a `cond` becomes a selection without a word to the host.
    carry = jax.lax.cond(condition, turn, lambda carry: carry, carry)
  return carry[1], carry[0]
