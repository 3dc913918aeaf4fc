"""The floors of the design: who may import whom, and what the core may not.

Reads the sources; imports none of them.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORE = ROOT / 'dipjax'

# Every module of dipjax/; one imports only from strictly lower floors.
FLOORS = [
  ['conv.choose', 'conv.lanes', 'conv.windows', 'device.packing'],
  ['conv.grid', 'device.in_place'],
  ['conv.direct', 'conv.winograd'],
  ['conv.ways'],
  ['conv.doubled'],
  [
    'conv',
    'metrics',
    'resampling',
    'blurring',
    'corruptions',
    'noise',
    'optimizers',
    'schedules',
    'codes',
  ],
  [
    'networks.layers',
    'networks.skip',
    'networks.unet',
    'networks.dncnn',
    'networks.resnet',
    'networks.decoder',
    'networks.pixels',
    'networks.denoiser',
    'networks.outliers',
    'operators',
    'features',
    'monitors',
    'guard',
  ],
  ['objectives'],
  ['fit', 'diffusion'],
  ['staged', 'lanes', 'memory'],
  ['restore'],
]
HEIGHTS = {
  f'dipjax.{name}': height
  for height, names in enumerate(FLOORS)
  for name in names
}
# Within their floor, the layers lie below the networks.
LAYERS = 'dipjax.networks.layers'
# These packages are folders alone.
FOLDERS = ['dipjax.device', 'dipjax.networks']

OUTSIDE = {
  'PIL',
  'absl',
  'configs',
  'experiments',
  'matplotlib',
  'ml_collections',
  'orbax',
  'os',
  'pathlib',
  'sys',
  'time',
  'tqdm',
}
CALLS = {'eval', 'exec', 'open', 'print'}
PICKLES = {'_pickle', 'cPickle', 'cloudpickle', 'dill', 'pickle', 'shelve'}


def _find_modules():
  """Returns the path of each module of dipjax/ but __init__.py, by its name."""
  modules = {}
  for path in sorted(CORE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if parts != ('dipjax', '__init__'):
      modules['.'.join(parts).removesuffix('.__init__')] = path
  return modules


def _find_sources():
  hidden = lambda path: any(
    part.startswith('.') or part in ('build', 'site-packages')
    for part in path.relative_to(ROOT).parts
  )
  return [path for path in sorted(ROOT.rglob('*.py')) if not hidden(path)]


def _find_imports(source, module=''):
  """Returns the dotted names that a module imports, anywhere in it."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      parents = module.split('.')[: -node.level] if node.level else []
      base = '.'.join([*parents, *filter(None, [node.module])])
      names |= {f'{base}.{alias.name}' for alias in node.names}
  return names


def _find_calls(source):
  return {
    node.func.id
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
  }


def _resolve(name):
  """Returns the module of dipjax/ that a dotted name lies in, or the name."""
  owners = [m for m in HEIGHTS if f'{name}.'.startswith(f'{m}.')]
  return max(owners, key=len, default=name)


def _find_trespasses(module, source):
  """Returns the imports of dipjax/ that lie no lower than the module."""
  imports = {_resolve(name) for name in _find_imports(source, module)}
  own = {name for name in imports if name.split('.')[0] == 'dipjax'}
  return {name for name in own if not _is_lower(name, module)}


def _is_lower(name, module):
  if name not in HEIGHTS:
    return False
  if name == LAYERS and module.startswith('dipjax.networks.'):
    return module != LAYERS
  return HEIGHTS[name] < HEIGHTS[module]


MODULES = _find_modules()
each_module = pytest.mark.parametrize('module', MODULES)


def test_every_module_has_a_floor():
  assert set(MODULES) - set(FOLDERS) == set(HEIGHTS)


@pytest.mark.parametrize('package', FOLDERS)
def test_a_package_that_is_a_folder_alone_imports_nothing(package):
  assert not _find_imports(MODULES[package].read_text())


def test_only_one_module_asks_for_the_device():
  asking = [
    module
    for module, path in MODULES.items()
    if 'default_backend' in path.read_text()
  ]
  assert asking == ['dipjax.conv.choose']


