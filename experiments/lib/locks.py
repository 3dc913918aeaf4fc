"""A lock on a folder: one process writes in it, the next is told which."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

fcntl: Any
try:
  import fcntl
except ImportError:  # Windows has no such locks: two runs are not told apart.
  fcntl = None

_NAME = '.lock'


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
  """Keeps others out of a folder for as long as the context lasts.

  The system lets go of the lock when the process ends, however it ends, so that
  a lock that was left behind keeps nobody out.

  Raises:
    ValueError: another process, which is named, or an open context of this
      process has the lock.
  """
  if fcntl is None:
    yield
    return
  path = os.path.join(folder, _NAME)
  number = _take(path, folder)
  try:
    owner = {'process': os.getpid(), 'host': socket.gethostname()}
    with contextlib.suppress(OSError):  # A full disk keeps nobody out.
      os.ftruncate(number, 0)
      os.write(number, json.dumps(owner).encode())
    yield
  finally:
    # The name goes first: who opens it from now on makes a new file.
    if _is_same(number, path):
      os.remove(path)
    os.close(number)


def _take(path: str, folder: str) -> int:
  while True:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    number = os.open(path, flags, 0o666)
    try:
      fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      owner = _describe(number)
      os.close(number)
      raise ValueError(
        f'workdir {folder!r} is in use by {owner}: wait for it, or use another '
        'workdir'
      ) from None
    if _is_same(number, path):
      return number
    # The owner before has removed the file that was opened here.
    os.close(number)


def _describe(number: int) -> str:
  try:
    owner = json.loads(os.pread(number, 1000, 0))
    return f'process {owner["process"]} on {owner["host"]}'
  except (ValueError, KeyError, TypeError):
    return 'another process'


def _is_same(number: int, path: str) -> bool:
  try:
    return os.path.samestat(os.fstat(number), os.stat(path))
  except FileNotFoundError:
    return False
