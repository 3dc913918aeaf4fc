"""What goes on beside the fits: reading, finishing, writing, checkpoints.

Threads read the next pictures and find their noise, others finish and write
those that are restored. Few pictures are in memory: the queues are bounded, and
whoever is too fast waits.
"""

import collections
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import ml_collections

import dipjax
from dipjax import settings
from dipjax.engine import loop
from dipjax.engine.fit import Trace
from dipjax.many import Finished
from experiments.folder import index as index_lib
from experiments.folder import listing, tasks
from experiments.folder.index import Index
from experiments.folder.listing import Entry
from experiments.lib import build, machine, output, report, shelf
from experiments.lib.stopping import Stop

_THREADS = 2  # That read, and as many that write.
_AHEAD = 4  # Pictures that are read, and as many that wait to be written.

# (config, picture, path of the restored file) -> what is read.
Prepare = Callable[[ml_collections.ConfigDict, Entry, str], Any]


class Work:
  """The pictures of a run: the `watch` and the `store` of `restore_many`.

  As a context it ends its threads.

  Attributes:
    memory: bytes that the fits may take, as at the first start of the run.
    active, slots: steps that were taken, and steps of all slots.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    restored: str,
    checkpoints: str,
    index: Index,
    entries: Sequence[Entry],
    names: Mapping[Entry, str],
    stop: Stop,
  ):
    """Reads the notes of the last checkpoint.

    Args:
      config: as configs/folder.py.
      restored: the folder of the restored files.
      checkpoints: the folder of the checkpoints.
      index: gets a row of each picture.
      entries: the pictures to restore.
      names: of their restored files.
      stop: whether somebody asked to stop.
    """
    self._config, self._index, self._stop = config, index, stop
    self._restored = restored
    self._names, self._count = names, len(entries)
    # What is left of the memory of a machine changes, and tiles must not.
    self._shelf = shelf.Shelf(
      checkpoints,
      self._identify,
      every=config.checkpoint.every,
      memory=machine.find_memory(),
    )
    self.memory: int | None = self._shelf.notes['memory']
    # What was interrupted goes on first.
    begun = {tuple(name[:2]) for name in self._shelf.saved}
    is_new = lambda entry: (entry.name, entry.page) not in begun
    self._entries = sorted(entries, key=is_new)
    self._ready: dict[int, tasks.Ready] = {}
    # The names of fits that are of no picture alone, below 0.
    self._others: dict[int, tuple] = {}
    self._numbers = itertools.count()
    self._readers = futures.ThreadPoolExecutor(_THREADS)
    self._writers = futures.ThreadPoolExecutor(_THREADS)
    self._writing: collections.deque[futures.Future] = collections.deque()
    self._lock, self._told = threading.Lock(), 0
    self.active, self.slots = 0, 0

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    for pool in (self._readers, self._writers):
      pool.shutdown(cancel_futures=True)
    self._shelf.__exit__()

  @property
  def stopped(self) -> bool:
    """Whether somebody asked to stop."""
    return bool(self._stop)

  # --- Before the fits.

  def make_cases(self) -> Iterator[dipjax.Case]:
    """Yields the pictures as they are read; one that cannot be gets its row."""
    for _, ready in self.prepare(self._entries, tasks.prepare):
      yield ready.case

  def prepare(
    self, entries: Sequence[Entry], prepare: Prepare
  ) -> Iterator[tuple[int, tasks.Ready]]:
    """Yields the number and the picture, ready for `hand_over`, as it is read.

    Args:
      entries: the pictures; one that cannot be read gets its row.
      prepare: as `tasks.prepare`.
    """
    for ready in self.read(entries, prepare):
      number = next(self._numbers)
      self._ready[number] = ready
      yield number, ready

  def read(self, entries: Sequence[Entry], read: Prepare) -> Iterator[Any]:
    """Yields read(config, entry, path of the restored file), a few ahead.

    Args:
      entries: the pictures; one for which `read` raises a ValueError gets a
        row.
      read: runs in a thread.
    """
    for folder in {os.path.dirname(self._find(e)) for e in entries}:
      os.makedirs(folder, exist_ok=True)
    pinned = settings.pin()(read)
    waiting, left = collections.deque(), iter(entries)
    while True:
      for entry in itertools.islice(left, _AHEAD - len(waiting)):
        path = self._find(entry)
        reading = self._readers.submit(pinned, self._config, entry, path)
        waiting.append((entry, reading))
      if not waiting or self._stop:
        return
      entry, reading = waiting.popleft()
      try:
        found = reading.result()
      except ValueError as error:
        self.refuse(entry, error)
        continue
      yield found

  def _find(self, entry):
    return os.path.join(self._restored, self._names[entry])

  # --- Beside the fits.

  def __call__(self, pictures: Sequence[int | None], trace: Trace) -> bool:
    """Returns whether the fits are to end here; see `restore_many`."""
    del pictures
    self.active += int(trace.active.sum())
    self.slots += trace.active.size
    return bool(self._stop) or any(
      one.done() and one.exception() for one in self._writing
    )

  def name(self, index: int, *name: Any) -> None:
    """Names a fit of no picture alone, an index below 0, for the store."""
    self._others[index] = name

  def _identify(self, index):
    """Returns the name of a picture; the file may change, and its digest."""
    if index in self._others:
      return self._others[index]
    ready = self._ready[index]
    return ready.entry.name, ready.entry.page, ready.digest

  def load(self, index: int, like: loop.Progress) -> loop.Progress | None:
    """Returns what the last checkpoint has of a picture; see `slots.Store`."""
    return self._shelf.load(index, like)

  def is_due(self, step: int) -> bool:
    """Returns whether to save after so many steps; see `slots.Store`."""
    return self._shelf.is_due(step)

  def save(self, progress: Mapping[int, loop.Progress]) -> None:
    """Saves the progress of the pictures in the slots; see `slots.Store`."""
    self._shelf.save(progress)

  # --- After the fits.

  def hand_over(self, finished: Finished, **values: Any) -> None:
    """Lets a thread finish and write a picture; waits where many wait.

    Args:
      finished: the picture.
      **values: of its row, in place of what is known here or beside it.

    Raises:
      OSError: a picture before it could not be written.
    """
    ready = self._ready.pop(finished.index)
    values = {'seconds': self._shelf.count_seconds(finished.index)} | values
    while len(self._writing) >= _AHEAD:
      self._writing.popleft().result()
    self._writing.append(
      self._writers.submit(self._complete, ready, finished, values)
    )

  def drain(self) -> None:
    """Returns once all that was handed over is written."""
    while self._writing:
      self._writing.popleft().result()

  @settings.pin()
  def _complete(self, ready, finished, values):
    """Writes the restored file, and then the row."""
    try:
      if finished.error:
        raise finished.error
      row = self._write(ready, finished.restoration, values)
    except ValueError as error:
      self.refuse(ready.entry, error, ready.stamp)
      return
    self._tell(ready.entry, row)

  def _write(self, ready, restoration, values):
    image, _ = build.finish_image(ready.config, ready.noisy, restoration.image)
    if listing.stamp(ready.entry.path) != ready.stamp:
      raise ValueError('was changed or removed while it was restored')
    output.write_planned(ready.output, ready.data, image)
    data, model = ready.data, ready.noisy.model
    before = report.score_step(data.picture, data.clean)
    return self._index.add(
      ready.entry,
      status=index_lib.DONE,
      error='',
      steps=int(restoration.stopped[0]),
      noise=None if model is None else round(255 * float(model.sigma), 4),
      psnr_before=before.get('psnr'),
      **report.score_step(image, data.clean),
      output=self._names[ready.entry],
      stamp=ready.stamp,
      **values | {'seconds': round(values['seconds'], 3)},
    )

  def refuse(
    self, entry: Entry, error: ValueError, stamp: str | None = None
  ) -> None:
    """Adds the row of a picture that is not restored.

    Args:
      entry: the picture.
      error: why.
      stamp: of the file as it was read; None: as it is.
    """
    stamp = listing.stamp(entry.path) if stamp is None else stamp
    # The path stands in the row already.
    reason = ' '.join(str(error).split()).removeprefix(f'{entry.path!r}: ')
    row = self._index.add(
      entry, status=index_lib.FAILED, error=reason, stamp=stamp
    )
    self._tell(entry, row)

  def _tell(self, entry, row):
    if row['status'] == index_lib.FAILED:
      said = [f'failed: {row["error"]}']
    else:
      said = [f'{row["steps"]} steps', f'{row["seconds"]:.0f} s']
      if row['noise'] is not None:
        said.append(f'noise {row["noise"]:.1f} of 255')
      if row.get('psnr'):
        said.append(f'{row["psnr"]:.2f} dB')
    with self._lock:
      self._told += 1
      print(
        f'{self._told} of {self._count}: {entry.show()}: {", ".join(said)}',
        flush=True,
      )
