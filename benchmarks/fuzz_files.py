"""Reads damaged files of every container, and tells what goes wrong.

    python -m benchmarks.fuzz_files --times 10000 --seed 0

Good files (`benchmarks.mutations`) are changed: bits turned over, parts cut,
moved, repeated and mixed with other files, lengths and sizes set to extremes.
`experiments.lib.reading` reads each in another process, whose memory is
bounded. A fault is all but a picture or a ValueError of one line: a traceback,
the death of the process, more than SECONDS, a file or a process that a decoder
makes, a line that it prints. The exit status is 1 if there is one. A fault is
seen again with `--first INDEX --times 1`. Needs Linux, whose /proc has the
memory, and the extra `test`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks import mutations
from experiments.lib import reading

SECONDS = 5.0  # A file may take so long,
MEMORY = 600 << 20  # and so many bytes beside what a process has.
# What no decoder does, as Python's audit names it.
_FORBIDDEN = (
  *('subprocess.Popen', 'os.fork', 'os.forkpty', 'os.exec', 'os.posix_spawn'),
  *('os.system', 'os.spawn', 'os.startfile', 'pty.spawn', 'pickle.find_class'),
  *('os.remove', 'os.rename', 'os.rmdir', 'os.mkdir', 'os.link', 'os.symlink'),
  *('os.truncate', 'shutil.rmtree', 'socket.connect', 'socket.bind'),
)


class Outcome(NamedTuple):
  """What reading one mutant came to."""

  index: int
  container: str
  what: str  # 'read', 'refused' or 'fault'.
  text: str  # Of the refusal or fault.
  seconds: float
  memory: int  # Bytes at the most, beside what the process had.


class Worker:
  """A process that reads mutants one after the other."""

  def __init__(self, seed: int, folder: str):
    command = [sys.executable, '-m', 'benchmarks.fuzz_files', '--worker']
    self.folder, self.lost = folder, False
    self.process = subprocess.Popen(
      [*command, '--seed', str(seed), '--out', folder],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._receive(60)

  def send(self, index: int) -> None:
    """Asks for one mutant."""
    assert self.process.stdin
    self.process.stdin.write(f'{index}\n')
    self.process.stdin.flush()

  def receive(self, index: int, container: str) -> Outcome:
    """Returns what the mutant came to; a death and a hang are faults."""
    started = time.monotonic()
    try:
      answer = self._receive(SECONDS)
    except TimeoutError:
      self.lost = True
      answer = {'what': 'fault', 'text': f'hangs for more than {SECONDS:g} s'}
    except EOFError:
      self.lost = True
      said = pathlib.Path(self.folder, 'said').read_text(errors='replace')
      text = f'died with {self.process.wait()}: {said[-300:]!r}'
      answer = {'what': 'fault', 'text': text}
    seconds = time.monotonic() - started
    default = {'seconds': seconds, 'memory': 0}
    return Outcome(index, container, **{**default, **answer})

  def _receive(self, seconds):
    assert self.process.stdout
    if not select.select([self.process.stdout], [], [], seconds)[0]:
      raise TimeoutError
    line = self.process.stdout.readline()
    if not line:
      raise EOFError
    return json.loads(line)

  def close(self) -> None:
    """Ends the process."""
    self.process.kill()
    self.process.communicate()


def fuzz(seed: int, indices: Sequence[int]) -> Iterator[Outcome]:
  """Yields what each mutant came to, read by one worker process."""
  names = sorted(mutations.make_sources())
  with tempfile.TemporaryDirectory(prefix='dipjax-fuzz-') as folder:
    worker = Worker(seed, folder)
    try:
      for index in indices:
        worker.send(index)
        outcome = worker.receive(index, names[index % len(names)])
        yield outcome
        if worker.lost:
          worker.close()
          worker = Worker(seed, folder)
    finally:
      worker.close()


def _work(seed, folder):
  """Reads the mutants that stdin names and answers in lines of JSON."""
  answers = os.fdopen(os.dup(1), 'w')
  said = os.path.join(folder, 'said')
  number = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
  os.dup2(number, 1)
  os.dup2(number, 2)
  os.environ['TMPDIR'] = tempfile.tempdir = folder
  sources = mutations.make_sources()
  for data in (files[0] for files in sources.values()):
    read(_write(folder, data))  # Imports what reads them.
  _bound_memory()
  watched = _watch()
  print(json.dumps({'what': 'ready'}), file=answers, flush=True)
  for line in sys.stdin:
    _, data = mutations.make_mutant(sources, seed, int(line))
    path, kept = _write(folder, data), set(os.listdir(folder))
    before, started = _reset_memory(), time.monotonic()
    watched.clear()
    what, text = read(path)
    faults = list(watched)
    if os.fstat(number).st_size:
      faults.append(f'said {os.pread(number, 200, 0)!r}')
      os.ftruncate(number, 0)
    if set(os.listdir(folder)) != kept:
      faults.append('made or removed a file')
    memory = _find_memory('VmHWM') - before
    if memory > MEMORY:
      faults.append(f'took {memory >> 20} MB')
    if faults:
      what, text = 'fault', '; '.join(faults)
    answer = {'what': what, 'text': text, 'memory': memory}
    answer['seconds'] = time.monotonic() - started
    print(json.dumps(answer), file=answers, flush=True)


def _write(folder, data):
  path = os.path.join(folder, 'mutant')
  pathlib.Path(path).write_bytes(data)
  return path


def read(path: str) -> tuple[str, str]:
  """Returns 'read', 'refused' or 'fault', and its text."""
  try:
    picture = reading.read(path)
    low, high = picture.pixels.min(), picture.pixels.max()
    good = 0 <= low <= high <= 1 and picture.describe().isprintable()
    return ('read' if good else 'fault'), picture.describe()
  except ValueError as error:
    text = str(error)
    good = text.isprintable() and len(text) < 600
    return ('refused' if good else 'fault'), text
  except BaseException as error:
    return 'fault', f'{type(error).__name__}: {error}'


def _watch():
  """Returns a list that fills with what nothing that reads should do."""
  seen = []

  def hook(event, args):
    if event in _FORBIDDEN:
      seen.append(f'{event} {args!r:.100}')
    elif event == 'open':
      path, mode, flags = args
      writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
      if writes and path != os.devnull:
        seen.append(f'opened {path!r} to write')

  sys.addaudithook(hook)
  return seen


def _bound_memory():
  # Twice: what is mapped is more than what is used.
  bound = _find_memory('VmSize') + 2 * MEMORY
  resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _find_memory(name):
  """Returns a line of the memory of this process, in bytes."""
  with open('/proc/self/status') as file:
    lines = dict(line.split(':', 1) for line in file)
  return int(lines[name].split()[0]) << 10


def _reset_memory():
  """Forgets the most memory that was used, and returns what is used now."""
  with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')
  return _find_memory('VmRSS')


def make_table(outcomes: Sequence[Outcome]) -> str:
  """Returns a Markdown table with a line for each container."""
  head = (
    '| container | tried | read | refused | faults | slowest | most memory |'
  )
  lines = [head, '|---|---|---|---|---|---|---|']
  names = sorted({outcome.container for outcome in outcomes})
  for name in [*names, 'all']:
    own = [o for o in outcomes if name in (o.container, 'all')]
    counts = [
      sum(o.what == what for o in own) for what in ('read', 'refused', 'fault')
    ]
    numbers = ' | '.join(map(str, [len(own), *counts]))
    seconds, memory = (
      max(x) for x in zip(*((o.seconds, o.memory) for o in own))
    )
    lines.append(
      f'| {name} | {numbers} | {seconds:.2f} s | {memory >> 20} MB |'
    )
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table and each fault; returns 1 where there is a fault."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--times', type=int, default=2000)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--first', type=int, default=0, metavar='INDEX')
  parser.add_argument('--out', metavar='FILE', help='for the table')
  parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
  arguments = parser.parse_args(argv)
  if arguments.worker:
    _work(arguments.seed, arguments.out)
    return 0
  indices = range(arguments.first, arguments.first + arguments.times)
  outcomes = []
  for outcome in fuzz(arguments.seed, indices):
    outcomes.append(outcome)
    if outcome.what == 'fault':
      where = f'{outcome.index} ({outcome.container})'
      print(f'fault at {where}: {outcome.text}', flush=True)
  table = make_table(outcomes)
  print(table)
  if arguments.out:
    pathlib.Path(arguments.out).write_text(f'{table}\n')
  return int(any(outcome.what == 'fault' for outcome in outcomes))


if __name__ == '__main__':
  with contextlib.suppress(KeyboardInterrupt):
    sys.exit(main())
