"""What a run does after each chunk of steps: records, progress, checkpoints."""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import monitors
from dipjax.engine import loop, tiled
from dipjax.engine.fit import FitState, Trace
from experiments.lib import (
  checkpoints,
  command,
  events,
  frames,
  images,
  leaves,
  page,
  records,
  stopping,
)
from experiments.lib import workdir as workdirs

# Durations that JAX reports. None of them contains another; the durations of
# tracing would.
_COMPILING = (
  '/jax/core/compile/jaxpr_to_mlir_module_duration',
  '/jax/core/compile/backend_compile_duration',
)
_seconds_compiling = 0.0

# Monitors whose score has another name in a record.
_SCORE_KEYS = {'oracle': 'psnr', 'oracle_output': 'psnr_output'}

# (key of a record, name, digits, unit) in the progress bar.
_SHOWN = (
  ('loss', 'loss', 5, ''),
  ('psnr_measurement', 'measurement', 2, ' dB'),
  ('psnr', 'clean', 2, ' dB'),
)


def _add_compiling(event: str, duration_secs: float, **kwargs) -> None:
  del kwargs
  global _seconds_compiling
  if event in _COMPILING:
    _seconds_compiling += duration_secs


jax.monitoring.register_event_duration_secs_listener(_add_compiling)


class About(NamedTuple):
  """What a page says of a run from its start.

  Attributes:
    known: entries of result.json that are known before the fit.
    shots: pictures that stay as they are.
    apart: whether each lane fits another picture: they are then shown side by
      side, where the mean of the lanes would be shown otherwise.
  """

  known: Mapping[str, Any]
  shots: Sequence[page.Shot] = ()
  apart: bool = False


