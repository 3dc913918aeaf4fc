"""Judges the source's claims and the stopping by the arms of an ablation.

The module fits nothing and reads no file; `table` defines rows and lines.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.ablation.table import (
  CLEAN,
  FACTORS,
  FIXED,
  MEASUREMENT,
  ORACLE,
  STAGED,
  STOPPED,
  Row,
  get_protocol,
  subtract,
)


class Claim(NamedTuple):
  """The claim that an arm beats an arm that differs in `factor` alone."""

  text: str
  factor: str  # One of FACTORS, or 'method'.
  # (value of factor, another value) -> whether the claim prefers the first.
  is_better: Callable[[Any, Any], bool]
  # Mean difference in the source's table, in dB, with targets made from the
  # clean image.
  published: float | None = None


CLAIMS = (
  Claim(
    'staged fitting beats plain DIP with fixed steps',
    'method',
    lambda a, b: (a, b) == (STAGED, FIXED),
    1.90,
  ),
  Claim(
    'scaled-linear levels beat linear ones',
    'schedule',
    lambda a, b: (a, b) == ('scaled-linear', 'linear'),
    0.58,
  ),
  Claim(
    'a perceptual loss beats squared error alone',
    'perceptual',
    lambda a, b: a > 0 and b == 0,
    0.41,
  ),
  Claim(
    'a smaller beta_max beats a larger one',
    'beta_max',
    lambda a, b: a < b,
    0.84,
  ),
)
# The source does not claim this: its plain DIP was not stopped.
OWN_CLAIM = Claim(
  'staged fitting beats plain DIP with our stopping',
  'method',
  lambda a, b: (a, b) == (STAGED, STOPPED),
)


def judge_claims(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns a verdict on each claim, in each protocol that the rows have.

  A verdict has a `text` and numbers: the mean over pairs of arms and over seeds
  of the difference in PSNR, in dB, the deviation of the difference over seeds,
  and how many pairs agree. Equal seeds of two arms share the noise, and
  networks of equal shapes begin with the same parameters.
  """
  judged = []
  for reference in (MEASUREMENT, CLEAN):
    staged = [r for r in rows if r.get('reference') == reference]
    staged = [r for r in staged if r['method'] == STAGED]
    plain = [r for r in rows if r['method'] in (FIXED, STOPPED)]
    if staged:
      judged += [_judge(claim, staged, plain) for claim in (*CLAIMS, OWN_CLAIM)]
  return judged


def _judge(claim, staged, plain):
  # Seeds are compared one by one, because two arms share a seed's noise: the
  # difference spreads less than the scores.
  others = plain if claim.factor == 'method' else staged
  pairs = [
    _subtract_lanes(a, b)
    for a, b in itertools.product(staged, others)
    if _differ_in(claim.factor, a, b)
    and claim.is_better(a[claim.factor], b[claim.factor])
  ]
  pairs = [pair for pair in pairs if pair]
  protocol = get_protocol(staged[0])
  verdict = {'claim': claim.text, 'protocol': protocol, 'pairs': len(pairs)}
  mark = f'{ORACLE}: ' if protocol == ORACLE else ''
  if not pairs:
    text = f'{mark}{claim.text}: not tested, no two arms differ in it alone'
    return verdict | {'holds': None, 'text': text}
  means = [statistics.fmean(pair.values()) for pair in pairs]
  seeds = sorted(set.intersection(*map(set, pairs)))
  over_seeds = [statistics.fmean(p[seed] for p in pairs) for seed in seeds]
  difference, agree = statistics.fmean(means), sum(mean > 0 for mean in means)
  deviation = statistics.stdev(over_seeds) if len(seeds) > 1 else None
  verdict |= {
    'holds': difference > 0,
    'difference_db': difference,
    'std': deviation,
    'pairs_that_agree': agree,
  }
  holds = 'holds' if difference > 0 else 'does not hold'
  text = f'{mark}{claim.text}: {holds}, {difference:+z.2f} dB'
  if deviation is not None:
    text += f' ± {deviation:z.2f} over {len(seeds)} seeds'
    if abs(difference) <= deviation:
      text += ', within their spread'
  text += f'; in {agree} of {len(pairs)} pairs of arms'
  if claim.published:
    text += f'; published {claim.published:+z.2f} dB ({ORACLE})'
  return verdict | {'text': text}


def _differ_in(factor, a, b):
  """Returns whether two rows differ in nothing but `factor`.

  A plain fit has a network and a loss, but no other factor to compare.
  """
  if factor == 'method':
    return all(a[name] == b[name] for name in ('network', 'perceptual'))
  return all(a[name] == b[name] for name in FACTORS if name != factor)


def _subtract_lanes(a, b):
  """Returns by seed the difference in PSNR, in dB, where both rows have it."""
  scores = {lane['seed']: lane['psnr'] for lane in b['lanes']}
  both = {
    lane['seed']: subtract(lane['psnr'], scores.get(lane['seed']))
    for lane in a['lanes']
  }
  return {seed: value for seed, value in both.items() if value is not None}


def describe_stopping(lines: Sequence[Row]) -> list[str]:
  """Returns a line on each method: how far its images are from the best ones.

  Args:
    lines: what `table.summarize_row` returned, one for each row.
  """
  texts = []
  known = [line for line in lines if line['gap'] is not None]
  kinds = dict.fromkeys((line['protocol'], line['method']) for line in known)
  for kind in kinds:
    own = [x for x in known if (x['protocol'], x['method']) == kind]
    mean = lambda name, own=own: statistics.fmean(line[name] for line in own)
    worst = max(line['gap'] for line in own)
    mark = f'{ORACLE}: ' if kind[0] == ORACLE else ''
    texts.append(
      f'{mark}{kind[1]}: final image {mean("psnr"):z.2f} dB, best of the run '
      f'{mean("best"):z.2f} dB; the gap is {mean("gap"):z.2f} dB on average '
      f'and {worst:z.2f} dB at worst over {len(own)} arms'
    )
  return texts
