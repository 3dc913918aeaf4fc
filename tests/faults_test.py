"""The short form of benchmarks.faults: faults do no harm."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _inject(out, *flags):
  """The trials of a benchmark of faults that was run in a process of its own.

  It forks, which a process that has used JAX must not.
  """
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.faults', f'--out={out}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return [json.loads(line) for line in out.read_text().splitlines()]


def test_twenty_kills_do_no_harm(tmp_path):
  flags = ['--faults', 'kill', '--times', '20', '--runs', 'two lanes']
  trials = _inject(tmp_path / 'trials.jsonl', *flags)
  assert sum(trial['times'] for trial in trials) >= 20
  assert [t for t in trials if not t['equal'] or t['said']] == []


def test_faults_do_no_harm(tmp_path):
  faults = [
    'interrupt',
    'fill the disk',
    'flip a bit',
    'start twice',
    'remove the folder',
  ]
  flags = ['--faults', *faults, '--times', '2', '--runs', 'denoise']
  trials = _inject(tmp_path / 'trials.jsonl', *flags)
  for fault in faults:
    own = [trial for trial in trials if trial['fault'] == fault]
    assert sum(trial['times'] for trial in own) >= 2
    assert [trial for trial in own if not trial['equal']] == []
  said = {line for trial in trials for line in trial['said']}
  assert said <= {'starts again'}
