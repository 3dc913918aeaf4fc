"""The command line of every experiment: flags, one call, one line on errors.

if __name__ == '__main__':
  cli.launch(run)
"""

import itertools
import os
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.lib import (
  compiled,
  explain,
  folders,
  machine,
  schema,
  stopping,
)
from experiments.lib import workdir as workdirs

Run = Callable[[ml_collections.ConfigDict, str], object]

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  help_string='FILE or FILE:VARIANT, as configs/req2.py:quick',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for what the run leaves; new by default, in runs/.'
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the run in the workdir, once this one succeeds.'
)


def launch(run: Run) -> None:
  """Runs run(config, workdir) with the flags of the command line, and exits.

  Bad input, that is a ValueError or an OSError, gives one line on standard
  error and exit code 2; with DIPJAX_DEBUG=1 in the environment it gives a
  traceback.
  """
  app.run(lambda argv: _main(run), flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise ValueError(f'unknown argument {rest[1]!r}: flags begin with --')
    if _CONFIG.value is None:
      raise ValueError('name a config, as --config=configs/req2.py')
    typed = config_flags.get_override_values(flags.FLAGS['config'])
    schema.check_config(_CONFIG.value, typed)
    return rest
  # The code of the config file runs here and can raise anything.
  except Exception as error:
    errors = explain.list_errors(argv)
    _fail(ValueError('; '.join(errors)) if errors else error)


def _main(run: Run) -> None:
  # Libraries log what they raise as well.
  logging.set_verbosity(logging.FATAL)
  # A terminated run cleans up as an interrupted one does.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  sys.unraisablehook = stopping.repeat_swallowed
  compiled.enable_cache()
  perform(run, _CONFIG.value, _WORKDIR.value, overwrite=_OVERWRITE.value)


def perform(
  run: Run, config: Any, workdir: str | None, *, overwrite: bool
) -> None:
  """Runs run(config, workdir); exits where there is something to report.

  The exit code is 2 for bad input, and 128 + signal for a run that was stopped.

  Args:
    run: an experiment.
    config: its config.
    workdir: its folder; None makes a new one.
    overwrite: whether to replace the run in the folder.
  """
  made = workdir is None
  try:
    workdir = make_workdir() if workdir is None else workdir
    try:
      with workdirs.overwrite(workdir) if overwrite else nullcontext():
        result = run(config, workdir)
    finally:
      if made:
        with suppress(OSError):  # A run has left its files in the folder.
          os.rmdir(workdir)
  except (ValueError, OSError) as error:
    _fail(error)
  except (MemoryError, RuntimeError) as error:
    reason = machine.explain_allocation(error)
    if reason is None:
      raise
    _fail(MemoryError(reason))
  except KeyboardInterrupt:
    print('\nstopped at once', file=sys.stderr)
    sys.exit(128 + signal.SIGINT)
  number = getattr(result, 'signal', 0)
  if number:
    command = _repeat(workdir if made else '')
    print(f'to go on: {folders.show(command)}', file=sys.stderr)
    sys.exit(128 + number)


def make_workdir() -> str:
  """Makes a new folder runs/EXPERIMENT-TIME; EXPERIMENT is what was run."""
  name = f'{_find_name()}-{time.strftime("%Y%m%d-%H%M%S")}'
  os.makedirs('runs', exist_ok=True)
  # Two runs that start in the same second have two folders.
  for number in itertools.count(1):
    workdir = os.path.join('runs', f'{name}-{number}' if number > 1 else name)
    try:
      os.mkdir(workdir)
      return workdir
    except FileExistsError:
      continue
  raise AssertionError


def _find_name() -> str:
  """Returns the name of the module that was run."""
  path = pathlib.Path(sys.argv[0])
  return path.parent.name if path.stem == '__main__' else path.stem


def _repeat(workdir: str) -> str:
  """Returns the command that goes on with this run.

  Args:
    workdir: the folder of the run where the command does not name it, or ''.
  """
  given = [a for a in sys.argv[1:] if a.lstrip('-') != 'overwrite']
  given += [f'--workdir={workdir}'] if workdir else []
  return shlex.join(['python', '-m', f'experiments.{_find_name()}', *given])


def _fail(error: Exception) -> NoReturn:
  if os.environ.get('DIPJAX_DEBUG'):
    raise error
  print(f'error: {folders.show(_explain(error))}', file=sys.stderr)
  sys.exit(2)


def _explain(error: Exception) -> str:
  """Returns an error in one line, with only the end of a config's traceback."""
  if isinstance(error, OSError) and error.filename:
    return f'{error.filename!r}: {error.strerror}'
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[-1].strip().removeprefix('ValueError: ')
