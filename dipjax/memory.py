"""How much memory a fit takes, told before it takes it."""

from typing import Any

import jax
from flax import linen as nn

from dipjax import fit, objectives
from dipjax.conv import choose

# In units of the largest array that the gradient keeps: what is alive beside
# what is kept while the gradient of the outermost layers is computed.
# As many as fit what XLA plans on a CPU; not compared on other devices.
_WORKING = 7


def estimate_bytes(
  network: nn.Module,
  problem: objectives.Problem,
  *,
  lanes: int = 1,
  precision: str = 'float32',
) -> int:
  """Returns about how many bytes a step of all lanes takes at its peak.

  By tracing the step, not by running it: what the gradient keeps of the forward
  pass, the parameters with their gradient, Adam's two moments and the guard's
  snapshot of them, and a share for what is at work. `python -m
  benchmarks.memory` compares it with what XLA plans. On a CPU neither precision
  nor remat changes it: there XLA computes in float32 and keeps every activation
  in spite of remat.

  Args:
    network: that is fitted.
    problem: of one lane; shapes are enough.
    lanes: fitted at once; on a CPU one after the other.
    precision: of `fit.PRECISIONS`.
  """
  if not choose.saves_memory():
    network, precision = _set_remat(network, False), 'float32'
  dtype, _ = fit.PRECISIONS[precision]
  objective = objectives.measurement_error(network)

  def keep(key, problem):
    params = network.init(key, problem.code)['params']
    problem = problem.replace(code=problem.code.astype(dtype))
    lose = lambda params: objective(params, problem, key)[0]
    return params, jax.vjp(lose, params)[1]

  params, kept = jax.eval_shape(keep, jax.random.key(0), problem)
  state = 7 * sum(map(_count_bytes, jax.tree.leaves(params)))
  sizes = list(map(_count_bytes, jax.tree.leaves(kept)))
  activations = sum(sizes) + _WORKING * max(sizes)
  at_once = 1 if choose.runs_in_turn() else lanes
  return lanes * state + at_once * activations


def _set_remat(network: nn.Module, remat: bool) -> nn.Module:
  return network.clone(remat=remat) if hasattr(network, 'remat') else network


def _count_bytes(leaf: Any) -> int:
  return leaf.size * leaf.dtype.itemsize


def check_memory(
  network: nn.Module,
  problem: objectives.Problem,
  available: int,
  *,
  lanes: int = 1,
  precision: str = 'float32',
) -> None:
  """Raises a ValueError, with what would fit, if a fit does not.

  Args:
    network, problem, lanes, precision: as of `estimate_bytes`.
    available: bytes.
  """
  estimate = lambda network, lanes, precision: estimate_bytes(
    network, problem, lanes=lanes, precision=precision
  )
  needed = estimate(network, lanes, precision)
  if needed <= available:
    return
  frugal = _set_remat(network, True)
  options = {
    'bfloat16': (network, lanes, 'bfloat16'),
    'remat': (frugal, lanes, precision),
    'bfloat16 with remat': (frugal, lanes, 'bfloat16'),
    'one lane': (network, 1, precision),
    'one lane in bfloat16 with remat': (frugal, 1, 'bfloat16'),
  }
  sizes = {name: estimate(*option) for name, option in options.items()}
  fitting = [
    f'{name} ({_format(size)})'
    for name, size in sizes.items()
    if size <= available and size < needed
  ]
  height, width = problem.crop.height, problem.crop.width
  raise ValueError(
    f'{width}x{height} in {lanes} lane{"s" * (lanes > 1)} takes about '
    f'{_format(needed)}, there are {_format(available)}; '
    + (f'what would fit: {", ".join(fitting)}' if fitting else 'crop the image')
  )


def _format(count: int) -> str:
  return f'{count / 1e9:.3g} GB'
