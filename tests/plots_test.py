"""Curves, drawn with matplotlib and left out without it."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.lib import plots


def _records(steps=5, lanes=2, clean=True, loss=0.1):
  keys = ('psnr_measurement', 'psnr', 'psnr_output')[: 3 if clean else 1]
  return [
    {'step': step, 'lane': lane, 'loss': loss, **dict.fromkeys(keys, 20.0)}
    for lane in range(lanes)
    for step in range(steps)
  ]


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'records',
  [
    _records(),
    _records(clean=False),
    _records(steps=1, lanes=1),
    _records(loss=-0.1),
    _records(loss=float('nan')),
    # A fit that jumps goes back to a step, and its scores are not finite.
    [{**r, 'psnr': r['lane'] and None, 'step': 0} for r in _records()],
  ],
)
def test_curves_are_written(tmp_path, records):
  pytest.importorskip('matplotlib')
  path = tmp_path / 'curves.png'
  assert plots.draw_curves(path, records, selected=[1, 2]) is True
  assert os.listdir(tmp_path) == ['curves.png']
  shown = np.asarray(Image.open(path).convert('RGB'))
  assert shown.shape[0] > 400 and shown.shape[1] > 1000
  assert shown.std() > 1


@pytest.mark.parametrize('clean', [True, False])
def test_there_is_a_line_for_each_lane_and_quantity(
  tmp_path, monkeypatch, clean
):
  figure = pytest.importorskip('matplotlib.figure')
  drawn = []
  save = figure.Figure.savefig

  def keep(self, *args, **options):
    drawn.append(self)
    save(self, *args, **options)

  monkeypatch.setattr(figure.Figure, 'savefig', keep)
  records = _records(steps=3, lanes=2, clean=clean)
  plots.draw_curves(tmp_path / 'a.png', records[::-1], selected=[1, 2])
  left, right = drawn[0].axes
  assert (left.get_yscale(), right.get_yscale()) == ('log', 'linear')
  quantities = 3 if clean else 1
  assert len(left.get_lines()) == 2 + 2
  assert len(right.get_lines()) == 2 * quantities + 2
  assert len(right.get_legend().get_texts()) == quantities + 1
  assert list(right.get_lines()[0].get_xdata()) == [0, 1, 2]
  assert [line.get_xdata()[0] for line in left.get_lines()[-2:]] == [1, 2]


def test_without_matplotlib_nothing_is_written(tmp_path, monkeypatch):
  for name in ('matplotlib', 'matplotlib.figure'):
    monkeypatch.setitem(sys.modules, name, None)
  path = tmp_path / 'a.png'
  assert plots.draw_curves(path, _records(), selected=[1]) is False
  assert not os.listdir(tmp_path)


def test_no_records_are_refused(tmp_path):
  with pytest.raises(ValueError, match='no records'):
    plots.draw_curves(tmp_path / 'a.png', [], selected=[])
