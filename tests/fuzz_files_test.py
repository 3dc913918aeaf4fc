"""Damaged files of every container: a picture or one line, and no more."""

import json
import os
import pathlib
import sys
import threading

import pytest

from benchmarks import fuzz_files, mutations

_EACH = 1000  # Mutants of each of two processes.

pytestmark = [
  pytest.mark.skipif(
    sys.platform != 'linux', reason='the memory of a process is in /proc'
  )
]


@pytest.fixture(scope='module')
def outcomes():
  """What mutants come to, read by two processes side by side."""
  found = [[], []]

  def fuzz(half):
    indices = range(half * _EACH, (half + 1) * _EACH)
    found[half] = list(fuzz_files.fuzz(0, indices))

  threads = [threading.Thread(target=fuzz, args=(half,)) for half in (0, 1)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return [*found[0], *found[1]]


def test_no_damage_is_a_fault(outcomes):
  assert len(outcomes) == 2 * _EACH
  assert [o for o in outcomes if o.what == 'fault'] == []


def test_every_container_is_both_read_and_refused(outcomes):
  names = {outcome.container for outcome in outcomes}
  assert {'PNG', 'JPEG', 'TIFF', 'FITS', 'npz', 'Netpbm'} <= names
  for what in ('read', 'refused'):
    assert {o.container for o in outcomes if o.what == what} == names


def test_every_good_file_is_known(tmp_path):
  """A fuzz of files that are refused as they are would find nothing."""
  path = tmp_path / 'good'
  for container, files in mutations.make_sources().items():
    kinds = []
    for data in files:
      path.write_bytes(data)
      kinds.append(fuzz_files.read(str(path))[0])
    good = kinds.count('read') / len(kinds)
    assert good == 0 if container == 'refused' else good >= 0.5, container
    assert 'fault' not in kinds


def test_a_mutant_is_the_same_each_time():
  sources = mutations.make_sources()
  first = [mutations.make_mutant(sources, 3, i) for i in range(50)]
  assert first == [mutations.make_mutant(sources, 3, i) for i in range(50)]
  assert len({data for _, data in first}) > 40


_FAULTS = [
  ('raise KeyError(path)', 'KeyError'),
  (r'raise ValueError("a\nb")', 'a\nb'),
  ('os.write(2, b"hello")', 'hello'),
  ('os.system("true")', 'os.system'),
  ('open(path + ".new", "w")', 'to write'),
  ('os.remove(path)', 'os.remove'),
  ('bytearray(650 << 20)', 'took'),
  ('os._exit(3)', 'died with 3'),
  ('import time; time.sleep(60)', 'hangs'),
]
# Python runs it at its start: what reads the mutants misbehaves at each.
_MISBEHAVE = """
import json, os
from benchmarks import mutations
from experiments.lib import reading
codes = json.loads({codes!r})
make = mutations.make_mutant
def make_mutant(sources, seed, index):
  if index < len(codes):
    def misbehave(path):
      exec(codes[index])
    reading.read = misbehave
  else:
    reading.read = read
  return make(sources, seed, index)
read, mutations.make_mutant = reading.read, make_mutant
"""


def test_each_fault_is_seen(tmp_path, monkeypatch):
  codes = json.dumps([code for code, _ in _FAULTS])
  script = tmp_path / 'sitecustomize.py'
  script.write_text(_MISBEHAVE.format(codes=codes))
  # A sitecustomize is imported before the folder that `-m` looks in is known.
  root = pathlib.Path(__file__).parents[1]
  monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{root}')
  monkeypatch.setattr(fuzz_files, 'SECONDS', 4.0)
  *outcomes, last = fuzz_files.fuzz(0, range(len(_FAULTS) + 1))
  for (_, text), outcome in zip(_FAULTS, outcomes, strict=True):
    assert outcome.what == 'fault' and text in outcome.text
  assert last.what != 'fault'
  table = fuzz_files.make_table([*outcomes, last])
  assert f'| all | {len(_FAULTS) + 1} |' in table