class Recorder:
  """Records a fit in its folder, shows its progress, and keeps checkpoints.

  A recorder is the `watch` and the `store` of `dipjax.restore`. As a context it
  catches SIGINT and SIGTERM: the fit then ends after the steps in progress. A
  file that cannot be written never ends a fit.

  Attributes:
    records: the records in memory and in metrics.jsonl.
    seeds: the seed of each lane.
    label: what a checkpoint has, of JSON, where not all have the same.
    checkpoints: the checkpoints of the run.
    plan: the tiles, where a picture is fitted in tiles.
    frames: pictures of the fit of a whole picture.
    workdir: the folder of the run.
    stop: whether somebody asked to stop, inside the context.
  """

  def __init__(
    self,
    workdir: workdirs.Workdir,
    config: ml_collections.ConfigDict,
    *,
    steps: int,
    seeds: list[int],
    name: str = '',
    keep: Callable[[dict[str, Any]], bool] | None = None,
    about: About | None = None,
  ):
    """Reads and writes nothing yet.

    Args:
      workdir: the folder of the run.
      config: has the sections record and checkpoint, most have average.
      steps: the most steps of the fit.
      seeds: the seed of each lane.
      name: the folder of the fit's checkpoints, where a run has several fits.
      keep: which records of earlier fits stay; None is none.
      about: for the page that is written meanwhile; None: none is.

    Raises:
      ValueError: record.tensorboard without its package.
    """
    self.records = records.Records(workdir.find(workdirs.METRICS))
    self.seeds, self.stop = seeds, stopping.Stop()
    self.label: Any = ''
    folder = os.path.join(workdir.find(workdirs.CHECKPOINTS), name)
    self.checkpoints = checkpoints.Checkpoints(
      folder, every=config.checkpoint.every, data=workdir.data
    )
    self.workdir, self._config = workdir, config
    self.plan: tiled.Plan | None = None
    self._keep, self._has_records, self._about = keep, False, about
    self.frames = frames.Frames(config.record.frames if about else 0)
    self._events = None
    if config.record.tensorboard:
      place = os.path.join(workdir.find(workdirs.EVENTS), name)
      self._events = events.Events(place)
    self._tqdm, self._bar, self._steps, self._shown = None, None, steps, 0
    self._begin, self._compiled = time.perf_counter(), _seconds_compiling
    self._earlier = {'compile': 0.0, 'fit': 0.0}
    self._previewed, self._stack = time.monotonic(), contextlib.ExitStack()
    self._first: float | None = None  # Seconds of the fit at the first chunk.
    self._announced = False

  @property
  def shown(self) -> int:
    """Steps so far, one after the other, those of earlier starts too."""
    return self._shown

  @property
  def seconds(self) -> dict[str, float]:
    """Seconds since the start: the time of compiling, and the other time.

    The seconds of earlier starts of the same run count.
    """
    compiling = _seconds_compiling - self._compiled
    whole = time.perf_counter() - self._begin
    return {
      'compile': self._earlier['compile'] + compiling,
      'fit': self._earlier['fit'] + whole - compiling,
    }

  def __enter__(self):
    lanes = f'{len(self.seeds)} lanes' if len(self.seeds) > 1 else 'one lane'
    print(
      f'compiling for {lanes} on {describe_device()}: seconds to a minute, '
      'less the next time',
      flush=True,
    )
    self._tqdm = _find_tqdm()
    self.stop = self._stack.enter_context(stopping.catch_signals())
    self._stack.enter_context(self.checkpoints)
    return self

  def __exit__(self, *exception):
    if self._bar:
      self._bar.close()
    if self._events:
      self._events.close()
    self._stack.__exit__(*exception)

  def load(self, like: Any) -> Any:
    """Goes back to the last checkpoint of this fit; see `loop.Store`."""
    # Only the first fit of this start can be the one that was interrupted.
    if self._has_records:
      return None
    self._has_records = True
    notes = self.checkpoints.find_latest()
    if notes is None or notes['label'] != self.label:
      self.records.begin(self._keep)
      return None
    self.records.rewind(notes['records'])
    self.frames.load(notes.get('frames', []))
    self._earlier, self._shown = notes['seconds'], notes['shown']
    print(f'going on after step {notes["shown"]}', flush=True)
    return self.checkpoints.load(like)

  def find_tile(self) -> int | None:
    """Returns the side of the tiles of a run that was interrupted.

    What is left of the memory of a machine changes, and the tiles must not.
    """
    notes = self.checkpoints.find_latest()
    return None if notes is None else notes.get('tile')

  def tell(self, plan: tiled.Plan) -> None:
    """Says that a picture is fitted in tiles, whose steps are counted on."""
    print(plan.describe(), flush=True)
    self.plan, self._steps = plan, self._steps * len(plan.batches)

  def follow(self, image: np.ndarray, steps: int, parts: int) -> 'Following':
    """Returns the watch and the store of what follows a fit.

    Args:
      image: what is gone on with.
      steps: of each part.
      parts: how many there are.
    """
    self.say(f'{steps * parts} further steps, with parts of the picture')
    return Following(self, image, steps, parts)

  def advance(self, steps: int, whole: int) -> None:
    """Moves the bar of what follows a fit, of `whole` steps."""
    if self._tqdm:
      self._bar = self._bar or self._start_bar(whole, 0)
      self._bar.update(min(steps, whole - self._bar.n))

  def say(self, text: str) -> None:
    """Prints a line below the bar, which ends with it."""
    if self._bar:
      self._bar.close()
    self._bar = None
    print(text, flush=True)

  def finish(self) -> None:
    """Tidies the checkpoints of a run that nobody stopped."""
    if not self.stop:
      self.checkpoints.finish()

  def is_due(self, step: int) -> bool:
    """Returns whether to save after so many steps of the fit."""
    return self.checkpoints.is_due(step)

  def save(self, progress: loop.Progress) -> None:
    """Saves the progress; see `loop.Store`."""
    self.save_tree(progress, int(progress.history.taken))

  def save_tree(self, tree: Any, step: int) -> None:
    """Saves what `load` will be asked for.

    Args:
      tree: arrays.
      step: what `is_due` counts.
    """
    self.checkpoints.save(
      tree,
      step,
      label=self.label,
      records=self.records.find_end(),
      seconds=self.seconds,
      shown=self._shown,
      tile=self.plan and self.plan.side,
      frames=self.frames.save(),
    )

  def __call__(
    self,
    states: FitState,
    trace: Trace,
    notes: Sequence[Mapping[str, Any]] | None = None,
  ) -> bool:
    """Records the last step of each lane in a chunk; see `loop.Watch`.

    Args:
      states: shown in the preview.
      trace: the chunk's trace, [lanes, steps].
      notes: further entries of each lane's record.

    Returns:
      Whether the fit is to end here.
    """
    steps = int(trace.active.any(axis=0).sum())
    self._shown += steps
    self._announce(steps)
    made = [
      self._make_record(lane, trace) | (dict(notes[lane]) if notes else {})
      for lane in range(len(self.seeds))
      if trace.active[lane].any()
    ]
    self.records.add(made)
    if self._events:
      self._events.add(made)
    self._show(made, states)
    self._add_frame(states)
    self._preview(states)
    return bool(self.stop)

  def _make_record(self, lane: int, trace: Trace) -> dict[str, Any]:
    last = np.flatnonzero(trace.active[lane])[-1]
    record: dict[str, Any] = {
      'step': int(trace.step[lane, last]),
      'lane': lane,
      'seed': self.seeds[lane],
      'loss': _finite(trace.loss[lane, last]),
      'psnr_measurement': _finite(trace.psnr_measurement[lane, last]),
    }
    for name, scores in trace.scores.items():
      record[_SCORE_KEYS.get(name, name)] = _finite(scores[lane, last])
    return record

  def _announce(self, steps):
    """Prints once how long the fit will take.

    The second chunk tells it: the first one's time is mostly that of making the
    program and its inputs.
    """
    if self._announced or not steps:
      return
    now = self.seconds['fit']
    if self._first is None:
      self._first = now
    elif self._shown < self._steps:
      pace = (now - self._first) / steps
      left = _format_time(pace * (self._steps - self._shown))
      if self._bar:
        self._bar.clear()
      print(f'at most {left} for {self._steps} steps', flush=True)
      self._announced = True

  def _find_end(self, states):
    """Returns how many steps the fit has if no image is better from now on.

    None where the rule does not wait, or has no image that counts yet. In tiles
    the states are those of one tile.
    """
    stop = self._config.get('stop', {})
    watched = states.monitors.get(stop.get('name'))
    if self.plan or watched is None or 'patience' not in stop:
      return None
    waits = ~np.asarray(watched.done)
    counts = np.isfinite(np.asarray(watched.best)[waits])
    if not len(counts) or not counts.all():
      return None
    # The rule is done at the step that is `patience` steps after its image.
    # Steps count anew where a run has several fits in a row.
    last = np.asarray(watched.step)[waits] + stop.patience
    left = int(np.max(last + 1 - np.asarray(states.step)[waits]))
    return min(self._shown + left, self._steps)

  def _show(self, made, states):
    if not self._tqdm or not made:
      return
    # The bar begins after the first chunk, whose time includes compiling and
    # would give a wrong rate.
    self._bar = self._bar or self._start_bar(self._steps, self._shown)
    shown = [
      f'{name} {np.mean(values):.{digits}f}{unit}'
      for key, name, digits, unit in _SHOWN
      if (values := [r[key] for r in made if r.get(key) is not None])
    ]
    # First, because a narrow terminal cuts the end of the line off.
    end = self._find_end(states)
    if end:
      left = _format_time(self._find_pace() * (end - self._shown))
      shown.insert(0, f'ends at {end} or later, in {left}')
    self._bar.set_postfix_str(', '.join(shown), refresh=False)
    self._bar.update(self._shown - self._bar.n)

  def _start_bar(self, steps, taken):
    assert self._tqdm  # Whoever starts a bar has asked.
    return self._tqdm(
      total=steps, initial=taken, unit='step', dynamic_ncols=True
    )

  def _add_frame(self, states):
    """Keeps a picture of the fit, which is one of the whole picture."""
    is_part = self.plan or self._config.get('fit', {}).get('window')
    if not is_part and self.frames.is_due(self._shown):
      image = self._find_image(states)
      if image is not None:
        self.frames.add(self._shown, image)

  def _preview(self, states):
    """Writes preview.png and the page now and then.

    Of a fit with windows the picture is the last window, of one in tiles the
    tile that is fitted.
    """
    every = self._config.record.preview
    if not every or time.monotonic() - self._previewed < every:
      return
    self._previewed = time.monotonic()
    image = self._find_image(states)
    if image is None:
      return
    if self._events:
      self._events.add_image(self._shown, image)
    # A preview that cannot be written is no reason to end a fit.
    with contextlib.suppress(OSError):
      images.write_image(self.workdir.find(workdirs.PREVIEW), image)
      if self._about:
        content = self._describe(self._about, image, every)
        page.write(self.workdir.find(workdirs.PAGE), content)

  def _find_image(self, states):
    """Returns the running average of the outputs, None where none is finite."""
    steps = np.asarray(states.step)[:, None, None, None]
    # Without the section, and of windows, the average is the last output.
    decay = self._config.get('average', {}).get('decay', 0.0)
    decay = 0.0 if self._config.get('fit', {}).get('window') else decay
    averages = monitors.unbias_average(
      states.average, jnp.asarray(steps), decay=decay
    )
    good = np.asarray(averages)[np.ravel(steps) > 0]
    if not len(good):
      return None
    if self._about and self._about.apart:
      return np.concatenate(good, axis=1)
    return good.mean(axis=0)

  def _find_pace(self):
    """Returns the seconds of a step so far, without compiling."""
    return self.seconds['fit'] / self._shown

  def _describe(self, about, image, every):
    now = page.Shot('the fit now', image, compared=True, close=True)
    known = {
      'steps': self._shown,
      'seconds': self.seconds,
      'seconds_left': self._find_pace() * (self._steps - self._shown),
      'hardware': describe_device(),
      'versions': describe_versions(),
      'lanes': [{'seed': seed} for seed in self.seeds],
    }
    return page.Content(
      known | dict(about.known),
      self.workdir.config,
      [*about.shots, now],
      self.records.kept,
      self.frames.kept,
      command=command.find(self.workdir.path),
      refresh=every,
      sides=(about.shots[0].title, now.title) if about.shots else None,
    )


