"""Event files for TensorBoard, by tensorboardX, the extra [tensorboard]."""

import io
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lib import folders, frames, records

_SIDE = 512  # Pixels of the longest side of a picture.


class Events:
  """Writes records and pictures as events; a failure never ends a fit.

  A run that goes on writes another file beside the first, which says from which
  step on the earlier events no longer count.
  """

  def __init__(self, folder: str):
    """Writes nothing yet.

    Raises:
      ValueError: tensorboardX is not installed.
    """
    try:
      from tensorboardX import event_file_writer
      from tensorboardX.proto import event_pb2, summary_pb2
    except ImportError:
      raise ValueError(
        'record.tensorboard=True needs tensorboardX: pip install '
        "'dipjax[tensorboard]', or set it to False"
      ) from None
    self._open = event_file_writer.EventsWriter
    self._events, self._summaries = event_pb2, summary_pb2
    # The library takes a path with a colon for one of the cloud's.
    self._folder = os.path.abspath(folder)
    self._writer, self._failed = None, False

  def add(self, made: Sequence[Mapping[str, Any]]) -> None:
    """Writes the numbers of records, by lane."""
    for record in made:
      values = [
        self._summaries.Summary.Value(
          tag=f'{key}/lane_{record["lane"]}', simple_value=value
        )
        for key, value in record.items()
        if isinstance(value, float)
      ]
      self._write(record['step'], self._summaries.Summary(value=values))
    self._do(lambda writer: writer.flush())

  def add_image(self, step: int, image: np.ndarray) -> None:
    """Writes a picture of the fit, float [H, W, 1 or 3]."""
    picture, data = frames.shrink(image, _SIDE), io.BytesIO()
    picture.save(data, 'PNG')
    summary = self._summaries.Summary
    shown = summary.Image(
      height=picture.height,
      width=picture.width,
      colorspace=len(picture.getbands()),
      encoded_image_string=data.getvalue(),
    )
    value = summary.Value(tag='preview', image=shown)
    self._write(step, summary(value=[value]))
    self._do(lambda writer: writer.flush())

  def close(self) -> None:
    """Brings all events to the disk."""
    if self._writer:
      self._do(lambda writer: writer.close())
    self._writer = None

  def _write(self, step, summary):
    if self._writer is None and not self._failed:
      self._begin(step)
    event = self._events.Event(wall_time=time.time(), step=step)
    event.summary.CopyFrom(summary)
    self._do(lambda writer: writer.write_event(event))

  def _begin(self, step):
    try:
      os.makedirs(self._folder, exist_ok=True)
      # The library's own names tell no two starts of one second apart.
      begin = os.path.join(self._folder, 'events')
      self._writer = self._open(begin, f'.{time.time_ns()}')
    except OSError as error:
      self._say(error)
    start = self._events.Event(wall_time=time.time(), step=step)
    start.session_log.status = self._events.SessionLog.START
    self._do(lambda writer: writer.write_event(start))

  def _do(self, act):
    if self._writer is None:
      return
    try:
      act(self._writer)
    except OSError as error:
      self._writer = None
      self._say(error)

  def _say(self, error):
    self._failed = True
    records.say(
      f'{folders.show(self._folder)}: {error.strerror}; the run goes on'
    )
