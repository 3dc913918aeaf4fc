"""The pages of documentation: what they link to and what they run exists.

Reads files; imports nothing of dipjax.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SKIPPED = {'build', 'node_modules', 'runs', 'shared', 'site-packages'}


def find_pages():
  hidden = lambda path: any(
    part.startswith('.') or part in SKIPPED
    for part in path.relative_to(ROOT).parts
  )
  return [path for path in sorted(ROOT.rglob('*.md')) if not hidden(path)]


def _drop_code(text):
  """Returns a page without its blocks of code, fenced or indented."""
  text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  return re.sub(r'^    .*$', '', text, flags=re.M)


def _find_links(text):
  """Returns the targets of links and pictures within the checkout."""
  text = re.sub(r'`[^`\n]*`', '', _drop_code(text))
  targets = re.findall(r'\]\(([^)\s]+)\)', text)
  return [t for t in targets if not re.match(r'[a-z]+:', t)]


def _find_anchors(text):
  """Returns the anchors of a page's headings, as they are made of them."""
  headings = re.findall(r'^#+ (.+)$', _drop_code(text), flags=re.M)
  clean = lambda heading: re.sub(r'[^\w\- ]', '', heading.lower())
  return {clean(heading).replace(' ', '-') for heading in headings}


def _find_modules(text):
  """Returns what `python -m` runs of ours."""
  ours = r'-m\s+((?:experiments|benchmarks)(?:\.\w+)+)'
  return re.findall(ours, text)


def _find_configs(text):
  """Returns the files that `--config=` names."""
  return re.findall(r'--config=(configs/\w+\.py)', text)


each_page = pytest.mark.parametrize(
  'page', find_pages(), ids=lambda path: str(path.relative_to(ROOT))
)


@each_page
def test_every_link_leads_somewhere(page):
  for target in _find_links(page.read_text()):
    name, _, anchor = target.partition('#')
    there = page.parent / name if name else page
    assert there.exists(), target
    if anchor:
      assert anchor in _find_anchors(there.read_text()), target


@each_page
def test_every_command_runs_what_exists(page):
  text = page.read_text()
  for module in _find_modules(text):
    path = ROOT.joinpath(*module.split('.'))
    runs = path.with_suffix('.py'), path / '__main__.py'
    assert any(file.is_file() for file in runs), module
  for config in _find_configs(text):
    assert (ROOT / config).is_file(), config


# --- The checks themselves.


def test_links_and_commands_are_found():
  text = (
    '# A title, with `code`\n[a](b.md#c) ![d](e.png) [f](https://g.h)\n'
    'python -m experiments.x \\\n  --config=configs/y.py:quick\n'
    'python -m pytest\n\n    code[i](j.md)\n`k[l](m)`\n```\n# [n](o)\n```\n'
  )
  assert _find_links(text) == ['b.md#c', 'e.png']
  assert _find_anchors(text) == {'a-title-with-code'}
  assert _find_modules(text) == ['experiments.x']
  assert _find_configs(text) == ['configs/y.py']
