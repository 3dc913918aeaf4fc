"""The rule for lanes: `vmap` makes one call for each lane.

`vmap` over the kernels of a convolution would make a grouped convolution, whose
gradients are slow on CPUs and on GPUs. Unrolled, each lane runs the program
that it would run alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def unroll_lanes(function: Callable) -> Callable:
  """Returns the function, of which `vmap` makes one call for each lane.

  The result has no derivative in reverse mode: `jax.custom_vjp` goes around it.

  Args:
    function: of arrays, each of which may have lanes; returns a tree of arrays.
  """

  # JAX calls the rule of `vmap` after the function around it was traced, when
  # its `jax.default_matmul_precision` is over: each precision has a function.
  @functools.cache
  def make(precision):
    @jax.custom_batching.custom_vmap
    def computed(*arguments):
      with jax.default_matmul_precision(precision):
        return function(*arguments)

    @computed.def_vmap
    def _rule(lanes, batched, *arguments):
      calls = [
        computed(*(a[i] if b else a for a, b in zip(arguments, batched)))
        for i in range(lanes)
      ]
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *calls)
      return stacked, jax.tree.map(lambda _: True, stacked)

    return computed

  config: Any = jax.config
  return lambda *arguments: make(config.jax_default_matmul_precision)(
    *arguments
  )
