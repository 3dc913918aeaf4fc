"""A folder whose pictures share one network: groups, resuming, bad files."""

import types

import numpy as np
import pytest
from PIL import Image

import dipjax
from configs import folder as folder_config
from dipjax import noise, shared
from experiments.folder import share, work
from experiments.folder.__main__ import run
from experiments.folder.listing import Entry
from experiments.lib import reading, records

STEPS = 40
SIGMA = 25.0


class Killed(BaseException):
  """Ends a run as a kill does: nothing catches it on its way."""


def _make_picture(path, size=(16, 20), seed=0, grey=False):
  rng = np.random.default_rng(seed)
  height, width = size
  y, x = np.mgrid[:height, :width] / width
  waves = 0.5 + 0.3 * np.sin((3 + seed) * x + 5 * y)[..., None]
  noisy = np.clip(waves + 0.1 * rng.normal(size=(*size, 3)), 0, 1)
  levels = np.rint(noisy * 255).astype('uint8')
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(levels[..., 0] if grey else levels).save(path)


def _make_config(source):
  config = folder_config.get_config('windows,smoke')
  config.data.images, config.folder.share = str(source), True
  # Told, because pictures so small tell nothing of their noise.
  config.fit.update(
    {'steps': STEPS, 'window': 16, 'sigma': SIGMA, 'finish': False}
  )
  # Less to compile.
  config.network.channels, config.fit.optimizer = (4,), 'adam'
  config.record.every, config.checkpoint.every = 10, '20'
  return config


def _read_rows(workdir):
  rows = records.read_lines(str(workdir / 'index.jsonl'))
  assert len({row['file'] for row in rows}) == len(rows)  # Nothing twice.
  return {row['file']: row for row in rows}


