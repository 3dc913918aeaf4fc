"""Files of NumPy: .npy, and .npz with one array under its old name."""

import io
import zipfile

import numpy as np

from experiments.lib.writing.levels import Content

_ARRAYS = ('npy', 'npz', 'FITS')


def encode_npy(content: Content) -> bytes:
  """Returns an array of the type and shape of the input."""
  data = io.BytesIO()
  np.lib.format.write_array(data, _make_array(content), allow_pickle=False)
  return data.getvalue()


def encode_npz(content: Content) -> bytes:
  """Returns an archive of one array, under the name that it had."""
  name = content.like.header if content.like.container == 'npz' else 'arr_0'
  data = io.BytesIO()
  with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(f'{name}.npy', encode_npy(content))
  return data.getvalue()


def _make_array(content):
  values = content.values
  if content.plan.depth == 'uint1':
    values = values.astype(bool)
  like = content.like
  if values.shape[2] == 1 and (like.flat or like.container not in _ARRAYS):
    return values[..., 0]
  return values
