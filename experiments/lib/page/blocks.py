"""What a page says of a run: blocks made of its result, each where it fits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

_SCORES = (
  ('psnr', 'PSNR, dB', '.2f'),
  ('psnr_y', 'PSNR of Y, dB', '.2f'),
  ('ssim', 'SSIM', '.4f'),
  ('lpips', 'LPIPS', '.3f'),
)
_NONE = '–'
_MOST_ROWS = 1000  # Pictures of a folder: a browser takes a second for more.


class Cell(NamedTuple):
  """An entry of a table: its text, what to sort it by, and maybe a bar.

  A bar is (from, to, best) in percent of the column's width; best may be None.
  """

  text: str
  key: float | str | None = None
  bar: tuple[float, float, float | None] | None = None


class Table(NamedTuple):
  """A table that can be sorted by any of its columns."""

  title: str
  head: list[str]
  rows: list[list[Cell]]
  note: str = ''


class Facts(NamedTuple):
  """Names and what is known under them, as (name, value, remark)."""

  title: str
  facts: list[tuple[str, str, str]]


class Notes(NamedTuple):
  """Sentences."""

  title: str
  lines: list[str]


def write_number(value: Any, form: str = '.4g') -> str:
  """Returns a number as people read it; what is no finite number is a dash."""
  if not _is_number(value):
    return _NONE
  return format(value, form)


def describe_state(summary: Mapping[str, Any], *, running: bool) -> str:
  """Returns a word on where the run is."""
  if running:
    return 'running'
  if summary.get('diverged'):
    return 'diverged'
  return 'stopped before its end' if summary.get('stopped') else 'finished'


def list_outcome(
  summary: Mapping[str, Any], config: Mapping[str, Any]
) -> Facts:
  """Returns the numbers that people look for first."""
  before, after = (
    summary.get('measurement') or {},
    summary.get('restored') or {},
  )
  stop, lanes = summary.get('stop') or {}, summary.get('lanes') or []
  lanes = lanes if isinstance(lanes, Sequence) else []
  facts = []
  if _is_number(summary.get('pictures')):
    remark = f'{summary["failed"]} failed' if summary.get('failed') else ''
    done = f'{summary.get("done", 0)} of {summary["pictures"]} restored'
    facts.append(('Pictures', done, remark))
  for key, name, form in _SCORES:
    if _is_number(after.get(key)):
      old, new = before.get(key), after[key]
      change = write_number(new - old, f'+{form}') if _is_number(old) else ''
      shown = f'{write_number(old, form)} → ' if _is_number(old) else ''
      facts.append((name, f'{shown}{write_number(new, form)}', change))
  if 'restored' in summary and after and not facts:
    facts.append(('PSNR', 'not known', 'nor is the clean picture'))
  if _is_number(stop.get('gap_to_oracle_db')):
    gap = write_number(stop['gap_to_oracle_db'], '.2f')
    facts.append(
      (
        'Below the oracle',
        f'{gap} dB',
        'the best picture of the fit, which only the clean one can find',
      )
    )
  if stop.get('rule'):
    facts.append(('Stopped by', str(stop['rule']), _describe_steps(lanes)))
  if _is_number(summary.get('missing')):
    facts.append(('Missing', f'{summary["missing"]:.1%}', 'of the pixels'))
  if _is_number(after.get('deviation_correlation')):
    value = write_number(after['deviation_correlation'], '.2f')
    remark = 'correlation of where it may be wrong and where it is wrong'
    facts.append(('Told where', value, remark))
  if _is_number(summary.get('steps')):
    most = (config.get('fit') or {}).get('steps')
    in_a_row = {'stages', 'table', 'tiles', 'index'} & summary.keys()
    remark = f'of at most {most}' if most and not in_a_row else ''
    facts.append(('Steps', f'{summary["steps"]}', remark))
  facts += _list_seconds(summary)
  if _is_number(summary.get('seconds_left')):
    left = _write_time(summary['seconds_left'])
    facts.append(
      ('Time left', f'at most {left}', 'the rule may stop the fit before')
    )
  if len(lanes) > 1:
    facts.append(('Lanes', str(len(lanes)), 'fitted at once'))
  if summary.get('tiles'):
    tiles = summary['tiles']
    size = 'x'.join(map(str, tiles['size']))
    facts.append(('Tiles', str(tiles['count']), f'of {size}'))
  if summary.get('output'):
    facts.append(('Restored file', str(summary['output']), ''))
  if summary.get('protocol'):
    facts.append(('Protocol', str(summary['protocol']), 'not a blind result'))
  return Facts('', facts)


def _describe_steps(lanes):
  chosen = [lane.get('selected_step') for lane in lanes]
  chosen = [step for step in chosen if _is_number(step)]
  if not chosen:
    return ''
  low, high = min(chosen), max(chosen)
  return f'at step {low}' if low == high else f'at steps {low} to {high}'


def _list_seconds(summary):
  seconds = summary.get('seconds') or {}
  known = {k: v for k, v in seconds.items() if _is_number(v)}
  if not known:
    return []
  parts = ', '.join(f'{_write_time(v)} of {k}' for k, v in known.items())
  pace = summary.get('seconds_per_step')
  if _is_number(pace):
    parts += f'; {write_number(1000 * pace, ".3g")} ms a step'
  remark = parts.replace(' of compile', ' of compiling')
  return [('Time', _write_time(sum(known.values())), remark)]


def _write_time(seconds):
  for size, unit in ((3600, 'h'), (60, 'min')):
    if seconds >= 2 * size:
      return f'{seconds / size:.1f} {unit}'
  return f'{seconds:.3g} s'


def list_noise(
  summary: Mapping[str, Any], config: Mapping[str, Any]
) -> Facts | None:
  """Returns the noise that was found, and what was done because of it."""
  noise, facts = summary.get('noise'), []
  if noise:
    found = noise['text'].removeprefix('noise: ')
    facts.append(('Found', found, ''))
    if _is_number(noise.get('sigma')):
      value = write_number(noise['sigma'], '.2f')
      facts.append(('Standard deviation', f'{value} of 255', ''))
    clipped = [end for end, is_it in noise.get('clipped', {}).items() if is_it]
    facts.append(('Clipped at', ' and '.join(clipped) or 'neither end', ''))
    if _is_number(noise.get('impulses')):
      facts.append(('Impulses', f'{noise["impulses"]:.2%}', 'of the values'))
    if _is_number(noise.get('confidence')):
      facts.append(('Confidence', write_number(noise['confidence'], '.2f'), ''))
    elif noise.get('confidence'):
      facts.append(('Confidence', str(noise['confidence']), ''))
  if summary.get('chosen'):
    facts.append(('So this was chosen', str(summary['chosen']), ''))
  if noise:
    facts += _list_consequences(summary, config)
  return Facts('The noise, and what followed from it', facts) if facts else None


def _list_consequences(summary, config):
  method = (config.get('method') or {}).get('name')
  if method:
    yield 'Method', str(method), 'what the fit minimised'
  before = (summary.get('unfinished') or {}).get('psnr')
  after = (summary.get('restored') or {}).get('psnr')
  if 'unfinished' in summary:
    text = 'a filter with the fit as its pilot'
    if _is_number(before) and _is_number(after):
      gain = write_number(after - before, '+.2f')
      text += f': {write_number(before, ".2f")} dB before it, {gain} dB by it'
    yield 'After the fit', text, ''
  if _is_number(summary.get('detail_returned')):
    share = f'{summary["detail_returned"]:.1%}'
    yield 'Detail returned', share, 'of what the fit had removed'


def list_tables(summary: Mapping[str, Any]) -> list[Table]:
  """Returns the tables that the result has the numbers for."""
  tables = (
    _list_scores(summary),
    _list_ablation(summary),
    _list_arms(summary),
    _list_pictures(summary),
    _list_levels(summary),
    _list_stages(summary),
    _list_lanes(summary),
  )
  # The seeds alone, before a fit has ended, say nothing.
  return [table for table in tables if table and len(table.head) > 1]


def _list_scores(summary):
  """The restored picture beside simpler restorations."""
  rows = {'measurement': summary.get('measurement')}
  rows |= dict(summary.get('baselines') or {})
  rows |= {'before the filter': summary.get('unfinished')}
  rows |= {'restored': summary.get('restored')}
  rows = {name: row for name, row in rows.items() if row}
  used = [s for s in _SCORES if any(s[0] in row for row in rows.values())]
  if not used or len(rows) < 2:
    return None
  return Table(
    'Scores against the clean picture',
    ['picture', *(name for _, name, _ in used)],
    [
      [
        Cell(name, name),
        *(_make_cell(row.get(key), form) for key, _, form in used),
      ]
      for name, row in rows.items()
    ],
  )


def _list_lanes(summary):
  lanes = summary.get('lanes') or []
  if not isinstance(lanes, Sequence):
    return None
  columns = {
    'fitted': lambda lane: Cell(str(lane['target']), str(lane['target'])),
    'seed': lambda lane: _make_cell(lane['seed'], 'd'),
    'loss': lambda lane: _make_cell(lane['loss'], '.4g'),
    'stopped at': lambda lane: _make_cell(lane['stopped_at'], 'd'),
    'step chosen': lambda lane: _make_cell(lane['selected_step'], 'd'),
    **_make_score_columns(),
    'best step': lambda lane: _make_cell(lane['oracle']['step'], 'd'),
    'best PSNR, dB': lambda lane: _make_cell(lane['oracle']['psnr'], '.2f'),
    'jumps': lambda lane: _make_cell(len(lane['returned_to']), 'd'),
  }
  return _make_table(
    'Each lane',
    columns,
    lanes,
    note=(
      'Best is what the oracle found with the clean picture: never a result.'
      if any('oracle' in lane for lane in lanes)
      else ''
    ),
  )


def _list_stages(summary):
  columns = {
    'stage': lambda row: _make_cell(row['stage'], 'd'),
    'level': lambda row: _make_cell(row['level'], '.4g'),
    'noise of the target': lambda row: _make_cell(row['noise'], '.3g'),
    'seed': lambda row: _make_cell(row['seed'], 'd'),
    'steps planned': lambda row: _make_cell(row['steps_planned'], 'd'),
    'steps taken': lambda row: _make_cell(row['steps'], 'd'),
    'against the target, dB': lambda row: _make_cell(row['psnr_target'], '.2f'),
    **_make_score_columns(),
  }
  rows = [
    {**stage, **lane, 'stage': number}
    for number, stage in enumerate(summary.get('stages') or [], start=1)
    for lane in stage['lanes']
  ]
  return _make_table('Each stage', columns, rows)


def _list_levels(summary):
  """When each target of noise impedance came below a loss."""
  levels = summary.get('levels') or []
  names = list(levels[0]['steps']) if levels else []
  return Table(
    'First step with a loss below a level',
    ['loss', *names],
    [
      [
        _make_cell(level['loss'], '.4g'),
        *(_make_cell(level['steps'].get(name), 'd') for name in names),
      ]
      for level in levels
    ],
    note='A dash: the fit never came so low.',
  )


def _list_arms(summary):
  arms = summary.get('arms') or {}
  rows = [
    {'arm': name, **(arm.get('restored') or {}), 'steps': arm.get('steps')}
    for name, arm in arms.items()
  ]
  columns = {
    'arm': lambda row: Cell(str(row['arm']), str(row['arm'])),
    **_make_score_columns(),
    'steps': lambda row: _make_cell(row['steps'], 'd'),
  }
  return _make_table('Each arm', columns, rows)


def _list_pictures(summary):
  """The pictures of a folder: what failed, then the lowest PSNR, come first."""
  rows = summary.get('index') or []
  worst = lambda row: (
    row['status'] != 'failed',
    row['psnr'] if _is_number(row.get('psnr')) else float('inf'),
    str(row['file']),
    row['page'] or 0,
  )
  name = lambda row: (
    str(row['file']) + ('' if row['page'] is None else f', page {row["page"]}')
  )
  columns = {
    'file': lambda row: Cell(name(row), name(row)),
    'status': lambda row: _make_cell(row['status'], 'g'),
    'PSNR before, dB': lambda row: _make_cell(row['psnr_before'], '.2f'),
    'PSNR, dB': lambda row: _make_cell(row['psnr'], '.2f'),
    'SSIM': lambda row: _make_cell(row['ssim'], '.4f'),
    'noise, of 255': lambda row: _make_cell(row['noise'], '.1f'),
    'steps': lambda row: _make_cell(row['steps'], 'd'),
    'seconds': lambda row: _make_cell(row['seconds'], '.1f'),
    'error': lambda row: _make_cell(row['error'], 'g'),
  }
  shown = sorted(rows, key=worst)[:_MOST_ROWS]
  note = f'Of {len(rows)} pictures; index.csv has all.' if shown else ''
  return _make_table('Each picture', columns, shown, note)


def _list_ablation(summary):
  lines = summary.get('table') or []
  ends = [
    value
    for line in lines
    for value in (line['psnr'], line['best'])
    if _is_number(value)
  ]
  columns = {
    **{
      name: lambda line, name=name: _make_cell(line[name], 'g')
      for name in ('method', 'network', 'perceptual', 'reference', 'schedule')
    },
    'beta max': lambda line: _make_cell(line['beta_max'], 'g'),
    'steps': lambda line: _make_cell(line['spent'], '.0f'),
    'PSNR, dB': lambda line: _make_bar(line, ends),
    'SSIM': lambda line: _make_cell(line['ssim'], '.4f'),
    'best, dB': lambda line: _make_cell(line['best'], '.2f'),
    'gap, dB': lambda line: _make_cell(line['gap'], 'z.2f'),
    'note': lambda line: _make_cell(line['note'], 'g'),
  }
  return _make_table(
    'Every arm',
    columns,
    lines,
    note='A bar is the mean and its deviation over the seeds; the tick is the '
    'best picture of the fit, which only an oracle finds.',
  )


def _make_bar(line, ends):
  psnr, spread = line['psnr'], line.get('psnr_std') or 0.0
  cell = _make_cell(psnr, '.2f')
  if not _is_number(psnr):
    return cell
  low, high = min(ends) - 0.5, max(ends) + 0.5
  place = lambda value: round(
    100 * min(max((value - low) / (high - low), 0), 1), 1
  )
  best = place(line['best']) if _is_number(line['best']) else None
  text = f'{cell.text} ± {spread:.2f}' if spread else cell.text
  # A single seed has no deviation: the bar is a point.
  bar = (place(psnr - spread), place(psnr + spread), best)
  return cell._replace(text=text, bar=bar)


def _make_score_columns():
  """The columns of the scores, for rows that have them as `_SCORES` names."""
  return {
    name: lambda row, key=key, form=form: _make_cell(row[key], form)
    for key, name, form in _SCORES
  }


def _make_table(title, columns, rows, note='') -> Table:
  """Returns the columns that at least one row has something in."""
  made = {}
  for name, make in columns.items():
    cells = []
    for row in rows:
      try:
        cells.append(make(row))
      except (KeyError, TypeError):
        cells.append(Cell(_NONE))
    if any(cell.text not in ('', _NONE) for cell in cells):
      made[name] = cells
  return Table(title, list(made), [list(r) for r in zip(*made.values())], note)


def _make_cell(value, form) -> Cell:
  if isinstance(value, str):
    return Cell(value, value)
  return Cell(write_number(value, form), value if _is_number(value) else None)


def list_notes(summary: Mapping[str, Any]) -> Notes | None:
  """Returns the sentences of a result: its claims, and how it stopped."""
  claims = [claim['text'] for claim in summary.get('claims') or []]
  lines = [*claims, *(summary.get('stopping') or [])]
  return Notes('What was claimed, and what came out', lines) if lines else None


def list_run(summary: Mapping[str, Any], written: str) -> Facts:
  """Returns what the run ran on."""
  facts = [
    ('Hardware', str(summary.get('hardware', _NONE)), ''),
    ('Parameters', write_number(summary.get('parameters'), ','), ''),
    ('Written', written, ''),
  ]
  versions = summary.get('versions') or {}
  facts += [(name, str(version), '') for name, version in versions.items()]
  known = [fact for fact in facts if fact[1] != _NONE]
  return Facts('What it ran on', known)


def list_fields(
  section: Mapping[str, Any], prefix: str = ''
) -> Iterable[tuple[str, str]]:
  """Yields the name and the value of each field of a config."""
  for name, value in section.items():
    if isinstance(value, Mapping):
      yield from list_fields(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', f'{value!r}'


def _is_number(value: Any) -> TypeGuard[float]:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and math.isfinite(value)
