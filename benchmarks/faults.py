"""Injects faults into small fits, and counts which of them do harm.

    python -m benchmarks.faults --times 100
    python -m benchmarks.faults --faults kill --times 1000
    python -m benchmarks.faults --soak 120

Each trial starts an experiment as the command line does, injects a fault, and
starts the same command again until it ends. A trial is good where the run then
has the pictures and the records of a run without any fault, byte by byte. The
benchmark prints a table: the fault, how often it was injected, the steps that
were lost each time, and how many trials were good. With --out it appends a line
for each trial to a file, and goes on after the trials that are in it.

--soak restores one picture after the other in one process for so many minutes,
and prints how its memory and its open files grow.
"""

import argparse
import collections
import contextlib
import importlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import denoise  # noqa: F401  Imported before the fork.
from experiments.lib import cli, images, records

# Name of the run -> (experiment, arguments). Each has checkpoints of few steps.
RUNS = {
  'denoise': ('denoise', ['--config=configs/req2.py:smoke,network=pixels']),
  'two lanes': (
    'denoise',
    ['--config=configs/req2.py:smoke,network=pixels', '--config.lanes=2'],
  ),
  'staged': ('staged', ['--config=configs/staged.py:smoke,network=dncnn']),
}
_SMALL = (
  '--config.fit.steps=200',
  '--config.data.crop=()',
  '--config.checkpoint.every=20',
  '--config.record.every=5',
  '--config.data.sigma=0.0',  # No clean picture: scoring takes seconds.
)
_LONGEST = 300.0  # Seconds until a run counts as hanging.


class Case(NamedTuple):
  """A run, and what it leaves without a fault."""

  name: str
  arguments: tuple[str, ...]
  files: dict[str, bytes]
  seconds: float


class Started(NamedTuple):
  """A process and the pipe with what it says."""

  process: int
  pipe: int


class Ended(NamedTuple):
  """How a start ended."""

  status: int
  said: str


def start(arguments: Sequence[str], workdir: str, *, most: int = 0) -> Started:
  """Starts an experiment in a process forked from this one.

  Args:
    arguments: the experiment's name, then its flags.
    workdir: the folder of the run.
    most: bytes that a file may have; 0 is any number.
  """
  ours, theirs = os.pipe()
  child = os.fork()
  if child:
    os.close(theirs)
    os.set_blocking(ours, False)
    return Started(child, ours)
  status = 1
  try:
    os.dup2(theirs, 1)
    os.dup2(theirs, 2)
    if most:
      limits = resource.getrlimit(resource.RLIMIT_FSIZE)
      resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    name, *flags = arguments
    module = importlib.import_module(f'experiments.{name}')
    sys.argv = [str(module.__file__), *flags, f'--workdir={workdir}']
    cli.launch(module.run)
  except SystemExit as end:
    status = end.code if isinstance(end.code, int) else bool(end.code)
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(started: Started, longest: float = _LONGEST) -> Ended:
  """Returns how a start ended; kills it after `longest` seconds."""
  end, said = time.monotonic() + longest, b''
  while True:
    done, status = os.waitpid(started.process, os.WNOHANG)
    with contextlib.suppress(BlockingIOError):
      while part := os.read(started.pipe, 2**16):
        said += part
    if done:
      break
    if time.monotonic() > end:
      os.kill(started.process, signal.SIGKILL)
    time.sleep(0.005)
  os.close(started.pipe)
  return Ended(os.waitstatus_to_exitcode(status), said.decode(errors='replace'))


def read_files(workdir: str) -> dict[str, bytes]:
  """Returns the pictures and the records of a run by their names."""
  return {
    path.name: path.read_bytes()
    for path in sorted(pathlib.Path(workdir).iterdir())
    if path.suffix in ('.png', '.jsonl') and not path.is_dir()
  }


def make_cases(folder: str, names: Sequence[str] = tuple(RUNS)) -> list[Case]:
  """Runs each of RUNS without a fault, twice: the second time is timed."""
  picture = os.path.join(folder, 'photograph.png')
  rng = np.random.default_rng(0)
  images.write_image(picture, rng.random((3, 4, 3)).repeat(8, 0).repeat(8, 1))
  cases = []
  for name in names:
    experiment, flags = RUNS[name]
    flags = [*flags, f'--config.data.image={picture}', *_SMALL]
    arguments = (experiment, *flags)
    workdir = os.path.join(folder, f'whole {name}')
    for _ in range(2):
      shutil.rmtree(workdir, ignore_errors=True)
      begin = time.monotonic()
      ended = wait(start(arguments, workdir))
      if ended.status:
        raise ValueError(f'{name} fails without a fault: {ended.said}')
    seconds = time.monotonic() - begin
    cases.append(Case(name, arguments, read_files(workdir), seconds))
  return cases


# --- Faults. Each is a function of (rng, case, workdir) that starts the run and
# harms it.


