"""Curves for the user, drawn by matplotlib, the extra [plots].

Each function returns whether it has drawn: without matplotlib it draws nothing.
"""

import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from experiments.lib import folders

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

# Where two axes are, in shares of a figure: matplotlib takes twice the time
# where it finds the places itself.
_PLACES = {'left': 0.08, 'right': 0.99, 'bottom': 0.11, 'top': 0.92}

# Each kind of an ablation's arms has a colour.
_ARM_COLOURS = {
  'not staged': 'tab:gray',
  'staged': 'tab:blue',
  'oracle protocol': 'tab:orange',
}


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
    records: each has `step`, `lane`, `loss` and `psnr_measurement`; where the
      clean image is known, also `psnr` (of the average) and `psnr_output`.
    selected: for each lane the step whose image was returned.
    title: drawn above the curves; '' draws none.

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
  left, right = figure.subplots(1, 2, gridspec_kw=_PLACES)
  _draw_quantity(left, records, 'loss', 'loss', 'tab:gray')
  for quantity in _CURVES:
    _draw_quantity(right, records, *quantity)
  # A loss that estimates the risk may fall below zero, where no logarithm is.
  if not any(record['loss'] <= 0 for record in records):
    left.set_yscale('log')
  _finish_axis(left, selected, 'loss')
  _finish_axis(right, selected, 'PSNR, dB')
  _save_figure(path, figure)
  return True


def draw_losses(
  path: str | os.PathLike, losses: Mapping[str, np.ndarray], steps: np.ndarray
) -> bool:
  """Writes losses against the step, on a linear and on a logarithmic axis.

  The axis of the loss is logarithmic in both.

  Args:
    path: the file to write or replace, a PNG.
    losses: legend -> [n], positive.
    steps: [n], the step of each loss, from 0.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  figure = _make_figure()
  if figure is None:
    return False
  axes = figure.subplots(1, 2, gridspec_kw=_PLACES)
  for axis, scale in zip(axes, ('linear', 'log'), strict=True):
    for name, loss in losses.items():
      axis.plot(steps + 1, loss, label=name, linewidth=1)
    axis.set(xlabel='step', ylabel='loss', xscale=scale, yscale='log')
    axis.grid(alpha=0.3)
    axis.legend(framealpha=1, edgecolor='none')
  _save_figure(path, figure)
  return True


def draw_stages(
  path: str | os.PathLike, records: Sequence[Mapping], *, title: str = ''
) -> bool:
  """Writes PSNR and SSIM against the step as a PNG, with stages as bands.

  Stages are drawn one after the other, also where they were fitted at once.

  Args:
    path: the file to write or replace.
    records: each has `stage`, `stage_step` and `lane`. Where they are known,
      `psnr` and `ssim` are scores against the clean image, `psnr_target` and
      `ssim_target` against the stage's target.
    title: drawn above the curves; '' draws none.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  figure = _make_figure()
  if figure is None:
    return False
  figure.suptitle(title)
  stages = sorted({record['stage'] for record in records})
  axes = figure.subplots(1, 2, gridspec_kw=_PLACES)
  labels = 'PSNR, dB', 'SSIM'
  for axis, key, label in zip(axes, ('psnr', 'ssim'), labels, strict=True):
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
  """Writes the PSNR of each arm as a PNG: of the final image, and the best.

  Args:
    path: the file to write or replace.
    lines: from `ablation_table.summarize_row`; lines without a psnr are left
      out.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  shown = [line for line in lines if line['psnr'] is not None]
  figure = _make_figure(height=1.8 + 0.2 * len(shown), layout='constrained')
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
    # A plain fit has two lines, told apart by the method.
    else f'{line["arm"]}, {line["method"].removeprefix("plain, ")}'
    for line in shown
  ]
  axis.set(yticks=range(len(shown)), yticklabels=names, xlabel='PSNR, dB')
  axis.invert_yaxis()
  axis.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=3, edgecolor='none')
  _save_figure(path, figure)
  return True


def draw_settings(
  path: str | os.PathLike, lines: Mapping[str, Mapping]
) -> bool:
  """Writes the PSNR of each setting as a PNG: as it was stopped, and the best.

  Args:
    path: the file to write or replace.
    lines: by the setting's name its `psnr`, `psnr_std` over seeds, and `best`.

  Returns:
    True; or False, with nothing written, where matplotlib is not installed.
  """
  figure = _make_figure(height=1.8 + 0.2 * len(lines), layout='constrained')
  if figure is None:
    return False
  axis, places = figure.subplots(), range(len(lines))
  column = lambda key: [line[key] for line in lines.values()]
  axis.errorbar(
    column('psnr'), places, xerr=column('psnr_std'), fmt='o', label='stopped'
  )
  axis.plot(column('best'), places, '|', ms=12, label='best of the run')
  axis.set(yticks=places, yticklabels=list(lines), xlabel='PSNR, dB')
  axis.invert_yaxis()
  axis.grid(alpha=0.3)
  figure.legend(loc='outside lower center', ncols=2, edgecolor='none')
  _save_figure(path, figure)
  return True


def _find_kind(line):
  if line['protocol'] in _ARM_COLOURS:
    return line['protocol']
  return 'staged' if line['method'] == 'staged' else 'not staged'


def _make_figure(
  height: float = 4.2, layout: Literal['constrained'] | None = None
):
  """Returns a figure, or None where matplotlib is not installed.

  The figure draws off screen and leaves pyplot's state alone.
  """
  # Where the user's cache cannot be written, matplotlib says so in lines of its
  # own and goes on without.
  logging.getLogger('matplotlib').setLevel(logging.ERROR)
  try:
    from matplotlib.figure import Figure
  except ImportError:
    return None
  return Figure(figsize=(11, height), dpi=120, layout=layout)


def _save_figure(path, figure):
  data = io.BytesIO()
  figure.savefig(data, format='png')
  folders.write_atomic(path, data.getvalue())


def _draw_quantity(axis, records, key, label, colour) -> None:
  """Draws one thin line for each lane; only the first enters the legend."""
  lanes = sorted({record['lane'] for record in records if key in record})
  for lane in lanes:
    # A value that is not finite is None in a record, and leaves a gap here.
    line = [
      (record['step'], np.nan if record[key] is None else record[key])
      for record in records
      if record['lane'] == lane and key in record
    ]
    line.sort(key=lambda point: point[0])
    # Markers make a line of one or two points visible.
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
