"""Compiles a step for a GPU and a TPU without one, and estimates its time.

    python -m benchmarks.targets --target h100 v5e --sizes 128 512 \\
      --lanes 1 8 --spec h100_sxm.txtpb --json targets.jsonl

The program is `lanes.advance` with requirement 2's network, as XLA compiles it
for the device; nothing runs, so that every time is an estimate. The roofline
takes for each kernel the longer of its bytes and its FLOPs at the device's
rates (`hlo.Kernel` says what is counted). On a GPU the estimate takes for each
kernel at least the time from one launch to the next, on a TPU the cycles that
XLA itself estimates. The ideal is `limits.count_flops` and
`limits.count_bytes`. Results that are in the file are not made again, so that
the same command goes on where it was.

    python -m benchmarks.targets --target v5e --notebook FILE --json FILE

compiles the programs of a notebook's fits, at the sizes that the notebook takes
on such a device, and `--words fast windows` the fits of configs/req2.py with
these words.

docs/devices.md says what has to be installed.
"""

import argparse
import functools
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import topologies

from benchmarks import hlo, limits, notebook, programs, stopping
from configs import req2
from dipjax import api, noise, recipe
from dipjax.conv import choose
from dipjax.engine import fit
from dipjax.networks import skip
from experiments.lib import build

MOST = 5  # Kernels that are named in a row.
CHANNELS = 3  # Of the picture that words fit.
SIGMA = 25 / 255  # Of its noise; the program is that of any.


class Target(NamedTuple):
  """A device that is compiled for; rates are a second's.

  `flops` is by precision.
  """

  platform: str  # JAX's name.
  aimed: str  # Of `choose.PLATFORMS`.
  topology: str
  bandwidth: float  # Bytes.
  flops: Mapping[str, float]
  launch: float  # Seconds from one kernel to the next, at least.
  clock: float  # Cycles; 0 where XLA estimates none.


# The H100's bandwidth is the data sheet's; its FLOPs are the products that an
# H200 was measured at, whose processor is the same, and the launch is what a
# kernel took there in a step that has nothing but small ones
# (docs/measured/devices.md). The v5e's are the data sheet's; its products of
# float32 take several passes in bfloat16.
TARGETS = {
  'h100': Target(
    platform='cuda',
    aimed='gpu',
    topology='1x1x1',
    bandwidth=3.35e12,
    flops={'float32': 51e12, 'tensorfloat32': 402e12, 'bfloat16': 766e12},
    launch=3.5e-6,
    clock=0,
  ),
  'v5e': Target(
    platform='tpu',
    aimed='tpu',
    topology='v5e:2x2',
    bandwidth=819e9,
    flops={
      'float32': 197e12 / 6,
      'tensorfloat32': 197e12 / 3,
      'bfloat16': 197e12,
    },
    launch=0,
    clock=1.5e9,
  ),
}

# With them neither plugin looks for a device, or for a machine that has one.
VARIABLES = {
  'CUDA_VISIBLE_DEVICES': '-1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # Several processes may compile at once.
}
# XLA would try its kernels on the device.
OPTIONS: Mapping[str, dict[str, Any]] = {
  'cuda': {'xla_gpu_autotune_level': 0},
  'tpu': {},
}


def main(argv: Sequence[str] | None = None) -> None:
  """Compiles what is not in the file yet and prints each row."""
  parser = make_parser()
  arguments = parser.parse_args(argv)
  prepare_process()
  try:
    programs.check_sizes(programs.make_network(), arguments.sizes)
    if min(arguments.lanes) < 1:
      raise ValueError('--lanes must be at least 1')
    devices = {
      name: find_device(name, arguments.spec) for name in arguments.target
    }
    if arguments.notebook:
      works = list_notebook(arguments)
    elif arguments.words:
      works = list_words(arguments)
    else:
      works = list_steps(arguments)
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print(f'jax {jax.__version__}; nothing runs: all times are estimated')
  for work in works:
    stopping.run_missing(
      arguments.json,
      [work.cell],
      lambda cell, work=work: run_work(work, devices[cell['target']]),
      print_row,
    )


class Work(NamedTuple):
  """A program to compile.

  Attributes:
    cell: what describes its row: target, size, lanes, precision and others.
    network: of a lane, for what is ideal; None where that is not known.
    inputs: channels of the code.
    trace: (device) -> the program, traced.
  """

  cell: dict[str, Any]
  network: nn.Module | None
  inputs: int
  trace: Callable[[Any], Any]


