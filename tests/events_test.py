"""Events for TensorBoard, read back record by record."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.lib import events

pytest.importorskip('tensorboardX')

# ruff: noqa: E402  Without the package there is nothing to import.
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

_RECORDS = [
  {'step': 9, 'lane': 0, 'seed': 4, 'loss': 0.5, 'psnr': 20.0, 'emv': None},
  {'step': 9, 'lane': 1, 'seed': 5, 'loss': 0.25, 'psnr': 21.0, 'emv': 1e-4},
]


def _read(folder):
  """The events of all files of a folder; the sums of each record are right."""
  found = []
  for path in sorted(folder.iterdir()):
    data = io.BytesIO(path.read_bytes())
    while head := data.read(8):
      (size,) = struct.unpack('<Q', head)
      sums = struct.unpack('<I', data.read(4))
      record = data.read(size)
      sums += struct.unpack('<I', data.read(4))
      assert sums == (_mask(crc32c(head)), _mask(crc32c(record)))
      found.append(event_pb2.Event.FromString(record))
  return found


def _mask(crc):
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_numbers_and_pictures_are_read_back(tmp_path):
  image = np.random.default_rng(0).random((6, 8, 3))
  written = events.Events(str(tmp_path / 'tensorboard'))
  assert not (tmp_path / 'tensorboard').exists()
  written.add(_RECORDS)
  written.add_image(20, image)
  written.close()
  version, start, *rest = _read(tmp_path / 'tensorboard')
  assert version.file_version == 'brain.Event:2'
  assert start.session_log.status == event_pb2.SessionLog.START
  *numbers, picture = rest
  values = {
    (event.step, value.tag): value.simple_value
    for event in numbers
    for value in event.summary.value
  }
  assert values == {
    (9, 'loss/lane_0'): 0.5,
    (9, 'psnr/lane_0'): 20.0,
    (9, 'loss/lane_1'): 0.25,
    (9, 'psnr/lane_1'): 21.0,
    (9, 'emv/lane_1'): np.float32(1e-4),
  }
  (value,) = picture.summary.value
  shown = Image.open(io.BytesIO(value.image.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(shown), np.rint(image * 255))
  assert (picture.step, value.tag) == (20, 'preview')
  assert (value.image.height, value.image.width) == (6, 8)


def test_a_run_that_goes_on_says_from_where(tmp_path):
  for step in (9, 5):
    written = events.Events(str(tmp_path / 'tensorboard'))
    written.add([{**_RECORDS[0], 'step': step}])
    written.close()
  starts = [
    event.step
    for event in _read(tmp_path / 'tensorboard')
    if event.HasField('session_log')
  ]
  assert starts == [9, 5]


def test_a_folder_that_takes_nothing_ends_no_fit(tmp_path, capsys):
  (tmp_path / 'tensorboard').write_text('a file')
  written = events.Events(str(tmp_path / 'tensorboard'))
  for _ in range(2):
    written.add(_RECORDS)
  written.close()
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and 'the run goes on' in said


def test_without_the_package_the_option_is_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.raises(ValueError, match=r'dipjax\[tensorboard\]'):
    events.Events(str(tmp_path))
