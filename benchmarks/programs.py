"""The programs to time: our step, a scan of our steps in lanes, the peers."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dipjax import Recipe, codes, methods, monitors, operators
from dipjax.conv import choose
from dipjax.engine import fit, lanes, mesh
from dipjax.engine.problem import Problem
from dipjax.networks import skip

SCAN = 10  # Steps in one call of ours, as of `restore`, and of the peer.
DEEPINV_STEPS = 20  # So many that the image at its end adds little.
INPUTS = 32  # Channels of the code.
SQUARED = methods.Squared()

Call = Callable[[], int]  # Takes steps and returns how many of a lane.


class Scan(NamedTuple):
  """Ours, compiled: SCAN steps of every lane in one call.

  Memory is what XLA plans for that call, on every device: arguments, results
  and temporaries, what is donated counted once. Compiling is that of the first
  states and of the steps.
  """

  call: Call
  peak_bytes: int
  compile_seconds: float


def make_network(channels: int = 128, *, remat: bool = False) -> skip.Skip:
  """Returns requirement 2's network, or one with other channels."""
  return skip.Skip(down=(channels,) * 5, up=(channels,) * 5, remat=remat)


def make_fit(
  network: nn.Module,
  precision: str,
  watchers: Mapping[str, monitors.Monitor] | None = None,
) -> fit.Fit:
  """Returns the fit as users get it, or with other watchers."""
  return fit.make_fit(make_recipe(network, precision, watchers))


def make_recipe(
  network: nn.Module,
  precision: str,
  watchers: Mapping[str, monitors.Monitor] | None = None,
  method: methods.Method = SQUARED,
) -> Recipe:
  """Returns a recipe that equals no other, as its optimiser is its own.

  So each fit is traced anew, and none is timed with the trace of another.
  """
  return Recipe(
    network=network,
    method=method,
    monitors=watchers or {'emv': monitors.EMV()},
    optimizer=optax.adam(0.01),
    precision=precision,
  )


def make_single(one: fit.Fit, size: int) -> Call:
  """Returns SCAN steps of one lane, each a call of its own."""
  problem = make_problem(size)
  step = jax.jit(one.step, donate_argnums=0)
  state = [jax.jit(one.init)(jax.random.key(0), problem)]

  def call():
    for _ in range(SCAN):
      state[0], _ = step(state[0], problem)
      jax.block_until_ready(state[0].params)
    return SCAN

  return call


def make_scan(one: fit.Fit, size: int, count: int) -> Scan:
  """Returns SCAN steps of `count` lanes in one call."""
  return scan_problem(one, make_problem(size), count)


def scan_problem(one: fit.Fit, problem: Problem, count: int) -> Scan:
  """Returns SCAN steps of `count` lanes of one problem in one call."""
  problems = lanes.stack_lanes([problem] * count)
  keys = jax.random.split(jax.random.key(0), count)
  lanes.forget_programs()
  begin = time.perf_counter()
  states = [jax.block_until_ready(lanes.init(one, keys, problems))]
  advance = _compile_advance(one, keys, problems)
  seconds = time.perf_counter() - begin

  def call():
    states[0], _ = advance(states[0], problems)
    jax.block_until_ready(states[0].params)
    return SCAN * count

  return Scan(call, count_bytes(advance), seconds)


def _compile_advance(one, keys, problems):
  shapes = lanes.shape(one, keys, problems)
  return lanes.advance.lower(one, SCAN, shapes, problems).compile()


def trace_advance(
  network: nn.Module, precision: str, size: int, count: int, device: Any = None
) -> Any:
  """Returns SCAN steps of `count` lanes, traced for the target, not compiled.

  Nothing is computed, so that `device` may be one of another machine; its
  `lower` makes the program for that device.
  """
  problem = jax.eval_shape(lambda: make_problem(size))
  return trace_fit(make_fit(network, precision), problem, count, device)


def trace_fit(
  one: fit.Fit, problem: Problem, count: int, device: Any = None
) -> Any:
  """Returns SCAN steps of `count` lanes of a fit, as `trace_advance` does.

  Args:
    one: the fit of a lane.
    problem: of a lane; shapes are enough.
    count: of the lanes.
    device: see `trace_advance`.
  """
  return lanes.advance.trace(
    one, SCAN, *shape_lanes(one, problem, count, device)
  )