def list_steps(arguments: argparse.Namespace) -> list[Work]:
  """Returns requirement 2's step in every size that was asked for."""
  network = programs.make_network(remat=arguments.remat)
  return [
    Work(
      {
        'target': target,
        'size': size,
        'lanes': lanes,
        'precision': precision,
        'remat': arguments.remat,
      },
      network,
      programs.INPUTS,
      functools.partial(
        programs.trace_advance, network, precision, size, lanes
      ),
    )
    for target in arguments.target
    for precision in arguments.precision
    for lanes in arguments.lanes
    for size in arguments.sizes
  ]


def list_notebook(arguments: argparse.Namespace) -> list[Work]:
  """Returns the fits of a notebook, as it runs on each target.

  Raises:
    ValueError: a picture that is not square, for which no ideal is known.
  """
  given = notebook.read_parameters(arguments.given)
  cells = notebook.read_cells(arguments.notebook)
  works = {}
  for target in arguments.target:
    aimed = TARGETS[target].aimed
    parameters = {'device': aimed} | given
    for found in notebook.find_programs(cells, parameters, aimed):
      # Two cells with one program compile it once.
      leaves, structure = jax.tree.flatten(found.ready.shapes)
      shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
      one = fit.make_fit(found.ready.recipe)
      key = target, one, found.lanes, structure, shapes
      height, width, _ = found.ready.task.size
      if height != width:
        raise ValueError(f'{found.cell}: {height}x{width} is not square')
      named = {'target': target, 'notebook': found.cell}
      work = _make_work(named, found.ready, found.lanes)
      works.setdefault(key, work)
  return list(works.values())


def list_words(arguments: argparse.Namespace) -> list[Work]:
  """Returns the fits of configs/req2.py with each of the words.

  Raises:
    ValueError: unknown words, or a picture that they do not fit.
  """
  works = []
  for words, size, precision in itertools.product(
    arguments.words, arguments.sizes, arguments.precision
  ):
    made = build.make_recipe(req2.get_config(words), CHANNELS)
    ready = api.prepare(
      np.random.default_rng(0).random((size, size, CHANNELS), np.float32),
      None,
      made.replace(precision=precision),
      noise=noise.Model.make_white(SIGMA),
    )
    works += [
      _make_work({'target': target, 'words': words}, ready, lanes)
      for target in arguments.target
      for lanes in arguments.lanes
    ]
  return works


def _make_work(named, ready, lanes):
  """The fit of a square picture; the cell begins with what names it."""
  cell = {
    **named,
    'size': ready.task.size[0],
    'lanes': lanes,
    'precision': ready.recipe.precision,
    'remat': False,
  }
  network = ready.recipe.network
  one = fit.make_fit(ready.recipe)
  return Work(
    cell,
    network if isinstance(network, skip.Skip) else None,
    ready.shapes.code.shape[-1],
    functools.partial(programs.trace_fit, one, ready.shapes, lanes),
  )


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--target', nargs='+', choices=list(TARGETS), default=list(TARGETS))
  add('--sizes', type=int, nargs='+', default=[128])
  add('--lanes', type=int, nargs='+', default=[1])
  known = list(recipe.PRECISIONS)
  add('--precision', nargs='+', choices=known, default=['bfloat16'])
  add('--remat', action='store_true', help='recompute activations')
  either = parser.add_mutually_exclusive_group().add_argument
  either('--notebook', metavar='FILE', help='whose fits are compiled')
  either('--words', nargs='+', default=[], help='of configs/req2.py')
  add('--set', nargs='+', default=[], metavar='NAME=VALUE', dest='given')
  add('--spec', metavar='FILE', help='what the GPU is, see docs/devices.md')
  path = pathlib.Path('targets.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  return parser


def prepare_process() -> None:
  """Makes this process look for no device and keep no program."""
  os.environ.update(VARIABLES)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)


def find_device(name: str, spec: str | None) -> Any:
  """Returns a device of a target that this machine needs not have."""
  return find_devices(name, spec)[0]


def find_devices(name: str, spec: str | None) -> Sequence[Any]:
  """Returns all devices of a target that this machine needs not have.

  Args:
    name: of TARGETS.
    spec: the file that describes a GPU.

  Raises:
    ValueError: no plugin, no spec, or one that the plugin does not understand.
    OSError: a spec that cannot be read.
  """
  target = TARGETS[name]
  given = {}
  if target.platform == 'cuda':
    if not spec:
      raise ValueError(
        f'--target {name}: tell what the GPU is by --spec h100_sxm.txtpb, see '
        'docs/devices.md'
      )
    given['target_config'] = pathlib.Path(spec).read_text()
    given['topology'] = target.topology
  else:
    given['topology_name'] = target.topology
  try:
    found = topologies.get_topology_desc(platform=target.platform, **given)
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f'--target {name}: {error}') from error
  except (RuntimeError, NotImplementedError) as error:
    raise ValueError(
      f'--target {name}: no plugin of jax compiles for {target.platform}; try '
      "pip install -e '.[targets]' in an environment of its own"
    ) from error
  return found.devices


