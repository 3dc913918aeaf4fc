"""The benchmark of photographs, as small as it runs."""

import json

import numpy as np
import pytest

from benchmarks import photograph


def test_a_picture_is_reflected_until_it_is_large_enough():
  image = np.random.default_rng(0).random((30, 40, 3), np.float32)
  assert photograph.grow_image(image, 0) is image
  large = photograph.grow_image(image, 0.0108)
  assert large.shape == (90, 120, 3)
  np.testing.assert_array_equal(large[:30, :40], image)
  np.testing.assert_array_equal(large[30:60, :40], image[::-1])
  assert photograph.grow_image(image, 0.0003).shape == (15, 20, 3)


def test_several_pictures_are_squares_side_by_side(write_photograph):
  names = [write_photograph(24, 32, (5, 4, 3)), 'astronaut']
  one, two = (photograph.join_images(name) for name in names)
  joined = photograph.join_images('+'.join(names))
  assert joined.shape == (512, 1024, 3)
  np.testing.assert_array_equal(joined[:24, :32], one)
  np.testing.assert_array_equal(joined[:, 512:], two)


def test_a_row_has_its_seconds_and_memory(tmp_path, write_photograph, capsys):
  path = tmp_path / 'rows.jsonl'
  image = write_photograph(24, 32, (5, 4, 3))
  arguments = ['--images', image, '--megapixels', '0.003', '--steps', '5']
  arguments += ['--methods', 'windows,smoke', '--json', str(path)]
  photograph.main(arguments)
  (row,) = map(json.loads, path.read_text().splitlines())
  assert (row['height'], row['width']) == (47, 63)
  assert row['psnr'] == row['psnr_part'] > 10 and row['seconds'] > 0
  assert 0.05 < row['peak_gb'] < 20
  shown = capsys.readouterr().out
  assert '63x47, windows,smoke: ' in shown and ' GB' in shown


def test_a_method_that_is_not_known_is_one_line(
  tmp_path, capsys, write_photograph
):
  image = write_photograph(24, 32, (5, 4, 3))
  path = tmp_path / 'rows.jsonl'
  with pytest.raises(SystemExit):
    photograph.main(
      ['--images', image, '--methods', 'best', '--json', str(path)]
    )
  assert "unknown variant 'best'" in capsys.readouterr().err
  assert not path.exists()
