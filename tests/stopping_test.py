"""The benchmark of stopping rules, as small as it runs."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import stopping
from dipjax import metrics

SMOKE = ['--smoke', '--images', 'astronaut', '--seeds', '0', '--sigmas', '25']


def test_a_cell_is_run_once_and_every_rule_has_its_line(
  tmp_path, capsys, monkeypatch
):
  pytest.importorskip('skimage')
  path = tmp_path / 'rows.jsonl'
  arguments = [*SMOKE, '--damages', '--json', str(path)]
  stopping.main(arguments)
  (row,) = map(json.loads, path.read_text().splitlines())
  rules = row['rules']
  oracle = rules.pop('oracle')
  split = {'pseudo_reference', 'cross_validation'}
  expected = {*stopping.make_rules(20, 60), *split}
  assert set(rules) == expected
  assert set(oracle['horizons']) == {str(decay) for decay in stopping.DECAYS}
  for name, rule in rules.items():
    # None of the same fit and average is better than its best.
    assert rule['gap'] >= -1e-4 or name in split
    assert rule['gap'] == pytest.approx(oracle['psnr'] - rule['psnr'])
    assert rule['step'] < rule['spent'] <= 60
  shown = capsys.readouterr().out
  for name in rules:
    assert shown.count(f'  {name} ') == 2
  monkeypatch.setattr(stopping, 'run_cell', None)
  stopping.main(arguments)
  assert len(path.read_text().splitlines()) == 1
  again = capsys.readouterr().out
  assert 'gaussian, 1 fits' in again and again in shown


@pytest.mark.parametrize(
  'name,arguments',
  [
    ('stein', ['--method', 'stein', '--steps', '1500', '--sigmas', '25']),
    ('stopping', ['--steps', '3000', '--sigmas', '15', '25']),  # No `error`.
  ],
)
def test_rows_that_were_kept_are_read(name, arguments, capsys, monkeypatch):
  monkeypatch.setattr(stopping, 'run_cell', None)
  path = pathlib.Path(stopping.__file__).with_name(f'{name}.jsonl')
  arguments = [*arguments, '--channels', '32', '--damages', '--seeds', '0']
  images = ['--images', 'astronaut', 'brick']
  stopping.main([*arguments, *images, '--json', str(path)])
  shown = capsys.readouterr().out
  assert shown.startswith('gaussian, ') and '  emv ' in shown
  assert ('  sure ' in shown) == (name == 'stein')


def test_the_table_has_medians_and_the_worst(capsys):
  rule = lambda gap: {'gap': gap, 'spent_ratio': 1 + gap, 'done': gap < 0.5}
  oracle = {
    'psnr': 30.0,
    'horizons': dict.fromkeys(map(str, stopping.DECAYS), 31),
  }
  rows = [
    {'damage': 'gaussian', 'rules': {'wmv': rule(gap), 'oracle': oracle}}
    for gap in (0.1, 0.25, 2.0)
  ]
  stopping.print_table(rows)
  assert capsys.readouterr().out.splitlines() == [
    'gaussian, 3 fits',
    '  wmv                  gap median  0.25, worst  2.00 dB; steps spent over '
    "the oracle's median  1.25, worst   3.00; not done 1",
    *(
      f'  best average of {decay}: median +1.00 dB to that of 0.99, +1.00 to '
      '+1.00'
      for decay in stopping.DECAYS
    ),
  ]


@pytest.mark.parametrize('kind', ['bilinear', 'enlarged'])
def test_other_noise_has_lines_of_its_own(kind, tmp_path, capsys):
  pytest.importorskip('skimage')
  path = tmp_path / 'rows.jsonl'
  arguments = [*SMOKE, '--kind', kind, '--damages', '--json', str(path)]
  stopping.main(arguments)
  (row,) = map(json.loads, path.read_text().splitlines())
  assert row['damage'] == kind and row['rules']['oracle']['psnr'] > 10
  assert f'{kind}, 1 fits' in capsys.readouterr().out


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('damage', ['gaussian', *stopping.DAMAGES])
def test_every_damage_is_drawn_by_its_seed(damage, channels):
  y, x = np.mgrid[:32, :32] / 32
  clean = np.float32(0.5 + 0.3 * np.sin(6 * x + 4 * y))[..., None]
  clean = clean * np.ones(channels, np.float32)
  sigma = 25 if damage == 'gaussian' else None
  draw = lambda seed: stopping.damage_image(
    clean, {'damage': damage, 'sigma': sigma, 'seed': seed}
  )[0]
  damaged = draw(0)
  assert damaged.shape == clean.shape and damaged.dtype == np.float32
  assert 10 < metrics.psnr(damaged, clean) < 45
  np.testing.assert_array_equal(draw(0), damaged)
  assert damage == 'jpeg' or np.any(draw(1) != damaged)


@pytest.mark.parametrize(
  'arguments,message',
  [
    (['--images', 'nowhere'], 'neither a file nor'),
    (['--images', 'camera', '--crop', '9999', '--channels', '8'], 'crop'),
  ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
  arguments, message, tmp_path, capsys
):
  path = tmp_path / 'rows.jsonl'
  with pytest.raises(SystemExit) as exit_:
    stopping.main([*arguments, '--json', str(path)])
  assert exit_.value.code == 2 and message in capsys.readouterr().err
  assert not path.exists()


def test_a_file_of_something_else_is_refused(tmp_path, capsys):
  path = tmp_path / 'rows.jsonl'
  path.write_text('no rows')
  with pytest.raises(SystemExit):
    stopping.main([*SMOKE, '--json', str(path)])
  assert 'no file of records' in capsys.readouterr().err
  assert path.read_text() == 'no rows'
