"""The command line of every experiment: flags, one call, one line on errors.

if __name__ == '__main__':
  cli.launch(run)
"""

import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from experiments.lib import explain, folders, schema

Run = Callable[[ml_collections.ConfigDict, str], object]

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  help_string='FILE or FILE:VARIANT, as configs/req2.py:quick',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder for what the run leaves; new by default, in runs/.'
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
  logging.set_verbosity(logging.WARNING)
  _enable_compilation_cache()
  try:
    run(_CONFIG.value, _WORKDIR.value or _make_workdir())
  except (ValueError, OSError) as error:
    _fail(error)
  except KeyboardInterrupt:
    print('\nstopped before the end: no pictures were written', file=sys.stderr)
    sys.exit(130)


def _make_workdir() -> str:
  """Returns runs/EXPERIMENT-TIME; EXPERIMENT is the module that was run."""
  path = pathlib.Path(sys.argv[0])
  name = path.parent.name if path.stem == '__main__' else path.stem
  return os.path.join('runs', f'{name}-{time.strftime("%Y%m%d-%H%M%S")}')


def _enable_compilation_cache() -> None:
  """Keeps compiled programs between runs, unless JAX has a folder for them."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    folder = os.path.join(folders.find_cache(), 'compiled')
    jax.config.update('jax_compilation_cache_dir', folder)
    # A start compiles many small programs, which the cache keeps too.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _fail(error: Exception) -> NoReturn:
  if os.environ.get('DIPJAX_DEBUG'):
    raise error
  print(f'error: {_explain(error)}', file=sys.stderr)
  sys.exit(2)


def _explain(error: Exception) -> str:
  """Returns an error in one line, with only the end of a config's traceback."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[-1].strip().removeprefix('ValueError: ')
