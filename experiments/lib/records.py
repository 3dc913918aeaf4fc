"""Records of a run, one line of JSON each: in a file, and thinned in memory."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.lib import folders

# Records of a lane that memory keeps, at most; enough for any curve.
MOST = 4096

_MOST_WAITING = 2**26  # Bytes that wait for a disk that is full.


class Records:
  """Appends records to a file; a file that cannot be written never ends a run.

  Records that could not be written wait for the next call.

  Attributes:
    path: the file.
    kept: the records in memory, evenly thinned to at most MOST for each lane.
  """

  def __init__(self, path: str):
    self.path = path
    self._waiting, self._failed = b'', False
    self.clear()

  def clear(self) -> None:
    """Forgets all records; the file stays as it is."""
    self.kept: list[Mapping[str, Any]] = []
    self._numbers, self._counts, self._stride = [], {}, 1

  def begin(self, keep: Callable[[dict[str, Any]], bool] | None) -> None:
    """Leaves a file of the records to keep; None keeps none."""
    self.clear()
    stays = list(filter(keep, read_lines(self.path))) if keep else []
    folders.write_atomic(self.path, _format(stays))
    self._keep(stays)

  def add(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Appends records to the file and to the memory."""
    self._keep(records)
    self._waiting += _format(records)
    try:
      folders.append(self.path, self._waiting)
      self._waiting = b''
    except OSError as error:
      if not self._failed:
        say(f'{folders.show(self.path)}: {error.strerror}; the run goes on')
      self._failed = True
      if len(self._waiting) > _MOST_WAITING:
        self._waiting = b''

  def write_kept(self, path: str) -> None:
    """Writes the records that memory keeps where there is no file yet."""
    if not os.path.exists(path):
      folders.write_atomic(path, _format(self.kept))

  def find_end(self) -> int:
    """Returns the bytes of the file, whose records have reached the disk."""
    try:
      with open(self.path, 'rb') as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size
    except OSError:
      return 0

  def rewind(self, end: int) -> None:
    """Goes back to the first `end` bytes of the file, and reads them.

    A file that has fewer bytes was damaged: the run says so and goes on with
    what there is.
    """
    self.clear()
    there = os.path.getsize(self.path) if os.path.exists(self.path) else 0
    if there < end:
      say(
        f'{folders.show(self.path)} has {there} of {end} bytes: its first '
        'records are lost, the fit goes on'
      )
    elif there > end:
      os.truncate(self.path, end)
    self._keep(read_lines(self.path))

  def _keep(self, records):
    for record in records:
      lane = record.get('lane', 0)
      number = self._counts.get(lane, 0)
      self._counts[lane] = number + 1
      if number % self._stride == 0:
        self.kept.append(record)
        self._numbers.append(number)
    # Each lane keeps every second, then every fourth record, and so on.
    while len(self.kept) > MOST * len(self._counts):
      self._stride *= 2
      stay = [number % self._stride == 0 for number in self._numbers]
      self.kept = [r for r, stays in zip(self.kept, stay) if stays]
      self._numbers = [n for n, stays in zip(self._numbers, stay) if stays]


def say(text: str) -> None:
  """Prints a warning on standard error, above a progress bar."""
  tqdm, text = sys.modules.get('tqdm'), f'warning: {text}'
  if tqdm is None:
    print(text, file=sys.stderr, flush=True)
  else:
    tqdm.tqdm.write(text, file=sys.stderr)


def append_lines(path: str, records: Sequence[Mapping[str, Any]]) -> None:
  """Appends records to a file, one line of JSON each, all of them or none."""
  folders.append(path, _format(records))


def _format(records: Sequence[Mapping[str, Any]]) -> bytes:
  return ''.join(json.dumps(record) + '\n' for record in records).encode()


def read_lines(path: str, *, mend: bool = True) -> list[dict[str, Any]]:
  """Returns the records of a file, an empty list where there is no file.

  A last line that is cut off, as a full disk or a lost connection leaves it, is
  dropped from the file, which the run says.

  Args:
    path: of the file.
    mend: False for a file of another process: it stays as it is.

  Raises:
    ValueError: another line that is no JSON; the message names file and line.
  """
  if not os.path.exists(path):
    return []
  with open(path, 'rb') as file:
    lines = file.read().splitlines(keepends=True)
  records, end = [], 0
  for number, line in enumerate(lines, start=1):
    try:
      records.append(_read_line(line))
    except ValueError:
      is_torn = number == len(lines) and (records or line.startswith(b'{'))
      if not is_torn:
        raise ValueError(
          f'{path!r} is no file of records, see its line {number}: name another'
        ) from None
      if mend:
        say(f'{folders.show(path)}: the last line is cut off and dropped')
        os.truncate(path, end)
      return records
    end += len(line)
  if mend and lines and not lines[-1].endswith(b'\n'):
    folders.append(path, b'\n')
  return records


def _read_line(line: bytes) -> dict[str, Any]:
  record = json.loads(line)
  if not isinstance(record, dict):
    raise ValueError(record)
  return record
