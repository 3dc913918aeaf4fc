"""The rows of a folder: what became of each picture."""

import csv
import io
import json
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.folder import listing
from experiments.folder.listing import Entry
from experiments.lib import folders, records

DONE, FAILED = 'done', 'failed'
COLUMNS = (
  'file',
  'page',
  'status',
  'error',
  'steps',
  'network',
  'seconds',
  'noise',
  'psnr_before',
  'psnr',
  'ssim',
  'output',
)


class Index:
  """The rows in a file, one for each picture that is done or has failed.

  Attributes:
    path: of the file.
    rows: by picture.
  """

  def __init__(self, path: str, *, mend: bool = True):
    """Reads the rows that are there; see `records.read_lines`."""
    self.path, self._lock = path, threading.Lock()
    self.rows: dict[tuple[str, int | None], dict[str, Any]] = {}
    self._read(path, mend)

  def _read(self, path, mend):
    for row in records.read_lines(path, mend=mend):
      self.rows[row['file'], row['page']] = row

  def absorb(self, paths: Iterable[str]) -> None:
    """Takes over the rows of other files, which are gone then."""
    paths = list(paths)
    for path in paths:
      self._read(path, True)
    if paths:
      self._save()
    for path in paths:
      os.remove(path)

  def _save(self):
    lines = (json.dumps(row) + '\n' for row in self.rows.values())
    folders.write_atomic(self.path, ''.join(lines).encode())

  def begin(self, entries: Sequence[Entry], folder: str) -> list[Entry]:
    """Returns the pictures that have no row yet, in order.

    The row of a picture that has changed since, or whose restored file is gone,
    counts no more and is taken out.

    Args:
      entries: all pictures.
      folder: of the restored files.
    """
    old = [
      entry
      for entry in entries
      if (row := self.find(entry)) and not _is_current(entry, row, folder)
    ]
    for entry in old:
      del self.rows[entry.name, entry.page]
    if old:
      self._save()
    return [entry for entry in entries if not self.find(entry)]

  def find(self, entry: Entry) -> dict[str, Any] | None:
    """Returns the row of a picture, None where there is none."""
    return self.rows.get((entry.name, entry.page))

  def add(self, entry: Entry, **values: Any) -> dict[str, Any]:
    """Adds the row of a picture, in the file first, and returns it.

    Raises:
      OSError: the disk takes no more.
    """
    row = {'file': entry.name, 'page': entry.page, **values}
    with self._lock:
      records.append_lines(self.path, [row])
      self.rows[entry.name, entry.page] = row
    return row

  def write_csv(self, path: str) -> None:
    """Writes all rows as a table, by name."""
    text = io.StringIO()
    writer: Any = csv.DictWriter(text, COLUMNS, extrasaction='ignore')
    writer.writeheader()
    order = lambda key: (key[0], key[1] or 0)
    writer.writerows(self.rows[key] for key in sorted(self.rows, key=order))
    data = text.getvalue().encode('utf-8', 'surrogateescape')
    folders.write_atomic(path, data)


def _is_current(entry, row, folder):
  if row['stamp'] != listing.stamp(entry.path):
    return False
  output = row.get('output')
  return not output or os.path.exists(os.path.join(folder, output))
