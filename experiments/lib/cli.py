"""The command line of every experiment: flags, one call, one line on errors.

if __name__ == '__main__':
  cli.launch(run)

An experiment that restores pictures also takes them without a flag, see
`Pictures`.
"""

import copy
import itertools
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from dipjax import settings
from experiments.lib import (
  command,
  compiled,
  explain,
  fields,
  folders,
  hosts,
  machine,
  schema,
  stopping,
)
from experiments.lib import workdir as workdirs

Run = Callable[[ml_collections.ConfigDict, str], object]

_HELP = {'--help', '-help', '-h'}
# The fields that --help lists, and the sections of which it lists all.
_SHOWN = (
  'lanes',
  'data',
  'fit.steps',
  'fit.sigma',
  'fit.strength',
  'fit.precision',
  'record.preview',
)
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class Pictures(NamedTuple):
  """What an experiment does with pictures that the command line names."""

  config: str  # The config where none is named, as 'req2:auto'.
  # What tells the experiment that the picture is what it restores.
  fields: Mapping[str, Any] = {}
  # By the name of a flag of its own for another file, the field that it sets.
  files: Mapping[str, str] = {}
  examples: Sequence[str] = ()  # For --help.


def launch(
  run: Run, pictures: Pictures | None = None, *, shared: bool = False
) -> None:
  """Runs run(config, workdir) with the flags of the command line, and exits.

  Bad input, that is a ValueError or an OSError, gives one line on standard
  error and exit code 2; with DIPJAX_DEBUG=1 in the environment it gives a
  traceback.

  Args:
    run: an experiment.
    pictures: how the experiment takes pictures of the command line; None: it
      takes none.
    shared: whether several processes may share the work, see `hosts`.
  """
  argv = _name_config(sys.argv, pictures)
  _define_flags(argv, pictures)
  if shared:
    _define_hosts()
  app.run(
    lambda argv: _main(run, pictures, argv[1:], shared),
    argv=argv,
    flags_parser=lambda argv: _parse_flags(argv, pictures, shared),
  )


def _define_flags(argv, pictures):
  # Pictures and flags may be mixed.
  flags.FLAGS.set_gnu_getopt(True)
  config_flags.DEFINE_config_file(
    'config',
    help_string='FILE or FILE:VARIANT, as configs/req2.py:quick',
    sys_argv=argv,
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder for what the run leaves; new by default, in runs/.'
  )
  flags.DEFINE_bool(
    'overwrite',
    False,
    'Replace the run in the workdir, once this one succeeds.',
  )
  if pictures:
    flags.DEFINE_string(
      'output', None, 'Restored file; by default NAME_restored.EXT beside it.'
    )
    for name, field in pictures.files.items():
      flags.DEFINE_string(name, None, f'FILE: the field {field} of the config.')


def _define_hosts():
  flags.DEFINE_bool(
    'distributed',
    False,
    'Share the work with the other processes of a TPU pod, Slurm or GKE.',
  )
  flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of the first process, where none is found.'
  )
  flags.DEFINE_integer('processes', None, 'How many processes there are.')
  flags.DEFINE_integer('process', None, 'Which one this is, from 0.')


def _check_hosts(values: Mapping[str, Any]) -> None:
  """Raises a ValueError for flags of `_define_hosts` that do not fit."""
  names = ('coordinator', 'processes', 'process')
  given = [name for name in names if values[name] is not None]
  if given and not values['distributed']:
    raise ValueError(f'--{given[0]} needs --distributed')
  if not values['distributed']:
    return
  if given and len(given) < len(names):
    missing = [f'--{name}' for name in names if name not in given]
    raise ValueError(f'--{given[0]} needs {" and ".join(missing)} too')
  if values['workdir'] is None:
    raise ValueError(
      '--distributed needs --workdir, a folder that all processes see'
    )
  if values['overwrite']:
    raise ValueError('--overwrite is for one process: use another --workdir')
  if not given:
    return
  host, _, port = values['coordinator'].rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    raise ValueError(
      f'--coordinator must be HOST:PORT, got {values["coordinator"]!r}'
    )
  count, index = values['processes'], values['process']
  if not 0 <= index < count:
    raise ValueError(
      f'--process must be from 0 to {count - 1} of {count} processes, got '
      f'{index}'
      if count > 0
      else f'--processes must be at least 1, got {count}'
    )


