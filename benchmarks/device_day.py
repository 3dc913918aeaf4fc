"""Runs all that has to be measured on a device, as far as the minutes go.

    python -m benchmarks.device_day --out DIR --minutes 10

Whoever has a GPU or a TPU for some minutes gets from one command whether the
device computes what a CPU computes, how fast and how large a step is beside
PyTorch's, and how long a restoration takes. Each part runs in a process of its
own with a limit of time: a part that fails, hangs or runs out of memory takes
no other part with it.

DIR/device_day.json and the tables of DIR/device_day.md are written after each
part. A second call with the same DIR goes on where the first one stopped: parts
that ended are not run again. The most valuable parts come first. `--small` runs
every kind of part in small, on any machine in minutes.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import device_list
from benchmarks.device_list import Part
from experiments.lib import folders

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINES = 60  # Of a part's output that are kept.
LEAST = 20  # Seconds that must be left for a part to start.


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the parts that are not done; prints how each of them ended."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--out', type=pathlib.Path, required=True, metavar='DIR')
  add('--minutes', type=float, default=60, help='for all parts of this call')
  add('--small', action='store_true', help='every kind of part, in small')
  add('--image', default='astronaut', help='a clean square picture')
  add('--peer', choices=['torch'], help='the rival of steps and restorations')
  add('--only', nargs='+', default=[], help='beginnings of names of parts')
  jobs = max((os.cpu_count() or 1) // 2, 1)
  add('--jobs', type=int, default=jobs, help='processes side by side')
  arguments = parser.parse_args(argv)
  peer = ('--peer', arguments.peer) if arguments.peer else ()
  small, full = device_list.list_small_parts, device_list.list_parts
  make = small if arguments.small else full
  parts = [
    part
    for part in make(arguments.image, peer)
    if not arguments.only or part.name.startswith(tuple(arguments.only))
  ]
  end = time.monotonic() + 60 * arguments.minutes
  run_parts(parts, arguments.out, end, arguments.jobs)


def run_parts(
  parts: Sequence[Part], out: pathlib.Path, end: float, jobs: int = 1
) -> dict[str, Any]:
  """Runs the parts that are not done, in order, and writes after each of them.

  Args:
    parts: the most valuable first; parts that are not timed and follow each
      other run side by side.
    out: a folder for all files.
    end: when to stop, of `time.monotonic`. A part that the end stops is run
      again by the next call.
    jobs: how many run side by side.

  Returns:
    What device_day.json has: by name the status, seconds, rows and lines.
  """
  out.mkdir(parents=True, exist_ok=True)
  path = out / 'device_day.json'
  done = json.loads(path.read_text()) if path.exists() else {}
  lock = threading.Lock()

  def run(part):
    left = end - time.monotonic()
    if left < LEAST:
      print(f'{part.name}: left for the next call', flush=True)
      return
    record = run_part(part, out, left)
    with lock:
      done[part.name] = record
      folders.write_atomic(path, json.dumps(done, indent=1).encode())
      page = out / 'device_day.md'
      folders.write_atomic(page, make_page(done).encode())
    print(f'{part.name}: {record["status"]}, {record["seconds"]:.0f} s')
    print('\n'.join(f'  {line}' for line in record['lines'][-8:]), flush=True)

  for batch in _split_batches(parts):
    waiting = [part for part in batch if not _is_done(done.get(part.name))]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      list(pool.map(run, waiting))
  return done


def _split_batches(parts: Sequence[Part]) -> list[list[Part]]:
  batches: list[list[Part]] = []
  for part in parts:
    if batches and not part.timed and not batches[-1][0].timed:
      batches[-1].append(part)
    else:
      batches.append([part])
  return batches


def _is_done(record: Mapping[str, Any] | None) -> bool:
  return record is not None and record['status'] != 'stopped'


def run_part(part: Part, out: pathlib.Path, left: float) -> dict[str, Any]:
  """Runs one part in a process of its own; returns its record.

  The status is 'ended', 'failed' (by an exit status, which a test that fails
  gives too), 'too long', or 'stopped' where the time of the day was over first.
  """
  stem = out / re.sub(r'\W+', '-', part.name)
  rows, log = stem.with_suffix('.json'), stem.with_suffix('.log')
  rows.unlink(missing_ok=True)
  command = [sys.executable, '-m', part.module, *part.arguments]
  if part.module != 'pytest':
    command += ['--json', str(rows)]
  begin = time.monotonic()
  with open(log, 'w') as file:
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env={**os.environ, **_make_variables(out), **part.variables},
      stdout=file,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    try:
      code = process.wait(timeout=min(part.limit, left))
      status = 'failed' if code else 'ended'
    except subprocess.TimeoutExpired:
      status = 'too long' if part.limit <= left else 'stopped'
    finally:
      _end(process)
  lines = log.read_text(errors='replace').splitlines()
  found = _read_tests(lines) if part.module == 'pytest' else _read_rows(rows)
  return {
    'status': status,
    'seconds': round(time.monotonic() - begin, 1),
    'date': datetime.date.today().isoformat(),
    'command': ' '.join(['python', *command[1:]]),
    'rows': found,
    'lines': lines[-LINES:],
  }


def _make_variables(out: pathlib.Path) -> dict[str, str]:
  # Processes share the device's memory and the compiled programs.
  return {
    'JAX_COMPILATION_CACHE_DIR': str(out.resolve() / 'programs'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '1',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'PYTHONUNBUFFERED': '1',
  }


def _end(process: subprocess.Popen) -> None:
  """Ends a process and those that it started, which share its session."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  return json.loads(path.read_text()) if path.exists() else []


def _read_tests(lines: Sequence[str]) -> list[dict[str, Any]]:
  """How many tests passed, then each that did not, with its reason."""
  ends = re.compile(r'(\S+::.+) (PASSED|FAILED|ERROR|SKIPPED)\s+(\[|\()')
  found = {m[1]: m[2] for m in map(ends.match, lines) if m}
  reasons = dict(
    line.split(' ', 1)[1].split(' - ', 1)
    for line in lines
    if re.match(r'(FAILED|ERROR) \S+::.* - ', line)
  )
  passed = sum(end == 'PASSED' for end in found.values())
  return [{'test': 'passed', 'reason': f'{passed} of {len(found)}'}] + [
    {'test': name, 'reason': reasons.get(name, end)}
    for name, end in found.items()
    if end in ('FAILED', 'ERROR')
  ]


def make_page(done: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the Markdown of all records, a table for each part."""
  sections = []
  for name, record in done.items():
    head = f'{record["status"]}, {record["seconds"]:.0f} s, {record["date"]}'
    parts = [f'## {name}', f'`{record["command"]}`: {head}.']
    if record['rows']:
      parts.append(_make_table(record['rows']))
    if record['status'] != 'ended':
      tail = record['lines'][-15:]
      parts.append('\n'.join(['```', *tail, '```']))
    sections.append('\n\n'.join(parts))
  return '\n\n'.join(['# Device day', *sections]) + '\n'


def _make_table(rows: Sequence[Mapping[str, Any]]) -> str:
  names = list(rows[0])
  lines = [names, ['---'] * len(names)]
  lines += [[_format(row[name]) for name in names] for row in rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _format(value: Any) -> str:
  text = f'{value:.4g}' if isinstance(value, float) else str(value)
  return text.replace('|', '/').replace('\n', ' ')


if __name__ == '__main__':
  main()
