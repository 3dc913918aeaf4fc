"""A server of commands, each in a process forked from one that is ready.

Who serves has imported all that is large and has used none of it, so that a
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
  """Answers each line of standard input, a list, with a line of output.

  Args:
    run: called in a fork with what the list has; ends the process.
    describe: (exit status, standard error) -> the answer.
  """
  for line in sys.stdin:
    with tempfile.TemporaryFile('w+') as errors:
      child = os.fork()
      if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(errors.fileno(), sys.stderr.fileno())
        run(*json.loads(line))
      status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
      errors.seek(0)
      print(json.dumps(describe(status, errors.read())), flush=True)


@contextlib.contextmanager
def ask(module: str) -> Iterator[Callable[..., Any]]:
  """Gives a function, (*words) -> the answer, of a module that serves."""
  server = subprocess.Popen(
    [sys.executable, '-m', module],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    bufsize=1,
  )

  def tell(*words):
    assert server.stdin and server.stdout
    print(json.dumps(words), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())

  yield tell
  server.communicate()
