"""Keeps what libraries say about a file off the terminal."""

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

# What is changed belongs to the process: two threads that overlap would each
# put back what the other one had changed.
_LOCK = threading.RLock()


@contextlib.contextmanager
def hush() -> Iterator[None]:
  """Drops warnings, logs and the lines of C libraries while it lasts.

  Threads take turns.
  """
  with _LOCK, warnings.catch_warnings(), _drop_stderr():
    warnings.simplefilter('ignore')
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
      yield
    finally:
      logging.disable(level)


@contextlib.contextmanager
def _drop_stderr():
  """C libraries write to the number 2, which Python cannot catch."""
  try:
    kept = os.dup(2)
  except OSError:  # No terminal, nothing to keep off it.
    yield
    return
  try:
    # What was said before is not dropped.
    if sys.stderr:
      sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
      yield
    finally:
      os.dup2(kept, 2)
  finally:
    os.close(kept)
