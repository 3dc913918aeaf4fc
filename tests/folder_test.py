"""A folder of pictures: what it leaves, what stops it, and what does not."""

import csv
import json
import os
import pathlib
import signal
import tempfile
import threading

import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from dipjax.engine import slots
from experiments.folder import index as index_lib
from experiments.folder import listing, sheet, tasks, work
from experiments.folder.__main__ import run
from experiments.folder.listing import Entry
from experiments.lib import folders, reading, records

STEPS = 60


class Killed(BaseException):
  """Ends a run as a kill does: nothing catches it on its way."""


def _make_picture(path, height=12, width=16, seed=0, depth='uint8', grey=False):
  """A file with waves and noise; returns its levels."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width] / width
  waves = 0.5 + 0.3 * np.sin((3 + seed) * x + 5 * y)[..., None]
  noisy = np.clip(waves + 0.1 * rng.normal(size=(height, width, 3)), 0, 1)
  levels = np.rint(noisy * np.iinfo(depth).max).astype(depth)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(levels[..., 0] if grey else levels).save(path)
  return levels


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
  """A folder with pictures of two shapes, and what is none."""
  home = tmp_path / 'pictures'
  for seed, name in enumerate(['a.png', 'a.tif', 'sub/a.png', 'c.png']):
    _make_picture(home / name, seed=seed)
  _make_picture(home / 'deep.png', 10, 10, depth='uint16', grey=True)
  (home / 'bad.png').write_text('no picture')
  (home / 'readme.md').write_text('no picture, by its name')
  return home


def _make_config(source, variant='', **data):
  words = f'{variant},smoke,network=pixels,stop=last'
  config = folder_config.get_config(words)
  config.data.update(images=str(source), **data)
  config.lanes, config.fit.steps, config.record.every = 2, STEPS, 10
  return config


def _read_rows(workdir):
  rows = records.read_lines(str(workdir / 'index.jsonl'))
  names = [(row['file'], row['page']) for row in rows]
  assert len(set(names)) == len(names)  # Nothing twice.
  return {row['file']: row for row in rows}


def _read_all(workdir):
  """The restored files, and the rows without their times."""
  home = workdir / 'restored'
  files = {
    str(path.relative_to(home)): path.read_bytes()
    for path in home.rglob('*')
    if path.is_file()
  }
  rows = _read_rows(workdir)
  for row in rows.values():
    row.pop('seconds', None)
  return files, rows


def test_each_picture_becomes_a_file_of_its_kind_and_a_row(
  pictures, tmp_path, capsys
):
  config, workdir = _make_config(f'{pictures}/**'), tmp_path / 'run'
  result = run(config, str(workdir))
  names = ['a.png', 'a.tif', 'c.png', 'deep.png', 'sub/a.png']
  files, rows = _read_all(workdir)
  assert sorted(files) == names and sorted(rows) == sorted([*names, 'bad.png'])
  for name in names:
    before = reading.read(str(pictures / name))
    after = reading.read(str(workdir / 'restored' / name))
    assert (after.container, after.depth) == (before.container, before.depth)
    assert after.pixels.shape == before.pixels.shape
    assert 0.02 < np.abs(after.pixels - before.pixels).mean() < 0.4
    row = rows[name]
    assert (row['status'], row['steps']) == ('done', STEPS)
    assert row['output'] == name and row['error'] == ''
  assert rows['bad.png']['status'] == 'failed'
  assert rows['bad.png']['error'].startswith('is not a known image')
  with open(workdir / 'index.csv', newline='') as file:
    table = list(csv.DictReader(file))
  assert [row['file'] for row in table] == sorted(rows)
  assert table[0]['status'] == 'done' and table[2]['status'] == 'failed'
  assert set(os.listdir(workdir)) == {
    *('config.json', 'result.json', 'index.jsonl', 'index.csv', 'restored'),
    'contact.png',
    'report.html',
  }
  # The shapes have one program each: 4 pictures in 2 slots, 1 in a slot.
  assert result.summary['occupancy'] == 1
  assert (result.summary['done'], result.summary['failed']) == (5, 1)
  assert '5 of 6 restored, 1 failed' in capsys.readouterr().out
  # What is finished is said, and left as it is.
  stamps = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
  run(config, str(workdir))
  assert 'this run is finished' in capsys.readouterr().out
  assert stamps == {
    p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()
  }
  # A picture that is new is restored, and one that has changed.
  _make_picture(pictures / 'new.png', seed=7)
  _make_picture(pictures / 'bad.png', seed=8)
  run(config, str(workdir))
  said = capsys.readouterr().out
  assert '7 pictures, 5 of them before' in said and '2 of 2: ' in said
  after, rows = _read_all(workdir)
  assert {name: after[name] for name in files} == files
  assert after.keys() - files.keys() == {'new.png', 'bad.png'}
  assert {row['status'] for row in rows.values()} == {'done'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Five pictures of one shape, and a run of them that nothing stopped."""
  home = tmp_path_factory.mktemp('five')
  for seed, name in enumerate('abcde'):
    _make_picture(home / f'{name}.png', seed=seed)
  config = _make_config(home)
  config.checkpoint.every = '20'
  workdir = tmp_path_factory.mktemp('whole')
  run(config, str(workdir))
  return home, config, _read_all(workdir)


