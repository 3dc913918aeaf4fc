"""The fields of a config: each is known and read, or refused."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

# By a field's old name, its name today.
RENAMED = {
  'fit.error': 'method.name: write method=NAME behind the colon of the config',
  'stop.rule': 'stop.name: write stop=NAME behind the colon of the config',
  'data.width': 'data.kernel.width',
  'data.length': 'data.kernel.length, of the word motion',
  'data.angle': 'data.kernel.angle, of the word motion',
}


def choose(known: Mapping[str, Any], name: str, field: str) -> Any:
  """Returns the value of a known name; ValueError, with the known names."""
  if name not in known:
    raise ValueError(f'{field} {name!r} is not one of {", ".join(known)}')
  return known[name]


def describe_unknown(
  field: str, known: Collection[str], chosen: str = ''
) -> str:
  """Returns the error, in one line, for a field that a config does not have.

  Args:
    field: the field as typed, such as 'fit.steps'.
    known: all fields of the config.
    chosen: the choices that decide which fields there are, such as
      'method=stein'.
  """
  if field in RENAMED:
    return f'{field} is now {RENAMED[field]}'
  name = field.rpartition('.')[2]
  ends = {other.rpartition('.')[2]: other for other in known}
  near = difflib.get_close_matches(field, known, 1, 0.8)
  near = near or [
    ends[end] for end in difflib.get_close_matches(name, ends, 1, 0.75)
  ]
  hint = f' (the nearest is {near[0]})' if near else ''
  section = field.rpartition('.')[0]
  beside = [f for f in known if f.rpartition('.')[0] == section]
  if section and beside and not near:
    hint = f' (there are {", ".join(beside)})'
  under = f' with {chosen}' if chosen else ''
  return f'no config field {field!r}: nothing reads it{under}{hint}'


def refuse_unread(
  fields: Collection[str], known: Collection[str], section: str = ''
) -> None:
  """Raises a ValueError for the first field that nothing reads.

  Args:
    fields: a section of a config, or the config.
    known: the names of the fields that are read.
    section: the section's name; '' is the config itself.
  """
  for name in fields:
    field = f'{section}.{name}' if section else name
    if field in RENAMED:
      raise ValueError(f'{field} is now {RENAMED[field]}')
    if name not in known:
      read = ', '.join(sorted(known))
      raise ValueError(
        f'{field} is set and nothing here reads it: remove it; what is read of '
        f'{section or "the config"} is {read}'
      )


def set_field(config: Any, field: str, value: Any) -> None:
  """Sets a field, named as 'fit.steps'; ValueError where there is none."""
  *sections, name = field.split('.')
  section = config
  for part in sections:
    section = section.get(part, {})
  if name not in section:
    raise ValueError(f'this config has no field {field}')
  section[name] = value
