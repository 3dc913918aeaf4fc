"""The gallery: the worst picture beside the best, with all numbers."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from benchmarks import gallery
from experiments.lib import images, schema

SMOKE = ['--smoke', '--note', "a test's machine", '--pictures']


@pytest.fixture
def make(tmp_path):
  """(*arguments) -> the page, with its files below tmp_path."""

  def run(*arguments):
    folders = ['--runs', str(tmp_path / 'runs'), '--out', str(tmp_path)]
    gallery.main([*arguments, *folders])
    return (tmp_path / 'gallery.md').read_text()

  return run


def test_the_page_shows_the_best_and_the_worst(make, tmp_path, capsys):
  names = ['coffee', 'chelsea']
  # A picture of a page before.
  (tmp_path / 'gallery').mkdir()
  (tmp_path / 'gallery' / 'enlarging_old.webp').touch()
  page = make('--sections', 'enlarging', *SMOKE, *names)
  rows = [
    line for line in page.splitlines() if line[2:].startswith(tuple(names))
  ]
  gains = [float(row.split(' | ')[4]) for row in rows]
  assert len(rows) == 2 and gains == sorted(gains, reverse=True)
  assert "a test's machine, by" in page and '--sections enlarging' in page
  best, worst = (rows[i].split()[1] for i in (0, -1))
  assert page.index(f'The best, {best}') < page.index(f'The worst, {worst}')
  files = sorted(file.name for file in (tmp_path / 'gallery').iterdir())
  assert files == sorted(f'enlarging_{name}.webp' for name in (best, worst))
  with Image.open(tmp_path / 'gallery' / files[0]) as picture:
    assert picture.width > 4 * 256  # Small, bicubic, restored and clean.
  # The second time nothing is computed, and the page is the same.
  capsys.readouterr()
  assert make('--sections', 'enlarging', *SMOKE, *names) == page
  assert capsys.readouterr().out.count('this run is finished') == 2


def test_damage_that_is_a_file_is_what_is_restored(tmp_path):
  section = dataclasses.replace(gallery.SECTIONS['jpeg'], crop=32)
  config = gallery.make_config(section, 'coffee', tmp_path / 'runs' / 'run')
  data = section.load(config.data)
  assert data.clean is not None
  clean = images.read_image('coffee')
  middle = images.crop_image(clean, (184, 284, 32, 32))
  np.testing.assert_array_equal(data.clean, middle)
  assert 0.01 < np.abs(data.measurement - middle).max() < 0.5


def test_a_peer_without_a_row_of_the_same_noise_is_refused(make, capsys):
  with pytest.raises(SystemExit):
    make('--sections', 'white25', *SMOKE, 'coffee')
  assert 'has no row' in capsys.readouterr().err


@pytest.mark.parametrize('name', gallery.SECTIONS)
def test_every_section_has_a_config_that_can_be_run(name, tmp_path):
  section = gallery.SECTIONS[name]
  config = gallery.make_config(section, section.names[0], tmp_path / 'run')
  assert not schema.list_errors(config)
  data = section.load(config.data)
  assert data.picture.shape == (section.crop, section.crop, 3)
  rival, _ = gallery.find_rival(section, section.names[0], data)
  assert 0 < rival < 60
