"""Files of NumPy: .npy, and .npz with one array; nothing in them is run."""

import io
import os
import zipfile
from collections.abc import Container

import numpy as np

from experiments.lib.reading.raw import Raw, check_shape, find_white

# Packed arrays may be this many times larger than their file, and no more.
_MAX_RATIO = 100
_MAX_FREE = 32 << 20  # Bytes for which the ratio does not matter.
_MAX_HEADER = 10_000  # Bytes, which NumPy has too.
_KINDS = 'buif'


def read_npy(path: str) -> Raw:
  """Returns the array of a .npy file."""
  with open(path, 'rb') as file:
    shape, order, dtype = _read_header(file)
    check_shape(shape)
    start, size = file.tell(), os.path.getsize(path)
    needed = _count_bytes(shape, dtype)
    if size - start < needed:
      raise ValueError(f'is truncated: {needed - size + start} bytes missing')
    return _make(file.read(needed), shape, order, dtype, 'npy')


def read_npz(path: str) -> Raw:
  """Returns the array of a .npz file that holds no other."""
  with zipfile.ZipFile(path) as archive:
    ((info, shape, order, dtype),) = _find_members(archive, path, 1)
    check_shape(shape)
    data = _unpack(archive, info, shape, order, dtype)
  name = info.filename.removesuffix('.npy')
  return _make(data, shape, order, dtype, 'npz')._replace(header=name)


def load_arrays(
  path: str, names: Container[str] | None = None
) -> dict[str, np.ndarray]:
  """Returns the arrays of an .npz file, each with any number of axes.

  Args:
    path: the file.
    names: those to read, where the file has them; None: all.

  Raises:
    ValueError: objects, which are never opened; more than 100 times the size
      of the file, above 32 MB; damage. One line says which.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      found = _find_members(archive, path, None, names)
      return {
        info.filename.removesuffix('.npy'): _shape(
          _unpack(archive, info, shape, order, dtype), shape, order, dtype
        )
        for info, shape, order, dtype in found
      }
  # A damaged archive raises nearly anything.
  except Exception as error:
    text = ' '.join(str(error).split())[:200] or type(error).__name__
    raise ValueError(f'{path!r}: {text}') from None


def _find_members(archive, path, count, names=None):
  """Returns the header of each array, once all are known to be small."""
  members = [
    info
    for info in archive.infolist()
    if not info.is_dir()
    and (names is None or info.filename.removesuffix('.npy') in names)
  ]
  if count not in (None, len(members)) or not all(
    info.filename.endswith('.npy') for info in members
  ):
    raise ValueError(
      f'is an archive of {len(members)} files; give one with one array'
      if count
      else 'is an archive of other files than arrays'
    )
  found = []
  for info in members:
    # Other methods take any memory for a few bytes.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise ValueError('is packed by another method than Deflate')
    with archive.open(info) as file:
      found.append((info, *_read_header(file)))
  needed = sum(_count_bytes(shape, dtype) for _, shape, _, dtype in found)
  if needed > max(_MAX_FREE, _MAX_RATIO * os.path.getsize(path)):
    raise ValueError(
      f'unpacks to {needed >> 20} MB, more than {_MAX_RATIO} times its '
      'size; save it as .npy'
    )
  return found


def _unpack(archive, info, shape, order, dtype):
  needed = _count_bytes(shape, dtype)
  with archive.open(info) as file:
    _read_header(file)
    data = file.read(needed)
    # One byte more, because the sum is checked at the end of a file.
    if len(data) == needed and not file.read(1):
      return data
  raise ValueError(f'is truncated or too long: {needed} bytes expected')


def _count_bytes(shape, dtype):
  count = dtype.itemsize
  # Python's integers, which do not overflow.
  for length in shape:
    count *= length
  return count


def _read_header(file):
  """Returns shape, order and type, all checked before an array is read."""
  start = file.read(8)
  version = tuple(start[6:])
  if start[:6] != np.lib.format.MAGIC_PREFIX:
    raise ValueError('is not of NumPy')
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f'is of version {version[:1]} of .npy, not supported')
  count = file.read(2 * version[0])
  size = int.from_bytes(count, 'little')
  if size > _MAX_HEADER:
    raise ValueError(f'has a header of {size} bytes')
  read = {
    1: np.lib.format.read_array_header_1_0,
    2: np.lib.format.read_array_header_2_0,
  }[version[0]]
  shape, fortran, dtype = read(io.BytesIO(count + file.read(size)))
  if dtype.kind not in _KINDS or dtype.itemsize > 8:
    what = 'objects, which are never opened' if dtype.hasobject else dtype
    raise ValueError(f'holds {what}; give integers or floats of up to 64 bits')
  if any(length < 0 for length in shape):
    raise ValueError(f'holds an array of shape {list(shape)}')
  return shape, 'F' if fortran else 'C', dtype


def _shape(data, shape, order, dtype):
  return np.frombuffer(data, dtype).reshape(shape, order=order)


def _make(data, shape, order, dtype, container):
  values = _shape(data, shape, order, dtype)
  name = 'uint1' if dtype.kind == 'b' else dtype.name
  if dtype.kind == 'b':
    values = values.view(np.uint8)
  return Raw(values, find_white(dtype), name, container)
