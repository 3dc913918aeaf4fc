"""The notebook runs from top to bottom, and installs what the page says."""

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from benchmarks import notebook, targets
from dipjax.conv import choose
from experiments.lib import images

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / notebook.NOTEBOOK
TINY = {'tiny': True}


@pytest.fixture(scope='module')
def book():
  return json.loads(NOTEBOOK.read_text())


@pytest.fixture(scope='module')
def cells():
  return notebook.read_cells(NOTEBOOK)


@pytest.fixture(scope='module')
def made(cells, tmp_path_factory):
  """All names after a run of all cells with the sample."""
  return _run(cells, TINY, tmp_path_factory.mktemp('sample'))


def _run(cells, parameters, folder):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    return notebook.run(cells, parameters, pip=lambda line: None)


def test_outputs_are_stripped(book):
  code = [cell for cell in book['cells'] if cell['cell_type'] == 'code']
  assert all(cell['outputs'] == [] for cell in code)
  assert all(cell['execution_count'] is None for cell in code)
  assert set(book['metadata']) == {'colab', 'kernelspec', 'language_info'}


def test_each_cell_has_an_id_and_the_file_is_as_it_is_saved(book):
  ids = [cell['id'] for cell in book['cells']]
  assert len(set(ids)) == len(ids)
  saved = json.dumps(book, indent=1, ensure_ascii=False)
  assert NOTEBOOK.read_text() == f'{saved}\n'


def test_every_page_that_it_names_exists(book):
  text = ''.join(line for cell in book['cells'] for line in cell['source'])
  pages = re.findall(r'`(docs/[\w/]+\.md)`', text)
  assert pages and all((ROOT / page).is_file() for page in pages)


def test_it_installs_what_the_page_of_devices_says(cells):
  """The page has a second line for newer drivers."""
  page = (ROOT / 'docs' / 'devices.md').read_text()
  rows = re.findall(r'^\| (NVIDIA GPU|TPU|CPU)\b.*?\| (`pip.*) \|$', page, re.M)
  said = [(name.split()[-1].lower(), _find_pip(text)) for name, text in rows]
  assert {name for name, _ in said} == {'cpu', 'gpu', 'tpu'}
  cells = [c for c in cells if c.is_parameters or '%pip' in c.source]
  for device in ('cpu', 'gpu', 'tpu'):
    installed = []
    chosen = {'device': device, 'picture': 'photo.jpg'}
    notebook.run(cells, chosen, pip=installed.append)
    assert (device, installed) in said


def _find_pip(text):
  return re.findall(r'`pip (install [^`]+)`', text)


def test_the_sample_needs_an_extra_that_exists(cells):
  installed = []
  cells = [c for c in cells if c.is_parameters or '%pip' in c.source]
  notebook.run(cells, {'device': ''}, pip=installed.append)
  assert installed == ["install 'dipjax[samples]'"]
  assert '\nsamples =\n' in (ROOT / 'setup.cfg').read_text()


def test_all_cells_run_in_order(made):
  size = (32, 32, 3)
  assert made['result'].images.shape == (4, *size)
  assert made['restored'].shape == made['deviation'].shape == size
  assert made['small'].shape == (8, 8, 3)
  assert made['large'].image.shape == made['coloured'].image.shape == size
  assert len(made['images']) == 8


def test_four_seeds_are_the_first_of_eight(made):
  np.testing.assert_array_equal(made['result'].images, made['images'][:4])


def _find_until(cells, name):
  names = [cell.name for cell in cells]
  return cells[: names.index(name) + 1]


def test_a_photograph_of_ones_own_is_cut_and_saved(cells, made, tmp_path):
  path = tmp_path / 'photo.png'
  image = np.random.RandomState(0).rand(36, 41, 3)
  images.write_image(str(path), image)
  cells = _find_until(cells, 'save')
  own = _run(cells, TINY | {'picture': str(path)}, tmp_path)
  expected = np.asarray(Image.open(path))[2:34, 4:36] / 255
  np.testing.assert_allclose(own['noisy'], expected, atol=1e-6)
  assert own['clean'] is None and made['clean'] is not None
  saved = np.asarray(Image.open(tmp_path / 'restored.png')) / 255
  np.testing.assert_allclose(saved, own['restored'], atol=0.51 / 255)


def test_a_photograph_is_turned_by_its_exif(cells, tmp_path):
  path = tmp_path / 'photo.jpg'
  photo = Image.fromarray(np.zeros((12, 22), np.uint8))
  exif = photo.getexif()
  exif[274] = 6
  photo.save(path, exif=exif)
  cells = _find_until(cells, 'load')
  own = _run(cells, TINY | {'picture': str(path)}, tmp_path)
  assert own['photo'].shape == (20, 12, 3)


# --- The runner.


def test_a_parameter_that_is_none_is_refused(cells):
  with pytest.raises(ValueError, match='sides is no parameter: device, pict'):
    notebook.run(cells, {'sides': 3}, pip=lambda line: None)


def test_what_is_no_picture_is_refused():
  with pytest.raises(ValueError, match='list is no picture'):
    notebook.display([1])


def test_parameters_are_values_or_text():
  given = ['side=64', 'tiny=True', 'picture=a=b.png', 'device=']
  expected = {'side': 64, 'tiny': True, 'picture': 'a=b.png', 'device': ''}
  assert notebook.read_parameters(given) == expected


def test_the_seconds_of_cells_are_printed(tmp_path, capsys):
  cell = lambda name, source: {
    'cell_type': 'code',
    'id': name,
    'metadata': {'tags': [name]},
    'source': [source],
  }
  slow = 'import time\ntime.sleep(wait)\n%pip install x'
  cells = [cell('parameters', 'wait = 0'), cell('slow', slow)]
  path = tmp_path / 'book.ipynb'
  path.write_text(json.dumps({'cells': cells}))
  notebook.main([str(path), '--set', 'wait=0.6'])
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == 'not run: %pip install x'
  assert [line.split()[0] for line in lines[-2:]] == ['slow', 'all']
  assert float(lines[-1].split()[1]) >= 0.6


# --- Its programs for other devices.


def test_programs_are_those_of_the_device(cells):
  chosen = {'device': 'tpu', 'side': 32}
  found = notebook.find_programs(cells, chosen, 'tpu')
  assert [(p.cell, p.lanes) for p in found] == [
    ('restore', 4), ('enlarge', 1), ('operator', 1), ('sweep', 4)
  ]  # fmt: skip
  assert {p.ready.recipe.precision for p in found} == {'bfloat16'}
  here = notebook.find_programs(cells, TINY, 'cpu')
  assert {p.ready.task.size for p in here} == {(32, 32, 3)}
  assert {p.ready.recipe.precision for p in here} == {'float32'}


def test_programs_are_traced_for_the_device_once():
  arguments = ['--target', 'v5e', '--notebook', str(NOTEBOOK), '--set']
  parser = targets.make_parser()
  works = targets.list_notebook(parser.parse_args([*arguments, 'tiny=True']))
  assert [work.cell['notebook'] for work in works] == [
    'restore', 'enlarge', 'operator'
  ]  # fmt: skip
  assert [work.inputs for work in works] == [3, 32, 32]
  with choose.aim(choose.Target('tpu')):
    lowered = works[1].trace(None).lower(lowering_platforms=('tpu',))
  assert 'bf16' in lowered.as_text()
