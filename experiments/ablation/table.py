"""The arms of an ablation, and their results as a table.

The module fits nothing and reads no file. A row is the content of one line of
arms.jsonl: a dict with `arm`, `method` and, in `lanes`, the scores of each
seed.
"""

import csv
import io
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

STAGED = 'staged'
FIXED = 'plain, fixed steps'
STOPPED = 'plain, stopped'
MEASUREMENT, CLEAN = 'measurement', 'clean'
ORACLE = 'oracle protocol'

# The fields in which two arms can differ, in the order of the table's columns.
FACTORS = ('network', 'perceptual', 'reference', 'schedule', 'beta_max')


class Arm(NamedTuple):
  """One combination of factors; a plain fit has no schedule and one stage."""

  network: str
  perceptual: float  # Weight of the perceptual error; 0: squared error alone.
  reference: str = MEASUREMENT  # Or CLEAN, which is the oracle protocol.
  schedule: str = ''
  beta_max: float = 0.0

  @property
  def is_plain(self) -> bool:
    return not self.schedule

  @property
  def name(self) -> str:
    """The arm's name in files and records; no two arms have the same name."""
    loss = f'{self.network}-perceptual{self.perceptual:g}'
    if self.is_plain:
      return f'plain-{loss}'
    return f'{loss}-{self.reference}-{self.schedule}-{self.beta_max:g}'


def cross_arms(
  *,
  networks: Iterable[str],
  perceptual: Iterable[float],
  references: Iterable[str],
  schedules: Iterable[str],
  beta_max: Iterable[float],
) -> list[Arm]:
  """Returns all arms: for each network and weight a plain fit, then stages.

  Arms that share a program are next to each other.
  """
  staged = list(itertools.product(references, schedules, map(float, beta_max)))
  losses = itertools.product(networks, map(float, perceptual))
  arms = []
  for loss in losses:
    arms.append(Arm(*loss))
    arms += [Arm(*loss, *rest) for rest in staged]
  return list(dict.fromkeys(arms))


def summarize_row(row: Row, budget: int) -> dict[str, Any]:
  """Returns the row's line of the table: means and deviations over its seeds.

  Deviations are sample deviations, None for one seed. Entries that the row does
  not have are None too. `gap` is by how many dB the best image of the run,
  which only an oracle finds, is above the final image.
  """
  lanes = row['lanes']
  best = [(lane.get('oracle') or {}).get('psnr') for lane in lanes]
  line: dict[str, Any] = {name: row.get(name) for name in ('arm', 'method')}
  line |= {name: row.get(name) for name in FACTORS}
  line['protocol'] = get_protocol(row)
  line['budget'] = budget if row.get('planned') else None
  line['planned'] = row.get('planned')
  line['spent'] = _average([lane.get('spent') for lane in lanes])[0]
  columns = {
    'psnr': [lane['psnr'] for lane in lanes],
    'ssim': [lane.get('ssim') for lane in lanes],
    'best': best,
    'gap': [subtract(b, lane['psnr']) for b, lane in zip(best, lanes)],
  }
  for name, values in columns.items():
    line[name], line[f'{name}_std'] = _average(values)
  line['seeds'] = len(lanes)
  line['note'] = '; '.join(_find_notes(row, budget))
  return line


def get_protocol(row: Row) -> str:
  """Returns 'blind', or ORACLE where targets are made from the clean image."""
  return ORACLE if row.get('reference') == CLEAN else 'blind'


def _find_notes(row, budget):
  if get_protocol(row) == ORACLE:
    yield ORACLE
  if row.get('planned') and row['planned'] > budget:
    yield f'{row["planned"] - budget} steps more than the others'
  if row.get('note'):
    yield row['note']


def subtract(a: float | None, b: float | None) -> float | None:
  """Returns a - b, or None where a or b is None."""
  return None if a is None or b is None else a - b


def _average(values):
  """Returns mean and sample deviation.

  Both are None where a value is missing; the deviation of one value is None.
  """
  if not values or None in values:
    return None, None
  deviation = statistics.stdev(values) if len(values) > 1 else None
  return statistics.fmean(values), deviation


def format_csv(lines: Sequence[Row]) -> str:
  """Returns the lines of `summarize_row` as CSV; missing entries are empty."""
  file = io.StringIO()
  writer = csv.DictWriter(file, list(lines[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(lines)
  return file.getvalue()


def format_markdown(lines: Sequence[Row]) -> str:
  """Returns the lines of `summarize_row` as a Markdown table."""
  columns: dict[str, Callable[[Row], str]] = {
    'method': lambda line: _show(line['method']),
    **{name: lambda line, name=name: _show(line[name]) for name in FACTORS},
    'planned': lambda line: _show(line['planned']),
    'spent': lambda line: _show(line['spent'], '.0f'),
    'PSNR, dB': lambda line: _show_spread(line, 'psnr', 'z.2f'),
    'SSIM': lambda line: _show_spread(line, 'ssim', 'z.4f'),
    'best of run, dB': lambda line: _show_spread(line, 'best', 'z.2f'),
    'gap, dB': lambda line: _show_spread(line, 'gap', 'z.2f'),
    'note': lambda line: line['note'],
  }
  cells = [[show(line) for show in columns.values()] for line in lines]
  rows = [list(columns), ['---'] * len(columns), *cells]
  return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


def _show(value, form=''):
  return '' if value is None else format(value, form)


def _show_spread(line, name, form):
  mean, deviation = line[name], line[f'{name}_std']
  spread = '' if deviation is None else f' ± {deviation:{form}}'
  return f'{_show(mean, form)}{spread}'


def describe_table(seeds: int, budget: int) -> str:
  """Returns a paragraph that explains the numbers of the table."""
  return (
    f'A budget of {budget} steps for each seed of every arm, whatever its '
    'stages: `planned` is what whole stages take of it, `spent` what was taken '
    'until the stopping rules ended them. A step with a perceptual weight '
    'computes features too, and so takes longer. PSNR and SSIM are those of '
    'the final image, chosen blind, against the clean one: mean ± standard '
    f'deviation over {seeds} seed{"s" * (seeds > 1)} of the networks and of '
    "the targets' noise, for one measurement. `best of run` is found with the "
    'clean image, for comparison alone, in all steps of the fit; `gap` is how '
    f'far the final image is below. "{ORACLE}": the targets are made of the '
    'clean image itself. The input of a plain fit is its code, that of a '
    'staged one what staged.code says.'
  )
