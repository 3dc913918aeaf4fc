"""Several processes share a folder: stopped, killed, and equal to one."""

import csv
import json
import os
import pathlib
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from experiments.folder.__main__ import run
from experiments.lib import hosts, records, stopping

WORDS = 'smoke,network=pixels,stop=last'
FIELDS = {
  'lanes': 2,
  'fit.steps': 3000,
  'record.every': 20,
  'checkpoint.every': '1000',
}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory) -> pathlib.Path:
  """Eight pictures, and what is none; every second one is process 1's of 2."""
  home, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
  for name in ('a.png', 'a.tif', *(f'{letter}.png' for letter in 'cdefgh')):
    levels = rng.integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(levels).save(home / name)
  (home / 'bad.png').write_text('no picture')
  return home


@pytest.fixture(scope='module')
def alone(pictures, tmp_path_factory):
  """What one process gives."""
  workdir = tmp_path_factory.mktemp('alone')
  run(_make_config(pictures), str(workdir))
  return _read_all(workdir)


def _make_config(pictures):
  config = folder_config.get_config(WORDS)
  config.data.images = str(pictures)
  config.update_from_flattened_dict(FIELDS)
  return config


def _read_all(workdir):
  """The restored files, the rows and the table without their times."""
  home, index = workdir / 'restored', workdir / 'index.jsonl'
  files = {path.name: path.read_bytes() for path in home.iterdir()}
  rows = {row['file']: row for row in records.read_lines(str(index))}
  assert len(index.read_text().splitlines()) == len(rows)  # Nothing twice.
  with open(workdir / 'index.csv', newline='') as file:
    table = list(csv.DictReader(file))
  for row in (*rows.values(), *table):
    row.pop('seconds', None)
  return files, rows, table, (workdir / 'contact.png').read_bytes()


class Job:
  """Processes on the loopback interface; as a context it leaves none."""

  def __init__(self, server, pictures, workdir, count):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    command = ['folder', f'--workdir={workdir}']
    command += [f'--config=configs/folder.py:{WORDS}', '--distributed']
    command += [f'--config.data.images={pictures}', f'--processes={count}']
    command += [f'--config.{name}={value}' for name, value in FIELDS.items()]
    command += [f'--coordinator=127.0.0.1:{port}']
    self._server = server
    self.processes = [
      server.start(*command, f'--process={index}') for index in range(count)
    ]

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    for process in self.processes:
      if self._server.find_end(process) is None:
        os.kill(process, signal.SIGKILL)
        self._server.wait(process)

  def wait(self) -> list[str]:
    """Returns what each process has said, at its end."""
    return [self._server.wait(process)[1] for process in self.processes]

  def list_codes(self) -> list[int]:
    return [self._server.wait(process)[0] for process in self.processes]

  def has_ended(self) -> bool:
    """Returns whether any process has."""
    return any(map(self._server.find_end, self.processes))


def _wait(job, is_there):
  while not is_there():
    assert not job.has_ended()
    time.sleep(0.01)


def test_a_job_that_was_stopped_and_killed_ends_as_one_process_does(
  run_experiment, pictures, alone, tmp_path
):
  own, rows = tmp_path / 'processes' / '1-of-2', {}

  def keep_rows():
    """Keeps the rows so far; none of them changes later, nor its seconds."""
    for path in tmp_path.glob('**/index.jsonl'):
      for row in records.read_lines(str(path)):
        assert rows.setdefault(row['file'], row) == row

  # A scheduler asks all processes to stop.
  with Job(run_experiment, pictures, tmp_path, 2) as job:
    _wait(job, (own / 'index.jsonl').exists)
    for process in job.processes:
      os.kill(process, signal.SIGTERM)
    said = job.wait()
  assert job.list_codes() == [143, 143], said
  assert all('to go on: python -m experiments.folder' in one for one in said)
  result = json.loads((tmp_path / 'result.json').read_text())
  assert result['stopped'] is True and result['pictures'] == 9
  keep_rows()
  assert 0 < len(rows) < 9
  assert list((own / 'checkpoints').glob('*/leaves/*.npy'))
  # One process is killed once it has saved more; the scheduler ends the other.
  list_saved = lambda: {
    path.name for path in (own / 'checkpoints').iterdir() if path.name.isdigit()
  }
  before = list_saved()
  with Job(run_experiment, pictures, tmp_path, 2) as job:
    _wait(job, lambda: not list_saved() <= before)
    os.kill(job.processes[1], signal.SIGKILL)
  keep_rows()
  assert len(rows) < 9
  # The same command.
  with Job(run_experiment, pictures, tmp_path, 2) as job:
    said = job.wait()
  assert job.list_codes() == [0, 0], said
  assert not any('warning' in one for one in said), said
  keep_rows()
  assert _read_all(tmp_path) == alone
  assert not (tmp_path / 'processes').exists()


