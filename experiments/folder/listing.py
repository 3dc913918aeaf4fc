"""The pictures of a folder, of a pattern or of a list."""

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments.lib import folders, reading
from experiments.lib.writing import FORMATS

# The endings of pictures that are read; a pattern of one's own takes others.
_ENDINGS = {*FORMATS, '.heic', '.heif'}
_LIST = '.txt'
_WILD = re.compile(r'[*?[]')


class Entry(NamedTuple):
  """One picture."""

  path: str
  name: str  # The path below the folder of all pictures.
  page: int | None = None  # Of a file with several.

  def show(self) -> str:
    """Returns what to call the picture on a terminal."""
    page = '' if self.page is None else f', page {self.page}'
    return folders.show(self.name) + page


class Listing(NamedTuple):
  """The pictures, by name, and lines on what was left out."""

  entries: list[Entry]
  notes: list[str]


def list_pictures(
  source: str, workdir: str, *, page: int = -1, mask: str = ''
) -> Listing:
  """Returns all pictures.

  A folder, and a pattern that ends in `*`, give the files whose names end as
  those of pictures do. Files in the workdir, and masks, are no pictures.

  Args:
    source: a folder, a pattern, in which `**` is any folder below, a file of
      names with the ending .txt, or a picture.
    workdir: the folder of the run.
    page: of each TIFF, -1: all of them.
    mask: see `find_mask`; without a `*` there are none.

  Raises:
    ValueError: there is no picture; one line says why.
  """
  paths, base = _list_files(os.path.expanduser(source))
  notes = []
  outside = [path for path in paths if not _is_below(path, workdir)]
  if len(outside) < len(paths):
    count = len(paths) - len(outside)
    if not outside:
      raise ValueError(
        f'all pictures of {source!r} are in the workdir {workdir!r}: name '
        'another workdir'
      )
    notes.append(f'{count} files in the workdir are left out')
  if '*' in mask:
    masks = {find_mask(path, mask) for path in outside}
    outside = [path for path in outside if path not in masks]
  if not outside:
    raise ValueError(
      f'no pictures in {source!r}: name a folder, a pattern such as '
      "'photos/**/*.tif', or a list of files (.txt), as --config.data.images="
    )
  entries = []
  for path in sorted(outside):
    name = os.path.relpath(path, base)
    pages = reading.count_pages(path) if page < 0 else 1
    if pages > 1:
      entries += [Entry(path, name, number) for number in range(pages)]
    else:
      entries.append(Entry(path, name, None if page < 0 else page))
  return Listing(entries, notes)


def _list_files(source: str) -> tuple[list[str], str]:
  """Returns absolute paths, and the folder that is above all of them."""
  if os.path.isdir(source):
    found = [os.path.join(source, name) for name in os.listdir(source)]
    return _keep(found, by_name=True), os.path.abspath(source)
  if os.path.isfile(source):
    if source.lower().endswith(_LIST):
      return _read_list(source)
    return _keep([source]), os.path.dirname(os.path.abspath(source))
  if not _WILD.search(source):
    raise ValueError(f'{source!r} is neither a folder nor a file')
  fixed = _WILD.split(source, maxsplit=1)[0]
  found = glob.glob(source, recursive=True)
  by_name = source.endswith('*')
  return _keep(found, by_name), os.path.abspath(os.path.dirname(fixed))


def _read_list(source):
  folder = os.path.dirname(os.path.abspath(source))
  try:
    with open(source, encoding='utf-8', errors='surrogateescape') as file:
      lines = [line.strip() for line in file]
  except OSError as error:
    raise ValueError(f'{source!r}: {error.strerror}') from error
  named = [os.path.expanduser(line) for line in lines if line]
  # A file that is not there is a picture that cannot be read.
  paths = [os.path.abspath(os.path.join(folder, path)) for path in named]
  paths = list(dict.fromkeys(paths))
  inside = lambda path: not os.path.relpath(path, folder).startswith('..')
  if all(map(inside, paths)):
    return paths, folder
  above = os.path.commonpath([os.path.dirname(path) for path in paths])
  return paths, above


def _keep(paths: Iterable[str], by_name: bool = False) -> list[str]:
  kept = []
  for path in paths:
    ending = os.path.splitext(path)[1].lower()
    hidden = os.path.basename(path).startswith('.')
    if os.path.isdir(path) or (by_name and (hidden or ending not in _ENDINGS)):
      continue
    kept.append(os.path.abspath(path))
  return kept


def _is_below(path: str, folder: str) -> bool:
  folder = os.path.realpath(folder)
  return os.path.commonpath([folder, os.path.realpath(path)]) == folder


def find_mask(path: str, mask: str) -> str:
  """Returns the path of the mask of a picture.

  Args:
    path: of the picture, absolute.
    mask: a name or path beside the picture, in which `*` is the picture's name
      without its ending.
  """
  folder, name = os.path.split(path)
  own = mask.replace('*', os.path.splitext(name)[0])
  return os.path.normpath(os.path.join(folder, own))


def find_clean(folder: str, entry: Entry) -> str:
  """Returns the clean version of a picture, '' where there is none.

  It has the name of the picture, or the same name with another ending.
  """
  path = os.path.join(os.path.expanduser(folder), entry.name)
  if os.path.isfile(path):
    return path
  stem = glob.escape(os.path.splitext(path)[0])
  found = [other for other in glob.glob(f'{stem}.*') if os.path.isfile(other)]
  return found[0] if len(found) == 1 else ''


def name_outputs(
  entries: Sequence[Entry], taken: Mapping[tuple[str, int | None], str]
) -> dict[Entry, str]:
  """Returns the name of the restored file of each picture; no two are equal.

  It is the picture's own, with the number of its page, and with .png behind it
  where files of the kind are not written.

  Args:
    entries: the pictures.
    taken: by name and page, what was restored already keeps its name.
  """
  names, used = {}, set(taken.values())
  is_own = lambda entry: (
    entry.page is None and os.path.splitext(entry.name)[1].lower() in FORMATS
  )
  # A name that is a picture's own is not given to another.
  for entry in sorted(entries, key=is_own, reverse=True):
    name = taken.get((entry.name, entry.page)) or _name_output(entry, used)
    used.add(name)
    names[entry] = name
  return names


def _name_output(entry, used):
  stem, ending = os.path.splitext(entry.name)
  if ending.lower() not in FORMATS:
    stem, ending = entry.name, '.png'
  if entry.page is not None:
    stem = f'{stem}_page{entry.page}'
  name, number = stem + ending, 2
  while name in used:
    name, number = f'{stem}_{number}{ending}', number + 1
  return name


def stamp(path: str) -> str:
  """Returns what changes where a file changes; '' for a file that is gone."""
  try:
    found = os.stat(path)
  except OSError:
    return ''
  return f'{found.st_size}-{found.st_mtime_ns}'