def run_work(work: Work, device: Any) -> dict[str, Any]:
  """Compiles one program and returns what it takes.

  Args:
    work: what to compile.
    device: of `find_device`.

  Returns:
    All numbers for one step of all lanes.
  """
  cell = work.cell
  target = TARGETS[cell['target']]
  size, lanes, precision = cell['size'], cell['lanes'], cell['precision']
  with choose.aim(choose.Target(target.aimed)):
    lowered = work.trace(device).lower()
  begin = time.perf_counter()
  compiled = lowered.compile(OPTIONS[target.platform])
  seconds = time.perf_counter() - begin
  planned = compiled.memory_analysis()
  kernels = hlo.find_kernels(compiled.as_text())
  megapixels = lanes * size**2 / 1e6
  return {
    'estimated': True,
    'jax': jax.__version__,
    'compile_seconds': seconds,
    'argument_bytes': planned.argument_size_in_bytes,
    'temporary_bytes': planned.temp_size_in_bytes,
    'gigabytes_a_megapixel': programs.count_bytes(compiled) / megapixels / 1e9,
    **estimate(kernels, target, precision),
    **_compare_ideal(kernels, work),
  }


def _compare_ideal(kernels, work):
  if work.network is None:
    return {}
  cell, inputs = work.cell, work.inputs
  size, precision = cell['size'], cell['precision']
  flops = limits.count_flops(work.network, size, inputs)
  least = limits.count_bytes(work.network, size, precision, inputs)
  total = lambda value: _sum(kernels, value) / cell['lanes']
  return {
    'flops_of_ideal': total(lambda kernel: kernel.flops) / flops,
    'bytes_of_ideal': total(lambda kernel: kernel.bytes) / least,
  }


def estimate(
  kernels: Sequence[hlo.Kernel], target: Target, precision: str
) -> dict[str, Any]:
  """Returns kernels, milliseconds and the costliest kernels of one step.

  Args:
    kernels: of a call of SCAN steps.
    target: whose rates count.
    precision: of the products.
  """
  roof = lambda kernel: max(
    kernel.bytes / target.bandwidth, kernel.flops / target.flops[precision]
  )

  def take(kernel):
    if target.clock:
      return kernel.cycles / target.clock
    return max(roof(kernel), target.launch)

  total = lambda kernel: kernel.count * take(kernel) / programs.SCAN
  return {
    'kernels': _sum(kernels, lambda kernel: 1),
    'roofline_ms': 1e3 * _sum(kernels, roof),
    'estimated_ms': 1e3 * _sum(kernels, take),
    'costliest': [
      {
        'kernel': kernel.name,
        'estimated_ms': 1e3 * total(kernel),
        'source': kernel.source,
      }
      for kernel in sorted(kernels, key=total)[: -MOST - 1 : -1]
    ],
  }


def _sum(kernels, value):
  """The sum over all kernels of one step."""
  return sum(k.count * value(k) for k in kernels) / programs.SCAN


def print_row(row: Mapping[str, Any]) -> None:
  """Prints one row, and a line for each of its costliest kernels."""
  remat = ' remat' if row['remat'] else ''
  if 'notebook' in row:
    print(f'the fit of the cell {row["notebook"]}')
  if 'words' in row:
    print(f'the fit of req2:{row["words"]}')
  ideal = ''
  if 'flops_of_ideal' in row:
    ideal = (
      f'{row["flops_of_ideal"]:.2f} of the ideal FLOPs, '
      f'{row["bytes_of_ideal"]:.2f} of the ideal bytes, '
    )
  print(
    f'{row["target"]}  {row["size"]}x{row["size"]}  {row["lanes"]} lanes  '
    f'{row["precision"]}{remat}  compiled in {row["compile_seconds"]:.0f} s, '
    f'{row["argument_bytes"] / 1e6:.0f} MB of arguments, '
    f'{row["temporary_bytes"] / 1e6:.0f} MB temporary, '
    f'{row["gigabytes_a_megapixel"]:.2f} GB a megapixel, '
    f'{row["kernels"]:.0f} kernels a step, {ideal}'
    f'roofline {row["roofline_ms"]:.2f} ms, '
    f'estimated {row["estimated_ms"]:.2f} ms a step of all lanes'
  )
  for one in row['costliest']:
    print(
      f'  {one["estimated_ms"]:8.3f} ms estimated  {one["kernel"]:40s} '
      f'{one["source"].split("/", 3)[-1]}',
      flush=True,
    )


if __name__ == '__main__':
  main()