def _read_all(workdir):
  home = workdir / 'restored'
  files = {path.name: path.read_bytes() for path in home.iterdir()}
  rows = _read_rows(workdir)
  for row in rows.values():
    row.pop('seconds', None)
  return files, rows


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Colour and grey pictures and a bad file, and a run that nothing stopped."""
  home = tmp_path_factory.mktemp('pictures')
  for seed, name in enumerate(['a.png', 'b.tif', 'c.png']):
    _make_picture(home / name, seed=seed)
  _make_picture(home / 'wide.png', (16, 26), seed=5)
  _make_picture(home / 'grey.png', seed=6, grey=True)
  (home / 'bad.png').write_text('no picture')
  workdir, config = tmp_path_factory.mktemp('whole'), _make_config(home)
  fits, fit = [], shared.fit_shared
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      dipjax,
      'fit_shared',
      lambda parts, *args, **given: (
        fits.append((list(parts), fit(parts, *args, **given))) or fits[-1][1]
      ),
    )
    result = run(config, str(workdir))
  return home, config, result, fits, _read_all(workdir)


def test_each_picture_is_what_the_network_of_its_group_gives(whole, tmp_path):
  home, _, result, fits, (files, rows) = whole
  # Grey beside colour is another group.
  (grey,), colour = fits[0][0], fits[1][0]
  assert grey.shape == (16, 20, 1)
  assert [part.shape for part in colour] == [(16, 20, 3)] * 3 + [(16, 26, 3)]
  assert rows['bad.png']['status'] == 'failed'
  assert rows['bad.png']['error'].startswith('is not a known image')
  names = ['a.png', 'b.tif', 'c.png', 'grey.png', 'wide.png']
  assert sorted(files) == names and len(rows) == 6
  for name in names:
    before = reading.read(str(home / name))
    (tmp_path / name).write_bytes(files[name])
    after = reading.read(str(tmp_path / name))
    assert (after.container, after.depth) == (before.container, before.depth)
    number = 1 if name == 'grey.png' else 2
    expected = fits[number - 1][1].restore(before.pixels).image
    np.testing.assert_allclose(after.pixels, expected, atol=0.51 / 255)
    assert np.abs(expected - before.pixels).mean() > 1e-3
    row = rows[name]
    assert (row['status'], row['network']) == ('done', number)
    assert (row['steps'], row['noise']) == (STEPS, SIGMA)
  assert result.summary['steps'] == 2 * STEPS  # Each network counts once.
  assert (result.summary['done'], result.summary['failed']) == (5, 1)


def _count_fits(monkeypatch):
  """Returns lists of the fits that were loaded, and of pictures restored."""
  loaded, restored = [], []
  load, restore = work.Work.load, shared.SharedFit.restore

  def count_load(self, index, like):
    found = load(self, index, like)
    loaded.append((index, found and int(found.states.step[0])))
    return found

  def count_restore(self, picture):
    restored.append(picture)
    return restore(self, picture)

  monkeypatch.setattr(work.Work, 'load', count_load)
  monkeypatch.setattr(shared.SharedFit, 'restore', count_restore)
  return loaded, restored


def _kill(method, after, monkeypatch):
  calls, function = [], getattr(work.Work, method)

  def kill(self, *args, **given):
    calls.append(0)
    if len(calls) == after:
      raise Killed
    return function(self, *args, **given)

  monkeypatch.setattr(work.Work, method, kill)


@pytest.mark.parametrize(
  'method,after,loaded',
  [
    # In the fit of the second network, after its checkpoint at step 20.
    ('__call__', 7, [(-2, 20)]),
    # While the second network, whose fit is finished, is applied.
    ('hand_over', 4, [(-2, STEPS)]),
  ],
)
def test_a_killed_run_goes_on_where_it_was(
  whole, method, after, loaded, tmp_path, monkeypatch
):
  _, config, _, _, expected = whole
  with monkeypatch.context() as patch, pytest.raises(Killed):
    _kill(method, after, patch)
    run(config, str(tmp_path))
  before = _read_rows(tmp_path)
  assert before['grey.png']['status'] == 'done' and len(before) < 6
  found, restored = _count_fits(monkeypatch)
  run(config, str(tmp_path))
  assert _read_all(tmp_path) == expected
  # What has a row is not made again.
  assert found == loaded and len(restored) == 6 - len(before)
  assert not (tmp_path / 'checkpoints').exists()


def test_a_new_picture_and_a_changed_one_get_a_network(
  whole, tmp_path, monkeypatch, capsys
):
  home, _, _, _, _ = whole
  own = tmp_path / 'pictures'
  own.mkdir()
  for name in ('a.png', 'b.tif', 'c.png', 'wide.png'):
    (own / name).write_bytes((home / name).read_bytes())
  config, workdir = _make_config(own), tmp_path / 'run'
  read, read_parts = [], share._read_parts

  def disturb(*arguments):
    parts = read_parts(*arguments)
    if not read:
      _make_picture(own / 'b.tif', seed=9)
    read.append(len(parts))
    return parts

  monkeypatch.setattr(share, '_read_parts', disturb)
  run(config, str(workdir))
  said = capsys.readouterr().out
  assert 'network 1: 4 pictures of 3 channels, noise: white, sigma 25' in said
  assert 'the fit sees 4 of them, 26x16 pixels of each at most' in said
  rows = _read_rows(workdir)
  assert rows['b.tif']['error'] == (
    'was changed or removed while it was restored'
  )
  (own / 'c.png').unlink()
  _make_picture(own / 'd.png', seed=8)
  run(config, str(workdir))
  rows = _read_rows(workdir)
  assert {row['status'] for row in rows.values()} == {'done'}
  assert read == [4, 4] and rows.keys() > {'b.tif', 'd.png'}


def test_a_fit_that_fails_is_the_row_of_its_pictures(whole, tmp_path):
  home, _, _, _, _ = whole
  config = _make_config(home)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(work.machine, 'find_memory', lambda: 0)
    with pytest.raises(ValueError, match='none of 6 pictures'):
      run(config, str(tmp_path))
  errors = {row['error'][:24] for row in _read_rows(tmp_path).values()}
  assert '20x16 in 1 lane takes at' in errors and len(errors) == 2


@pytest.mark.parametrize('variant', ['', 'denoise,fast', 'inpaint'])
def test_a_fit_without_windows_is_refused(variant, tmp_path):
  config = folder_config.get_config(variant)
  config.data.images, config.folder.share = str(tmp_path), True
  with pytest.raises(ValueError, match='folder.py:windows') as refused:
    run(config, str(tmp_path / 'run'))
  assert len(str(refused.value).splitlines()) == 1
  assert not (tmp_path / 'run').exists()


# --- Groups.


def _make_seen(name, sigma, channels=3, brightness=0.5, **model):
  found = noise.Model.make_white(sigma / 255).replace(**model)
  entry = Entry(f'/x/{name}', name)
  return share.Seen(entry, '', dipjax.Recipe(), channels, found, brightness)


def _list_names(seen):
  return [
    ''.join(each.entry.name for each in group.pictures)
    for group in share.find_groups(seen)
  ]


def test_pictures_of_equal_channels_and_noise_are_a_group():
  levels = {'a': 20, 'b': 24, 'c': 25, 'd': 26, 'e': 31, 'f': 60, 'g': 5}
  seen = [_make_seen(name, level) for name, level in levels.items()]
  assert _list_names(seen) == ['abcde', 'g', 'f']
  assert _list_names(seen[::-1]) == ['edcba', 'g', 'f']
  middle = share.find_groups(seen)[0].model
  assert middle.sigma == pytest.approx(25 / 255)
  grey = _make_seen('h', 25, channels=1)
  assert _list_names([*seen, grey]) == ['h', 'abcde', 'g', 'f']


def test_noise_is_compared_at_one_brightness():
  """A dark picture has less noise than a bright one of the same camera."""
  gain = 0.02
  both = [
    _make_seen(
      name,
      255 * (gain * brightness) ** 0.5,
      brightness=brightness,
      constant=0.0,
      least=1e-6,
      gain=gain,
    )
    for name, brightness in (('a', 0.1), ('b', 0.8))
  ]
  assert _list_names(both) == ['ab']


def test_a_group_has_the_median_correlation_and_every_clipping():
  apart = np.zeros((9, 9))
  apart[4, 3:6] = 0.5, 1, 0.5
  apart[3, 4] = apart[5, 4] = 0.5
  seen = [_make_seen(name, 25) for name in 'abc']
  seen[0] = _make_seen('a', 25, black=True)
  seen.append(_make_seen('d', 25, correlation=apart))
  groups = share.find_groups(seen)
  assert _list_names(seen) == ['abc', 'd']
  assert groups[0].model.black and not groups[0].model.white
  np.testing.assert_array_equal(
    groups[0].model.correlation, seen[1].model.correlation
  )


def test_the_fit_sees_a_bounded_part_of_a_bounded_number(monkeypatch, tmp_path):
  monkeypatch.setattr(share, 'MOST', 3)
  monkeypatch.setattr(share, 'PIXELS', 3 * 64)
  seen = [_make_seen(f'{n}', 25) for n in range(9)]
  group = share.Group(seen, seen[0].model)
  pixels = np.random.default_rng(0).random((10, 7, 3)).astype(np.float32)

  class _Work:
    def read(self, entries, read):
      return [read(None, entry, '') for entry in entries]

  ready = types.SimpleNamespace(data=types.SimpleNamespace(measurement=pixels))
  asked = []
  monkeypatch.setattr(
    share.tasks,
    'prepare',
    lambda config, entry, path, model: asked.append(entry.name) or ready,
  )
  config = _make_config(tmp_path)
  parts = share._read_parts(config, _Work(), group)
  assert asked == ['0', '4', '8']
  assert [part.shape for part in parts] == [(8, 7, 3)] * 3
  starts = {float(part[0, 0, 0]) for part in parts}
  assert starts <= set(pixels[:3, 0, 0].tolist())
  again = share._read_parts(config, _Work(), group)
  assert all(map(np.array_equal, parts, again))
