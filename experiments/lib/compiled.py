"""The cache of compiled programs: checked, repaired, and never in the way.

JAX's own cache on a disk writes an entry in place, reads it unchecked, never
replaces one that it could not read, and warns for each program of each run. The
cache here has the same folder and names. Each of its entries is what JAX would
write and then a digest of that, which JAX's own cache skips as it reads.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import jax

from experiments.lib import folders

_DIGEST = hashlib.sha256
_LENGTH = _DIGEST().digest_size


def enable_cache() -> None:
  """Keeps compiled programs between runs, unless JAX has a folder for them.

  A damaged entry counts as none: its program is compiled once more, and the
  entry is replaced. Where nothing can be written, one line on standard error
  says so, and the run goes on. Any number of runs may share the folder.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  folder = os.path.join(folders.find_cache(), 'compiled')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    return _report(folder, error)
  _replace_cache()
  jax.config.update('jax_compilation_cache_dir', folder)
  # A start compiles many small programs, which the cache keeps too.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  # XLA writes files of its own on a GPU, and fails where it cannot.
  if not os.access(folder, os.W_OK):
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')


def _replace_cache() -> None:
  """Lets JAX make a `_Cache`; a JAX made otherwise keeps its own cache."""
  # JAX has no public way to give it a cache. This function is the same from
  # 0.4.31 to 0.10.2; where it is gone, only the checks are.
  try:
    from jax._src import compilation_cache
  except ImportError:
    return
  limited = os.environ.get('JAX_COMPILATION_CACHE_MAX_SIZE', '-1') != '-1'
  if hasattr(compilation_cache, 'get_file_cache') and not limited:
    compilation_cache.get_file_cache = lambda path: (_Cache(path), path)


def _report(folder: str | os.PathLike, error: OSError) -> None:
  print(
    f'compiled programs are not kept, each run compiles anew: {folder}: '
    f'{error.strerror or error}',
    file=sys.stderr,
  )


class _Cache:
  """What JAX asks of a cache, `get` and `put`; neither raises an OSError."""

  def __init__(self, path: str):
    self._path = Path(path)  # JAX names it in its log.
    self._failed = False

  def get(self, key: str) -> bytes | None:
    """Returns what was put, to the last bit, or None."""
    try:
      data = self._find(key).read_bytes()
    except OSError:
      return None
    value, digest = data[:-_LENGTH], data[-_LENGTH:]
    return value if _DIGEST(value).digest() == digest else None

  def put(self, key: str, value: bytes) -> None:
    """Replaces an entry; the first failure is said, then nothing is tried.

    JAX puts what it could not get, or could not load.
    """
    if self._failed:
      return
    try:
      _write(self._find(key), value + _DIGEST(value).digest())
    except OSError as error:
      self._failed = True
      _report(self._path, error)

  def _find(self, key: str) -> Path:
    return self._path / f'{key}-cache'


def _write(path: Path, data: bytes) -> None:
  """Replaces a file as a whole; a crash of the machine may leave it damaged."""
  # Unlike `folders.write_atomic` this does not wait for the disk: hundreds of
  # entries would take seconds, and the digest tells which did not get there.
  handle, temporary = tempfile.mkstemp(prefix='.', dir=path.parent)
  try:
    with open(handle, 'wb') as file:
      file.write(data)
    os.replace(temporary, path)
  except OSError:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise
