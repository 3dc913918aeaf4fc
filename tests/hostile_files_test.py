"""What a hostile file may not do: take memory or time, hang, write, print."""

import io
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
import zlib

import made_files as made
import numpy as np
import pytest
from PIL import Image

from benchmarks import mutations
from experiments import ddpm
from experiments.lib import reading, weights
from experiments.lib.reading import arrays, pickles

linux = pytest.mark.skipif(
  sys.platform != 'linux', reason='the memory of a process is in /proc'
)


def _refuse(path, says='.'):
  """Returns the one line that refuses a file, within five seconds."""
  started = time.monotonic()
  with pytest.raises(ValueError, match=says) as caught:
    reading.read(str(path))
  assert time.monotonic() - started < 5
  assert str(caught.value).isprintable()
  return str(caught.value)


@pytest.fixture
def write(tmp_path):
  """(bytes, size of the file with a hole behind them) -> the path."""

  def write(data, size=0, name='hostile'):
    path = tmp_path / name
    path.write_bytes(data)
    if size:
      os.truncate(path, size)
    return path

  return write


@pytest.fixture
def most_memory():
  """A function that returns the bytes taken since the test began."""

  def find(name):
    with open('/proc/self/status') as file:
      lines = dict(line.split(':', 1) for line in file)
    return int(lines[name].split()[0]) << 10

  with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')
  before = find('VmRSS')
  return lambda: find('VmHWM') - before


# --- Memory.


def _zip(*members):
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, content in members:
      with archive.open(name, 'w') as file:
        for part in content:
          file.write(part)
  return data.getvalue()


_ZEROS = bytes(1 << 20)


def _npy(shape, size):
  """Yields a .npy file of zeros in parts."""
  text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
  yield made.npy(np.zeros(0), header=text)
  yield from [_ZEROS] * (size >> 20)


def _long_header():
  """Yields a header of 300 MB, which is of no use."""
  yield b'\x93NUMPY\2\0' + (300 << 20).to_bytes(4, 'little')
  yield from [b' ' * (1 << 20)] * 300


# Each takes over 300 MB if it is unpacked.
ARCHIVES = {
  'many pixels': lambda: _npy((300, 1 << 10, 1 << 10, 1), 300 << 20),
  'a long header': _long_header,
}


@pytest.fixture(scope='module', params=ARCHIVES)
def archive(request, tmp_path_factory):
  path = tmp_path_factory.mktemp('archive') / 'hostile.npz'
  path.write_bytes(_zip(('images.npy', ARCHIVES[request.param]())))
  assert path.stat().st_size < 400_000
  return str(path)


@linux
@pytest.mark.parametrize(
  'load', [reading.read, ddpm.load_images, weights.load_weights.__wrapped__]
)
def test_a_small_archive_takes_little_memory(archive, load, most_memory):
  with pytest.raises(ValueError) as caught:
    load(archive)
  assert str(caught.value).isprintable()
  assert most_memory() < 50 << 20


@linux
def test_arrays_count_together(write, most_memory):
  members = [(f'{i}.npy', _npy((20, 1 << 20), 20 << 20)) for i in range(4)]
  path = write(_zip(*members), name='many.npz')
  with pytest.raises(ValueError, match='unpacks to 80 MB'):
    arrays.load_arrays(str(path))
  assert most_memory() < 50 << 20


def test_an_archive_is_packed_by_deflate_alone(write):
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w', zipfile.ZIP_LZMA) as archive:
    archive.writestr('a.npy', made.npy(np.zeros((2, 2))))
  _refuse(write(data.getvalue()), 'Deflate')


def test_the_sum_of_an_array_is_checked(write):
  data = bytearray(mutations.make_sources()['npz'][0])
  data[180] ^= 1
  _refuse(write(bytes(data)), 'CRC')


def _png(width, height):
  rows = made.png_rows(np.zeros((4, 4, 3), np.uint8), 8)
  data = bytearray(made.png(rows, 4, depth=8, colour=2))
  data[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
  return mutations.mend_png(bytes(data))


def _pillow(kind, size, width, height):
  data = io.BytesIO()
  Image.new('RGB', (4, 4)).save(data, kind)
  changed = bytearray(data.getvalue())
  place, order = size(changed)
  part = height.to_bytes(2, order) + width.to_bytes(2, order)
  changed[place : place + 4] = part
  return bytes(changed)


def _find_frame(data):
  return data.index(b'\xff\xc0') + 5, 'big'


SMALL = {
  'PNG': _png(9000, 9000),
  'JPEG': _pillow('JPEG', _find_frame, 9000, 9000),
  'GIF': _pillow('GIF', lambda data: (6, 'little'), 9000, 9000),
  'TIFF': made.tiff(
    np.zeros((4, 4, 3), np.uint8),
    deflate=True,
    photometric=2,
    tags={256: ('I', 9000), 257: ('I', 9000), 278: ('I', 9000)},
  ),
}


@linux
@pytest.mark.parametrize('name', SMALL)
def test_a_small_file_takes_little_memory(name, write, most_memory):
  _refuse(write(SMALL[name]), 'samples|truncated')
  assert most_memory() < 50 << 20


@linux
def test_a_hole_behind_a_header_is_not_read(write, most_memory):
  """Files of two gigabytes that take nothing on the disk."""
  values = np.arange(12, dtype=np.uint8).reshape(3, 4)
  for data in (
    b'P5\n4 3\n255\n' + values.tobytes(),
    made.npy(values),
    made.tiff(values[..., None]),
  ):
    picture = reading.read(str(write(data, 2 << 30)))
    np.testing.assert_array_equal(
      picture.pixels[..., 0], (values / 255).astype(np.float32)
    )
  assert most_memory() < 50 << 20


def test_tiles_are_no_larger_than_the_image(write):
  tile = {322: ('I', 9000), 323: ('I', 9000)}
  data = made.tiff(np.zeros((4, 4, 1), np.uint8), tags=tile)
  _refuse(write(data), 'tiles')


# --- Time.


def test_a_header_of_fits_has_an_end(write):
  pytest.importorskip('astropy', reason='reads FITS: dipjax[fits]')
  head = made.fits(np.zeros((3, 4), np.uint8))[:2880]
  _refuse(write(head.replace(b'END', b'   '), 1 << 30), 'without an end')
  whole = made.fits(np.zeros((3, 4), np.uint8))
  _refuse(write(whole, 1 << 30), 'rest behind')
  extension = made.fits(np.zeros((3, 4), np.uint8), extension=True)
  _refuse(write(whole + 1000 * extension), 'more than 1000 HDUs')
  endless = extension[:2880].replace(b'END', b'   ')
  _refuse(write(whole + endless, 1 << 30), 'without an end')


def test_a_jpeg_has_few_scans(write):
  data = io.BytesIO()
  Image.new('RGB', (16, 16)).save(data, 'JPEG', progressive=True)
  whole = data.getvalue()
  last = whole[whole.rindex(b'\xff\xda') : -2]
  assert reading.read(str(write(whole))).pixels.shape == (16, 16, 3)
  _refuse(write(whole[:-2] + 100 * last + whole[-2:]), 'scans')


def test_frames_are_not_counted(write):
  data = io.BytesIO()
  frames = [Image.new('L', (1, 1), i) for i in range(3)]
  frames[0].save(data, 'GIF', save_all=True, append_images=frames[1:])
  whole = data.getvalue()
  last = whole[whole.rindex(b'!\xf9') : -1]
  _refuse(write(whole[:-1] + 300_000 * last + whole[-1:]), 'several frames')


def test_strips_do_not_lie_over_each_other(write):
  """Each of them would be unpacked as a whole, for hours."""
  values = np.zeros((2000, 50, 1), np.uint16)
  size = len(zlib.compress(values.tobytes()))
  tags = {273: ('I', *[8] * 2000), 278: ('I', 1), 279: ('I', *[size] * 2000)}
  _refuse(write(made.tiff(values, deflate=True, tags=tags)), 'over each other')


@pytest.mark.parametrize(
  'text',
  [
    b'P5\n' + b'#\n' * 40_000,
    b'P2\n3 1\n255\n' + b'#\n' * 100_000,
    b'P2\n3 1\n255\n1 2 4294967299',
    b'P1\n3 1\n' + b'1' * 200_000,
    b'P7\n' + b'WIDTH 1\n' * 20_000,
  ],
)
def test_text_is_bounded(write, text):
  _refuse(write(text))


# --- What is no file, or does not stay one.


def test_what_is_no_file_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  with socket.socket(socket.AF_UNIX) as server:
    server.bind(str(tmp_path / 'socket'))
    (tmp_path / 'folder').mkdir()
    links = {'to_pipe': 'pipe', 'to_folder': 'folder', 'to_nothing': 'none'}
    links |= {'circle': 'circle', 'to_zero': '/dev/zero'}
    for name, target in links.items():
      (tmp_path / name).symlink_to(target)
    for name in ('pipe', 'socket', 'folder', *links):
      _refuse(tmp_path / name, 'folder' if 'folder' in name else 'give a file')
  for path in ('/dev/zero', '/dev/null', '/dev/stdin', ''):
    if path != '/dev/stdin' or not os.path.isfile(path):
      _refuse(path)


def test_a_link_to_a_file_is_that_file(write, tmp_path):
  path = write(made.npy(np.zeros((2, 2), np.uint8)))
  (tmp_path / 'link').symlink_to(path)
  assert reading.read(str(tmp_path / 'link')).pixels.shape == (2, 2, 1)


@linux
def test_a_file_of_the_system_is_refused_at_once():
  _refuse('/proc/self/mem', 'empty')
  _refuse('/proc/kmsg', 'empty|neither')


@pytest.mark.parametrize('change', ['longer', 'shorter', 'another'])
def test_a_file_that_changes_meanwhile_is_refused(write, monkeypatch, change):
  data = made.npy(np.zeros((20, 20), np.uint8))
  path, decode = write(data), reading._decode

  def change_and_decode(*arguments):
    if change == 'shorter':
      os.truncate(path, 100)
    found = decode(*arguments)
    if change == 'longer':
      os.truncate(path, 1000)
    elif change == 'another':
      path.rename(path.with_suffix('.old'))
      path.write_bytes(data)
    return found

  monkeypatch.setattr(reading, '_decode', change_and_decode)
  _refuse(path, 'changed while|Header|EOF|truncated|expected')


def test_a_file_that_changes_all_the_time_never_ends_the_process(write):
  """Files are not mapped: a mapped one that shrinks would be a SIGBUS."""
  files = [data for rows in mutations.make_sources().values() for data in rows]
  path, stop = write(files[0]), threading.Event()

  def change():
    rng = np.random.default_rng(0)
    while not stop.is_set():
      data = files[rng.integers(len(files))]
      path.write_bytes(data[: rng.integers(1, len(data))])

  thread = threading.Thread(target=change)
  thread.start()
  try:
    for _ in range(100):
      try:
        reading.read(str(path))
      except ValueError as error:
        assert str(error).isprintable()
  finally:
    stop.set()
    thread.join()


@pytest.mark.parametrize(
  'name', ['a\nb', 'a\x1b[31mb', 'a\u202eb', b'a\xffb', 'x' * 200]
)
def test_a_name_of_any_letters_is_told_in_one_line(tmp_path, name):
  path = os.path.join(tmp_path, os.fsdecode(name))
  _refuse(path, 'neither a file')
  with open(path, 'wb') as file:
    file.write(b'nothing known')
  _refuse(path, 'not a known image')
  with open(path, 'wb') as file:
    file.write(made.npy(np.zeros((2, 2), np.uint8)))
  assert reading.read(path).container == 'npy'


def test_no_name_is_too_odd():
  for name in ('a\0b', '\ud800', 'x' * 5000, '~nobody/there'):
    _refuse(name, 'neither a file')


def test_letters_of_a_file_do_not_reach_the_terminal(write):
  head = (
    b'P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nTUPLTYPE \x1b[31m\nENDHDR\n'
  )
  _refuse(write(head + bytes(12)), 'PAM')
  _refuse(write(b'\x93NUMPY\1\0\x10\0{\x1b[31m\x07\x08      }\n'))


# --- No program, no line.


@pytest.fixture
def no_program(monkeypatch):
  """Any start of a program or process fails the test."""

  def start(*arguments, **_):
    raise BaseException(f'started {arguments}')

  for name in ('fork', 'system', 'posix_spawn', 'execv', 'execve', 'popen'):
    monkeypatch.setattr(os, name, start)
  monkeypatch.setattr(subprocess, 'Popen', start)


def test_no_decoder_starts_a_program(write, no_program):
  drawing = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
  for name in ('drawing.png', 'drawing.eps', 'drawing.jpg', 'drawing.tiff'):
    _refuse(write(drawing, name=name), 'PostScript')
  for container, files in mutations.make_sources().items():
    for data in files:
      path = write(data, name=f'{container}.eps')
      try:
        reading.read(str(path))
      except ValueError as error:
        assert str(error).isprintable()


def test_no_library_says_a_line(write, capfd):
  """Warnings of Pillow, logs of tifffile, lines of libtiff and libheif."""
  sources = mutations.make_sources()
  capfd.readouterr()
  for index in range(300):
    _, data = mutations.make_mutant(sources, 9, index, 'TIFF')
    path = write(data)
    try:
      reading.read(str(path))
    except ValueError as error:
      assert str(error).isprintable()
  assert capfd.readouterr() == ('', '')


def test_what_was_quiet_speaks_again(write, capfd, caplog):
  _refuse(write(b'nothing'))
  sys.stderr.write('a line\n')
  os.write(2, b'another\n')
  assert capfd.readouterr().err == 'a line\nanother\n'
  logging.getLogger('tifffile').error('a log')
  assert 'a log' in caplog.text


def test_threads_do_not_take_the_terminal_away(write, capfd):
  path = write(made.npy(np.zeros((50, 50), np.uint8)))

  def read():
    for _ in range(50):
      reading.read(str(path))

  threads = [threading.Thread(target=read) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  os.write(2, b'still here\n')
  assert capfd.readouterr().err == 'still here\n'
  assert not logging.root.manager.disable


# --- Pickles of weights.


def _nest(code, count):
  return b'\x80\x02' + code * count + b'.'


PICKLES = {
  'lists': _nest(b']', 200_000),
  'marks': _nest(b'(', 200_000),
  'tuples': b'\x80\x02N' + b'\x85' * 90_000 + b'.',
  'a deep key': b'\x80\x02}N' + b'\x85' * 90_000 + b'Ns.',
  'a deep type': (b'\x80\x02cnumpy\ndtype\nN' + b'\x85' * 90_000 + b'R.'),
  'a large shape': (b'\x80\x02cnumpy\nndarray\n\x8a\x05\0\0\0\0\x40\x85R.'),
  'many bytes': b'\x80\x04\x8e' + (1 << 60).to_bytes(8, 'little') + b'.',
  'a changed function': (
    b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\1\0\0\0a\x88sb.'
  ),
  'an array of objects': (
    b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R'
    b'(K\1K\1\x85cnumpy\ndtype\nX\2\0\0\0O8\x85R(K\3X\1\0\0\0|tb\x89C\x08'
    + bytes(8)
    + b'tb.'
  ),
}


@linux
@pytest.mark.parametrize('name', PICKLES)
def test_a_hostile_pickle_is_one_line(name, most_memory):
  with pytest.raises(ValueError, match='not a pickle of arrays') as caught:
    pickles.read_pickle(PICKLES[name])
  assert str(caught.value).isprintable() and len(str(caught.value)) < 300
  assert most_memory() < 50 << 20


def test_a_dict_of_itself_ends():
  itself = pickles.read_pickle(b'\x80\x02}q\0X\1\0\0\0ah\0s.')
  assert itself['a'] is itself


@linux
def test_a_large_number_in_the_memory_takes_none(most_memory):
  assert pickles.read_pickle(b'\x80\x02}r\xff\xff\xff\x7f.') == {}
  assert most_memory() < 50 << 20


def test_deep_dicts_are_read():
  depth = 9000
  data = b'\x80\x02' + b'}X\1\0\0\0a' * depth + b'}' + b's' * depth + b'.'
  tree = pickles.read_pickle(data)
  for _ in range(depth):
    tree = tree['a']
  assert tree == {}