def kill(rng: random.Random, case: Case, workdir: str) -> Ended:
  """SIGKILL at any time."""
  return _send(signal.SIGKILL, rng, case, workdir)


def interrupt(rng: random.Random, case: Case, workdir: str) -> Ended:
  """SIGINT at any time: the run stops by itself."""
  return _send(signal.SIGINT, rng, case, workdir)


def terminate(rng: random.Random, case: Case, workdir: str) -> Ended:
  """SIGTERM at any time: the run stops by itself."""
  return _send(signal.SIGTERM, rng, case, workdir)


def interrupt_twice(rng: random.Random, case: Case, workdir: str) -> Ended:
  """SIGINT, and another a moment later: the run stops at once."""
  started = start(case.arguments, workdir)
  time.sleep(rng.uniform(0, case.seconds))
  for _ in range(2):
    os.kill(started.process, signal.SIGINT)
    time.sleep(rng.uniform(0, 0.05))
  return wait(started)


def _send(number, rng, case, workdir):
  started = start(case.arguments, workdir)
  time.sleep(rng.uniform(0, case.seconds))
  os.kill(started.process, number)
  return wait(started)


def fill_disk(rng: random.Random, case: Case, workdir: str) -> Ended:
  """No file may be longer than so many bytes."""
  most = int(10 ** rng.uniform(2, 5.5))
  return wait(start(case.arguments, workdir, most=most))


def flip_bit(rng: random.Random, case: Case, workdir: str) -> Ended:
  """One bit of a file of a checkpoint, after SIGKILL."""

  def flip(data):
    place = rng.randrange(len(data))
    return (
      data[:place]
      + bytes([data[place] ^ 1 << rng.randrange(8)])
      + data[place + 1 :]
    )

  return _damage(flip, 'checkpoints/**/*', rng, case, workdir)


def cut_checkpoint(rng: random.Random, case: Case, workdir: str) -> Ended:
  """A file of a checkpoint cut short, after SIGKILL."""
  cut = lambda data: data[: rng.randrange(len(data))]
  return _damage(cut, 'checkpoints/**/*', rng, case, workdir)


def tear_records(rng: random.Random, case: Case, workdir: str) -> Ended:
  """Half a line at the end of metrics.jsonl, after SIGKILL."""
  tear = lambda data: data + b'{"step": 12, "la'
  return _damage(tear, 'metrics.jsonl', rng, case, workdir)


def _damage(change: Callable, pattern: str, rng, case, workdir):
  ended = kill(rng, case, workdir)
  files = [
    path
    for path in sorted(pathlib.Path(workdir).glob(pattern))
    if path.is_file() and path.stat().st_size
  ]
  if files:
    file = rng.choice(files)
    file.write_bytes(change(file.read_bytes()))
  return ended


def start_twice(rng: random.Random, case: Case, workdir: str) -> Ended:
  """A second run in the same folder meanwhile: it is refused."""
  started = start(case.arguments, workdir)
  time.sleep(rng.uniform(0, case.seconds))
  second = wait(start(case.arguments, workdir))
  ended = wait(started)
  # The second run may come first, or find the first one finished.
  return second if second.status not in (0, 2) else ended


def remove_folder(rng: random.Random, case: Case, workdir: str) -> Ended:
  """The folder removed under the run."""
  started = start(case.arguments, workdir)
  time.sleep(rng.uniform(0, case.seconds))
  shutil.rmtree(workdir, ignore_errors=True)
  ended = wait(started)
  # What was in the folder is gone: only the command's word counts.
  shutil.rmtree(workdir, ignore_errors=True)
  return ended


FAULTS: dict[str, Callable[[random.Random, Case, str], Ended]] = {
  'kill': kill,
  'interrupt': interrupt,
  'terminate': terminate,
  'interrupt twice': interrupt_twice,
  'fill the disk': fill_disk,
  'flip a bit': flip_bit,
  'cut a checkpoint': cut_checkpoint,
  'tear the records': tear_records,
  'start twice': start_twice,
  'remove the folder': remove_folder,
}


def try_fault(name: str, seed: int, case: Case, folder: str) -> dict[str, Any]:
  """Injects a fault one to three times, then lets the run end.

  Returns:
    The trial: times, lost (steps, one number each time), equal, said.
  """
  rng = random.Random(f'{name} {seed}')
  workdir = os.path.join(folder, f'{name} {seed}'.replace(' ', '-'))
  lost, said, times = [], [], rng.randint(1, 3)
  for _ in range(times):
    ended = FAULTS[name](rng, case, workdir)
    said.append(_complain(ended))
    before = _count_steps(workdir)
    lost.append(before)
  # Damage of both checkpoints is said, and needs --overwrite.
  ended = wait(start(case.arguments, workdir))
  lost[-1] = max(0, lost[-1] - _find_resumed(ended.said, lost[-1]))
  if ended.status == 2 and '--overwrite' in ended.said:
    again = (*case.arguments, '--overwrite')
    said.append('starts again')
    ended = wait(start(again, workdir))
  equal = ended.status == 0 and read_files(workdir) == case.files
  said.append(_complain(ended))
  if equal:
    shutil.rmtree(workdir)
  return {
    'fault': name,
    'seed': seed,
    'run': case.name,
    'times': times,
    'lost': lost[-1],
    'equal': equal,
    'said': sorted(set(filter(None, said))),
  }


