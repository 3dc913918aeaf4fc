"""Files of NumPy: .npy, and .npz with one array; nothing in them is run."""

import os
import zipfile

import numpy as np

from experiments.lib.reading.raw import Raw, check_shape, find_white

# A packed array may be this many times larger than its file, and no more.
_MAX_RATIO = 100
_MAX_FREE = 32 << 20  # Bytes for which the ratio does not matter.
_KINDS = 'buif'


def read_npy(path: str) -> Raw:
  """Returns the array of a .npy file."""
  with open(path, 'rb') as file:
    shape, order, dtype = _read_header(file)
    start, size = file.tell(), os.path.getsize(path)
    needed = int(np.prod(shape)) * dtype.itemsize
    if size - start < needed:
      raise ValueError(f'is truncated: {needed - size + start} bytes missing')
    return _make(file.read(needed), shape, order, dtype, 'npy')


def read_npz(path: str) -> Raw:
  """Returns the array of a .npz file that holds no other."""
  with zipfile.ZipFile(path) as archive:
    names = [info for info in archive.infolist() if not info.is_dir()]
    if len(names) != 1 or not names[0].filename.endswith('.npy'):
      raise ValueError(
        f'is an archive of {len(names)} files; give one with one array'
      )
    with archive.open(names[0]) as file:
      shape, order, dtype = _read_header(file)
      needed = int(np.prod(shape)) * dtype.itemsize
      allowed = max(_MAX_FREE, _MAX_RATIO * os.path.getsize(path))
      if needed > allowed:
        raise ValueError(
          f'unpacks to {needed >> 20} MB, more than {_MAX_RATIO} times its '
          'size; save it as .npy'
        )
      data = file.read(needed)
  if len(data) < needed:
    raise ValueError(f'is truncated: {needed - len(data)} bytes missing')
  name = names[0].filename.removesuffix('.npy')
  return _make(data, shape, order, dtype, 'npz')._replace(header=name)


def _read_header(file):
  """Returns shape, order and type, all checked before an array is read."""
  version = np.lib.format.read_magic(file)
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f'is of version {version[0]} of .npy, not supported')
  read = {
    1: np.lib.format.read_array_header_1_0,
    2: np.lib.format.read_array_header_2_0,
  }[version[0]]
  shape, fortran, dtype = read(file)
  if dtype.kind not in _KINDS or dtype.itemsize > 8:
    what = 'objects, which are never opened' if dtype.hasobject else dtype
    raise ValueError(f'holds {what}; give integers or floats of up to 64 bits')
  check_shape(shape)
  return shape, 'F' if fortran else 'C', dtype


def _make(data, shape, order, dtype, container):
  values = np.frombuffer(data, dtype).reshape(shape, order=order)
  name = 'uint1' if dtype.kind == 'b' else dtype.name
  if dtype.kind == 'b':
    values = values.view(np.uint8)
  return Raw(values, find_white(dtype), name, container)
