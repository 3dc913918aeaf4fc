"""Runs a notebook without Jupyter, its cells in order, and times each cell.

    python -m benchmarks.notebook --set device=cpu --set tiny=True

`--set` sets what the cell tagged `parameters` sets. Nothing is installed: lines
of `%pip` are listed. Pictures that a cell displays are made, and not shown.
`benchmarks.targets --notebook` compiles the programs of a notebook's fits.
"""

import argparse
import ast
import contextlib
import io
import json
import pathlib
import re
import runpy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import dipjax
from dipjax import api
from dipjax.engine import loop
from experiments.lib import recorder

NOTEBOOK = pathlib.Path('notebooks', 'dipjax_in_colab.ipynb')
_PIP = re.compile(r'^( *)%pip (.*)$', re.MULTILINE)


class Cell(NamedTuple):
  """A cell with code."""

  name: str
  source: str
  is_parameters: bool


def read_cells(path: str | pathlib.Path) -> list[Cell]:
  """Returns the cells of a notebook that have code, in order."""
  return [
    Cell(
      cell['id'],
      ''.join(cell['source']),
      'parameters' in cell['metadata'].get('tags', ()),
    )
    for cell in json.loads(pathlib.Path(path).read_text())['cells']
    if cell['cell_type'] == 'code'
  ]


def run(
  cells: Sequence[Cell],
  parameters: Mapping[str, Any],
  *,
  pip: Callable[[str], None],
  begin: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
  """Runs cells as one script; returns all names that they have made.

  Args:
    cells: of `read_cells`.
    parameters: set after the cell of parameters, as papermill does.
    pip: called with what stands behind `%pip`.
    begin: called with the name of each cell before it runs.

  Raises:
    ValueError: a parameter that the cell of parameters does not set.
  """
  parts = []
  for cell in cells:
    call = lambda match: f'{match[1]}pip({match[2]!r})'
    parts += [f'begin({cell.name!r})', _PIP.sub(call, cell.source)]
    if cell.is_parameters:
      known = _find_assigned(cell.source)
      for name, value in parameters.items():
        if name not in known:
          raise ValueError(f'{name} is no parameter: {", ".join(known)} are')
        parts.append(f'{name} = {value!r}')
  with tempfile.TemporaryDirectory() as folder:
    script = pathlib.Path(folder, 'notebook.py')
    script.write_text('\n'.join(parts) + '\n')
    given = {'begin': begin, 'display': display, 'pip': pip}
    return runpy.run_path(str(script), given)


def _find_assigned(source):
  """Returns the names that a cell of parameters sets."""
  return [
    target.id
    for node in ast.parse(source).body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name)
  ]


def display(shown: Any) -> None:
  """Makes the picture that a notebook would show.

  Raises:
    ValueError: something that is no picture.
  """
  make = getattr(shown, '_repr_png_', None)
  if make is None or not make():
    raise ValueError(f'{type(shown).__name__} is no picture')


class Program(NamedTuple):
  """A fit of a notebook, checked and not begun."""

  cell: str
  ready: api.Ready
  lanes: int


def find_programs(
  cells: Sequence[Cell], parameters: Mapping[str, Any], platform: str
) -> list[Program]:
  """Returns the fits of a notebook, of which none is computed.

  The cells run, with grey pictures in place of what a fit would give; what
  they print and write is dropped.

  Args:
    cells, parameters: see `run`.
    platform: the kind of device that the notebook is to find.
  """
  programs, names = [], ['']

  def restore(measurement, operator=None, recipe=api.DEFAULT, **given):
    lanes = len(given.pop('seeds', (0,)))
    given.pop('watch', None)
    ready = api.prepare(measurement, operator, recipe, **given)
    programs.append(Program(names[-1], ready, lanes))
    return _pretend(ready.task.size, lanes)

  def restore_many(cases, recipe=api.DEFAULT, *, lanes=4) -> Iterator[Any]:
    for index, case in enumerate(cases):
      given = case._asdict()
      given['recipe'] = given['recipe'] or recipe
      del given['seed']
      ready = api.prepare(**given)
      if not index:
        programs.append(Program(names[-1], ready, lanes))
      yield index, _pretend(ready.task.size, 1), None

  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.chdir(folder),
    contextlib.redirect_stdout(io.StringIO()),
    mock.patch.object(dipjax, 'restore', restore),
    mock.patch.object(dipjax, 'restore_many', restore_many),
    mock.patch('jax.default_backend', lambda: platform),
  ):
    run(cells, parameters, pip=lambda line: None, begin=names.append)
  return programs


def _pretend(size, lanes):
  """Returns a restoration of grey pictures."""
  images = np.full((lanes, *size), 0.5, np.float32)
  count = np.zeros(lanes, np.int32)
  nothing: Any = None
  return loop.Restoration(
    image=images[0],
    deviation=0 * images[0],
    images=images,
    selected=count,
    stopped=count,
    rule='',
    diverged=count > 0,
    monitors={},
    trace=nothing,
    params={},
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Runs all cells and prints the seconds of each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('notebook', nargs='?', default=NOTEBOOK)
  parser.add_argument(
    '--set', nargs='+', default=[], metavar='NAME=VALUE', dest='given'
  )
  arguments = parser.parse_args(argv)
  marks: list[tuple[str, float]] = []
  begin = lambda name: marks.append((name, time.perf_counter()))
  try:
    run(
      read_cells(arguments.notebook),
      read_parameters(arguments.given),
      pip=lambda line: print(f'not run: %pip {line}'),
      begin=begin,
    )
  except (OSError, ValueError) as error:
    parser.error(str(error))
  begin('all')
  print(f'\n{recorder.describe_device()}, {recorder.describe_versions()}')
  for (name, start), (_, end) in zip(marks, marks[1:]):
    if end - start >= 0.5:
      print(f'{name:14s} {end - start:7.1f} s')
  print(f'{"all":14s} {marks[-1][1] - marks[0][1]:7.1f} s')


def read_parameters(given: Sequence[str]) -> dict[str, Any]:
  """Returns the values of NAME=VALUE; what is no Python value is text."""
  values = {}
  for pair in given:
    name, _, text = pair.partition('=')
    try:
      values[name] = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      values[name] = text
  return values


if __name__ == '__main__':
  main()
