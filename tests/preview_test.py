"""The picture of a restoration in a notebook."""

import io

import numpy as np
import pytest
from PIL import Image

from dipjax import preview


def _decode(png):
  return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_a_large_image_is_shown_pixel_by_pixel(channels):
  levels = np.random.RandomState(0).randint(256, size=(2, 256, channels))
  shown = _decode(preview.encode(np.float32(levels / 255)))
  expected = np.broadcast_to(levels[..., :3], (2, 256, 3))
  np.testing.assert_array_equal(shown, expected)


def test_a_small_image_is_enlarged_by_a_whole_factor():
  image = np.float32([[[0], [2], [np.nan]]])
  shown = _decode(preview.encode(image))
  assert shown.shape == (85, 255, 3)
  assert [set(part.flat) for part in np.split(shown, 3, 1)] == [{0}, {255}, {0}]


def test_the_map_is_right_of_the_image():
  deviation = np.zeros((1, 256, 3), np.float32)
  deviation[0, 128:] = 0.02
  shown = _decode(preview.encode(np.zeros((1, 256, 3)), deviation))
  assert shown.shape == (1, 256 + 8 + 256, 3)
  bounds = [0, 256, 264, 264 + 128, 520]
  parts = [shown[:, a:b] for a, b in zip(bounds, bounds[1:])]
  assert [set(part.flat) for part in parts] == [{0}, {255}, {0}, {255}]


def test_seeds_that_agree_give_a_black_map():
  shown = _decode(preview.encode(np.ones((1, 256, 1)), np.zeros((1, 256, 1))))
  assert set(shown[:, 264:].flat) == {0}