@each_module
def test_a_module_imports_from_lower_floors_only(module):
  assert not _find_trespasses(module, MODULES[module].read_text())


@each_module
def test_the_core_knows_no_file_flag_clock_or_config(module):
  source = MODULES[module].read_text()
  roots = {name.split('.')[0] for name in _find_imports(source, module)}
  assert not roots & OUTSIDE
  assert not _find_calls(source) & CALLS


@pytest.mark.parametrize(
  'path', _find_sources(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_module_unpickles(path):
  """But one, whose unpickler admits arrays alone: tests/weights_test.py."""
  roots = {name.split('.')[0] for name in _find_imports(path.read_text())}
  allowed = {'pickle'} if path == ROOT / 'experiments' / 'weights.py' else set()
  assert not roots & PICKLES - allowed


def test_the_one_unpickler_is_restricted():
  source = (ROOT / 'experiments' / 'weights.py').read_text()
  names = {
    node.attr
    for node in ast.walk(ast.parse(source))
    if isinstance(node, ast.Attribute)
    and isinstance(node.value, ast.Name)
    and node.value.id == 'pickle'
  }
  assert names == {'Unpickler'} and 'def find_class' in source


# --- The checks themselves.


@pytest.mark.parametrize(
  'module,source,trespasses',
  [
    ('fit', 'from dipjax import metrics, monitors, objectives', []),
    ('fit', 'from dipjax import lanes', ['lanes']),
    ('fit', 'from dipjax import diffusion as d', ['diffusion']),
    ('fit', 'import dipjax.restore', ['restore']),
    ('fit', 'import dipjax', ['']),
    ('fit', 'from dipjax import *', ['*']),
    ('fit', 'from dipjax.metrics import psnr', []),
    ('fit', 'from dipjax.staged import run', ['staged']),
    ('fit', 'from . import lanes', ['lanes']),
    ('fit', 'from .lanes import advance', ['lanes']),
    ('fit', 'def f():\n  from dipjax import lanes', ['lanes']),
    ('metrics', 'from dipjax import codes', ['codes']),
    ('monitors', 'from dipjax.networks import layers', ['networks.layers']),
    ('objectives', 'from dipjax.networks import skip', []),
    ('networks.skip', 'from dipjax.networks import layers', []),
    ('networks.skip', 'from . import layers', []),
    ('networks.skip', 'from .. import fit, codes', ['fit']),
    ('networks.unet', 'from dipjax.networks import skip', ['networks.skip']),
    ('networks.layers', 'from dipjax.networks import skip', ['networks.skip']),
    ('networks.layers', 'from dipjax import conv', []),
    ('networks.layers', 'from dipjax.conv import choose, convolve', []),
    ('conv', 'from dipjax.conv.ways import convolve', []),
    ('conv.ways', 'from dipjax.conv import direct, grid', []),
    ('conv.ways', 'from dipjax.conv import convolve', ['conv']),
    ('conv.grid', 'from dipjax.conv import ways', ['conv.ways']),
    ('conv.doubled', 'from dipjax.networks import layers', ['networks.layers']),
    ('conv.choose', 'from dipjax.conv import lanes', ['conv.lanes']),
    ('device.in_place', 'from dipjax.conv import choose, ways', ['conv.ways']),
    ('restore', 'from dipjax import unknown', ['unknown']),
    ('restore', 'import jax, dipjaxes', []),
  ],
)
def test_trespasses_are_found(module, source, trespasses):
  found = _find_trespasses(f'dipjax.{module}', source)
  assert found == {f'dipjax.{name}'.removesuffix('.') for name in trespasses}


@pytest.mark.parametrize(
  'source,calls',
  [
    ('print(1)', {'print'}),
    ('def f():\n  return [open(x) for x in y]', {'open'}),
    ("'print(1)'", set()),
    ('jax.debug.print(x)', set()),
  ],
)
def test_calls_are_found(source, calls):
  assert _find_calls(source) & CALLS == calls