def _complain(ended: Ended) -> str:
  """Returns what should not be: a traceback, or an unknown exit status."""
  if 'Traceback' in ended.said:
    return f'traceback: {ended.said[-300:]}'
  known = (0, 2, -9, 130, 143, -2, -15)
  return '' if ended.status in known else f'exit status {ended.status}'


def _count_steps(workdir: str) -> int:
  """Returns the steps that the records of a run show."""
  path = os.path.join(workdir, 'metrics.jsonl')
  try:
    lines = pathlib.Path(path).read_text().splitlines()
    return max((json.loads(line)['step'] + 1 for line in lines), default=0)
  except (OSError, ValueError):
    return 0


def _find_resumed(said: str, default: int) -> int:
  if 'this run is finished' in said:
    return default
  found = re.search(r'going on after step (\d+)', said)
  return int(found[1]) if found else 0


def print_table(rows: Sequence[dict[str, Any]]) -> None:
  """Prints a line of a Markdown table for each fault."""
  print('| fault | injected | lost steps, median (most) | equal | said |')
  print('|---|---|---|---|---|')
  for name in FAULTS:
    own = [row for row in rows if row['fault'] == name]
    if own:
      lost = [row['lost'] for row in own]
      said = collections.Counter(line for row in own for line in row['said'])
      print(
        f'| {name} | {sum(row["times"] for row in own)} | '
        f'{statistics.median(lost):g} ({max(lost)}) | '
        f'{sum(row["equal"] for row in own)} of {len(own)} | '
        f'{"; ".join(f"{text} ({n})" for text, n in said.items())} |'
      )


def soak(minutes: float, folder: str) -> None:
  """Restores pictures for so many minutes in one process, and samples it."""
  from configs import req2

  config = req2.get_config('smoke')
  config.fit.steps = 200
  config.checkpoint.every = '50'
  end, count, samples = time.monotonic() + 60 * minutes, 0, []
  rng = np.random.default_rng(0)
  sys.stdout.flush()
  while time.monotonic() < end:
    config.data.image = os.path.join(folder, f'{count}.png')
    config.data.crop = ()
    images.write_image(config.data.image, rng.random((32, 32, 3)))
    workdir = os.path.join(folder, f'run {count}')
    with (
      open(os.devnull, 'w') as quiet,
      contextlib.redirect_stdout(quiet),
      contextlib.redirect_stderr(quiet),
    ):
      denoise.run(config, workdir)
    shutil.rmtree(workdir)
    os.remove(config.data.image)
    count += 1
    samples.append((count, _read_memory(), len(os.listdir('/proc/self/fd'))))
    if count & (count - 1) == 0:
      print('{} pictures: {} MiB, {} open files'.format(*samples[-1]))
      sys.stdout.flush()
  tail = samples[len(samples) // 2 :]
  slope = np.polyfit([s[0] for s in tail], [s[1] for s in tail], 1)[0]
  print(
    f'{count} pictures in {minutes:g} minutes; in the second half '
    f'{1024 * slope:.1f} KiB a picture, open files {tail[0][2]} to '
    f'{tail[-1][2]}'
  )


def _read_memory() -> int:
  """Returns the resident memory of this process in MiB."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') >> 20


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table, or the growth of a soak."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--faults', nargs='+', choices=FAULTS, default=[*FAULTS])
  parser.add_argument('--times', type=int, default=20)
  parser.add_argument('--runs', nargs='+', choices=RUNS, default=[*RUNS])
  parser.add_argument('--out', help='a file of trials, to go on with')
  parser.add_argument('--soak', type=float, metavar='MINUTES')
  arguments = parser.parse_args(argv)
  with tempfile.TemporaryDirectory(prefix='dipjax-faults-') as folder:
    if arguments.soak:
      soak(arguments.soak, folder)
      return
    rows = records.read_lines(arguments.out) if arguments.out else []
    cases = make_cases(folder, arguments.runs)
    for name in arguments.faults:
      done = {row['seed'] for row in rows if row['fault'] == name}
      injected = sum(row['times'] for row in rows if row['fault'] == name)
      seed = 0
      while injected < arguments.times:
        if seed not in done:
          case = cases[seed % len(cases)]
          rows.append(try_fault(name, seed, case, folder))
          injected += rows[-1]['times']
          if arguments.out:
            records.append_lines(arguments.out, rows[-1:])
        seed += 1
    print_table(rows)


if __name__ == '__main__':
  main()
