"""The folder of a run: locks, links, left-overs, full disks, replaced runs."""

import json
import os
import subprocess
import sys
import tempfile

import ml_collections
import numpy as np
import pytest

from experiments.lib import folders, locks, records
from experiments.lib import workdir as workdirs

CONFIG = ml_collections.ConfigDict({'seed': 0, 'fit': {'steps': 3}})


def _finish(path, **files):
  """Leaves a finished run that has written the files."""

  def write(folder):
    for name, text in files.items():
      (folders.write_atomic(os.path.join(folder, name), text.encode()))
    return list(files)

  with workdirs.open_workdir(str(path), CONFIG) as folder:
    folder.write({'steps': 3}, write)


def _fill(monkeypatch, **bytes_left):
  """Makes the disk take only so many bytes more in each kind of call."""
  left = {'write': 10**9, **bytes_left}
  write = os.write

  def write_some(number, data):
    if left['write'] <= 0:
      raise OSError(28, 'No space left on device')
    count = write(number, data[: left['write']])
    left['write'] -= count
    return count

  monkeypatch.setattr(os, 'write', write_some)


# --- Who may write in a folder.


def test_a_second_run_in_a_folder_names_the_first(tmp_path):
  with (
    workdirs.open_workdir(str(tmp_path), CONFIG),
    pytest.raises(ValueError, match=f'in use by process {os.getpid()} on'),
  ):
    with workdirs.open_workdir(str(tmp_path), CONFIG):
      pass
    assert json.loads((tmp_path / 'config.json').read_text())
  with workdirs.open_workdir(str(tmp_path), CONFIG):
    pass
  assert set(os.listdir(tmp_path)) == {'config.json'}


def test_a_lock_of_a_killed_process_keeps_nobody_out(tmp_path):
  code = (
    'import os, sys; from experiments.lib import locks\n'
    'with locks.hold(sys.argv[1]):\n'
    '  os.kill(os.getpid(), 9)'
  )
  subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=False)
  assert os.listdir(tmp_path) == ['.lock']
  with locks.hold(str(tmp_path)):
    pass
  assert not os.listdir(tmp_path)


def test_a_lock_that_was_removed_is_no_error(tmp_path):
  with locks.hold(str(tmp_path)):
    os.remove(tmp_path / '.lock')
  with locks.hold(str(tmp_path)):
    assert os.listdir(tmp_path) == ['.lock']


@pytest.mark.parametrize(
  'name', ['metrics.jsonl', 'restored.png', 'result.json', 'checkpoints']
)
def test_a_link_to_another_place_is_refused(tmp_path, name):
  outside, workdir = tmp_path / 'outside', tmp_path / 'run'
  outside.write_text('mine')
  workdir.mkdir()
  (workdir / name).symlink_to(outside)
  with (
    pytest.raises(ValueError, match=f"{name}' is a link"),
    workdirs.open_workdir(str(workdir), CONFIG),
  ):
    pass
  assert outside.read_text() == 'mine'
  assert os.listdir(workdir) == [name]


def test_a_link_within_the_folder_is_fine(tmp_path):
  (tmp_path / 'a.png').write_text('a')
  (tmp_path / 'b.png').symlink_to(tmp_path / 'a.png')
  with workdirs.open_workdir(str(tmp_path), CONFIG):
    pass


# --- What a start leaves, and what it never touches.


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_a_start_that_computed_nothing_leaves_nothing(tmp_path, error):
  with (
    pytest.raises(error),
    workdirs.open_workdir(str(tmp_path / 'new' / 'run'), CONFIG) as folder,
  ):
    records.Records(folder.find('metrics.jsonl')).begin(None)
    raise error
  assert not os.listdir(tmp_path)


def test_a_start_that_failed_leaves_the_users_files(tmp_path):
  (tmp_path / 'mine.txt').write_text('mine')
  with (
    pytest.raises(ValueError),
    workdirs.open_workdir(str(tmp_path), CONFIG),
  ):
    raise ValueError
  assert os.listdir(tmp_path) == ['mine.txt']


def test_a_start_that_failed_leaves_a_finished_run(tmp_path):
  _finish(tmp_path, **{'restored.png': 'picture'})
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with (
    pytest.raises(ValueError),
    workdirs.open_workdir(str(tmp_path), CONFIG) as folder,
  ):
    assert folder.finished == json.loads(before['result.json'])
    raise ValueError
  other = ml_collections.ConfigDict({'seed': 1, 'fit': {'steps': 3}})
  with (
    pytest.raises(ValueError, match='a run with seed=0, this one has 1'),
    workdirs.open_workdir(str(tmp_path), other),
  ):
    pass
  with (
    pytest.raises(ValueError, match='finished run of other data'),
    workdirs.open_workdir(str(tmp_path), CONFIG, data='another'),
  ):
    pass
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_a_killed_process_had_begun_to_write_goes(tmp_path):
  (tmp_path / '.restored.png.x1_z.partial').write_text('half')
  (tmp_path / '.mine').write_text('mine')
  with workdirs.open_workdir(str(tmp_path), CONFIG):
    assert set(os.listdir(tmp_path)) == {'.mine', '.lock', 'config.json'}


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(ValueError, match='file/run'),
    workdirs.open_workdir(str(tmp_path / 'file' / 'run'), CONFIG),
  ):
    pass


