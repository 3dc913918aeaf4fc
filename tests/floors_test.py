"""The floors of the design: who may import whom, and what the core may not.

Reads the sources; imports none of them.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORE = ROOT / 'dipjax'

# From the ground up. A file imports only from lower floors, and within its own
# folder, where no file may need itself. The longest name that fits counts.
FLOORS = [
  ['conv.choose'],
  ['device'],
  ['conv', 'preview', 'settings', 'units'],
  ['metrics', 'resampling', 'blurring', 'corruptions', 'detail', 'noise'],
  ['codes', 'schedules', 'optimizers', 'wiener'],
  ['operators', 'features', 'networks'],
  ['engine.problem', 'finish'],
  ['methods', 'monitors'],
  ['recipe'],
  ['engine', 'diffusion'],
  ['api'],
  ['many', 'rehearsal', 'shared'],
  [''],
]
HEIGHTS = {
  f'dipjax.{name}'.removesuffix('.'): height
  for height, names in enumerate(FLOORS)
  for name in names
}

OUTSIDE = {
  'PIL',
  'absl',
  'configs',
  'experiments',
  'jinja2',
  'matplotlib',
  'ml_collections',
  'orbax',
  'os',
  'pathlib',
  'sys',
  'tensorboardX',
  'time',
  'tqdm',
}
OURS = {'configs', 'dipjax', 'experiments', 'jax'}
PAGE = 'experiments.lib.page'
CALLS = {'eval', 'exec', 'open', 'print'}
PICKLES = {'_pickle', 'cPickle', 'cloudpickle', 'dill', 'pickle', 'shelve'}


def _find_modules(folder=CORE):
  """Returns the path of each module below a folder, by its name."""
  modules = {}
  for path in sorted(folder.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
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


def _resolve(name, modules):
  """Returns the module that a dotted name lies in, or the name."""
  owners = [m for m in modules if f'{name}.'.startswith(f'{m}.')]
  return max(owners, key=len, default=name)


def _find_floor(module):
  """Returns the entry of FLOORS that a module belongs to."""
  names = [f for f in HEIGHTS if f'{module}.'.startswith(f'{f}.')]
  return max(names, key=len, default='')


def _find_trespasses(module, source):
  """Returns the imports of dipjax/ that a module may not make."""
  imports = {_resolve(n, MODULES) for n in _find_imports(source, module)}
  own = {name for name in imports if name.split('.')[0] == 'dipjax'}
  return {name for name in own if not _is_lower(name, module)}


def _is_lower(name, module):
  if name not in MODULES:
    return False
  here, there = _find_floor(module), _find_floor(name)
  inside = here == there and CORE.joinpath(*here.split('.')[1:]).is_dir()
  return inside or HEIGHTS[there] < HEIGHTS[here]


def _find_circle(modules):
  """Returns the modules that need each other, none where all is well."""
  needed = {}
  for module, path in modules.items():
    names = _find_imports(path.read_text(), module)
    needed[module] = {_resolve(n, modules) for n in names} & modules.keys()
  while free := {m for m, needs in needed.items() if not needs & needed.keys()}:
    needed = {m: needs for m, needs in needed.items() if m not in free}
  return set(needed)


MODULES = _find_modules()
each_module = pytest.mark.parametrize('module', MODULES)


def test_every_module_has_a_floor_of_its_own():
  assert set(HEIGHTS) - set(MODULES) == set()
  others = set(MODULES) - {'dipjax'}
  assert all(_find_floor(module) != 'dipjax' for module in others)


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


@pytest.mark.parametrize('folder', ['dipjax', 'experiments', 'configs'])
def test_no_module_needs_itself(folder):
  assert not _find_circle(_find_modules(ROOT / folder))


LIBRARY = _find_modules(ROOT / 'experiments' / 'lib')


@pytest.mark.parametrize('module', LIBRARY)
def test_what_experiments_share_knows_no_experiment(module):
  names = _find_imports(LIBRARY[module].read_text(), module)
  ours = {n for n in names if n.split('.')[0] in ('experiments', 'configs')}
  assert all(name.startswith('experiments.lib') for name in ours)


def test_the_page_of_a_run_knows_no_fit():
  page = {n: p for n, p in LIBRARY.items() if f'{n}.'.startswith(f'{PAGE}.')}
  names = {
    name
    for module, path in page.items()
    for name in _find_imports(path.read_text(), module)
  }
  known = {PAGE, *(f'experiments.lib.{n}' for n in ('folders', 'frames'))}
  ours = {name for name in names if name.split('.')[0] in OURS}
  assert {_resolve(name, known) for name in ours} <= known


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
  roots = {name.split('.')[0] for name in _find_imports(path.read_text())}
  assert not roots & PICKLES


# --- The checks themselves.


@pytest.mark.parametrize(
  'module,source,trespasses',
  [
    ('engine.fit', 'from dipjax import metrics, monitors, recipe', []),
    ('engine.fit', 'from dipjax.engine import guard', []),
    ('engine.fit', 'from . import guard', []),
    ('engine.fit', 'from dipjax import api as a', ['api']),
    ('engine.fit', 'import dipjax.api', ['api']),
    ('engine.fit', 'import dipjax', ['']),
    ('engine.fit', 'from dipjax import *', ['']),
    ('engine.fit', 'from dipjax.metrics import psnr', []),
    ('methods.stein', 'from dipjax.engine.problem import Problem', []),
    ('methods.stein', 'from dipjax.engine import fit', ['engine.fit']),
    ('methods.stein', 'from dipjax import recipe', ['recipe']),
    ('methods.stein', 'from dipjax import monitors', ['monitors']),
    ('methods.stein', 'def f():\n  from dipjax import api', ['api']),
    ('metrics', 'from dipjax import codes', ['codes']),
    ('metrics', 'from dipjax import noise', ['noise']),
    ('monitors.noise', 'from dipjax.networks import layers', []),
    ('networks.skip', 'from dipjax.networks import layers', []),
    ('networks.skip', 'from .. import recipe, codes', ['recipe']),
    ('networks.layers', 'from dipjax import conv', []),
    ('conv.direct', 'from dipjax.conv import choose, lanes', []),
    ('conv.direct', 'from dipjax import metrics', ['metrics']),
    ('conv.direct', 'from dipjax.device import recompute', []),
    ('device.packing', 'from dipjax.conv import direct', ['conv.direct']),
    ('device.in_place', 'from dipjax.conv import choose', []),
    ('api', 'import jax, dipjaxes', []),
  ],
)
def test_trespasses_are_found(module, source, trespasses):
  found = _find_trespasses(f'dipjax.{module}', source)
  assert found == {f'dipjax.{name}'.removesuffix('.') for name in trespasses}


def test_circles_are_found(tmp_path):
  sources = {'a': 'import b', 'b': 'from c import x', 'c': 'import b', 'd': ''}
  paths = {name: tmp_path / f'{name}.py' for name in sources}
  for name, path in paths.items():
    path.write_text(sources[name])
  assert _find_circle(paths) == {'a', 'b', 'c'}


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
