"""Every block of code of the pages runs, and every command can be typed.

Python runs page by page, the blocks of a page one after the other in a folder
with small pictures. What would take long is made small by SMALLER, text by
text, and no other line is changed. Commands are parsed by the flags and the
config of what they call (tests/commands.py); those of RUN are run.
"""

import configparser
import re
import shlex
import sys
import types
from typing import NamedTuple

import markdown_it
import numpy as np
import pytest
from PIL import Image

import dipjax
from dipjax import methods, monitors, networks, operators
from dipjax.networks import pixels
from experiments.lib import images, ranges, schema
from tests import docs_test, forks, monitors_test, operators_test

ROOT = docs_test.ROOT
TINY = dipjax.Recipe(network=pixels.Pixels(), steps=2)

# By page: the texts of its Python that are made small, each there once.
SMALLER = {
  'docs/tutorial.md': {
    'skip.Skip(down=(32,) * 5, up=(32,) * 5)': (
      'skip.Skip(down=(4,), up=(4,), skip=(2,))'
    ),
    'steps=1500': 'steps=4',
  },
  'docs/tasks.md': {
    'restore_many(cases, lanes=8)': 'restore_many(cases, TINY, lanes=2)',
    'Recipe(tile=512)': 'TINY.replace(tile=16)',
    'restore(noisy, seeds=(0, 1))': 'restore(noisy, None, TINY, seeds=(0, 1))',
    'network=skip.Skip(down=(32,) * 5, up=(32,) * 5), steps=2000': (
      'network=TINY.network, steps=2'
    ),
    'decoder.Decoder()': 'decoder.Decoder(width=4, doublings=2)',
    "rule='wmv',": "rule='wmv', steps=2,",
    "'smoke'": "'smoke,network=pixels'",
  },
}
# By page: the names of the files for which a part of its code is written.
NAMES = {
  'docs/architecture.md': {
    name: value
    for module in (
      *(monitors_test, operators_test),
      *(schema, networks, methods, monitors, operators),
    )
    for name, value in vars(module).items()
  },
}
# The commands that are run, and what makes them small.
SMOKE = ['--config=req2:smoke,network=pixels', '--config.fit.steps=20']
RUN = {'docs/tutorial.md': SMOKE}


class Block(NamedTuple):
  """Code of a page that stands by itself."""

  language: str  # '' where it is indented.
  text: str
  before: str  # The paragraph above.


def _read_blocks(page):
  blocks, before = [], ''
  for token in markdown_it.MarkdownIt().parse(page.read_text()):
    if token.type == 'inline':
      before = token.content
    elif token.type in ('fence', 'code_block'):
      blocks.append(Block(token.info, token.content, before))
  return blocks


def _read_spans(page):
  """Returns the code within lines."""
  tokens = markdown_it.MarkdownIt().enable('table').parse(page.read_text())
  within = [child for token in tokens for child in token.children or ()]
  return [child.content for child in within if child.type == 'code_inline']


def _find_commands(page):
  """Returns the commands of a page, each as its words."""
  blocks = [b.text for b in _read_blocks(page) if b.language in _SHELLS]
  # Within lines, a module without arguments is a name.
  spans = [s for s in _read_spans(page) if not re.search(r'-m [\w.]+$', s)]
  lines = '\n'.join([*blocks, *spans]).replace('\\\n', ' ')
  found, begun = [], ''
  for line in lines.splitlines():
    # Output has other first words. A quotation may have several lines.
    if begun or _COMMAND.match(line):
      begun += f'{line}\n'
      try:
        words = shlex.split(begun, comments=True)
      except ValueError:
        continue
      found.append([w for w in words if w != '&' and not _VARIABLE.match(w)])
      begun = ''
  assert not begun, begun
  return found


_SHELLS = ('', 'bash')
_VARIABLE = re.compile(r'[A-Z_]+=')
_COMMAND = re.compile(
  r'\s*([A-Z_]+=\S* +)*(\S*/)?(python3?|make|bash|pip)(?= )'
)


