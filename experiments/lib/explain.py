"""What is wrong with the fields of a command line, all of it at once."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments.lib import fields, schema

_OVERRIDE = re.compile(r'--?(no)?config\.')
_KINDS = ('network', 'method', 'stop')  # The choices that decide on fields.


def list_errors(argv: Sequence[str]) -> list[str]:
  """Returns a line for each wrong field, as typed, with its value and range.

  The list is empty where no field is wrong, and where the config itself cannot
  be read.
  """
  given = _gather(argv)
  bare = [argument for argument in given if not _OVERRIDE.match(argument)]
  # The code of the config file runs here and can raise anything.
  try:
    config, _ = _read(bare)
    ranges, names = schema.find_ranges(config), _list_fields(config)
  except Exception:
    return []
  # Each field is read alone, so that a wrong one hides no other.
  wrong, right = [], list(bare)
  for argument in filter(_OVERRIDE.match, given):
    field, _, value = _OVERRIDE.sub('', argument).partition('=')
    if field not in names:
      wrong.append(fields.describe_unknown(field, names, _list_chosen(config)))
    elif not _try_to_read([*bare, argument]):
      wrong.append(schema.describe(field, value, ranges.get(field)))
    else:
      right.append(argument)
  # What is left can be wrong only in the order of its fields.
  changed = _try_to_read(right)
  return wrong + schema.list_errors(*changed) if changed else wrong


def _gather(argv):
  """Returns the flags of the config, each with its value behind a `=`."""
  gathered, left = [], list(argv[1:])
  while left:
    argument = left.pop(0)
    if not re.match(r'--?(no)?config(\.|=|$)', argument):
      continue
    if '=' not in argument and left and not left[0].startswith('--'):
      argument = f'{argument}={left.pop(0)}'
    gathered.append(argument)
  return gathered


def _read(arguments):
  """Returns the config of some flags, and the fields that they set."""
  holder = flags.FlagValues()
  config = config_flags.DEFINE_config_file(
    'config', flag_values=holder, sys_argv=arguments
  )
  holder(['', *arguments])
  return config.value, config_flags.get_override_values(holder['config'])


def _try_to_read(arguments):
  """Returns what `_read` returns, None where it raises an error."""
  try:
    return _read(arguments)
  except (flags.Error, TypeError, ValueError):
    return None


def _list_chosen(config):
  chosen = {kind: config.get(kind, {}).get('name') for kind in _KINDS}
  return ', '.join(f'{kind}={name}' for kind, name in chosen.items() if name)


def _list_fields(config: Mapping[str, Any]) -> list[str]:
  """Returns the names of all sections and fields, written as `fit.steps`."""
  names = []
  for name, value in config.items():
    names.append(name)
    if isinstance(value, ml_collections.ConfigDict):
      names += [f'{name}.{below}' for below in _list_fields(value)]
  return names