# --- Replacing a run.


def test_a_run_is_replaced_once_the_next_has_succeeded(tmp_path, capsys):
  _finish(tmp_path, **{'restored.png': 'old', 'old.png': 'old'})
  (tmp_path / 'mine.png').write_text('mine')
  with workdirs.overwrite(str(tmp_path)):
    said = capsys.readouterr().out
    assert 'config.json, old.png, restored.png, result.json' in said
    assert not (tmp_path / 'result.json').exists()
    _finish(tmp_path, **{'restored.png': 'new'})
  assert set(os.listdir(tmp_path)) == {
    *('config.json', 'mine.png', 'restored.png', 'result.json')
  }
  assert (tmp_path / 'restored.png').read_text() == 'new'


def test_a_run_comes_back_where_the_next_is_refused(tmp_path):
  _finish(tmp_path, **{'restored.png': 'old'})
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  with pytest.raises(ValueError), workdirs.overwrite(str(tmp_path)):
    raise ValueError
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_run_stays_aside_until_one_succeeds(tmp_path):
  _finish(tmp_path, **{'restored.png': 'old'})
  for _ in range(2):
    with (
      pytest.raises(KeyboardInterrupt),
      workdirs.overwrite(str(tmp_path)),
      workdirs.open_workdir(str(tmp_path), CONFIG) as folder,
    ):
      record = records.Records(folder.find('metrics.jsonl'))
      record.add([{'step': 0}])
      raise KeyboardInterrupt
    aside = tmp_path / '.replaced'
    assert (aside / 'restored.png').read_text() == 'old'
  _finish(tmp_path, **{'restored.png': 'new'})
  assert not aside.exists()


def test_a_run_stays_aside_while_the_next_is_only_stopped(tmp_path):
  _finish(tmp_path, **{'restored.png': 'old'})
  with (
    workdirs.overwrite(str(tmp_path)),
    workdirs.open_workdir(str(tmp_path), CONFIG) as folder,
  ):
    folder.write({'steps': 1, 'stopped': True}, lambda path: [])
  assert (tmp_path / '.replaced' / 'restored.png').read_text() == 'old'


def test_the_arms_of_a_killed_ablation_are_replaced_too(tmp_path):
  with workdirs.open_workdir(str(tmp_path), CONFIG) as folder:
    records.append_lines(folder.find(workdirs.ARMS), [{'arm': 'old'}])
  with workdirs.overwrite(str(tmp_path)):
    assert records.read_lines(str(tmp_path / workdirs.ARMS)) == []


def test_a_result_that_lists_foreign_files_deletes_none(tmp_path):
  workdir, foreign = tmp_path / 'run', tmp_path / 'foreign.txt'
  foreign.write_text('mine')
  _finish(workdir)
  result = {'files': ['../foreign.txt', str(foreign), '..', '.', '']}
  (workdir / 'result.json').write_text(json.dumps(result))
  assert workdirs.list_files(str(workdir)) == ['config.json', 'result.json']


# --- Full disks.


