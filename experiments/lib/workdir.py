"""The folder of a run: who writes in it, its config, what is finished."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections

from experiments.lib import folders, locks

# Files that every run has while it goes on.
_CONFIG, RESULT, METRICS = 'config.json', 'result.json', 'metrics.jsonl'
PREVIEW, CHECKPOINTS = 'preview.png', 'checkpoints'
PAGE, EVENTS = 'report.html', 'tensorboard'
ARMS = 'arms.jsonl'  # Of an ablation: one line for each row of a finished arm.
ROWS = 'sweep.jsonl'  # Of a sweep: one line for each point.
# Of a folder: one line for each picture, and the restored pictures.
INDEX, RESTORED = 'index.jsonl', 'restored'
PROCESSES = 'processes'  # What each of several processes has for itself.

# Where a run is until the run that replaces it has succeeded.
_ASIDE = '.replaced'


class Workdir(NamedTuple):
  """A folder that belongs to this run alone.

  Attributes:
    path: the folder.
    config: the content of config.json.
    data: a digest of the data of the run.
    finished: what result.json says of a finished run of the same config and
      data; None where there is something left to do.
  """

  path: str
  config: dict[str, Any]
  data: str
  finished: dict[str, Any] | None

  def find(self, name: str) -> str:
    """Returns the path of a file of the run."""
    return os.path.join(self.path, name)

  def write(
    self, summary: dict[str, Any], write: Callable[[str], Sequence[str]]
  ) -> dict[str, Any]:
    """Writes the result of the run, here or where there is room.

    result.json comes last: a folder with this file holds a whole run, unless
    the summary has `stopped`.

    Args:
      summary: the content of result.json; `data` and `files` are added.
      write: writes files in a folder, and returns their names.

    Returns:
      The content of result.json.

    Raises:
      OSError: the folder cannot be written; the message says where the files
        are.
    """

    result = summary | {'data': self.data}

    def write_all(folder):
      # Somebody may have removed the folder under the run.
      if not os.path.exists(os.path.join(folder, _CONFIG)):
        write_json(os.path.join(folder, _CONFIG), self.config)
      result['files'] = sorted(write(folder))
      write_json(os.path.join(folder, RESULT), result)

    folders.write_or_rescue(self.path, write_all)
    if not summary.get('stopped'):
      with contextlib.suppress(OSError):
        os.remove(self.find(PREVIEW))
      shutil.rmtree(self.find(_ASIDE), ignore_errors=True)
    return result


@contextlib.contextmanager
def open_workdir(
  workdir: str, config: ml_collections.ConfigDict, *, data: str = ''
) -> Iterator[Workdir]:
  """Gives the folder of a run, which exists and holds config.json.

  Nobody else can open the folder meanwhile. A folder of the same config goes
  on; a folder of another config stays as it is. Nothing that was there is
  deleted, but for files that a killed process had begun to write. Where the
  run ends in an exception before it has computed anything, what it made goes.

  Args:
    workdir: the folder.
    config: the config of the run.
    data: a digest of the data that the run reads.

  Raises:
    ValueError: the folder cannot be written, is in use, has links to other
      places, or holds another config, with the differing field named, or a
      finished run of other data.
  """
  missing = _list_missing(workdir)
  try:
    with contextlib.ExitStack() as stack:
      try:
        os.makedirs(workdir, exist_ok=True)
        stack.enter_context(locks.hold(workdir))
        given = json.loads(json.dumps(config.to_dict()))
        made = _begin(workdir, given)
        finished = _read_finished(workdir, data)
      except OSError as error:
        raise ValueError(
          f'workdir {workdir!r}: {error.strerror or error}'
        ) from error
      try:
        yield Workdir(workdir, given, data, finished)
      except BaseException:
        if made and not _has_work(workdir):
          _remove(workdir)
        raise
  except BaseException:
    # A folder that holds anything stays.
    for folder in missing:
      with contextlib.suppress(OSError):
        os.rmdir(folder)
    raise


def _list_missing(workdir: str) -> list[str]:
  """Returns the folders that do not exist yet, the innermost one first."""
  missing, folder = [], os.path.abspath(workdir)
  while not os.path.lexists(folder):
    missing.append(folder)
    folder = os.path.dirname(folder)
  return missing


def _begin(workdir: str, given: dict[str, Any]) -> bool:
  """Returns whether this start wrote config.json."""
  path = os.path.join(workdir, _CONFIG)
  link = folders.find_link(workdir)
  if link:
    raise ValueError(f'{link!r} is a link to another place: use a new workdir')
  folders.remove_partial(workdir)
  try:
    if not os.path.exists(path):
      write_json(path, given)
      return True
    with open(path) as file:
      _check_same(json.load(file), given, workdir)
    return False
  except ValueError as error:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
      raise ValueError(
        f'{path!r} is not a config: use another workdir'
      ) from None
    raise


def _check_same(there: Any, given: Any, workdir: str, field: str = '') -> None:
  if isinstance(there, dict) and isinstance(given, dict):
    for key in sorted(there.keys() | given.keys()):
      name = f'{field}.{key}' if field else key
      _check_same(there.get(key), given.get(key), workdir, name)
  elif there != given:
    raise ValueError(
      f'workdir {workdir!r} holds a run with {field}={there!r}, this one has '
      f'{given!r}: use another workdir, or --overwrite'
    )


def _read_finished(workdir: str, data: str) -> dict[str, Any] | None:
  result = read_json(os.path.join(workdir, RESULT))
  if result is None or result.get('stopped'):
    return None
  if result.get('data', data) != data:
    raise ValueError(
      f'workdir {workdir!r} holds a finished run of other data under the same '
      'name: use another workdir, or --overwrite'
    )
  return result


def read_json(path: str) -> dict[str, Any] | None:
  """Returns the dict in a file of JSON, None where there is none."""
  try:
    with open(path) as file:
      value = json.load(file)
  except (OSError, ValueError):
    return None
  return value if isinstance(value, dict) else None


def write_json(path: str, value: Any) -> None:
  """Writes a value as indented JSON, the whole file or nothing."""
  folders.write_atomic(path, (json.dumps(value, indent=2) + '\n').encode())


@contextlib.contextmanager
def overwrite(workdir: str) -> Iterator[None]:
  """Sets a run's files aside, and deletes them once another run has succeeded.

  The function prints what will be deleted. Where the run in the context fails
  before it has computed anything, the files come back. A run that is stopped or
  killed leaves them in a folder `.replaced` of the workdir, until one succeeds:
  `Workdir.write` then deletes them.

  Raises:
    ValueError: the folder is in use.
  """
  names = list_files(workdir)
  if not names:
    yield
    return
  aside = os.path.join(workdir, _ASIDE)
  with locks.hold(workdir):
    print(f'replacing in {folders.show(workdir)}: {", ".join(names)}')
    _set_aside(workdir, names, aside)
  try:
    yield
  except BaseException:
    if not os.path.exists(os.path.join(workdir, _CONFIG)):
      for name in os.listdir(aside):
        os.rename(os.path.join(aside, name), os.path.join(workdir, name))
      os.rmdir(aside)
    raise


def _set_aside(workdir, names, aside):
  # Where a killed start has set a run aside, that run stays until another has
  # succeeded; the killed one goes.
  is_first = not os.path.isdir(aside)
  os.makedirs(aside, exist_ok=True)
  for name in names:
    path = os.path.join(workdir, name)
    if is_first:
      os.rename(path, os.path.join(aside, name))
    elif os.path.isdir(path) and not os.path.islink(path):
      shutil.rmtree(path)
    else:
      os.remove(path)


def list_files(workdir: str) -> list[str]:
  """Returns the names of the files and folders that a run has made.

  The names are those that every run has, and what result.json lists.
  """
  if not os.path.exists(os.path.join(workdir, _CONFIG)):
    return []
  result = read_json(os.path.join(workdir, RESULT)) or {}
  names = {_CONFIG, METRICS, RESULT, PREVIEW, CHECKPOINTS, PAGE, EVENTS, ARMS}
  names |= {ROWS, INDEX, RESTORED, PROCESSES}
  # Only names within the folder: anybody can write a result.json.
  names |= {str(name) for name in result.get('files', [])}
  return sorted(
    name
    for name in names
    if name == os.path.basename(name)
    and name not in ('', '.', '..')
    and os.path.lexists(os.path.join(workdir, name))
  )


def _has_work(workdir: str) -> bool:
  """Returns whether a run has computed anything in its folder."""
  metrics = os.path.join(workdir, METRICS)
  records = os.path.exists(metrics) and os.path.getsize(metrics)
  return bool(records) or any(
    os.path.exists(os.path.join(workdir, name))
    for name in (RESULT, CHECKPOINTS, ARMS, ROWS, INDEX, PROCESSES)
  )


def _remove(workdir: str) -> None:
  """Removes the files of a run that has computed nothing."""
  for name in (_CONFIG, METRICS):
    with contextlib.suppress(OSError):
      os.remove(os.path.join(workdir, name))
  for place, _, _ in os.walk(os.path.join(workdir, RESTORED), topdown=False):
    with contextlib.suppress(OSError):  # A folder that holds anything stays.
      os.rmdir(place)
