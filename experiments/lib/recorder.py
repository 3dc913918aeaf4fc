"""Writes records of a run and shows its progress, chunk after chunk.

A `Recorder` is the `watch` of `dipjax.restore`: it appends to metrics.jsonl and
moves the progress bar.
"""

import contextlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.monitoring
import numpy as np

from dipjax.engine.fit import FitState, Trace
from experiments.lib import folders
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


def _add_compiling(event: str, duration_secs: float, **kwargs) -> None:
  del kwargs
  global _seconds_compiling
  if event in _COMPILING:
    _seconds_compiling += duration_secs


jax.monitoring.register_event_duration_secs_listener(_add_compiling)


class Recorder:
  """Records a run in a folder and shows its progress.

  Attributes:
    seeds: the seed of each lane.
    records: one dict for each recorded step and lane, as in metrics.jsonl.
    seconds: {'compile': ., 'fit': .}, the seconds so far.
  """

  def __init__(
    self, workdir: str, *, steps: int, seeds: list[int], append: bool = False
  ):
    """Begins a new metrics.jsonl, or appends to it where `append` is true."""
    self.records: list[dict] = []
    self.seeds = seeds
    self._metrics, self._append = os.path.join(workdir, 'metrics.jsonl'), append
    if not append:
      folders.write_atomic(self._metrics, b'')
    lanes = f'{len(seeds)} lanes' if len(seeds) > 1 else 'one lane'
    print(
      f'compiling for {lanes} on {describe_device()}: seconds to a minute, '
      'less the next time',
      flush=True,
    )
    self._tqdm, self._bar, self._steps = _find_tqdm(), None, steps
    self._begin, self._compiled = time.perf_counter(), _seconds_compiling

  @property
  def seconds(self) -> dict[str, float]:
    """Seconds since the start: the time of compiling, and the other time."""
    compiling = _seconds_compiling - self._compiled
    whole = time.perf_counter() - self._begin
    return {'compile': compiling, 'fit': whole - compiling}

  def __call__(
    self,
    states: FitState,
    trace: Trace,
    notes: Sequence[Mapping[str, Any]] | None = None,
  ) -> None:
    """Records the last step of each lane in a chunk; see dipjax.restore.

    Args:
      states: unused.
      trace: the chunk's trace, [lanes, steps].
      notes: further entries of each lane's record.
    """
    del states
    records = [
      self._make_record(lane, trace) | (dict(notes[lane]) if notes else {})
      for lane in range(len(self.seeds))
      if trace.active[lane].any()
    ]
    self.records += records
    workdirs.append_lines(self._metrics, records)
    self._show(records, trace)

  def __enter__(self):
    return self

  def __exit__(self, kind, *exception):
    if self._bar:
      self._bar.close()
    failed = kind and issubclass(kind, ValueError)
    if failed and not self.records and not self._append:
      self._remove()

  def _remove(self):
    """Removes the files of a run that could not begin."""
    folder = os.path.dirname(self._metrics)
    os.remove(self._metrics)
    os.remove(os.path.join(folder, 'config.json'))
    with contextlib.suppress(OSError):  # The folder may hold the user's files.
      os.rmdir(folder)

  def _make_record(self, lane: int, trace: Trace) -> dict[str, Any]:
    last = np.flatnonzero(trace.active[lane])[-1]
    record: dict[str, Any] = {
      'step': int(trace.step[lane, last]),
      'lane': lane,
      'seed': self.seeds[lane],
      'loss': float(trace.loss[lane, last]),
      'psnr_measurement': float(trace.psnr_measurement[lane, last]),
    }
    for name, scores in trace.scores.items():
      score = float(scores[lane, last])
      # JSON has no infinity, which is the score of a rule that has none yet.
      key = _SCORE_KEYS.get(name, name)
      record[key] = score if np.isfinite(score) else None
    return record

  def _show(self, records, trace):
    if not self._tqdm:
      return
    # The bar begins after the first chunk, whose time includes compiling and
    # would give a wrong rate.
    self._bar = self._bar or self._tqdm(
      total=self._steps, unit='step', dynamic_ncols=True
    )
    # A score that is not finite is None in a record; NaN shows it.
    mean = lambda key: np.mean(np.array([r[key] for r in records], float))
    shown = f'loss {mean("loss"):.5f}, measurement '
    shown += f'{mean("psnr_measurement"):.2f} dB'
    if 'psnr' in records[0]:
      shown += f', clean {mean("psnr"):.2f} dB'
    self._bar.set_postfix_str(shown, refresh=False)
    self._bar.update(int(trace.active.any(axis=0).sum()))


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
