"""The folder of dipjax's cache, and writing of whole files."""

import os
from pathlib import Path


def find_cache() -> str:
  """Returns the user's folder for the cache, which may not exist yet."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return os.path.join(home, 'dipjax')


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
  """Leaves at `path` either all of the data or what was there before.

  The folder must exist; a failure leaves no temporary file in it.
  """
  # Renaming a file within a folder is atomic; a name with the process's number
  # keeps two writers apart. The data must reach the disk before the rename.
  path = Path(path)
  temporary = path.with_name(f'.{path.name}.tmp-{os.getpid()}')
  try:
    with open(temporary, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
