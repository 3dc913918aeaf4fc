"""One network for all pictures of one camera and setting: `folder.share`.

All pictures are read for their noise first. Those with as many channels and
nearly the same noise are a group. One fit with windows sees parts of some
pictures of a group, and its network is then applied to each of the group, one
at a time.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

import dipjax
from dipjax import noise
from dipjax.many import Finished
from experiments.folder import tasks
from experiments.folder.listing import Entry
from experiments.folder.work import Work
from experiments.lib import leaves

NEAR = 1.25  # Times the level of the noise, or a share of it, are one group.
ALIKE = 0.2  # So do correlations that differ by no more.
MOST = 64  # Pictures of a group that its fit sees, at most, and
PIXELS = 2**25  # the pixels of all their parts: 400 MB of colours.
_LEAST = 1e-12  # A variance that is none.


class Seen(NamedTuple):
  """What the first look at a picture tells."""

  entry: Entry
  stamp: str  # Of the file as it was read.
  recipe: dipjax.Recipe
  channels: int
  model: noise.Model
  brightness: float  # The mean of all values.


class Group(NamedTuple):
  """Pictures that share a network."""

  pictures: list[Seen]
  model: noise.Model  # Of all of them.


def check_config(config: ml_collections.ConfigDict) -> None:
  """Raises a ValueError, of one line, where pictures cannot share a network."""
  windows = config.fit.get('window') and not config.get('auto')
  if config.folder.share and not windows:
    raise ValueError(
      'folder.share=True needs a fit with windows: take '
      '--config=configs/folder.py:windows'
    )


def restore(
  config: ml_collections.ConfigDict,
  work: Work,
  entries: Sequence[Entry],
  left: Sequence[Entry],
) -> None:
  """Restores what is left; the same call goes on where a run was interrupted.

  Args:
    config: as configs/folder.py.
    work: of the run; gets each picture.
    entries: all pictures. Those that are done have a part in the groups, so
      that a run that goes on finds the same groups.
    left: those without a row.
  """
  seen = [each for each in work.read(entries, _make_look(left)) if each]
  if work.stopped:
    return
  groups = find_groups(seen)
  if len(groups) > 1:
    print(
      f'{len(groups)} networks: pictures of other channels are fitted apart, '
      f'and those whose noise differs by more than {NEAR - 1:.0%}, or whose '
      f'neighbours or channels correlate otherwise by more than {ALIKE}',
      flush=True,
    )
  for number, group in enumerate(groups, start=1):
    here = {each.entry for each in group.pictures}
    own = [entry for entry in left if entry in here]
    if own and not work.stopped:
      _restore_group(config, work, number, group, own)
      # The next fit's checkpoint takes the place of this one's.
      work.drain()


def _make_look(left):
  """Returns what reads a picture for its noise; None: it cannot be read."""
  new = set(left)

  def look(config, entry, path):
    try:
      ready = tasks.prepare(config, entry, path)
    except ValueError:
      # What is done already keeps its row.
      if entry in new:
        raise
      return None
    pixels, recipe, model = (
      ready.data.measurement,
      ready.case.recipe,
      ready.noisy.model,
    )
    assert recipe and model  # A fit with windows has both.
    return Seen(
      entry,
      ready.stamp,
      recipe,
      pixels.shape[-1],
      model,
      float(np.mean(pixels)),
    )

  return look


def find_groups(seen: Sequence[Seen]) -> list[Group]:
  """Returns the pictures in groups of equal channels and nearly equal noise.

  The picture in the middle of what is left, by the level of its noise, begins a
  group, and those with noise like its own join it. The noise of the group is
  that of its middle picture, with the median of the correlations.
  """
  groups = []
  for channels in sorted({each.channels for each in seen}):
    left = [each for each in seen if each.channels == channels]
    # Noise that grows with the brightness is compared at one brightness.
    brightness = float(np.median([each.brightness for each in left]))
    level = lambda each, at=brightness: _find_level(each.model, at)
    while left:
      middle = _find_middle(left, level)
      near = [each for each in left if _is_near(each, middle, level)]
      here = {each.entry for each in near}
      left = [each for each in left if each.entry not in here]
      groups.append(Group(near, _share_noise(near, level)))
  return groups


def _find_level(model, brightness):
  variance = float(model.find_variance(np.float32(brightness)))
  return math.sqrt(max(variance, _LEAST))


def _find_middle(pictures, level):
  ordered = sorted(pictures, key=lambda each: (level(each), each.entry.name))
  return ordered[(len(ordered) - 1) // 2]


def _is_near(each, middle, level):
  ratio = level(each) / level(middle)
  apart = [
    abs(getattr(each.model, name) - getattr(middle.model, name))
    for name in ('neighbours', 'channels')
  ]
  return 1 / NEAR <= ratio <= NEAR and max(apart) <= ALIKE


def _share_noise(pictures, level):
  models = [each.model for each in pictures]
  return _find_middle(pictures, level).model.replace(
    correlation=np.median([model.correlation for model in models], axis=0),
    black=any(model.black for model in models),
    white=any(model.white for model in models),
  )


def _restore_group(config, work, number, group, left):
  """Fits the network of a group, and applies it to what is left of it."""
  begin = time.monotonic()
  stamps = {each.entry: each.stamp for each in group.pictures}
  try:
    fitted = _fit(config, work, number, group)
  except ValueError as error:
    for entry in left:
      work.refuse(entry, error, stamps[entry])
    return
  if work.stopped:
    return
  seconds = time.monotonic() - begin
  print(f'network {number}: ready after {seconds:.0f} s', flush=True)

  def prepare(config, entry, path):
    ready = tasks.prepare(config, entry, path, group.model)
    # What has changed since the first look is refused when it is written.
    return ready._replace(stamp=stamps[entry])

  for index, ready in work.prepare(left, prepare):
    begin = time.monotonic()
    finished = _apply(fitted, index, ready)
    seconds = time.monotonic() - begin
    work.hand_over(finished, seconds=seconds, network=number)


def _apply(fitted, index, ready):
  try:
    return Finished(index, fitted.restore(ready.case.measurement), None)
  except ValueError as error:
    return Finished(index, None, error)


def _read_parts(config, work, group) -> list[np.ndarray]:
  """Returns what the fit sees: parts of pictures at even distances."""
  count = min(len(group.pictures), MOST)
  places = np.linspace(0, len(group.pictures) - 1, count).round().astype(int)
  side = math.isqrt(PIXELS // count)
  draw = np.random.default_rng(config.seed)
  corners = {
    group.pictures[place].entry: draw.random(2) for place in places.tolist()
  }

  def read(config, entry, path):
    try:
      ready = tasks.prepare(config, entry, path, group.model)
    except ValueError:
      return None  # The picture has its row when its turn comes.
    pixels = ready.data.measurement
    top, left = (
      int(share * (max(0, length - side) + 1))
      for share, length in zip(corners[entry], pixels.shape)
    )
    # A copy lets go of the picture.
    return pixels[top : top + side, left : left + side].copy()

  parts = work.read(list(corners), read)
  return [part for part in parts if part is not None]


def _describe(group, parts):
  count = len(group.pictures)
  channels = group.pictures[0].channels
  height, width = np.max([part.shape[:2] for part in parts], axis=0)
  return (
    f'{count} picture{"s" * (count > 1)} of {channels} '
    f'channel{"s" * (channels > 1)}, {group.model.describe()}; the fit sees '
    f'{len(parts)} of them, {width}x{height} pixels of each at most'
  )


def _fit(config, work, number, group) -> dipjax.SharedFit:
  parts, model = _read_parts(config, work, group), group.model
  if parts:
    print(f'network {number}: {_describe(group, parts)}', flush=True)
  levels = (model.sigma, model.constant, model.gain, model.least)
  digest = leaves.digest_arrays(
    *parts, model.correlation, levels, (model.black, model.white)
  )
  work.name(-number, '', number, digest)
  recipe = group.pictures[0].recipe
  return dipjax.fit_shared(
    parts,
    recipe,
    noise=model,
    seeds=(config.seed,),
    memory=work.memory,
    chunk=min(config.record.every, recipe.steps),
    watch=lambda states, trace: work((-number,), trace),
    store=_Store(work, -number),
  )


class _Store:
  """The store of one fit, in that of many."""

  def __init__(self, work: Work, index: int):
    self._work, self._index = work, index

  def load(self, like: Any) -> Any:
    return self._work.load(self._index, like)

  def is_due(self, step: int) -> bool:
    return self._work.is_due(step)

  def save(self, progress: Any) -> None:
    self._work.save({self._index: progress})