def test_neither_lanes_nor_order_change_a_picture(whole, tmp_path):
  home, config, expected = whole
  config = config.copy_and_resolve_references()
  config.lanes = 1
  order = tmp_path / 'list.txt'
  order.write_text('\n'.join(str(home / f'{name}.png') for name in 'edcba'))
  config.data.images = str(order)
  run(config, str(tmp_path / 'run'))
  files, rows = _read_all(tmp_path / 'run')
  assert (files, rows) == expected


def _break_off(monkeypatch, after, act):
  """Calls act(work) in a chunk of a run."""
  calls, watch = [], work.Work.__call__

  def break_off(self, *arguments):
    calls.append(0)
    if len(calls) == after:
      act(self)
    return watch(self, *arguments)

  monkeypatch.setattr(work.Work, '__call__', break_off)


def _kill(work):
  raise Killed


@pytest.mark.parametrize('after', [4, 11])
def test_a_killed_run_goes_on_where_it_was(whole, after, tmp_path, monkeypatch):
  _, config, expected = whole
  with monkeypatch.context() as patch, pytest.raises(Killed):
    _break_off(patch, after, _kill)
    run(config, str(tmp_path))
  before, loaded, load = _read_rows(tmp_path), [], work.Work.load

  def count(self, index, like):
    found = load(self, index, like)
    loaded.append(found is not None)
    return found

  monkeypatch.setattr(work.Work, 'load', count)
  result = run(config, str(tmp_path))
  assert _read_all(tmp_path) == expected
  # What was in the slots went on, what had a row was not fitted again.
  assert any(loaded) and len(loaded) == 5 - len(before)
  assert result.summary['done'] == 5
  assert not (tmp_path / 'checkpoints').exists()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order(whole, number, tmp_path, monkeypatch):
  _, config, expected = whole

  def send(work):
    os.kill(os.getpid(), number)
    for _ in range(500):
      if work._stop:
        return
      threading.Event().wait(0.01)

  with monkeypatch.context() as patch:
    _break_off(patch, 9, send)
    stopped = run(config, str(tmp_path))
  assert stopped.signal == number and stopped.summary['stopped'] is True
  assert stopped.summary['done'] == 2 == len(_read_rows(tmp_path))
  assert (tmp_path / 'index.csv').exists()
  run(config, str(tmp_path))
  assert _read_all(tmp_path) == expected
  assert 'stopped' not in json.loads((tmp_path / 'result.json').read_text())


def test_a_run_that_is_killed_from_outside_goes_on(
  whole, tmp_path, run_experiment
):
  home, _, expected = whole
  workdir = tmp_path / 'run'
  arguments = [
    '--config=configs/folder.py:smoke,network=pixels,stop=last',
    f'--config.data.images={home}',
    '--config.lanes=2',
    '--config.record.every=10',
    '--config.checkpoint.every=200',
    '--config.fit.steps=8000',
    f'--workdir={workdir}',
  ]
  ended = []
  thread = threading.Thread(
    target=lambda: ended.append(run_experiment('folder', *arguments))
  )
  thread.start()
  index = workdir / 'index.jsonl'
  for _ in range(12000):
    if ended or (index.exists() and index.stat().st_size):
      break
    threading.Event().wait(0.01)
  owner = json.loads((workdir / '.lock').read_text())
  os.kill(owner['process'], signal.SIGKILL)
  thread.join()
  assert ended[0][0] == -signal.SIGKILL
  before = {
    name: (workdir / 'restored' / name).stat().st_mtime_ns
    for name in _read_rows(workdir)
  }
  assert 0 < len(before) < 5
  status, said = run_experiment('folder', *arguments)
  assert status == 0, said
  rows = _read_rows(workdir)
  assert sorted(rows) == sorted(expected[1])
  assert {row['steps'] for row in rows.values()} == {8000}
  for name, stamp in before.items():
    assert (workdir / 'restored' / name).stat().st_mtime_ns == stamp