def shape_lanes(
  one: fit.Fit, problem: Problem, count: int, device: Any = None
) -> tuple[Any, Any]:
  """Returns the states and the problems of the lanes of a fit, as shapes.

  They lie on `device`, or else on the devices of the target that share them.
  The arguments are those of `trace_fit`.
  """
  keys, problems = jax.eval_shape(
    lambda problem: (
      jax.random.split(jax.random.key(0), count),
      lanes.stack_lanes([problem] * count),
    ),
    problem,
  )
  shapes = lanes.shape(one, keys, problems), problems
  places = mesh.find_shardings(shapes, count)
  if device:
    place = jax.sharding.SingleDeviceSharding(device)
    places = jax.tree.map(lambda _: place, shapes)
  if places:
    shapes = jax.tree.map(
      lambda leaf, place: leaf.update(sharding=place), shapes, places
    )
  return shapes


def plan_bytes(one: fit.Fit, problem: Problem) -> int:
  """Returns the memory that XLA plans for one lane, see `Scan`."""
  problems = lanes.stack_lanes([problem])
  keys = jax.random.split(jax.random.key(0), 1)
  return count_bytes(_compile_advance(one, keys, problems))


def count_bytes(compiled: Any) -> int:
  """Returns the memory that XLA plans for a compiled program, see `Scan`."""
  planned = compiled.memory_analysis()
  return (
    planned.argument_size_in_bytes
    + planned.output_size_in_bytes
    - planned.alias_size_in_bytes
    + planned.temp_size_in_bytes
  )


def make_problem(size: int) -> Problem:
  """Returns the denoising of an image [size, size] of noise."""
  key = jax.random.key(0)
  return Problem(
    measurement=jax.random.uniform(key, (size, size, 3)),
    operator=operators.Identity(),
    crop=operators.Crop(0, 0, size, size),
    code=codes.draw_uniform_noise(key, (size, size), INPUTS),
    weights=jnp.zeros(0),
    jitter=jnp.array(1 / 30),
    steps=jnp.array(1_000_000),
    sigma=jnp.array(0.0),
    reference=jnp.zeros((size, size, 3)),
  )


def check_sizes(network: skip.Skip, sizes: Sequence[int]) -> None:
  """Raises ValueError for a size that is not one of the network's own."""
  for size in sizes:
    fitting, _ = network.code_size(size, size)
    if fitting != size:
      raise ValueError(f'--sizes {size}: the network needs {fitting}')


def check_peer() -> None:
  """Raises ValueError where PyTorch is not, or is on another device."""
  try:
    from benchmarks import torch_peer
  except ImportError as error:
    raise ValueError(
      f"--peer torch: {error}; try pip install -e '.[bench]'"
    ) from error
  ours = choose.find_target().platform
  theirs = torch_peer.find_device().type
  if (ours == 'cpu') != (theirs == 'cpu'):
    raise ValueError(f'--peer torch: it would run on {theirs}, ours on {ours}')


def make_peers(
  size: int, precision: str, channels: int = 128
) -> dict[str, Call]:
  """Returns the peers that work here; prints what was chosen or left out.

  'torch' is the same network at its best; 'deepinv', in float32 only, is
  another network.
  """
  from benchmarks import torch_peer

  peers = {}
  make = functools.partial(
    torch_peer.Skip, down=(channels,) * 5, up=(channels,) * 5
  )
  try:
    variant, step = torch_peer.make_fastest_step(make, size, INPUTS, precision)
  except RuntimeError as error:
    print(error)
  else:
    print(f'{size}x{size}  {precision}, torch at its best: {variant}')
    peers['torch'] = _repeat(step, SCAN)
  if precision == 'float32':
    try:
      from benchmarks import deepinv_peer
    except (ImportError, RuntimeError) as error:
      print(f'no deepinv, or none that fits this torch: {error}')
    else:
      peers['deepinv'] = _repeat(deepinv_peer.make_fit(size), DEEPINV_STEPS)
  return peers


def write_rows(path: pathlib.Path | None, rows: Sequence[NamedTuple]) -> None:
  """Writes rows as JSON, a list of objects; nothing without a path."""
  if path:
    text = json.dumps([row._asdict() for row in rows], indent=2)
    path.write_text(text + '\n')


def _repeat(step: Callable[[int], Any], count: int) -> Call:
  def call():
    step(count)
    return count

  return call
