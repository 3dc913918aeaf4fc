"""What a user looks at: panels with captions, differences, maps and curves.

Images and pictures are float [H, W, C] with values in [0, 1], C 1 or 3;
`experiments.images` writes them.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments import images

# A difference of 1 / 8, 32 grey levels of 255, is drawn black or white.
DIFFERENCE_GAIN = 4.0

# The smallest panel and the smallest letters that are easy to look at, pixels.
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

# (key of a record, legend, colour)
_CURVES = (
  ('psnr_measurement', 'against the measurement', 'tab:gray'),
  ('psnr_output', 'against the clean image, one output', 'tab:orange'),
  ('psnr', 'against the clean image, average', 'tab:blue'),
)


# (end of a record's key, legend, colour)
_STAGE_CURVES = (
  ('_target', "against the stage's target", 'tab:gray'),
  ('', 'against the clean image', 'tab:blue'),
)

# Of the arms of an ablation, by kind.
_ARM_COLOURS = {
  'not staged': 'tab:gray',
  'staged': 'tab:blue',
  'oracle protocol': 'tab:orange',
}


def draw_comparison(panels: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the panels in one row, each below its key as a caption.

  Every pixel is shown as it is: small panels are enlarged by a whole factor
  without smoothing, none is reduced. Captions fit their panels.

  Args:
    panels: caption -> [H, W, C], all of one height and width; grey and colour
      may be mixed, values outside [0, 1] are clipped. The font has the Latin
      letters but no Greek ones.

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
  """Returns images [N, H, W, C] in rows, about as many as columns, on white.

  Pixels are enlarged by a whole factor where the images are small.
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
  """Returns a panel [H, W, C] in the middle of a white one of that width."""
  left = (width - panel.shape[1]) // 2
  right = width - panel.shape[1] - left
  return np.pad(panel, ((0, 0), (left, right), (0, 0)), constant_values=1)


def draw_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns a - b on mid-grey, DIFFERENCE_GAIN times as strong, clipped.

  Args:
    a: [H, W, C].
    b: of the same shape.

  Raises:
    ValueError: the shapes differ.
  """
  a, b = np.asarray(a), np.asarray(b)
  if a.shape != b.shape:
    raise ValueError(f'no difference of images {a.shape} and {b.shape}')
  return np.clip(0.5 + DIFFERENCE_GAIN * (a - b), 0, 1)


def draw_deviation(deviation: np.ndarray) -> np.ndarray:
  """Returns a map from black (0) to pale yellow (the 99.5th percentile).

  Args:
    deviation: standard deviation of each value, [H, W, C]; channels are
      averaged.

  Returns:
    [H, W, 3]; black where nothing deviates at all.
  """
  level = np.mean(deviation, axis=-1, dtype=np.float64)
  white = max(np.percentile(level, 99.5), np.finfo(np.float64).tiny)
  level = np.minimum(level / white, 1)
  anchors = np.linspace(0, 1, len(_INFERNO))
  return np.stack([np.interp(level, anchors, c) for c in _INFERNO.T], axis=-1)


def draw_curves(
  path: str | os.PathLike,
  records: Sequence[Mapping],
  *,
  selected: Sequence[int],
  title: str = '',
) -> bool:
  """Writes the loss and the PSNR of every lane against the step, as a PNG.

  Args:
    path: the file to write or replace.
    records: each with `step`, `lane`, `loss` and `psnr_measurement`; `psnr` (of
      the average) and `psnr_output` where the clean image is known.
    selected: the step of each lane whose image was returned.
    title: above, if any.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.

  Raises:
    ValueError: there are no records.
  """
  if not records:
    raise ValueError(f'no records to draw in {os.fspath(path)!r}')
  figure = _make_figure()
  if figure is None:
    return False
  figure.suptitle(title)
  left, right = figure.subplots(1, 2)
  _draw_quantity(left, records, 'loss', 'loss', 'tab:gray')
  for quantity in _CURVES:
    _draw_quantity(right, records, *quantity)
  # An estimate of the risk, as a loss, may fall below zero.
  if not any(record['loss'] <= 0 for record in records):
    left.set_yscale('log')
  _finish_axis(left, selected, 'loss')
  _finish_axis(right, selected, 'PSNR, dB')
  _save_figure(path, figure)
  return True


def draw_losses(
  path: str | os.PathLike, losses: Mapping[str, np.ndarray]
) -> bool:
  """Writes losses against the step, on a linear and on a logarithmic axis.

  Args:
    path: the file to write or replace, a PNG.
    losses: legend -> [steps], from step 0, positive.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  figure = _make_figure()
  if figure is None:
    return False
  for axis, scale in zip(figure.subplots(1, 2), ('linear', 'log'), strict=True):
    for name, loss in losses.items():
      axis.plot(np.arange(1, len(loss) + 1), loss, label=name, linewidth=1)
    axis.set(xlabel='step', ylabel='loss', xscale=scale, yscale='log')
    axis.grid(alpha=0.3)
    axis.legend(framealpha=1, edgecolor='none')
  _save_figure(path, figure)
  return True


