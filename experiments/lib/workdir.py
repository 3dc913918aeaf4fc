"""The folder of a run: its config and its JSON files."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from experiments.lib import folders


def open_workdir(workdir: str, config: ml_collections.ConfigDict) -> str:
  """Returns the folder of a run, which exists and holds config.json.

  In a folder of the same config the run starts again; a folder of another
  config stays as it is.

  Raises:
    ValueError: the folder cannot be written, or holds another config, with the
      differing field named.
  """
  path = os.path.join(workdir, 'config.json')
  given = json.loads(json.dumps(config.to_dict()))
  try:
    os.makedirs(workdir, exist_ok=True)
    if os.path.exists(path):
      with open(path) as file:
        _check_same(json.load(file), given, workdir)
    write_json(path, given)
    # result.json is written last: while a run goes on there is none.
    with contextlib.suppress(FileNotFoundError):
      os.remove(os.path.join(workdir, 'result.json'))
  except OSError as error:
    raise ValueError(f'workdir {workdir!r}: {error.strerror}') from error
  except json.JSONDecodeError:
    raise ValueError(f'{path!r} is not a config: use another workdir') from None
  return workdir


def _check_same(there: Any, given: Any, workdir: str, field: str = '') -> None:
  if isinstance(there, dict) and isinstance(given, dict):
    for key in sorted(there.keys() | given.keys()):
      name = f'{field}.{key}' if field else key
      _check_same(there.get(key), given.get(key), workdir, name)
  elif there != given:
    raise ValueError(
      f'workdir {workdir!r} holds a run with {field}={there!r}, this one has '
      f'{given!r}: use another workdir'
    )


def write_json(path: str, value: Any) -> None:
  """Writes a value as indented JSON, the whole file or nothing."""
  folders.write_atomic(path, (json.dumps(value, indent=2) + '\n').encode())


def append_lines(path: str, records: Sequence[Mapping[str, Any]]) -> None:
  """Appends records to a file, one line of JSON each."""
  lines = ''.join(json.dumps(record) + '\n' for record in records)
  # All lines are one write, so that a killed run leaves no half line.
  with open(path, 'ab', buffering=0) as file:
    file.write(lines.encode())


def read_lines(path: str) -> list[dict[str, Any]]:
  """Returns the records of a file, an empty list where there is no file.

  Raises:
    ValueError: a line that is no JSON; the message names the file.
  """
  if not os.path.exists(path):
    return []
  try:
    with open(path) as file:
      return [json.loads(line) for line in file]
  except ValueError:
    raise ValueError(f'{path!r} is no file of records: name another') from None


def keep_lines(
  path: str, keep: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
  """Returns the records to keep, and rewrites the file without the others."""
  records = [record for record in read_lines(path) if keep(record)]
  folders.write_atomic(path, b'')
  append_lines(path, records)
  return records