class Following:
  """The watch and the store of `rehearsal.rehearse`.

  A part counts as its steps in the bar of the recorder, when it is made and
  when an earlier start has made it. Nothing is recorded of the steps.
  """

  def __init__(
    self, recorder: Recorder, image: np.ndarray, steps: int, parts: int
  ):
    self._recorder, self._steps, self._whole = recorder, steps, steps * parts
    # Parts of another image, or with other steps, are others.
    self._prefix = f'{leaves.digest_arrays(image)}-{steps}-'

  def __call__(self, states: FitState, trace: Trace) -> bool:
    """Returns whether somebody asked to stop."""
    del states
    self._recorder.advance(int(trace.active.sum()), self._whole)
    return bool(self._recorder.stop)

  def load(self, name: str, like: np.ndarray) -> np.ndarray | None:
    """Returns a part that an earlier start has made; see `rehearsal.Store`."""
    part = self._recorder.checkpoints.recall(self._prefix + name, like)
    if part is not None:
      self._recorder.advance(self._steps, self._whole)
    return part

  def save(self, name: str, part: np.ndarray) -> None:
    """Saves a part until the run is finished."""
    self._recorder.checkpoints.keep(self._prefix + name, part)


def _finite(value) -> float | None:
  # JSON has no infinity, which is the score of a rule that has none yet.
  return float(value) if np.isfinite(value) else None


def _format_time(seconds):
  for size, unit in ((3600, 'hours'), (60, 'minutes')):
    if seconds >= 2 * size:
      return f'{seconds / size:.0f} {unit}'
  return f'{seconds:.0f} seconds'


def _find_tqdm():
  try:
    import tqdm
  except ImportError:
    print("for a progress bar: pip install 'dipjax[progress]'", flush=True)
    return None
  return tqdm.tqdm


def describe_device() -> str:
  """Returns the kind of the device that computes, and the number of them."""
  devices = jax.devices()
  if devices[0].platform == 'cpu':
    return f'cpu ({os.cpu_count()} cores)'
  return f'{devices[0].device_kind} x{len(devices)}'


def describe_versions() -> dict[str, str]:
  """Returns the versions of the packages that a result depends on."""
  import flax
  import jaxlib
  import optax

  modules = {'jax': jax, 'jaxlib': jaxlib, 'flax': flax, 'optax': optax}
  versions = {name: module.__version__ for name, module in modules.items()}
  return {'python': platform.python_version(), **versions}
