"""Runs experiments as `python -m` does, without importing JAX for each of them.

A command is the experiment and its arguments, its end [exit status, what was
said], see `forks`. Each runs in a process forked from this one, which has
imported all that is large and has not used JAX.
"""

import atexit
import importlib
import os
import sys

from benchmarks import fault_list
from experiments import denoise  # noqa: F401  Imported before the fork.
from experiments.lib import cli
from tests import forks


def _run(name: str, *arguments: str) -> None:
  """Never returns."""
  status = 1
  try:
    module = importlib.import_module(f'experiments.{name}')
    if hasattr(module, '__path__'):
      module = importlib.import_module(f'{module.__name__}.__main__')
    sys.argv = [str(module.__file__), *arguments]
    cli.launch(
      module.run,
      getattr(module, 'PICTURES', None),
      shared=getattr(module, 'SHARED', False),
    )
  except SystemExit as end:
    status = end.code or 0 if isinstance(end.code, int | None) else 1
  finally:
    atexit._run_exitfuncs()  # A process of a job takes leave of the others.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == '__main__':
  fault_list.get_ready()
  forks.serve(_run, lambda status, said: [status, said])
