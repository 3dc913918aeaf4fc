"""A picture in the terminal."""

import io
import re

import numpy as np
import pytest

from experiments.lib import terminal


class _Terminal(io.TextIOWrapper):
  def __init__(self, encoding='utf-8'):
    super().__init__(io.BytesIO(), encoding=encoding)

  def isatty(self):
    return True

  def read_all(self):
    self.flush()
    return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def _has_colours(monkeypatch):
  monkeypatch.setenv('COLORTERM', 'truecolor')
  monkeypatch.delenv('NO_COLOR', raising=False)
  monkeypatch.setenv('COLUMNS', '100')


def _read(line):
  """Returns the two colours of each character of a line."""
  pattern = r'\x1b\[38;2;([\d;]+)m\x1b\[48;2;([\d;]+)m▀'
  assert re.fullmatch(rf'({pattern})+\x1b\[0m', line)
  split = lambda text: [int(value) for value in text.split(';')]
  return [[split(a), split(b)] for a, b in re.findall(pattern, line)]


@pytest.mark.parametrize('channels', [1, 3])
def test_a_small_picture_is_shown_pixel_by_pixel(channels):
  levels = np.random.RandomState(0).randint(256, size=(6, 5, channels))
  lines = terminal.draw(levels / 255, 40)
  shown = np.array([_read(line) for line in lines])  # [rows, columns, 2, 3]
  expected = np.broadcast_to(levels, (6, 5, 3)).reshape(3, 2, 5, 3)
  np.testing.assert_array_equal(shown, expected.transpose(0, 2, 1, 3))


@pytest.mark.parametrize(
  'size,rows,columns',
  [((400, 400), 20, 40), ((100, 400), 5, 40), ((400, 100), 20, 10)]
  + [((1, 1), 1, 1), ((1, 1000), 1, 40), ((3, 2), 2, 2)],
)
def test_a_picture_keeps_its_shape(size, rows, columns):
  lines = terminal.draw(np.full((*size, 3), 0.5), 40)
  assert [len(_read(line)) for line in lines] == [columns] * rows


def test_pictures_stand_side_by_side():
  out = _Terminal()
  black, white = np.zeros((2, 2, 1)), np.ones((2, 2, 3))
  assert terminal.show([black, white], out)
  (line,) = out.read_all().splitlines()
  parts = [_read(part) for part in line.split(' ')]
  assert parts == [[[[0] * 3] * 2] * 2, [[[255] * 3] * 2] * 2]


def test_pictures_are_not_wider_than_the_terminal(monkeypatch):
  monkeypatch.setenv('COLUMNS', '21')
  out = _Terminal()
  assert terminal.show([np.ones((50, 50, 1))] * 2, out)
  line, *_ = out.read_all().splitlines()
  assert line.count('▀') == 20


@pytest.mark.parametrize(
  'name,value', [('COLORTERM', ''), ('COLORTERM', 'yes'), ('NO_COLOR', '1')]
)
def test_nothing_is_shown_where_no_colours_are_wanted(name, value, monkeypatch):
  monkeypatch.setenv(name, value)
  out = _Terminal()
  assert not terminal.show([np.ones((2, 2, 1))], out)
  assert not out.read_all()


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
  assert not terminal.show([np.ones((2, 2, 1))])
  assert not terminal.show([np.ones((2, 2, 1))], _Terminal('latin-1'))
  assert not capsys.readouterr().out
