"""Pictures for the user: panels with captions, differences and maps.

Images and pictures are float [H, W, C] with values in [0, 1], C 1 or 3;
`experiments.lib.images` writes them to files.
"""

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# With a gain of 4 a difference of 1 / 8, 32 grey levels of 255, is drawn black
# or white.
DIFFERENCE_GAIN = 4.0

# The smallest panel and the smallest letters that are easy to see, in pixels.
_PANEL_WIDTH = 256
_FONT_SIZE = 12

# The colour map inferno at nine equal steps.
_INFERNO = np.array(
  [
    [0.001, 0.000, 0.014],
    [0.129, 0.047, 0.291],
    [0.342, 0.062, 0.429],
    [0.541, 0.135, 0.415],
    [0.736, 0.216, 0.330],
    [0.894, 0.353, 0.194],
    [0.978, 0.558, 0.035],
    [0.975, 0.798, 0.206],
    [0.988, 0.998, 0.645],
  ]
)


def draw_comparison(panels: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the panels in one row, each below its key as a caption.

  Every pixel is shown as it is: small panels are enlarged by a whole factor
  without smoothing, and no panel is reduced. Captions fit their panels.

  Args:
    panels: caption -> [H, W, C], all of one height and width. Grey and colour
      may be mixed; values outside [0, 1] are clipped. The font of the captions
      has Latin letters but no Greek ones.

  Returns:
    [H', W', 3] on white.

  Raises:
    ValueError: no panels, or panels of different sizes.
  """
  sizes = {caption: np.shape(panel)[:2] for caption, panel in panels.items()}
  if len(set(sizes.values())) != 1:
    raise ValueError(f'panels must be of one size, and at least one: {sizes}')
  shown = [_enlarge(_to_colour(panel)) for panel in panels.values()]
  font = _choose_font(panels, shown[0].shape[1])
  width = max(shown[0].shape[1], _measure_text(panels, font))
  cells = [
    np.concatenate([_draw_caption(caption, font, width), widen(panel, width)])
    for caption, panel in zip(panels, shown, strict=True)
  ]
  gap = np.ones((cells[0].shape[0], max(4, width // 64), 3))
  row = [part for cell in cells for part in (gap, cell)]
  return np.concatenate(row[1:], axis=1)


def draw_grid(stack: np.ndarray) -> np.ndarray:
  """Returns images [N, H, W, C] as a nearly square grid on white.

  Pixels are enlarged by a whole factor where the grid is small.
  """
  count, height, width, channels = stack.shape
  columns = math.ceil(math.sqrt(count))
  rows = math.ceil(count / columns)
  cells = np.ones((rows * columns, height + 1, width + 1, channels))
  cells[:count, :height, :width] = stack
  cells = cells.reshape(rows, columns, *cells.shape[1:])
  grid = np.concatenate(np.concatenate(cells, axis=1), axis=1)
  return _enlarge(grid)


def widen(panel: np.ndarray, width: int) -> np.ndarray:
  """Returns a panel [H, W, C] in the middle of a white panel [H, width, C]."""
  left = (width - panel.shape[1]) // 2
  right = width - panel.shape[1] - left
  return np.pad(panel, ((0, 0), (left, right), (0, 0)), constant_values=1)


def draw_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns a - b, DIFFERENCE_GAIN times as strong, on mid-grey.

  Args:
    a: [H, W, C].
    b: of the same shape as a.

  Returns:
    [H, W, C], clipped to [0, 1]; mid-grey is no difference.

  Raises:
    ValueError: the shapes differ.
  """
  a, b = np.asarray(a), np.asarray(b)
  if a.shape != b.shape:
    raise ValueError(f'no difference of images {a.shape} and {b.shape}')
  return np.clip(0.5 + DIFFERENCE_GAIN * (a - b), 0, 1)


def draw_deviation(deviation: np.ndarray) -> np.ndarray:
  """Returns a colour map of a standard deviation.

  Black is 0, pale yellow is the 99.5th percentile and all above it.

  Args:
    deviation: standard deviation of each value, [H, W, C]; channels are
      averaged.

  Returns:
    [H, W, 3]; all black where nothing deviates.
  """
  # A percentile, because a single outlier would make the rest of the map black.
  # The smallest float keeps a map of zeros from becoming 0 / 0.
  level = np.mean(deviation, axis=-1, dtype=np.float64)
  white = max(np.percentile(level, 99.5), np.finfo(np.float64).tiny)
  level = np.minimum(level / white, 1)
  anchors = np.linspace(0, 1, len(_INFERNO))
  return np.stack([np.interp(level, anchors, c) for c in _INFERNO.T], axis=-1)


def _to_colour(image: np.ndarray) -> np.ndarray:
  image = np.clip(image, 0, 1)
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _enlarge(image: np.ndarray) -> np.ndarray:
  """Returns the panel enlarged to be easy to see, but not too high.

  The width reaches _PANEL_WIDTH unless the height would exceed four times
  _PANEL_WIDTH.
  """
  height, width = image.shape[:2]
  factor = min(math.ceil(_PANEL_WIDTH / width), 4 * _PANEL_WIDTH // height)
  return image.repeat(max(factor, 1), axis=0).repeat(max(factor, 1), axis=1)


def _choose_font(captions: Mapping, width: int) -> ImageFont.FreeTypeFont:
  """Returns the largest of the fonts in which every caption fits the width.

  The smallest font is returned where no font fits.
  """
  size = max(width // 18, _FONT_SIZE)
  while size > _FONT_SIZE and _measure_text(captions, _font(size)) > width:
    size -= 1
  return _font(size)


def _font(size: int) -> ImageFont.FreeTypeFont:
  return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _measure_text(captions: Mapping, font: ImageFont.FreeTypeFont) -> int:
  """Returns the width of the widest caption with a margin, in pixels."""
  return math.ceil(max(map(font.getlength, captions)) + font.size)


def _draw_caption(
  caption: str, font: ImageFont.FreeTypeFont, width: int
) -> np.ndarray:
  height = round(1.8 * font.size)
  bar = Image.new('L', (width, height), 255)
  draw = ImageDraw.Draw(bar)
  draw.text((width / 2, height / 2), caption, fill=0, font=font, anchor='mm')
  return _to_colour(np.asarray(bar)[..., None] / 255)
