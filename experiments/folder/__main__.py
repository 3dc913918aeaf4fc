"""Restores all pictures of a folder, several at once.

python -m experiments.folder --config=configs/folder.py \
  --config.data.images=FOLDER --config.lanes=4 --workdir=DIR
python -m experiments.folder --config=configs/folder.py:windows \
  --config.data.images=FOLDER --config.folder.share=True --workdir=DIR
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import dipjax
from experiments.folder import index as index_lib
from experiments.folder import listing, share, sheet
from experiments.folder.index import Index
from experiments.folder.listing import Entry
from experiments.folder.work import Work
from experiments.lib import (
  build,
  cli,
  command,
  folders,
  images,
  page,
  recorder,
  report,
  schema,
  stopping,
  task,
)
from experiments.lib import workdir as workdirs
from experiments.lib.task import Result

_CSV, _SHEET = 'index.csv', 'contact.png'


def run(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Restores all pictures that have no row in the folder's index yet.

  A picture that cannot be restored is a row, and stops no other. The same call
  goes on where a run was interrupted, and restores what is new in a folder that
  was finished.

  Args:
    config: as configs/folder.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line, or no picture could be restored.
    OSError: the disk takes no more; the same call goes on.
  """
  schema.check_config(config)
  share.check_config(config)
  listed = listing.list_pictures(
    config.data.images,
    workdir,
    page=config.data.page,
    mask=config.data.get('mask', ''),
  )
  clean = os.path.expanduser(config.data.clean)
  if clean and not os.path.isdir(clean):
    raise ValueError(f'data.clean {config.data.clean!r} is no folder')
  with workdirs.open_workdir(workdir, config) as folder:
    restored = folder.find(workdirs.RESTORED)
    index = Index(folder.find(workdirs.INDEX))
    left = index.begin(listed.entries, restored)
    if folder.finished and not left:
      return task.recall(folder)
    for line in (*listed.notes, _describe(config, listed.entries, left)):
      print(line, flush=True)
    begin = time.perf_counter()
    work, signal = _restore(config, folder, index, listed.entries, left)
    summary = _summarize(config, listed.entries, index, work)
    summary['seconds'] = {'this start': time.perf_counter() - begin}
    if signal:
      summary['stopped'] = True
    summary = folder.write(
      summary,
      lambda path: [
        *_write(path, config, listed.entries, index, signal),
        *report.save_page(path, _describe_page(folder, summary, path, index)),
      ],
    )
    if not signal:
      shutil.rmtree(folder.find(workdirs.CHECKPOINTS), ignore_errors=True)
  if not signal:
    _tell(summary, workdir)
  return Result(summary, {}, signal=signal)


def _describe(config, entries, left):
  count = len(entries)
  before = f', {count - len(left)} of them before' if len(left) < count else ''
  how = f'at most {config.lanes} at once'
  if config.folder.share:
    how = 'one network for all of one camera and setting'
  return (
    f'{config.task}: {count} picture{"s" * (count > 1)}{before}; {how} on '
    f'{recorder.describe_device()}'
  )


def _restore(config, folder, index, entries, left) -> tuple[Work, int]:
  """Restores what is left; returns the work, and the signal that ended it."""
  restored = folder.find(workdirs.RESTORED)
  os.makedirs(restored, exist_ok=True)
  for place, _, _ in os.walk(restored):
    folders.remove_partial(place)
  taken = {
    key: row['output'] for key, row in index.rows.items() if row.get('output')
  }
  names = listing.name_outputs(entries, taken)
  with (
    stopping.catch_signals() as stop,
    Work(config, folder, index, left, names, stop) as work,
  ):
    if config.folder.share:
      share.restore(config, work, entries, left)
    else:
      _restore_each(config, work)
    work.drain()
  return work, int(stop.signal)


def _restore_each(config, work):
  many = dipjax.restore_many(
    work.make_cases(),
    lanes=config.lanes,
    perceptual=build.make_perceptual(config.fit),
    memory=work.memory,
    chunk=min(config.record.every, config.fit.steps),
    watch=work,
    store=work,
    tell=lambda line: print(line, flush=True),
  )
  for finished in many:
    work.hand_over(finished)


