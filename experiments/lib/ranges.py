"""Ranges: what a field of a config may be, as values that say so themselves.

`range.allows(value)` decides; `str(range)` completes 'the field must be ...'.
No range allows NaN, an infinity or None, and a bool is no number.
"""

import dataclasses
import re
from collections.abc import Collection
from typing import Any, NamedTuple


class Whole(NamedTuple):
  """Every `step`-th whole number from `least` to `most`."""

  least: int
  most: int
  step: int = 1
  name: str = 'a whole number'

  def allows(self, value: Any) -> bool:
    """Returns whether the range has the value."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value in range(self.least, self.most + 1, self.step)

  def __str__(self) -> str:
    return f'{self.name} from {self.least:,} to {self.most:,}'


class Number(NamedTuple):
  """The numbers from `least` to `most`, without an end that is open."""

  least: float
  most: float
  above: bool = False  # Whether `least` itself is left out.
  below: bool = False  # Whether `most` itself is left out.

  def allows(self, value: Any) -> bool:
    """Returns whether the range has the value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
      return False
    left_out = [self.least] * self.above + [self.most] * self.below
    return self.least <= value <= self.most and value not in left_out

  def __str__(self) -> str:
    if not self.above and not self.below:
      return f'a number from {self.least:,} to {self.most:,}'
    low = 'above' if self.above else 'of at least'
    high = 'below' if self.below else 'at most'
    return f'a number {low} {self.least:,} and {high} {self.most:,}'


@dataclasses.dataclass(frozen=True)
class Flag:
  """True and False."""

  def allows(self, value: Any) -> bool:
    """Returns whether the value is a bool."""
    return isinstance(value, bool)

  def __str__(self) -> str:
    return 'True or False'


class Word(NamedTuple):
  """One of some words."""

  known: Collection[str]

  def allows(self, value: Any) -> bool:
    """Returns whether the value is one of the words."""
    return isinstance(value, str) and value in self.known

  def __str__(self) -> str:
    return f'one of {", ".join(self.known)}'


class Text(NamedTuple):
  """The texts that match a pattern as a whole."""

  what: str  # Such as 'a file'.
  pattern: str = '.*'

  def allows(self, value: Any) -> bool:
    """Returns whether the value is such a text."""
    if not isinstance(value, str):
      return False
    return bool(re.fullmatch(self.pattern, value, re.DOTALL))

  def __str__(self) -> str:
    return self.what


class Many(NamedTuple):
  """Tuples with entries of one range."""

  entry: 'Range'
  counts: Collection[int]  # How many entries there may be.
  or_one: bool = False  # Whether an entry alone stands for all.

  def allows(self, value: Any) -> bool:
    """Returns whether the value is such a tuple."""
    if self.or_one and self.entry.allows(value):
      return True
    if not isinstance(value, tuple) or len(value) not in self.counts:
      return False
    return all(self.entry.allows(entry) for entry in value)

  def __str__(self) -> str:
    if isinstance(self.counts, range):
      ends = sorted({min(self.counts), max(self.counts)})
      count = ' to '.join(map(str, ends))
    else:
      *others, last = map(str, self.counts)
      count = f'{", ".join(others)} or {last}'
    if self.or_one:
      return f'{self.entry}, or a tuple of {count} of them'
    return f'a tuple of {count} entries, each {self.entry}'


Range = Whole | Number | Flag | Word | Text | Many
