"""Files and folders: whole files or nothing, and no file outside the folder."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# What ends the name of a file that is being written. Its name begins with a dot
# and has random letters, so that nobody can put a link in its place.
_PARTIAL = '.partial'


def find_cache() -> str:
  """Returns the user's folder for the cache, which may not exist yet."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(home, 'dipjax')


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
  """Leaves at `path` either all of the data or what was there before.

  A link at `path` is replaced by a file; what the link points to stays as it
  is. The folder must exist; a failure leaves no temporary file in it.

  Raises:
    OSError: the disk did not take all of the data; `filename` is the path.
  """
  path, temporary = Path(path), None
  try:
    number, temporary = tempfile.mkstemp(
      prefix=f'.{path.name}.', suffix=_PARTIAL, dir=path.parent
    )
    with open(number, 'wb') as file:
      file.write(data)
      file.flush()
      os.fchmod(number, 0o666 & ~_find_umask())
      # The data must reach the disk before the name does.
      os.fsync(number)
    os.replace(temporary, path)
    _sync_folder(path.parent)
  except OSError as error:
    raise name_file(error, path) from error
  finally:
    if temporary:
      Path(temporary).unlink(missing_ok=True)


def append(path: str | os.PathLike, data: bytes) -> None:
  """Adds all of the data to the end of a file, or nothing.

  A folder that was removed is made again.

  Raises:
    OSError: the disk did not take all of the data; `filename` is the path.
  """
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    number = os.open(path, flags | getattr(os, 'O_NOFOLLOW', 0), 0o666)
    try:
      _append_whole(number, data)
    finally:
      os.close(number)
  except OSError as error:
    raise name_file(error, path) from error


def _append_whole(number: int, data: bytes) -> None:
  size = os.fstat(number).st_size
  try:
    # A disk that is nearly full takes only the beginning.
    while data:
      data = data[os.write(number, data) :]
  except OSError:
    os.ftruncate(number, size)
    raise


def name_file(error: OSError, path: str | os.PathLike) -> OSError:
  """Returns the error as one that names the file that the caller asked for."""
  reason = error.strerror or str(error)
  return type(error)(error.errno, reason, os.fspath(path))


def _find_umask() -> int:
  # There is no other way to ask.
  mask = os.umask(0o022)
  os.umask(mask)
  return mask


def _sync_folder(folder: Path) -> None:
  """Brings a new name to the disk, where the system can do that."""
  with contextlib.suppress(OSError):
    number = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(number)
    finally:
      os.close(number)


def remove_partial(folder: str) -> None:
  """Removes the files that a killed process had begun to write."""
  for entry in os.scandir(folder):
    begun = entry.name.startswith('.') and entry.name.endswith(_PARTIAL)
    if begun and entry.is_file(follow_symlinks=False):
      os.remove(entry.path)


def find_link(folder: str) -> str | None:
  """Returns a link out of the folder where a run would write, None for none.

  A run writes JSON, pictures and pages at the top of its folder, checkpoints,
  events, and the restored pictures of a folder.
  """
  home = os.path.realpath(folder)
  for entry in list(os.scandir(folder)):
    written = re.search(
      r'\.(jsonl?|png|webp|html|md|csv)$|^(checkpoints|tensorboard|restored|processes)$',
      entry.name,
    )
    if written and entry.is_symlink():
      target = os.path.realpath(entry.path)
      if os.path.dirname(target) != home:
        return entry.path
  return None


def write_or_rescue(folder: str, write: Callable[[str], None]) -> None:
  """Calls write(folder), or where that fails write(another folder).

  A folder that was removed is made again.

  Raises:
    OSError: the folder cannot be written; the message says where the files are.
  """
  try:
    os.makedirs(folder, exist_ok=True)
    write(folder)
  except OSError as error:
    rescue = _rescue(write)
    if rescue is None:
      raise
    reason = error.strerror or error
    where = error.filename or folder
    raise OSError(
      f'{show(where)}: {reason}; all files are in {show(rescue)}'
    ) from error


def _rescue(write: Callable[[str], None]) -> str | None:
  """Returns a new folder with the files, None where there is no room either."""
  rescue = tempfile.mkdtemp(prefix='dipjax-')
  try:
    write(rescue)
  except OSError:
    shutil.rmtree(rescue, ignore_errors=True)
    return None
  return rescue


def show(path: str | os.PathLike) -> str:
  """Returns a path that is safe to print: control characters are escaped."""
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode()
    for c in os.fspath(path)
  )
