"""Ctrl-C and SIGTERM: the first ends a fit in order, the second at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
  """Whether somebody asked to stop.

  Attributes:
    signal: the number of the first signal; 0 for none.
  """

  signal: int = 0

  def __bool__(self) -> bool:
    return bool(self.signal)


@contextlib.contextmanager
def catch_signals() -> Iterator[Stop]:
  """Gives a `Stop` that becomes true at the first SIGINT or SIGTERM.

  A second signal ends the process at once, with exit code 128 + signal. Files
  are whole all the same, because each is written whole or not at all. In a
  thread other than the main one the context catches nothing.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  # Python runs its handlers between two instructions, and a step of a fit can
  # last for minutes. The system writes each signal to a socket at once, where a
  # thread waits for it.
  ours, theirs = socket.socketpair()
  theirs.setblocking(False)
  waiter = threading.Thread(target=_wait, args=(ours, stop), daemon=True)
  waiter.start()
  before = {number: signal.getsignal(number) for number in _SIGNALS}
  try:
    for number in _SIGNALS:
      signal.signal(number, _do_nothing)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
      yield stop
    finally:
      signal.set_wakeup_fd(wakeup)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
    theirs.close()
    waiter.join()
    ours.close()


def repeat_swallowed(unraisable: Any) -> None:
  """Sends a signal again whose exception a callback has swallowed.

  A handler of signals that raises an exception may run within a callback of the
  garbage collector, where Python prints the exception and goes on. What orbax
  leaves behind where it could not read or write is not printed either: the
  error itself was raised. For `sys.unraisablehook`.
  """
  if str(unraisable.exc_value) == 'Event loop is closed':
    return
  numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
  number = numbers.get(unraisable.exc_type)
  if number is None:
    sys.__unraisablehook__(unraisable)
  else:
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def _do_nothing(number, frame):
  """Stands in for handlers that would raise an exception amid a step."""


def _wait(ours: socket.socket, stop: Stop) -> None:
  while received := ours.recv(1):
    number = received[0]
    if number not in _SIGNALS:
      continue
    if stop:
      print('\nstopped at once', file=sys.stderr, flush=True)
      os._exit(128 + number)
    stop.signal = number
    print(
      '\nstopping after these steps; once more stops at once',
      file=sys.stderr,
      flush=True,
    )
