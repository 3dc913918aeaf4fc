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
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import fault_list
from configs import req2
from experiments import denoise
from experiments.lib import images, records


def try_fault(
  name: str, seed: int, case: fault_list.Case, folder: str
) -> dict[str, Any]:
  """Injects a fault one to three times, then lets the run end.

  Returns:
    The trial: times, lost (the steps that the last fault cost), equal, said.
  """
  rng = random.Random(f'{name} {seed}')
  workdir = os.path.join(folder, f'{name} {seed}'.replace(' ', '-'))
  times, inject = rng.randint(1, 3), fault_list.FAULTS[name]
  said = [_complain(inject(rng, case, workdir)) for _ in range(times)]
  taken = _count_steps(workdir)
  ended = fault_list.wait(fault_list.start(case.arguments, workdir))
  lost = max(0, taken - _find_resumed(ended.said, taken))
  # Damage of both checkpoints needs --overwrite, which the run says.
  if ended.status == 2 and '--overwrite' in ended.said:
    again = (*case.arguments, '--overwrite')
    said.append('starts again')
    ended = fault_list.wait(fault_list.start(again, workdir))
  said.append(_complain(ended))
  equal = ended.status == 0 and fault_list.read_files(workdir) == case.files
  if equal:
    shutil.rmtree(workdir)
  return {
    'fault': name,
    'seed': seed,
    'run': case.name,
    'times': times,
    'lost': lost,
    'equal': equal,
    'said': sorted(set(filter(None, said))),
  }


def _complain(ended: fault_list.Ended) -> str:
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
  for name in fault_list.FAULTS:
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
  config = req2.get_config('smoke')
  config.fit.steps = 200
  config.checkpoint.every = '50'
  end, count, samples = time.monotonic() + 60 * minutes, 0, []
  rng = np.random.default_rng(0)
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
      number, memory, files = samples[-1]
      print(f'{number} pictures: {memory} MiB, {files} open files', flush=True)
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
  parser.add_argument(
    '--faults',
    nargs='+',
    choices=fault_list.FAULTS,
    default=[*fault_list.FAULTS],
  )
  parser.add_argument('--times', type=int, default=20)
  parser.add_argument(
    '--runs', nargs='+', choices=fault_list.RUNS, default=[*fault_list.RUNS]
  )
  parser.add_argument('--out', help='a file of trials, to go on with')
  parser.add_argument('--soak', type=float, metavar='MINUTES')
  arguments = parser.parse_args(argv)
  with tempfile.TemporaryDirectory(prefix='dipjax-faults-') as folder:
    if arguments.soak:
      soak(arguments.soak, folder)
      return
    rows = records.read_lines(arguments.out) if arguments.out else []
    cases = fault_list.make_cases(folder, arguments.runs)
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
