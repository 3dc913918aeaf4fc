"""Runs experiments as `python -m` does, without importing JAX for each of them.

A line of standard input is a JSON list, the experiment and its arguments; a
line of standard output is [exit status, standard error]. Each runs in a process
forked from this one, which has imported all that is large and has used none.
"""

import importlib
import os
import sys

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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == '__main__':
  forks.serve(_run, lambda status, errors: [status, errors])