def _name(page):
  return str(page.relative_to(ROOT))


PAGES = docs_test.find_pages()
PYTHON = [
  page
  for page in PAGES
  if any(block.language == 'python' for block in _read_blocks(page))
]
COMMANDS = [page for page in PAGES if _find_commands(page)]


# --- Python.


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The working folder, with the pictures that the pages name."""
  rng = np.random.default_rng(0)
  levels = rng.integers(60, 200, (24, 32, 3), dtype=np.uint8)
  for name in ('photo.png', 'photo.tif', 'smeared.png', 'scans/1.png'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(levels).save(tmp_path / name)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run_blocks(page, monkeypatch):
  """Runs the Python of a page, and returns its names.

  A block that begins with a docstring is a file of its own. A block that is no
  statement has rows of the table that the text above it names; they are put
  into the table.
  """
  module = types.ModuleType('docs_page')
  monkeypatch.setitem(sys.modules, module.__name__, module)
  names = {**NAMES.get(_name(page), {}), 'TINY': TINY, **vars(module)}
  smaller = dict(SMALLER.get(_name(page), {}))
  for language, text, before in _read_blocks(page):
    if language != 'python':
      continue
    for long in [long for long in smaller if long in text]:
      text = text.replace(long, smaller.pop(long))
    try:
      code = compile(text, _name(page), 'exec')
    except SyntaxError:
      code = compile(f'rows_of_page = {{{text}}}', _name(page), 'exec')
    seen = dict(names) if text.startswith('"""') else names
    exec(code, seen)
    names.update(seen)
    table = re.search('row of `([A-Z]+)`', before)
    for key, row in names.pop('rows_of_page', {}).items():
      assert table, before
      monkeypatch.setitem(names[table[1]], key, row)
  assert not smaller, f'{_name(page)} has not {list(smaller)}'
  return names


@pytest.mark.parametrize('page', PYTHON, ids=_name)
def test_the_python_of_a_page_runs(page, folder, monkeypatch):
  run_blocks(page, monkeypatch)


def test_the_parts_that_the_architecture_page_adds_work(folder, monkeypatch):
  added = run_blocks(ROOT / 'docs' / 'architecture.md', monkeypatch)
  # What a part may be called is read from the tables when they are imported.
  tables = {'network': 'NETWORKS', 'method': 'METHODS', 'stop': 'MONITORS'}
  for kind, table in tables.items():
    known = ranges.Word(tuple(added[table]))
    monkeypatch.setitem(schema.RANGES, f'{kind}.name', known)
  words = 'smoke,network=shallow,method=charbonnier,stop=level'
  config = added['get_config'](words)
  config.stop.level = 1.0  # The first loss is below it.
  result = added['run'](config, str(folder / 'bayer'))
  assert result.summary['experiment'] == 'bayer'
  assert result.summary['stop']['rule'] == 'level'
  assert result.images['restored'].shape == (40, 56, 3)
  assert result.summary['lanes'][0]['selected_step'] == 0
  monkeypatch.setattr(operators, 'Grey', added['Grey'], raising=False)
  operator, reference = added['LINEAR']['grey']
  image = images.read_image('photo.png')
  np.testing.assert_allclose(operator(0)(image), reference(image, 0), rtol=1e-5)


# --- Commands.


@pytest.fixture(scope='module')
def parse():
  """(module, *arguments) -> what the module says against them, or ''."""
  with forks.ask('tests.commands') as ask:
    yield ask


def _list_targets():
  makefile = (ROOT / 'Makefile').read_text()
  return set(re.findall(r'^([a-z-]+):.*##', makefile, flags=re.M))


def _list_extras():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  return set(setup['options.extras_require'])


