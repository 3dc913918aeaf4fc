"""Times the start of a fit: the first time, and from the cache.

    python -m benchmarks.start --sizes 64 128

The fit is requirement 2's network in one lane. For each size two processes run
one after the other and share a folder for compiled programs that is empty at
first: the first process compiles, the second process loads. The benchmark
prints the seconds to import the packages, to trace and compile or load the
programs, and to take the first steps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

_BEGIN = time.perf_counter()

# What is imported is a part of a start.
from benchmarks import programs  # noqa: E402
from dipjax.networks import skip  # noqa: E402

_IMPORTED = time.perf_counter() - _BEGIN


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each start."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', type=int, nargs='+', default=[64, 128])
  arguments = parser.parse_args(argv)
  try:
    programs.check_sizes(skip.Skip(), arguments.sizes)
  except ValueError as error:
    parser.error(str(error))
  for size in arguments.sizes:
    with tempfile.TemporaryDirectory() as folder:
      for name in ('first', 'second'):
        _start(f'{size}x{size}  {name} start', size, folder)


def _start(name: str, size: int, folder: str):
  command = f'from benchmarks import start; start.time_start({name!r}, {size})'
  cache = {
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_COMPILATION_CACHE_DIR': folder,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  subprocess.run(
    [sys.executable, '-c', command], check=True, env={**os.environ, **cache}
  )


def time_start(name: str, size: int) -> None:
  """Prints how long this process takes to begin a fit of size x size."""
  one = programs.make_fit(skip.Skip(), 'float32')
  scan = programs.make_scan(one, size, 1)
  begin = time.perf_counter()
  scan.call()
  taken = time.perf_counter() - begin
  print(
    f'{name}: imports {_IMPORTED:.1f} s, '
    f'programs {scan.compile_seconds:.1f} s, '
    f'{programs.SCAN} steps {taken:.1f} s',
    flush=True,
  )


if __name__ == '__main__':
  main()