def test_a_file_that_changes_or_vanishes_meanwhile_is_a_row(
  whole, tmp_path, monkeypatch
):
  home, _, _ = whole
  own = tmp_path / 'pictures'
  own.mkdir()
  for path in home.iterdir():
    (own / path.name).write_bytes(path.read_bytes())
  prepare = tasks.prepare

  def disturb(config, entry, path):
    if entry.name == 'a.png':
      os.remove(entry.path)
    ready = prepare(config, entry, path)
    if entry.name == 'b.png':
      os.remove(entry.path)
    if entry.name == 'c.png':
      _make_picture(own / 'c.png', seed=9)
    return ready

  config, workdir = _make_config(own), tmp_path / 'run'
  with monkeypatch.context() as patch:
    patch.setattr(tasks, 'prepare', disturb)
    run(config, str(workdir))
  rows = _read_rows(workdir)
  assert rows['a.png']['error'] == 'is gone'
  for name in ('b.png', 'c.png'):
    assert rows[name]['error'] == (
      'was changed or removed while it was restored'
    )
  assert not {'b.png', 'c.png'} & set(os.listdir(workdir / 'restored'))
  assert [rows[f'{name}.png']['status'] for name in 'de'] == ['done', 'done']
  # The one that is there again is restored.
  run(config, str(workdir))
  assert _read_rows(workdir)['c.png']['status'] == 'done'


@pytest.mark.parametrize('full', ['picture', 'row'])
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
  whole, full, tmp_path, monkeypatch
):
  _, config, expected = whole
  workdir = tmp_path / 'run'
  name = {'picture': 'write_atomic', 'row': 'append'}[full]
  function, calls = getattr(folders, name), []

  def fill(path, data):
    here = 'restored' in str(path) or str(path).endswith('index.jsonl')
    calls.append(here)
    if here and sum(calls) > 2:
      raise OSError(28, 'No space left on device', os.fspath(path))
    function(path, data)

  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  with monkeypatch.context() as patch, pytest.raises(OSError) as ended:
    patch.setattr(folders, name, fill)
    run(config, str(workdir))
  assert 'No space left' in str(ended.value)
  assert len(str(ended.value).splitlines()) == 1
  assert len(_read_rows(workdir)) == 2
  run(config, str(workdir))
  assert _read_all(workdir) == expected


def test_few_pictures_are_in_memory(tmp_path, monkeypatch):
  home = tmp_path / 'pictures'
  for seed in range(32):
    _make_picture(home / f'{seed}.png', 8, 8, seed=seed)
  held, most, prepare = [0], [0], tasks.prepare
  complete, lock = work.Work._complete, threading.Lock()

  def count(change):
    with lock:
      held[0] += change
      most[0] = max(most[0], held[0])

  monkeypatch.setattr(
    tasks, 'prepare', lambda *args: (count(1), prepare(*args))[1]
  )
  monkeypatch.setattr(
    work.Work,
    '_complete',
    lambda *args: (complete(*args), count(-1))[0],
  )
  config = _make_config(home)
  config.fit.steps = 2
  run(config, str(tmp_path / 'run'))
  # Those that are read, wait, are in the slots, and wait to be written or are.
  assert held == [0] and most[0] <= work._AHEAD + 6 + 2 + work._AHEAD + 2


# --- Tasks.


def test_masks_lie_beside_their_pictures(tmp_path):
  home, workdir = tmp_path / 'pictures', tmp_path / 'run'
  hidden = np.zeros((12, 16), bool)
  hidden[2:6, 3:9] = True
  before = {}
  for seed, name in enumerate(['a', 'b', 'c']):
    before[name] = _make_picture(home / f'{name}.png', seed=seed)
    if name != 'c':
      mask = Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))
      mask.save(home / f'{name}_mask.png')
  run(_make_config(home, 'inpaint'), str(workdir))
  rows = _read_rows(workdir)
  assert sorted(rows) == ['a.png', 'b.png', 'c.png']
  assert rows['c.png']['status'] == 'failed'
  assert 'c_mask.png' in rows['c.png']['error']
  for name in 'ab':
    after = np.asarray(Image.open(workdir / 'restored' / f'{name}.png'))
    same = (after == before[name]).all(axis=2)
    assert same[~hidden].all() and not same[hidden].any()