def test_four_processes_give_what_one_gives(
  run_experiment, pictures, alone, tmp_path
):
  with Job(run_experiment, pictures, tmp_path, 4) as job:
    said = job.wait()
  assert job.list_codes() == [0] * 4, said
  assert '8 of 9 restored, 1 failed' in said[0]
  assert [f'process {i} of 4' in said[i] for i in range(4)] == [True] * 4
  assert _read_all(tmp_path) == alone
  # One process alone reads what they have left.
  run(_make_config(pictures), str(tmp_path))
  assert _read_all(tmp_path) == alone


def test_an_error_of_one_process_ends_all_in_one_line(
  run_experiment, pictures, tmp_path
):
  (tmp_path / 'config.json').write_text('{}')
  with Job(run_experiment, pictures, tmp_path, 2) as job:
    said = job.wait()
  assert job.list_codes() == [2, 2], said
  errors = [one.splitlines()[-1] for one in said]
  assert errors[0].startswith(f'error: workdir {str(tmp_path)!r} holds a run')
  assert errors[1] == errors[0].replace('error: ', 'error: process 0: ')
  assert os.listdir(tmp_path) == ['config.json']


# --- Without processes.


@pytest.mark.parametrize('count', [1, 3, 7])
def test_each_item_is_of_one_process(count):
  items = list('abcde')
  shares = [hosts.Team(i, count).take_share(items) for i in range(count)]
  assert sorted(item for share in shares for item in share) == items
  assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_meets_nobody():
  assert hosts.find_team() == hosts.Team(0, 1)
  with hosts.find_team().meet() as told:
    told['a'] = 1
  assert told['all'] == [{'a': 1}]
  with pytest.raises(KeyError), hosts.find_team().meet():
    raise KeyError


class _Service:
  """What `jax.distributed` keeps for processes, for one of them alone."""

  def __init__(self):
    self.told = {}

  def key_value_set(self, key, value):
    self.told[key] = value

  def key_value_dir_get(self, home):
    return [each for each in self.told.items() if each[0].startswith(home)]


def test_who_was_asked_to_stop_does_not_wait_for_ever(monkeypatch, capsys):
  service, stop = _Service(), stopping.Stop()
  monkeypatch.setattr(hosts, '_find_client', lambda: service)
  monkeypatch.setattr(hosts, '_PATIENCE', 0.3)
  stop.signal = int(signal.SIGTERM)
  with pytest.raises(SystemExit) as end, hosts.Team(1, 2).meet(stop):
    pass
  assert end.value.code == 143 and 'go on' in capsys.readouterr().err
  said = [json.loads(value)['error'] for value in service.told.values()]
  assert said == [None, 'was interrupted']


@pytest.mark.parametrize(
  'given,said',
  [
    ('--processes=2', '--processes needs --distributed'),
    ('--distributed --process=0', 'needs --coordinator and --processes too'),
    ('--distributed', 'needs --workdir, a folder that all processes see'),
    ('--distributed --workdir=W --overwrite', '--overwrite is for one process'),
    ('{all} --coordinator=here', "must be HOST:PORT, got 'here'"),
    ('{all} --coordinator=here:0', "must be HOST:PORT, got 'here:0'"),
    (
      '{all} --process=2',
      '--process must be from 0 to 1 of 2 processes, got 2',
    ),
    ('{all} --process=-1', '--process must be from 0 to 1 of 2'),
    ('{all} --processes=0', '--processes must be at least 1, got 0'),
    ('--distributed --workdir=W', 'no TPU pod, Slurm or GKE is found: name'),
  ],
)
def test_flags_that_do_not_fit_are_refused(run_experiment, given, said):
  everything = '--distributed --workdir=W --coordinator=localhost:1'
  everything += ' --processes=2 --process=0'
  arguments = given.format(all=everything).split()
  status, errors = run_experiment(
    'folder', '--config=configs/folder.py', *arguments
  )
  assert status == 2 and said in errors
  assert len(errors.splitlines()) == 1 and errors.startswith('error: ')
  assert not os.path.exists('W')


def test_other_experiments_have_no_such_flags(run_experiment):
  status, errors = run_experiment(
    'denoise', '--config=configs/req2.py', '--distributed'
  )
  assert status == 2 and 'distributed' in errors
  assert len(errors.splitlines()) == 1
