"""A device day: parts in processes, what ends them, what is not repeated."""

import json
import time

import pytest

from benchmarks import device_day, device_list

# Each part is one of these, written as modules; '--json FILE' comes last.
ENDS = """
import json, pathlib, sys
pathlib.Path(sys.argv[-1]).write_text(json.dumps([{'size': 64, 'ms': 1.25}]))
count = pathlib.Path(sys.argv[1])
count.write_text(count.read_text() + 'x' if count.exists() else 'x')
"""
FAILS = "raise RuntimeError('no room for 512x512')"
HANGS = 'import time; time.sleep(60)'


@pytest.fixture
def make_part(tmp_path, monkeypatch):
  """(name, source, limit) -> a part; its runs are counted in NAME.count."""
  monkeypatch.setattr(device_day, 'ROOT', tmp_path)

  def make(name, source, limit=30):
    (tmp_path / f'{name}_part.py').write_text(source)
    count = str(tmp_path / f'{name}.count')
    return device_list.Part(name, f'{name}_part', (count,), limit, timed=False)

  return make


def _run(parts, out, seconds=60.0):
  return device_day.run_parts(parts, out, time.monotonic() + seconds, jobs=3)


def test_a_part_that_fails_or_hangs_takes_no_other_with_it(make_part, tmp_path):
  parts = [
    make_part('fails', FAILS),
    make_part('hangs', HANGS, limit=1),
    make_part('ends', ENDS),
  ]
  done = _run(parts, tmp_path / 'out')
  assert done == json.loads((tmp_path / 'out/device_day.json').read_text())
  assert {name: record['status'] for name, record in done.items()} == {
    'fails': 'failed',
    'hangs': 'too long',
    'ends': 'ended',
  }
  assert done['ends']['rows'] == [{'size': 64, 'ms': 1.25}]
  assert 'no room for 512x512' in done['fails']['lines'][-1]
  page = (tmp_path / 'out/device_day.md').read_text()
  assert '| size | ms |\n| --- | --- |\n| 64 | 1.25 |' in page
  assert 'RuntimeError: no room for 512x512' in page


def test_what_is_done_is_not_run_again(make_part, tmp_path):
  part, count = make_part('ends', ENDS), tmp_path / 'ends.count'
  for _ in range(2):
    _run([part], tmp_path / 'out')
    assert count.read_text() == 'x'


def test_what_the_end_of_the_day_stopped_is_run_again(
  make_part, tmp_path, monkeypatch
):
  monkeypatch.setattr(device_day, 'LEAST', 0)
  out = tmp_path / 'out'
  done = _run([make_part('slow', HANGS)], out, seconds=1)
  assert done['slow']['status'] == 'stopped'
  done = _run([make_part('slow', ENDS)], out)
  assert done['slow']['status'] == 'ended'


def test_nothing_begins_without_time_for_it(make_part, tmp_path, capsys):
  assert not _run([make_part('ends', ENDS)], tmp_path / 'out', seconds=1)
  assert 'ends: left for the next call' in capsys.readouterr().out


def test_tests_that_fail_are_named_with_their_reason():
  lines = [
    'tests/a_test.py::test_b[c d] PASSED      [ 33%]',
    'tests/a_test.py::test_e FAILED           [ 66%]',
    'tests/a_test.py::test_f SKIPPED (no g)   [100%]',
    'FAILED tests/a_test.py::test_e - AssertionError: 1 - 2',
  ]
  assert device_day._read_tests(lines) == [
    {'test': 'passed', 'reason': '1 of 3'},
    {'test': 'tests/a_test.py::test_e', 'reason': 'AssertionError: 1 - 2'},
  ]


def test_every_part_has_a_name_of_its_own_and_tests_that_exist():
  root = device_day.ROOT
  for make in (device_list.list_parts, device_list.list_small_parts):
    parts = make('astronaut', ('--peer', 'torch'))
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
      if part.module == 'pytest':
        assert (root / part.arguments[0]).is_file()
      else:
        assert (root / f'{part.module.replace(".", "/")}.py').is_file()


def test_a_tiny_part_of_ours_runs(tmp_path):
  arguments = ('memory', '--channels', '2')
  part = device_list.Part('memory', 'benchmarks.device_parts', arguments)
  (row,) = _run([part], tmp_path / 'out')['memory']['rows']
  assert row['size'] == 64 and row['planned'] > 0 and row['estimated'] > 0
