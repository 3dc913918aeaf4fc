"""The faults of `benchmarks.faults`, and the runs that they harm."""

import contextlib
import importlib
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments import denoise  # noqa: F401  Imported before the fork.
from experiments.lib import cli, images, plots

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


def get_ready() -> None:
  """Imports and draws, without JAX, what a run does for its pictures and page.

  A process that is forked from this one then has matplotlib with its fonts.
  """
  with contextlib.suppress(ImportError):
    importlib.import_module('jinja2')
  record = {'step': 0, 'lane': 0, 'loss': 0.1, 'psnr_measurement': 20.0}
  with tempfile.TemporaryDirectory() as folder:
    plots.draw_curves(f'{folder}/curves.png', [record], selected=[0])


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
    cli.launch(module.run, getattr(module, 'PICTURES', None))
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
  get_ready()
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