def test_pictures_are_enlarged_and_scored(tmp_path, capsys):
  home, clean = tmp_path / 'pictures', tmp_path / 'clean'
  for seed, name in enumerate(['a', 'b']):
    _make_picture(home / f'{name}.png', 8, 8, seed=seed)
  _make_picture(clean / 'a.tif', 32, 32)
  _make_picture(clean / 'b.png', 8, 8)
  config = _make_config(home, 'super_resolution', clean=str(clean))
  result = run(config, str(tmp_path / 'run'))
  rows = _read_rows(tmp_path / 'run')
  image = Image.open(tmp_path / 'run' / 'restored' / 'a.png')
  assert image.size == (32, 32)
  assert 5 < rows['a.png']['psnr'] < 40 and rows['a.png']['psnr_before'] > 5
  assert result.summary['psnr'] == rows['a.png']['psnr']
  assert 'the restored one (32, 32, 3)' in rows['b.png']['error']
  assert 'dB on average' in capsys.readouterr().out


def test_every_page_of_a_stack_is_a_picture(tmp_path):
  home, workdir = tmp_path / 'pictures', tmp_path / 'run'
  home.mkdir()
  pages = [
    Image.fromarray(np.full((8, 8), 40 * n, np.uint8)) for n in range(1, 4)
  ]
  pages[0].save(home / 'a.tif', save_all=True, append_images=pages[1:])
  _make_picture(home / 'a_page1.tif', 8, 8, grey=True)
  config = _make_config(home)
  run(config, str(workdir))
  names = ['a_page0.tif', 'a_page1.tif', 'a_page1_2.tif', 'a_page2.tif']
  assert sorted(os.listdir(workdir / 'restored')) == names
  rows = records.read_lines(str(workdir / 'index.jsonl'))
  found = {(row['file'], row['page']): row['output'] for row in rows}
  assert found == {
    ('a.tif', 0): 'a_page0.tif',
    ('a.tif', 1): 'a_page1_2.tif',
    ('a.tif', 2): 'a_page2.tif',
    ('a_page1.tif', None): 'a_page1.tif',
  }
  listed = listing.list_pictures(str(home / 'a.tif'), str(workdir), page=2)
  assert listed.entries == [Entry(str(home / 'a.tif'), 'a.tif', 2)]


# --- Bad input.


def _refuse(config, workdir):
  with pytest.raises(ValueError) as refused:
    run(config, str(workdir))
  said = str(refused.value)
  assert len(said.splitlines()) == 1
  return said


def test_a_folder_without_pictures_is_refused(tmp_path):
  home = tmp_path / 'pictures'
  home.mkdir()
  (home / 'readme.md').write_text('none')
  for source in (home, f'{home}/**', f'{home}/*.png'):
    assert 'no pictures in' in _refuse(_make_config(source), tmp_path / 'run')
  nowhere = _make_config(tmp_path / 'nowhere')
  assert 'neither a folder nor a file' in _refuse(nowhere, tmp_path / 'run')
  clean = _make_config(home, clean=str(tmp_path / 'nowhere'))
  (home / 'a.png').write_text('bad')
  assert 'is no folder' in _refuse(clean, tmp_path / 'run')
  assert sorted(os.listdir(tmp_path)) == ['pictures']


def test_a_folder_of_bad_pictures_alone_is_an_error_with_rows(tmp_path):
  home, workdir = tmp_path / 'pictures', tmp_path / 'run'
  home.mkdir()
  for name in ('a.png', 'b.jpg'):
    (home / name).write_text('no picture')
  said = _refuse(_make_config(home), workdir)
  assert 'none of 2 pictures could be restored' in said
  rows = _read_rows(workdir)
  assert [row['status'] for row in rows.values()] == ['failed', 'failed']


def test_a_workdir_inside_of_the_pictures_is_left_out(tmp_path, capsys):
  home = tmp_path / 'pictures'
  for seed, name in enumerate('ab'):
    _make_picture(home / f'{name}.png', 8, 8, seed=seed)
  assert 'are in the workdir' in _refuse(_make_config(home), home)
  assert sorted(os.listdir(home)) == ['a.png', 'b.png']
  config, workdir = _make_config(f'{home}/**'), home / 'run'
  config.fit.steps = 2
  run(config, str(workdir))
  capsys.readouterr()
  run(config, str(workdir))
  assert 'this run is finished' in capsys.readouterr().out
  _make_picture(home / 'c.png', 8, 8)
  run(config, str(workdir))
  assert '3 files in the workdir are left out' in capsys.readouterr().out
  assert sorted(_read_rows(workdir)) == ['a.png', 'b.png', 'c.png']