def test_files_go_elsewhere_where_the_folder_takes_no_more(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  workdir = str(tmp_path / 'run')

  def write(folder):
    if folder == workdir:
      raise OSError(28, 'No space left on device', f'{folder}/restored.png')
    folders.write_atomic(os.path.join(folder, 'restored.png'), b'picture')
    return ['restored.png']

  with (
    pytest.raises(OSError, match='restored.png: No space left') as caught,
    workdirs.open_workdir(workdir, CONFIG) as folder,
  ):
    folder.write({'steps': 3}, write)
  where = str(caught.value).rsplit(' ', 1)[-1]
  assert where.startswith(str(tmp_path / 'dipjax-'))
  assert set(os.listdir(where)) == {
    *('config.json', 'restored.png', 'result.json')
  }


def test_a_folder_that_was_removed_is_made_again(tmp_path):
  workdir = tmp_path / 'run'
  with workdirs.open_workdir(str(workdir), CONFIG) as folder:
    record = records.Records(folder.find('metrics.jsonl'))
    record.begin(None)
    os.remove(workdir / '.lock')
    os.remove(workdir / 'config.json')
    os.remove(workdir / 'metrics.jsonl')
    os.rmdir(workdir)
    record.add([{'step': 0}])
    folder.write({'steps': 1}, lambda path: [])
  assert set(os.listdir(workdir)) == {
    *('metrics.jsonl', 'config.json', 'result.json')
  }


# --- Records.


def test_records_wait_for_a_disk_that_is_full(tmp_path, monkeypatch, capsys):
  record = records.Records(str(tmp_path / 'metrics.jsonl'))
  record.begin(None)
  record.add([{'step': 0}])
  with monkeypatch.context() as patch:
    _fill(patch, write=5)
    for step in (1, 2):
      record.add([{'step': step}])
  assert (tmp_path / 'metrics.jsonl').read_text() == '{"step": 0}\n'
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'metrics.jsonl: No space left' in said
  record.add([{'step': 3}])
  there = records.read_lines(record.path)
  assert (
    [line['step'] for line in there]
    == [0, 1, 2, 3]
    == [line['step'] for line in record.kept]
  )


def test_a_short_write_leaves_no_torn_line(tmp_path, monkeypatch):
  path, write = tmp_path / 'a.jsonl', os.write
  monkeypatch.setattr(os, 'write', lambda n, data: write(n, data[:3]))
  records.append_lines(str(path), [{'step': 12345}])
  assert path.read_text() == '{"step": 12345}\n'


@pytest.mark.parametrize('torn', [b'{"step": 1', b'\xff\xfe', b'{"st', b'7'])
def test_a_torn_last_line_is_dropped_and_said(tmp_path, capsys, torn):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"step": 0}\n' + torn)
  assert records.read_lines(str(path)) == [{'step': 0}]
  assert 'last line is cut off' in capsys.readouterr().err
  records.append_lines(str(path), [{'step': 1}])
  assert records.read_lines(str(path)) == [{'step': 0}, {'step': 1}]
  assert not capsys.readouterr().err


def test_a_last_line_without_its_end_is_whole(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"step": 0}\n{"step": 1}')
  assert len(records.read_lines(str(path))) == 2
  records.append_lines(str(path), [{'step': 2}])
  assert len(records.read_lines(str(path))) == 3


def test_a_damaged_line_amid_the_others_is_named(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"step": 0}\nrubbish\n{"step": 1}\n')
  with pytest.raises(ValueError, match=r"a.jsonl' is no file of .* line 2"):
    records.read_lines(str(path))


def test_memory_keeps_few_records_of_each_lane(tmp_path, monkeypatch):
  monkeypatch.setattr(records, 'MOST', 8)
  record = records.Records(str(tmp_path / 'metrics.jsonl'))
  for step in range(100):
    record.add([{'step': step, 'lane': lane} for lane in range(2)])
  kept = [[r['step'] for r in record.kept if r['lane'] == i] for i in (0, 1)]
  assert kept[0] == kept[1] == list(range(0, 100, 16))
  # Records that are read again are thinned in the same way.
  again = records.Records(record.path)
  again.rewind(record.find_end())
  assert again.kept == record.kept


def test_records_go_back_to_a_checkpoint(tmp_path, capsys):
  record = records.Records(str(tmp_path / 'metrics.jsonl'))
  record.add([{'step': 0}, {'step': 1}])
  end = record.find_end()
  record.add([{'step': 2}])
  record.rewind(end)
  assert record.kept == records.read_lines(record.path)
  assert len(record.kept) == 2
  os.remove(record.path)
  record.rewind(end)
  assert 'lost' in capsys.readouterr().err and not record.kept


# --- Whole files.


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
  outside, path = tmp_path / 'outside', tmp_path / 'a.json'
  outside.write_text('mine')
  path.symlink_to(outside)
  folders.write_atomic(path, b'new')
  assert outside.read_text() == 'mine' and path.read_text() == 'new'
  with pytest.raises(OSError):
    os.remove(path)
    path.symlink_to(outside)
    folders.append(path, b'more')
  assert outside.read_text() == 'mine'


def test_temporary_names_cannot_be_guessed(tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(os, 'replace', lambda a, b: seen.append(str(a)))
  for _ in range(2):
    folders.write_atomic(tmp_path / 'a.json', b'new')
  assert len(set(seen)) == 2 and not os.listdir(tmp_path)


def test_files_have_the_users_permissions(tmp_path):
  folders.write_atomic(tmp_path / 'a.json', b'new')
  (tmp_path / 'b').touch()
  assert (tmp_path / 'a.json').stat().st_mode == (tmp_path / 'b').stat().st_mode


def test_a_printed_path_has_no_control_characters():
  assert folders.show('a\x1b[31m\nb é') == 'a\\x1b[31m\\nb é'


def test_an_error_names_the_file(tmp_path):
  with pytest.raises(OSError) as caught:
    folders.write_atomic(tmp_path / 'no' / 'a.json', b'')
  assert caught.value.filename == str(tmp_path / 'no' / 'a.json')


def test_arrays_of_equal_bytes_and_other_shapes_differ():
  from experiments.lib import leaves

  arrays = [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)]
  arrays += [np.zeros((2, 3), np.int32)]
  assert len({leaves.digest_arrays(array) for array in arrays}) == 3
