"""Runs experiments as `python -m` does, without importing JAX for each of them.

A line of standard input is a JSON list, the experiment and its arguments; a
line of standard output is [exit status, standard error]. Each runs in a process
forked from this one, which has imported all that is large and has used none.
"""

import importlib
import json
import os
import sys
import tempfile

from experiments import denoise  # noqa: F401  Imported before the fork.
from experiments.lib import cli


def main() -> None:
  for line in sys.stdin:
    name, *arguments = json.loads(line)
    with tempfile.TemporaryFile('w+') as errors:
      child = os.fork()
      if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(errors.fileno(), sys.stderr.fileno())
        _run(f'experiments.{name}', arguments)
      status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
      errors.seek(0)
      print(json.dumps([status, errors.read()]), flush=True)


def _run(name: str, arguments: list[str]) -> None:
  """Never returns."""
  status = 1
  try:
    module = importlib.import_module(name)
    if hasattr(module, '__path__'):
      module = importlib.import_module(f'{name}.__main__')
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
  main()