def _summarize(config, entries, index, work) -> dict[str, Any]:
  rows = [row for entry in entries if (row := index.find(entry))]
  done = [row for row in rows if row['status'] == index_lib.DONE]
  scores = {
    name: [row[name] for row in done if row.get(name) is not None]
    for name in ('psnr_before', 'psnr')
  }
  return {
    'experiment': 'folder',
    'task': config.task,
    'pictures': len(entries),
    'done': len(done),
    'failed': len(rows) - len(done),
    'steps': _count_steps(done),
    # Of this start: the share of the slots' steps that a picture took.
    'occupancy': work.active / work.slots if work.slots else None,
    **{name: float(np.mean(all)) for name, all in scores.items() if all},
    'device': jax.devices()[0].platform,
    'hardware': recorder.describe_device(),
    'versions': recorder.describe_versions(),
  }


def _count_steps(rows):
  """Returns the steps of all fits, each of those that are shared once."""
  shared = {row['network']: row['steps'] for row in rows if 'network' in row}
  own = sum(row['steps'] for row in rows if 'network' not in row)
  return own + sum(shared.values())


def _write(path, config, entries, index, signal) -> list[str]:
  """Writes the table and the contact sheet; returns the files of the run."""
  index.write_csv(os.path.join(path, _CSV))
  names = [_CSV, workdirs.INDEX, workdirs.RESTORED]
  if not signal and _draw(path, config, entries, index):
    names.append(_SHEET)
  return names


def _describe_page(folder, summary, path, index) -> page.Content:
  """Returns what report.html is made of: every picture, and the sheet."""
  sheets = os.path.join(path, _SHEET)
  shots = []
  if os.path.exists(sheets):
    title = 'before and after'
    shots.append(page.Shot(title, images.read_image(sheets)))
  return page.Content(
    {**summary, 'index': list(index.rows.values())},
    folder.config,
    shots,
    command=command.find(folder.path),
  )


def _draw(path, config, entries: Sequence[Entry], index) -> bool:
  """Writes the contact sheet; returns whether there is anything on it."""
  done = {
    (entry.name, entry.page): entry
    for entry in entries
    if (row := index.find(entry)) and row['status'] == index_lib.DONE
  }
  rows = sheet.choose_rows(index.rows[key] for key in done)
  home = os.path.dirname(index.path)

  def make_cells() -> Iterator[sheet.Cell]:
    for row in rows:
      entry = done[row['file'], row['page']]
      after = os.path.join(home, workdirs.RESTORED, row['output'])
      # A picture may be gone since it was restored.
      try:
        before = _read(config, entry.path, entry.page)
        cell = sheet.Cell(_name(entry, row), before, _read(config, after))
      except ValueError:
        continue
      yield cell

  drawn = sheet.draw_sheet(make_cells())
  if drawn is not None:
    images.write_image(os.path.join(path, _SHEET), drawn)
  return drawn is not None


def _read(config, path, page=None):
  white = config.data.white or None
  picture = images.read_picture(path, white=white, page=page, masked=True)
  return picture.pixels


def _name(entry, row):
  score = f' {row["psnr"]:.2f} dB' if row.get('psnr') is not None else ''
  return f'{entry.show()}{score}'


def _tell(summary, workdir):
  """Prints what was done, or raises where nothing was."""
  done, failed = summary['done'], summary['failed']
  where = folders.show(os.path.abspath(workdir))
  if not done and failed:
    raise ValueError(
      f'none of {failed} pictures could be restored: {where}/{_CSV} says why'
    )
  gain = f', {summary["psnr"]:.2f} dB on average' if 'psnr' in summary else ''
  said = f', {failed} failed, see {_CSV}' if failed else ''
  print(f'{done} of {summary["pictures"]} restored{gain}{said}; all in {where}')


if __name__ == '__main__':
  cli.launch(run)