def _name_config(argv: Sequence[str], pictures: Pictures | None) -> list[str]:
  """Returns the arguments with the path of their config.

  A config is a file, or the name of one in the checkout. Where pictures are
  named and no config is, their own config is put in.
  """
  named, found = [], False
  for argument, before in zip(argv, ['', *argv], strict=False):
    flag, equals, value = argument.partition('=')
    if before.lstrip('-') == 'config' and before.startswith('-'):
      argument, found = _find_config(argument), True
    elif flag in ('--config', '-config'):
      found = True
      argument = f'{flag}={_find_config(value)}' if equals else argument
    named.append(argument)
  if pictures and not found and len(argv) > 1:
    named.insert(1, f'--config={_find_config(pictures.config)}')
  return named


def _find_config(name: str) -> str:
  """Returns the path of a config that is named with or without its folder."""
  path, colon, words = name.partition(':')
  if not os.path.exists(path):
    for folder in (_ROOT, _ROOT / 'configs'):
      for file in (folder / path, folder / f'{path}.py'):
        if path and file.is_file():
          return f'{file}{colon}{words}'
  return name


def _parse_flags(
  argv: Sequence[str], pictures: Pictures | None, shared: bool
) -> list[str]:
  try:
    if pictures and _HELP & {*argv}:
      flags.FLAGS([a for a in argv if a not in _HELP])
      print(_describe_usage(pictures))
      sys.exit(0)
    rest = flags.FLAGS(argv)
    if len(rest) > 1 and pictures is None:
      advice = 'flags begin with --'
      if os.path.exists(rest[1]):
        advice = f'a picture is named as --config.data.image={rest[1]}'
      raise ValueError(f'unknown argument {rest[1]!r}: {advice}')
    if flags.FLAGS.config is None:
      raise ValueError(
        'name a picture, or a config as --config=configs/req2.py'
        if pictures
        else 'name a config, as --config=configs/req2.py'
      )
    for config, typed in _list_configs(pictures, rest[1:]):
      schema.check_config(config, typed)
    if shared:
      _check_hosts(flags.FLAGS.flag_values_dict())
    return rest
  # The code of the config file runs here and can raise anything.
  except Exception as error:
    errors = explain.list_errors(argv)
    _fail(ValueError('; '.join(errors)) if errors else error)


def _describe_usage(pictures: Pictures) -> str:
  typed = f'python -m experiments.{command.find_name()}'
  lines = [f'{typed} {example}' for example in pictures.examples]
  lines += [f'{typed} --config=NAME --workdir=DIR', '', 'Flags:']
  lines += [
    f'  --{flag.name:<10} {flag.help}'
    for flag in flags.FLAGS.flags_by_module_dict().get(__name__, [])
  ]
  lines += ['', 'Fields of the config, as --config.fit.steps=1000:']
  for field, value, allowed in schema.list_fields(flags.FLAGS.config):
    if field in _SHOWN or field.partition('.')[0] in _SHOWN:
      lines.append(f'  {field:<18} {value!r:<12} {allowed}')
  lines += ['', 'docs/options.md in the checkout has all of them.']
  return '\n'.join(lines)


