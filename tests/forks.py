"""A server of commands, each in a process forked from one that is ready.

Who serves has imported all that is large and has not used JAX, so that a
command starts at once. Who asks writes a line of JSON and reads one.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def serve(
  run: Callable[..., None], describe: Callable[[int, str], Any]
) -> None:
  """Answers each line of standard input with a line of output.

  To a list, whether to keep standard output and then a command, the answer is
  the process that was started. To a process the answer is how it ended, None
  where it runs; to the process with a minus the answer comes at its end.

  Args:
    run: called in a fork with the words of a command; ends the process.
    describe: (exit status, what was said) -> how a process ended.
  """
  all_said, ends = {}, {}
  for line in sys.stdin:
    asked = json.loads(line)
    if isinstance(asked, list):
      keeps_output, *words = asked
      said = tempfile.TemporaryFile('w+')  # noqa: SIM115  Read at the end.
      child = os.fork()
      if not child:
        out = (
          said.fileno() if keeps_output else os.open(os.devnull, os.O_WRONLY)
        )
        os.dup2(out, sys.stdout.fileno())
        os.dup2(said.fileno(), sys.stderr.fileno())
        run(*words)
      answer, all_said[child] = child, said
    else:
      child = abs(asked)
      if child not in ends:
        ended, status = os.waitpid(child, os.WNOHANG if asked > 0 else 0)
        if ended:
          with all_said.pop(child) as said:
            said.seek(0)
            code = os.waitstatus_to_exitcode(status)
            ends[child] = describe(code, said.read())
      answer = ends.get(child)
    print(json.dumps(answer), flush=True)


class Server:
  """Who serves, as it is asked; a call gives how a command ended."""

  def __init__(self, served: subprocess.Popen):
    self._served = served

  def __call__(self, *words: str) -> Any:
    return self.wait(self._ask([False, *words]))

  def start(self, *words: str) -> int:
    """Returns the process of a command, whose standard output is kept too."""
    return self._ask([True, *words])

  def find_end(self, child: int) -> Any:
    """Returns how a process ended, None where it runs."""
    return self._ask(child)

  def wait(self, child: int) -> Any:
    """Returns how a process ended, once it did."""
    return self._ask(-child)

  def _ask(self, message):
    assert self._served.stdin and self._served.stdout
    print(json.dumps(message), file=self._served.stdin, flush=True)
    return json.loads(self._served.stdout.readline())


@contextlib.contextmanager
def ask(module: str) -> Iterator[Server]:
  """Gives the server of a module that serves."""
  served = subprocess.Popen(
    [sys.executable, '-m', module],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    bufsize=1,
  )
  yield Server(served)
  served.communicate()
