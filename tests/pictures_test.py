"""Pictures: sizes, identities, and pixels that are shown as they are."""

import numpy as np
import pytest

from experiments.lib import pictures


def _random(*shape):
  return np.random.default_rng(0).random(shape, np.float32)


def _panel(comparison, height, width, index, count):
  """The pixels of one panel, below the captions and between the gaps."""
  gap, rest = divmod(comparison.shape[1] - count * width, count - 1)
  assert not rest
  left = index * (width + gap)
  return comparison[-height:, left : left + width]


# --- Comparisons.


def test_panels_of_a_comparison_are_the_images():
  images = [_random(300, 280, 3), _random(300, 280, 1)]
  comparison = pictures.draw_comparison(dict(zip('ab', images, strict=True)))
  for i, image in enumerate(images):
    np.testing.assert_array_equal(
      _panel(comparison, 300, 280, i, 2), np.broadcast_to(image, (300, 280, 3))
    )


def test_panels_are_clipped():
  comparison = pictures.draw_comparison({'a': 4 * _random(300, 280, 3) - 2})
  assert comparison.min() == 0 and comparison.max() == 1


@pytest.mark.parametrize(
  'height, width, factor',
  [(64, 64, 4), (100, 100, 3), (255, 255, 2), (256, 256, 1), (9, 400, 1)],
)
def test_small_panels_are_enlarged_by_a_whole_factor(height, width, factor):
  image = _random(height, width, 3)
  comparison = pictures.draw_comparison({'a': image})
  assert comparison.shape[1] == factor * width
  shown = comparison[-factor * height :]
  for y in range(factor):
    for x in range(factor):
      np.testing.assert_array_equal(shown[y::factor, x::factor], image)


def test_a_high_and_narrow_panel_is_not_enlarged_beyond_reason():
  comparison = pictures.draw_comparison({'a': _random(1000, 2, 1)})
  assert comparison.shape[0] < 1100


@pytest.mark.parametrize('width', [1, 64, 256, 700])
@pytest.mark.parametrize(
  'caption', ['clean', 'measurement 20.36 dB', 'a caption of many words ' * 6]
)
def test_a_caption_stays_within_its_panel(width, caption):
  dark = np.zeros((40, width, 1))
  comparison = pictures.draw_comparison({caption: dark, 'b': dark})
  cell = (comparison.shape[1] - max(4, comparison.shape[1] // 130)) // 2
  factor = -(-256 // width)
  bar = comparison[: -40 * min(factor, 1024 // 40), : cell - 2, 0]
  assert bar.min() < 0.5
  np.testing.assert_array_equal(bar[:, [0, -1]], 1)
  np.testing.assert_array_equal(bar[[0, -1]], 1)


def test_a_long_caption_shrinks_before_its_panel_widens():
  panel = np.zeros((40, 700, 1))
  long, short = (
    pictures.draw_comparison({caption: panel}).shape
    for caption in ('a caption of many words ' * 3, 'clean')
  )
  assert long[1] == short[1] == 700
  assert long[0] < short[0]


def test_captions_grow_with_their_panels():
  heights = [
    pictures.draw_comparison({'a': np.zeros((w, w, 1))}).shape[0] - w
    for w in (256, 512, 1024)
  ]
  assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize(
  'panels',
  [
    {},
    {'a': np.zeros((4, 4, 3)), 'b': np.zeros((4, 5, 3))},
    {'a': np.zeros((4, 4, 3)), 'b': np.zeros((5, 4, 1))},
  ],
)
def test_panels_of_different_sizes_are_refused(panels):
  with pytest.raises(ValueError, match='of one size'):
    pictures.draw_comparison(panels)


# --- Differences and deviations.


def test_the_difference_of_equal_images_is_mid_grey():
  image = _random(6, 5, 3)
  np.testing.assert_array_equal(pictures.draw_difference(image, image), 0.5)


def test_a_difference_is_drawn_with_the_gain_and_clipped():
  gain = pictures.DIFFERENCE_GAIN
  a, b = np.zeros((1, 4, 1)), np.zeros((1, 4, 1))
  a[0, :, 0] = [0.01, 0, 1, 0]
  b[0, :, 0] = [0, 0.01, 0, 1]
  np.testing.assert_allclose(
    pictures.draw_difference(a, b).ravel(),
    [0.5 + 0.01 * gain, 0.5 - 0.01 * gain, 1, 0],
  )


def test_a_difference_of_unequal_shapes_is_refused():
  with pytest.raises(ValueError, match=r'\(2, 2, 1\) and \(2, 2, 3\)'):
    pictures.draw_difference(np.zeros((2, 2, 1)), np.zeros((2, 2, 3)))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('channels', [1, 3])
def test_no_deviation_is_dark(channels):
  shown = pictures.draw_deviation(np.zeros((4, 5, channels), np.float32))
  assert shown.shape == (4, 5, 3)
  assert shown.max() < 0.02


def test_a_larger_deviation_is_lighter():
  deviation = np.linspace(0, 0.1, 200).reshape(10, 20, 1)
  shown = pictures.draw_deviation(deviation).reshape(200, 3)
  lightness = shown @ [0.2126, 0.7152, 0.0722]
  below = lightness[: int(0.995 * 199)]
  assert (np.diff(below) > 0).all()
  assert lightness[-1] > 0.9


def test_the_unit_and_the_worst_pixel_of_a_deviation_do_not_matter():
  deviation = _random(30, 30, 1)
  expected = pictures.draw_deviation(deviation)
  np.testing.assert_allclose(
    pictures.draw_deviation(8 * deviation), expected, atol=1e-6
  )
  deviation[np.unravel_index(deviation.argmax(), deviation.shape)] = 1e6
  np.testing.assert_allclose(
    pictures.draw_deviation(deviation), expected, atol=1e-6
  )


def test_a_deviation_is_averaged_over_channels():
  deviation = _random(8, 8, 3)
  np.testing.assert_allclose(
    pictures.draw_deviation(deviation),
    pictures.draw_deviation(deviation.mean(-1, keepdims=True)),
    atol=1e-5,
  )


# --- Curves.