def _list_configs(
  pictures: Pictures | None, files: Sequence[str]
) -> Iterator[tuple[ml_collections.ConfigDict, set[str]]]:
  """Yields the config of each picture and what the user set of it."""
  values = flags.FLAGS.flag_values_dict()
  typed = set(config_flags.get_override_values(flags.FLAGS['config']))
  given = {}
  if pictures:
    beside = {'output': 'output', **pictures.files}
    given = {
      field: values[name]
      for name, field in beside.items()
      if values[name] is not None
    }
  if 'output' in given and len(files) > 1:
    raise ValueError(
      f'--output names one file, there are {len(files)} pictures'
    )
  for file in files or ['']:
    config = copy.deepcopy(flags.FLAGS.config)
    own = {**given, 'data.image': file} if file else given
    preset = pictures.fields if pictures and file else {}
    for field, value in {**preset, **own}.items():
      if field in own or field not in typed:
        fields.set_field(config, field, value)
    whole = typed | own.keys()
    # The part of a preset is that of its own picture.
    if 'data.image' in whole and 'data.crop' not in whole:
      config.data.crop = config.data.crop[-2:]
    yield config, whole


def _main(
  run: Run, pictures: Pictures | None, files: Sequence[str], shared: bool
) -> None:
  # Libraries log what they raise as well.
  logging.set_verbosity(logging.FATAL)
  # A terminated run cleans up as an interrupted one does.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  sys.unraisablehook = stopping.repeat_swallowed
  compiled.enable_cache()
  if shared and flags.FLAGS.distributed:
    _join_hosts()
  workdir, overwrite = flags.FLAGS.workdir, flags.FLAGS.overwrite
  configs = [config for config, _ in _list_configs(pictures, files)]
  if len(configs) == 1:
    perform(run, configs[0], workdir, overwrite=overwrite)
  else:
    _perform_each(run, configs, workdir, overwrite=overwrite)


def _join_hosts():
  values = flags.FLAGS
  try:
    hosts.join(values.coordinator, values.processes, values.process)
  except ValueError as error:
    _fail(error)


def _perform_each(run, configs, workdir, *, overwrite):
  """Runs each picture in a folder of its own; a refused one stops no other."""
  folder = workdir or _try(make_workdir)
  refused, taken = 0, set()
  for number, config in enumerate(configs, start=1):
    stem = pathlib.Path(config.data.image).stem
    names = itertools.chain([stem], (f'{stem}_{n}' for n in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    print(f'{number} of {len(configs)}: {folders.show(config.data.image)}')
    try:
      perform(
        run,
        config,
        os.path.join(folder, name),
        overwrite=overwrite,
        folder='' if workdir else folder,
      )
    except SystemExit as end:
      if end.code != 2:
        raise
      refused += 1
  if refused:
    with suppress(OSError):
      os.rmdir(folder)
    print(f'{refused} of {len(configs)} pictures refused', file=sys.stderr)
    sys.exit(2)


def _try(make: Callable[[], str]) -> str:
  try:
    return make()
  except OSError as error:
    _fail(error)


def perform(
  run: Run,
  config: Any,
  workdir: str | None,
  *,
  overwrite: bool,
  folder: str = '',
) -> None:
  """Runs run(config, workdir); exits where there is something to report.

  The exit code is 2 for bad input, and 128 + signal for a run that was stopped.

  Args:
    run: an experiment.
    config: its config.
    workdir: its folder; None makes a new one.
    overwrite: whether to replace the run in the folder.
    folder: the --workdir that the command to go on must name, where it was not
      given.
  """
  made = workdir is None
  try:
    workdir = make_workdir() if workdir is None else workdir
    try:
      replaced = workdirs.overwrite(workdir) if overwrite else nullcontext()
      with replaced, settings.pin():
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
    again = command.repeat(folder or (workdir if made else ''))
    print(f'to go on: {folders.show(again)}', file=sys.stderr)
    sys.exit(128 + number)


def make_workdir() -> str:
  """Makes a new folder runs/EXPERIMENT-TIME; EXPERIMENT is what was run."""
  name = f'{command.find_name()}-{time.strftime("%Y%m%d-%H%M%S")}'
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
