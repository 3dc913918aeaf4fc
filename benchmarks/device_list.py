"""The parts of a device day: what each process runs, and in which order."""

from collections.abc import Mapping
from typing import NamedTuple

# What tests/ compares with numbers of others, with the CPU or with itself. The
# first of them say whether a fit can be trusted.
TESTS = [
  'golden',
  'conv',
  'conv_doubled',
  'layers',
  'skip',
  'fit',
  'guard',
  'device_in_place',
]
LATER_TESTS = [
  'operators',
  'conv_winograd',
  'device_packing',
  'metrics',
  'resampling',
  'blurring',
  'noise',
  'pixels',
]
# Every digit of float32, where a device would use fewer. The choice of the
# fastest kernels takes seconds a test, and without the choice XLA has no kernel
# for some products unless a library computes all of them.
EXACT = {
  'JAX_DEFAULT_MATMUL_PRECISION': 'float32',
  'XLA_FLAGS': '--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false',
  'COLUMNS': '200',  # Of the line that says why a test failed.
}
# Processes side by side disturb the choice of the fastest kernels: what they
# compiled is not kept for those that are timed.
FRESH = {'JAX_ENABLE_COMPILATION_CACHE': 'false'}


class Part(NamedTuple):
  """What one process runs; `--json FILE` is added for its rows."""

  name: str
  module: str  # Of `python -m`.
  arguments: tuple[str, ...] = ()
  limit: float = 240  # Seconds.
  timed: bool = True  # Runs alone; the others run side by side.
  variables: Mapping[str, str] = {}


def list_parts(image: str, peer: tuple[str, ...] = ()) -> list[Part]:
  """Returns the parts, the most valuable first."""
  ours = 'benchmarks.device_parts'
  many = ('--precision', 'float32', 'bfloat16')

  # To compile the peer takes longer than all of ours: it comes in later parts.
  def step(size, precision, *counts, rival=()):
    rest = ('--precision', precision, '--scans-only', '--cached', *rival)
    sizes = ('--sizes', str(size), '--lanes', *map(str, counts))
    words = 'step', size, precision, *counts, *rival[1:]
    name = ' '.join(map(str, words))
    return Part(name, 'benchmarks.step', (*sizes, *rest))

  def memory(size, precision, *remat):
    name = ' '.join(['memory', str(size), precision, *remat]).replace('--', '')
    case = ('memory', '--size', str(size), '--precision', precision, *remat)
    return Part(name, ours, case, timed=False, variables=FRESH)

  def result(precision, *more):
    name = ' '.join(['result', precision, *more]).replace('--', '')
    case = ('--image', image, '--precision', precision, *more)
    return Part(name, 'benchmarks.result', case)

  def rules(size, lanes, precision):
    case = (f'--size={size}', f'--lanes={lanes}', f'--precision={precision}')
    name = f'rules {size} {precision} {lanes}'
    return Part(name, 'benchmarks.lane_rules', case)

  return [
    Part('facts', ours, ('facts',), limit=90),
    step(512, 'bfloat16', 1),
    step(128, 'bfloat16', 1, 8),
    Part('same', ours, ('same', *many), timed=False, variables=FRESH),
    *map(_test, TESTS),
    *[memory(512, name) for name in ('float32', 'bfloat16')],
    result('bfloat16'),
    *[step(512, 'bfloat16', 1, rival=peer)] * bool(peer),
    step(512, 'float32', 1),
    step(128, 'float32', 1, 8),
    *[step(128, 'bfloat16', 1, rival=peer)] * bool(peer),
    *[memory(1024, 'bfloat16', *r) for r in ((), ('--remat',))],
    *map(_test, LATER_TESTS),
    step(512, 'tensorfloat32', 1),
    step(128, 'tensorfloat32', 1, 8),
    rules(128, 8, 'bfloat16'),
    *[step(512, 'float32', 1, rival=peer)] * bool(peer),
    step(256, 'bfloat16', 1, 4, 8),
    result('bfloat16', '--seeds', '8'),
    rules(512, 1, 'bfloat16'),
    result('float32'),
    rules(128, 8, 'tensorfloat32'),
    step(256, 'float32', 1, 4, 8),
    *[step(128, 'float32', 1, rival=peer)] * bool(peer),
    step(512, 'bfloat16', 4, 8),
    step(128, 'bfloat16', 4),
    step(512, 'float32', 4, 8),
    *[
      memory(size, name, *remat)
      for size in (256, 512, 1024)
      for name in ('float32', 'bfloat16')
      for remat in ((), ('--remat',))
      if (size, name, remat) not in _FIRST_MEMORY
    ],
  ]


_FIRST_MEMORY = [
  (512, 'float32', ()),
  (512, 'bfloat16', ()),
  (1024, 'bfloat16', ()),
  (1024, 'bfloat16', ('--remat',)),
]


def list_small_parts(image: str, peer: tuple[str, ...] = ()) -> list[Part]:
  """Returns one part of each kind, small enough for a CPU."""
  ours, few = 'benchmarks.device_parts', ('--channels', '8')
  step = ('--sizes', '64', '--lanes', '1', '2', '--rounds', '2', *peer)
  # The smallest picture that the peer's network can be reflected in.
  crop = ('--image', image, '--crop', '0', '0', '64', '64')
  return [
    Part('facts', ours, ('facts',)),
    _test('golden', '-k', 'parameter_counts or zero and output'),
    Part('same', ours, ('same', *few), timed=False, variables=FRESH),
    Part('memory', ours, ('memory', *few), timed=False, variables=FRESH),
    Part('step', 'benchmarks.step', (*step, *few)),
    Part('rules', 'benchmarks.lane_rules', ('--size', '16', '--rounds', '2')),
    Part('result', 'benchmarks.result', (*crop, '--steps', '20', *few)),
  ]


def _test(name: str, *arguments: str) -> Part:
  flags = ('-v', '-rfE', '--tb=short', '-p', 'no:cacheprovider')
  arguments = (f'tests/{name}_test.py', *flags, *arguments)
  return Part(f'tests {name}', 'pytest', arguments, 120, False, EXACT)