def draw_stages(
  path: str | os.PathLike, records: Sequence[Mapping], *, title: str = ''
) -> bool:
  """Writes PSNR and SSIM against the step, the stages as bands, as a PNG.

  Stages lie one after the other, also those that were fitted at once.

  Args:
    path: the file to write or replace.
    records: each with `stage`, `stage_step` and `lane`; psnr and ssim, against
      the stage's target with `_target` added, where they are known.
    title: above, if any.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  figure = _make_figure()
  if figure is None:
    return False
  figure.suptitle(title)
  stages = sorted({record['stage'] for record in records})
  for axis, key, label in zip(
    figure.subplots(1, 2), ('psnr', 'ssim'), ('PSNR, dB', 'SSIM'), strict=True
  ):
    left = 0
    for stage in stages:
      own = [record for record in records if record['stage'] == stage]
      shown = [{**r, 'step': left + r['stage_step']} for r in own]
      right = 1 + max(record['step'] for record in shown)
      axis.axvspan(left, right, color='black', alpha=0.04 + 0.06 * (stage % 2))
      for end, name, colour in _STAGE_CURVES:
        # Only the first stage enters the legend.
        name = name if stage == stages[0] else None
        _draw_quantity(axis, shown, f'{key}{end}', name, colour)
      left = right
    axis.set(xlabel='step, stage after stage', ylabel=label)
    axis.grid(alpha=0.3)
    axis.legend(framealpha=1, edgecolor='none')
  _save_figure(path, figure)
  return True


def draw_arms(path: str | os.PathLike, lines: Sequence[Mapping]) -> bool:
  """Writes the final image's PSNR of each arm and the best of its run, a PNG.

  Args:
    path: the file to write or replace.
    lines: of `ablation_table.summarize_row`; those without a psnr are left out.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  shown = [line for line in lines if line['psnr'] is not None]
  figure = _make_figure(height=1.8 + 0.2 * len(shown))
  if figure is None:
    return False
  axis = figure.subplots()
  for name, colour in _ARM_COLOURS.items():
    own = [i for i, line in enumerate(shown) if _find_kind(line) == name]
    if not own:
      continue
    column = lambda key, own=own: np.array(
      [shown[i][key] for i in own], np.float64
    )
    axis.errorbar(
      column('psnr'),
      own,
      xerr=column('psnr_std'),
      fmt='o',
      color=colour,
      label=f'{name}, final image',
    )
    if np.isfinite(column('best')).any():
      best = f'{name}, best of the run'
      axis.plot(column('best'), own, '|', color=colour, ms=12, label=best)
  names = [
    line['arm']
    if line['method'] in ('staged', line['arm'])
    # A plain fit has two.
    else f'{line["arm"]}, {line["method"].removeprefix("plain, ")}'
    for line in shown
  ]
  axis.set(yticks=range(len(shown)), yticklabels=names, xlabel='PSNR, dB')
  axis.invert_yaxis()
  axis.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=3, edgecolor='none')
  _save_figure(path, figure)
  return True


def _find_kind(line):
  if line['protocol'] in _ARM_COLOURS:
    return line['protocol']
  return 'staged' if line['method'] == 'staged' else 'not staged'


def _make_figure(height: float = 4.2):
  """A figure of its own: it draws off screen and leaves pyplot's state alone.

  None where matplotlib is not installed.
  """
  try:
    from matplotlib.figure import Figure
  except ImportError:
    return None
  return Figure(figsize=(11, height), dpi=120, layout='constrained')


def _save_figure(path, figure):
  data = io.BytesIO()
  figure.savefig(data, format='png')
  images.write_atomic(path, data.getvalue())


def _to_colour(image: np.ndarray) -> np.ndarray:
  image = np.clip(image, 0, 1)
  return np.broadcast_to(image, (*image.shape[:2], 3))


def _enlarge(image: np.ndarray) -> np.ndarray:
  """Repeats pixels until the panel is wide enough, but not absurdly high."""
  height, width = image.shape[:2]
  factor = min(math.ceil(_PANEL_WIDTH / width), 4 * _PANEL_WIDTH // height)
  return image.repeat(max(factor, 1), axis=0).repeat(max(factor, 1), axis=1)


def _choose_font(captions: Mapping, width: int) -> ImageFont.FreeTypeFont:
  """Returns the largest usual font in which every caption fits the width."""
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


def _draw_quantity(axis, records, key, label, colour) -> None:
  """Draws one thin line for each lane; only the first enters the legend."""
  lanes = sorted({record['lane'] for record in records if key in record})
  for lane in lanes:
    line = sorted(
      (record['step'], record[key])
      for record in records
      if record['lane'] == lane and key in record
    )
    # A line of one or two points is seen only by its markers.
    marker = 'o' if len(line) < 3 else ''
    name = label if lane == lanes[0] else None
    axis.plot(
      *zip(*line, strict=True),
      color=colour,
      label=name,
      linewidth=1,
      marker=marker,
    )


def _finish_axis(axis, selected, label) -> None:
  for i, step in enumerate(selected):
    name = 'image returned' if i == 0 else None
    axis.axvline(step, color='black', linestyle='--', linewidth=1, label=name)
  axis.set(xlabel='step', ylabel=label)
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.grid(alpha=0.3)
  axis.legend(framealpha=1, edgecolor='none')
