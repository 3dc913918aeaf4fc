"""The rule for lanes: `vmap` makes one call for each lane.

`vmap` over the kernels of a convolution would make a grouped convolution, whose
gradients are slow on CPUs and on GPUs. Unrolled, each lane runs the program
that it would run alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def unroll_lanes(function: Callable) -> Callable:
  """Returns the function, of which `vmap` makes one call for each lane.

  The result has no derivative in reverse mode: `jax.custom_vjp` goes around it.

  Args:
    function: of arrays, each of which may have lanes; returns one array.
  """
  function = jax.custom_batching.custom_vmap(function)

  @function.def_vmap
  def _rule(lanes, batched, *arguments):
    calls = [
      function(*(a[i] if b else a for a, b in zip(arguments, batched)))
      for i in range(lanes)
    ]
    return jnp.stack(calls), True

  return function
