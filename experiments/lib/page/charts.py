"""Curves of a run as the geometry of drawings: numbers in, coordinates out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 420, 250  # Units of a drawing.
LEFT, RIGHT, TOP, BOTTOM = 52, 412, 10, 222  # The edges of its plot.
MOST_LANES = 8  # Lanes that are drawn.
_MOST_POINTS = 400  # Of a line.
_LARGEST = 1e100  # A value beyond it is drawn as no value.

# Entries of a record that are no curve.
_PLACES = {'step', 'lane', 'seed', 'stage', 'stage_step', 'arm', 'protocol'}
# (title, unit, logarithmic, keys of records with their names)
_CHARTS = (
  ('Loss', '', True, {'loss': 'loss'}),
  (
    'PSNR',
    'dB',
    False,
    {
      'psnr': 'against the clean picture, average',
      'psnr_output': 'against the clean picture, one output',
      'psnr_measurement': 'against the measurement',
      'psnr_target': 'against the target of the stage',
    },
  ),
  (
    'SSIM',
    '',
    False,
    {'ssim': 'against the clean picture', 'ssim_target': 'against the target'},
  ),
)


class Series(NamedTuple):
  """Lines of one colour."""

  name: str
  colour: int
  lines: list[str]  # Points as SVG writes them; a gap begins another line.


class Mark(NamedTuple):
  """A step that something chose; y is None where the value is not drawn."""

  kind: str
  x: float
  y: float | None
  text: str


class Chart(NamedTuple):
  """A drawing: all coordinates are units of it."""

  title: str
  unit: str
  series: list[Series]
  marks: list[Mark]
  bands: list[tuple[float, float]]  # (x, width) of every second stage.
  x_ticks: list[tuple[float, str]]
  y_ticks: list[tuple[float, str]]
  data: dict[str, Any]  # What the page shows at a step: means over the lanes.


def draw(
  records: Sequence[Mapping[str, Any]],
  lanes: Sequence[Mapping[str, Any]],
  *,
  rule: str = '',
) -> list[Chart]:
  """Returns the drawings of all curves that the records have.

  Args:
    records: lines of metrics.jsonl.
    lanes: the lanes of result.json: where they have them, the steps that the
      rule and the oracle chose, and the names of what each lane fits.
    rule: the name of the stopping rule.
  """
  # Stages at once are lanes too, and all of them are drawn.
  records = _place(
    [r for r in records if 'stage' in r or r.get('lane', 0) < MOST_LANES]
  )
  known = {key for *_, keys in _CHARTS for key in keys} | _PLACES | {'x'}
  others = dict.fromkeys(key for r in records for key in r if key not in known)
  charts = [*_CHARTS]
  charts += [(f'Score of {key}', '', True, {key: key}) for key in others]
  drawn = [_draw(records, lanes, rule, *chart) for chart in charts]
  return [chart for chart in drawn if chart]


def _place(records):
  """Returns the records with `x`: stages at once are drawn in a row."""
  placed, before = [], {}
  for record in records:
    stage = record.get('stage')
    if _find(record, 'step') is None:
      continue
    if stage is not None and record.get('stage_step') == record['step']:
      before[stage] = max(before.get(stage, 0), record['step'] + 1)
  starts, left = {}, 0
  # In a chain only the first stage has equal steps: it begins at 0 as well.
  for stage in sorted(before):
    starts[stage], left = left, left + before[stage]
  for record in records:
    step = _find(record, 'step')
    if step is not None:
      same = record.get('stage_step') == record['step']
      shift = starts.get(record.get('stage'), 0) if same else 0
      placed.append({**record, 'x': step + shift})
  return placed


def _draw(records, lanes, rule, title, unit, logarithmic, keys):
  groups = _group(records, lanes, keys)
  values = [y for lines in groups.values() for line in lines for _, y in line]
  values = [y for y in values if y is not None]
  if not values:
    return None
  logarithmic = logarithmic and min(values) > 0
  marks = _list_marks(lanes, rule, with_scores='psnr' in keys)
  xs = [x for lines in groups.values() for line in lines for x, _ in line]
  # Steps of stages that were drawn in a row are places of no mark.
  if any(record['x'] != record['step'] for record in records):
    marks = []
  values += [y for *_, y in marks if y is not None]
  across = _Axis(xs, (LEFT, RIGHT), False, tight=True)
  up = _Axis(values, (BOTTOM, TOP), logarithmic)
  return Chart(
    title,
    unit,
    [
      Series(name, colour, _list_lines(lines, across, up))
      for colour, (name, lines) in enumerate(groups.items())
    ],
    [
      Mark(kind, across(x), None if y is None else up(y), text)
      for kind, text, x, y in marks
      if min(xs) <= x <= max(xs)
    ],
    _list_bands(records, across),
    across.list_ticks(),
    up.list_ticks(),
    _list_means(groups, across),
  )


def _group(records, lanes, keys):
  """Returns name -> lines, one for each lane: [(x, value or None)]."""
  groups = {}
  for key, name in keys.items():
    lines: dict[int, list] = {}
    for record in records:
      lane = record.get('lane', 0)
      if key in record:
        lines.setdefault(lane, []).append((record['x'], _find(record, key)))
    for lane, line in sorted(lines.items()):
      target = lanes[lane].get('target') if lane < len(lanes) else None
      groups.setdefault(target or name, []).append(_thin(line))
  return groups


def _list_marks(lanes, rule, *, with_scores):
  """Yields (kind, text, step, PSNR or None) of what was chosen."""
  marks = []
  for lane in lanes[:MOST_LANES]:
    seed, oracle = lane.get('seed'), lane.get('oracle') or {}
    chosen = (
      ('chosen', f'chosen by {rule}', lane.get('selected_step'), lane),
      ('oracle', 'best, found by the oracle', oracle.get('step'), oracle),
    )
    for kind, what, step, scores in chosen:
      if _is_number(step) and (kind == 'chosen' or _find(scores, 'psnr')):
        psnr = _find(scores, 'psnr') if with_scores else None
        text = f'seed {seed}: {what}, step {step}'
        marks.append((kind, text, step, psnr))
  return marks


def _list_lines(lines, across, up):
  drawn = []
  for line in lines:
    points: list[str] = []
    before = -math.inf
    for x, y in [*line, (0, None)]:
      # The next tile, and a fit that went back to a step, begin another line.
      if points and (y is None or x < before):
        # A line of one point is drawn by the round ends of its stroke.
        drawn.append(' '.join(points * 2 if len(points) == 1 else points))
        points = []
      if y is not None:
        points.append(f'{across(x)},{up(y)}')
      before = x
  return drawn


def _list_bands(records, across):
  stages: dict[int, list] = {}
  for record in records:
    if 'stage' in record:
      stages.setdefault(record['stage'], []).append(record['x'])
  bands = []
  for stage, xs in sorted(stages.items()):
    if stage % 2:
      bands.append(
        (across(min(xs)), round(across(max(xs)) - across(min(xs)), 1))
      )
  return bands


def _list_means(groups, across):
  steps = sorted(
    {x for lines in groups.values() for line in lines for x, _ in line}
  )
  series = {}
  for name, lines in groups.items():
    found: dict[float, list] = {}
    for line in lines:
      for x, y in line:
        if y is not None:
          found.setdefault(x, []).append(y)
    series[name] = [
      float(f'{sum(found[x]) / len(found[x]):.4g}') if x in found else None
      for x in steps
    ]
  return {'steps': steps, 'xs': [across(x) for x in steps], 'series': series}


def _thin(line):
  stride = -(-len(line) // _MOST_POINTS)
  return line[::stride]


def _find(record, key) -> float | None:
  """Returns a value that can be drawn, None for any other."""
  value = record.get(key)
  return value if _is_number(value) and abs(value) < _LARGEST else None


def _is_number(value: Any) -> bool:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


class _Axis:
  """Maps values to units of a drawing."""

  def __init__(self, values, ends, logarithmic, *, tight=False):
    self._logarithmic, self._ends = logarithmic, ends
    scaled = [self._scale(value) for value in values]
    low, high = min(scaled), max(scaled)
    margin = 0.0 if tight else 0.04 * (high - low)
    # All values may be the same one.
    spare = (
      0.5 * max(abs(low), 1) if high - low < 1e-9 * max(abs(low), 1) else 0
    )
    self._low, self._high = low - margin - spare, high + margin + spare
    if tight and spare:
      self._low, self._high = low, high + 1

  def __call__(self, value) -> float:
    share = (self._scale(value) - self._low) / (self._high - self._low)
    begin, end = self._ends
    return round(begin + share * (end - begin), 1)

  def list_ticks(self) -> list[tuple[float, str]]:
    if self._logarithmic and self._high - self._low > 1:
      values = _list_powers(self._low, self._high)
    elif self._logarithmic:
      values = _list_steps(10**self._low, 10**self._high)
    else:
      values = _list_steps(self._low, self._high)
    return [(self(value), _write(value)) for value in values]

  def _scale(self, value):
    return math.log10(value) if self._logarithmic else float(value)


def _list_powers(low, high):
  powers = range(math.ceil(low), math.floor(high) + 1)
  stride = max(1, len(powers) // 5)
  if len(powers) < 3:
    every = (
      10.0**power * n
      for power in range(math.floor(low), math.ceil(high))
      for n in (1, 2, 5)
    )
    return [v for v in every if low <= math.log10(v) <= high]
  return [10.0**power for power in powers[::stride]]


def _list_steps(low, high) -> Iterable[float]:
  rough = (high - low) / 5
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
  first = math.ceil(low / step)
  return [step * n for n in range(first, math.floor(high / step) + 1)]


def _write(value: float) -> str:
  text = f'{value:.10g}'
  return text if len(text) <= 7 else f'{value:.3g}'