def test_one_word_names_one_task():
  config = folder_config.get_config('inpaint,smoke')
  assert config.task == 'inpaint' and config.data.crop == ()
  assert folder_config.get_config().auto is True
  with pytest.raises(ValueError, match='one task, not denoise and jpeg'):
    folder_config.get_config('denoise,jpeg')
  with pytest.raises(ValueError, match='known are auto, .*super_resolution'):
    folder_config.get_config('denoise,fastest')


# --- The parts.


def test_names_of_outputs_never_meet():
  names = ['a.heic', 'a.heic.png', 'b.png', 'b.tif', 'sub/b.png']
  entries = [Entry(f'/x/{name}', name) for name in names]
  found = listing.name_outputs(entries, {})
  assert [found[entry] for entry in entries] == [
    'a.heic_2.png',
    *names[1:],
  ]
  # What is restored already keeps its name, also where the picture is gone.
  before = {('a.heic', None): 'a.heic.png', ('gone.png', None): 'b.png'}
  again = listing.name_outputs(entries, before)
  assert [again[entry] for entry in entries[:3]] == [
    'a.heic.png',
    'a.heic_2.png',
    'b_2.png',
  ]


def test_a_list_may_name_files_anywhere(tmp_path):
  (tmp_path / 'far').mkdir()
  (tmp_path / 'near').mkdir()
  list_file = tmp_path / 'near' / 'list.txt'
  list_file.write_text('a.png\n\n../far/b.png\na.png\n')
  listed = listing.list_pictures(str(list_file), str(tmp_path / 'run'))
  assert [entry.name for entry in listed.entries] == ['far/b.png', 'near/a.png']
  list_file.write_text('a.png\n')
  listed = listing.list_pictures(str(list_file), str(tmp_path / 'run'))
  assert [entry.name for entry in listed.entries] == ['a.png']


def test_a_pattern_takes_the_names_that_it_says(tmp_path):
  for name in ('a.dat', 'b.png', '.hidden.png'):
    (tmp_path / name).write_text('x')
  list_names = lambda pattern: [
    entry.name
    for entry in listing.list_pictures(
      f'{tmp_path}/{pattern}', '/nowhere'
    ).entries
  ]
  assert list_names('*') == list_names('') == ['b.png']
  assert list_names('*.dat') == ['a.dat']


def test_rows_go_where_a_file_has_changed(tmp_path):
  path = tmp_path / 'a.png'
  path.write_text('first')
  (tmp_path / 'out.png').write_text('restored')
  entry = Entry(str(path), 'a.png')
  index = index_lib.Index(str(tmp_path / 'index.jsonl'))
  assert index.begin([entry], str(tmp_path)) == [entry]
  stamp = listing.stamp(str(path))
  index.add(entry, status='done', output='out.png', stamp=stamp)
  again = lambda: index_lib.Index(index.path).begin([entry], str(tmp_path))
  assert again() == []
  (tmp_path / 'out.png').unlink()
  assert again() == [entry]
  assert records.read_lines(index.path) == []
  index.add(entry, status='failed', error='', stamp=stamp)
  path.write_text('second time')
  assert again() == [entry]


def test_the_worst_are_first_on_the_sheet():
  rows = [{'file': n, 'psnr': p} for n, p in (('a', 30.0), ('b', 20.0))]
  unscored = [{'file': 'c'}, {'file': 'd', 'psnr': None}]
  chosen = sheet.choose_rows([*rows, *unscored])
  assert [row['file'] for row in chosen] == ['b', 'a']
  assert sheet.choose_rows(unscored) == unscored
  assert len(sheet.choose_rows(100 * unscored)) == sheet.MOST
  cell = sheet.Cell('name ' * 40, np.zeros((300, 20, 1)), np.ones((4, 9, 3)))
  drawn = sheet.draw_sheet([cell] * 5)
  assert drawn.shape[2] == 3 and drawn.min() == 0 and drawn.max() == 1
  assert sheet.draw_sheet([cell]).shape[1] < drawn.shape[1]
  assert sheet.draw_sheet([]) is None


def test_the_store_of_a_folder_is_one_of_slots():
  names = {name for name in vars(slots.Store) if not name.startswith('_')}
  assert names == {'load', 'is_due', 'save'}
  assert names <= vars(work.Work).keys()