def find_fault(words, parse):
  """Returns what is wrong with a command, '' where nothing is.

  Args:
    words: of the command.
    parse: the fixture.
  """
  program, *rest = words
  if program.startswith('python') or program.endswith('/python'):
    return _find_fault_of_python(rest, parse)
  if program == 'make':
    targets = [word for word in rest if '=' not in word]
    unknown = set(targets) - _list_targets()
    return f'no target {unknown}' if unknown else ''
  if program == 'bash':
    return '' if (ROOT / rest[0]).is_file() else f'no file {rest[0]}'
  extras = re.findall(r'(?:\.|dipjax)\[([a-z,]+)\]', ' '.join(rest))
  unknown = set(','.join(extras).split(',')) - _list_extras() - {''}
  return f'no extra {unknown}' if unknown else ''


def _find_fault_of_python(rest, parse):
  if rest[0] == '-c':
    try:
      compile(rest[1], 'a page', 'exec')
    except SyntaxError as error:
      return str(error)
    return ''
  if rest[:2] == ['-m', 'pytest']:
    files = [word for word in rest[2:] if not word.startswith('-')]
    lost = [file for file in files if not (ROOT / file).exists()]
    return f'no file {lost}' if lost else ''
  if rest[:2] == ['-m', 'venv']:
    return ''
  if rest[0] == '-m' and rest[1].split('.')[0] in ('experiments', 'benchmarks'):
    return parse(*rest[1:])
  return f'nothing here knows {rest}'


@pytest.mark.parametrize('page', COMMANDS, ids=_name)
def test_the_commands_of_a_page_can_be_typed(page, parse):
  faults = {}
  for words in _find_commands(page):
    fault = find_fault(words, parse)
    if fault:
      faults[shlex.join(words)] = fault
  assert not faults


@pytest.mark.parametrize('name', RUN)
def test_the_commands_of_a_page_run(name, folder, run_experiment):
  ran = 0
  for words in _find_commands(ROOT / name):
    if words[1] != '-m':
      continue
    experiment = words[2].removeprefix('experiments.')
    paths = [str(folder / w) if (folder / w).exists() else w for w in words[3:]]
    paths = [
      w.replace('--workdir=', f'--workdir={folder}/') if 'workdir' in w else w
      for w in paths
    ]
    status, said = run_experiment(experiment, *paths, *RUN[name])
    assert status == 0, said
    ran += 1
  assert ran


# --- The checks themselves.


@pytest.mark.parametrize(
  'command,fault',
  [
    ('python -m experiments.denoise a.png --config.fit.steps=3', ''),
    ('python -m experiments.denoise --config=configs/req2.py:fast,quick', ''),
    ('python -m experiments.denoise a.png --config.fit.step=3', 'fit.step'),
    ('python -m experiments.denoise --config=req2:faster', 'faster'),
    ('python -m experiments.denoise', 'name a picture'),
    ('python -m benchmarks.noise --pictures coins', ''),
    ('python -m benchmarks.noise --picture-names coins', '--picture-names'),
    ('python -m benchmarks.nothing', 'nothing'),
    ('python -m benchmarks.hlo', 'exit status 1'),
    ('python -m something', 'knows'),
    ("python -c 'import'", 'invalid syntax'),
    ('make test', ''),
    ('make tests', 'tests'),
    ("pip install -e '.[docs]'", ''),
    ("pip install 'dipjax[dogs]'", 'dogs'),
    ('bash .ci/ran', '.ci/ran'),
  ],
)
def test_faults_of_commands_are_found(command, fault, parse):
  found = find_fault(shlex.split(command), parse)
  assert fault in found and bool(fault) == bool(found)


def test_commands_and_blocks_are_found(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text(
    '`make a`, `b`\n\n    X=1 python -m experiments.c \\\n      d &\n'
    '    printed\n\n```python\ne = 1\n```\n\n```bash\nmake f # g\n```\n'
  )
  assert sorted(_find_commands(page)) == [
    ['make', 'a'],
    ['make', 'f'],
    ['python', '-m', 'experiments.c', 'd'],
  ]
  assert ('python', 'e = 1\n', '`make a`, `b`') in _read_blocks(page)
