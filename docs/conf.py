"""How Sphinx builds the pages: `make docs`."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import dipjax  # noqa: E402

project = 'dipjax'
author = 'the authors of dipjax'
version = release = dipjax.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
# GitHub makes the same anchors of headings.
myst_heading_anchors = 4
# Most blocks are commands; those of Python say so.
highlight_language = 'text'

# Docstrings have shapes and units, which the types have not.
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
default_role = 'code'
# The types of what others made have no page here.
nitpick_ignore_regex = [('py:.*', r'(collections|flax|jax|numpy|optax)\..*')]
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = 'furo'
html_title = f'dipjax {version}'
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False


def setup(app):
  """Mends what Python says where no docstring does."""
  app.connect('autodoc-process-docstring', _drop_alias)
  app.connect('autodoc-process-signature', _shorten_defaults)


def _drop_alias(app, what, name, found, options, lines):
  """Leaves a field of a named tuple, without a comment `#:`, its name."""
  if lines and lines[0].startswith('Alias for field number'):
    lines.clear()


def _shorten_defaults(app, what, name, found, options, signature, returned):
  """Writes ... for defaults that are functions or mappings."""
  written = r'=(\(<.*?>\)|<.*?>|FrozenDict\(.*?\}\))(?=[,)])'
  if signature:
    return re.sub(written, '=...', signature, flags=re.S), returned
  return None
