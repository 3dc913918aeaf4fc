"""Pictures that the command line names: read, restored, written beside."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import noise
from configs import req2
from experiments import denoise
from experiments.lib import cli, images, output

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAST = ('--config=req2:smoke,network=pixels', '--config.fit.steps=20')


@pytest.fixture
def photo(tmp_path) -> pathlib.Path:
  """A noisy file of 16 bits with a colour profile."""
  rng = np.random.default_rng(0)
  levels = 30000 + 2000 * rng.standard_normal((20, 28))
  path = tmp_path / 'photo.png'
  Image.fromarray(levels.astype(np.uint16)).save(path, icc_profile=b'profile')
  return path


def _run(run_experiment, name, *arguments):
  status, said = run_experiment(name, *map(str, arguments))
  assert 'Traceback' not in said
  return status, said


def test_a_picture_alone_is_restored_beside_itself(
  run_experiment, photo, tmp_path
):
  workdir = f'--workdir={tmp_path}/run'
  status, said = _run(run_experiment, 'denoise', photo, *FAST, workdir)
  assert status == 0, said
  with Image.open(tmp_path / 'photo_restored.png') as file:
    assert file.mode == 'I;16' and file.size == (28, 20)
    assert file.info['icc_profile'] == b'profile'
  result = json.loads((tmp_path / 'run' / 'result.json').read_text())
  assert result['output'] == str(tmp_path / 'photo_restored.png')
  assert {'restored.png', 'residual.png'} <= {*result['files']}
  # A second run leaves the first one's file as it is.
  again = f'--workdir={tmp_path}/again'
  assert _run(run_experiment, 'denoise', photo, *FAST, again)[0] == 0
  assert (tmp_path / 'photo_restored_2.png').exists()


def test_a_bad_picture_stops_no_other(run_experiment, photo, tmp_path):
  bad = tmp_path / 'bad.png'
  bad.write_bytes(b'no picture')
  workdir = f'--workdir={tmp_path}/runs'
  files = (bad, photo, photo)
  status, said = _run(run_experiment, 'denoise', *files, *FAST, workdir)
  assert status == 2
  assert 'bad.png' in said and '1 of 3 pictures refused' in said
  assert sorted(os.listdir(tmp_path / 'runs')) == ['photo', 'photo_2']
  assert (tmp_path / 'photo_restored_2.png').exists()


@pytest.mark.parametrize(
  'arguments, said',
  [
    (('a.png', 'b.png', '--output=c.png'), '--output names one file'),
    (('a.png', '--config=req2:nothing'), "unknown variant 'nothing'"),
    (('--config=nowhere.py', 'a.png'), 'nowhere.py'),
    (('a.png', '--config.fit.step=3'), 'fit.steps'),
    (('a.png', '--config.data.clip=False'), 'nothing reads it'),
    (('absent.png',), 'absent.png'),
    ((), 'name a picture'),
  ],
)
def test_what_cannot_be_meant_is_one_line(run_experiment, arguments, said):
  status, error = _run(run_experiment, 'denoise', *arguments)
  assert status == 2
  assert said in error and error.count('\n') == 1


def test_a_picture_by_flag_is_the_same(run_experiment, photo, tmp_path):
  arguments = (f'--config.data.image={photo}', '--config.data.sigma=0')
  arguments += (f'--workdir={tmp_path}/run', f'--output={tmp_path}/mine.tif')
  assert _run(run_experiment, 'denoise', *FAST, *arguments)[0] == 0
  with Image.open(tmp_path / 'mine.tif') as file:
    assert file.mode == 'I;16'
  assert not (tmp_path / 'photo_restored.png').exists()


@pytest.mark.parametrize(
  'name, flag, config, written',
  [
    ('inpaint', '--mask', 'inpaint:smoke,network=pixels', (28, 20)),
    ('deblur', '--kernel', 'deblur:smoke,file,network=pixels', (28, 20)),
    ('flash', '--flash', 'flash:smoke', (28, 20)),
    ('super_resolution', '', 'req3:smoke,network=pixels', (112, 80)),
  ],
)
def test_other_experiments_take_a_picture(
  run_experiment, photo, tmp_path, name, flag, config, written
):
  other = np.full((20, 28) if flag != '--kernel' else (3, 3), 255, np.uint8)
  if flag == '--mask':
    other[5:9, 5:9] = 0
  Image.fromarray(other).save(tmp_path / 'other.png')
  arguments = (f'{flag}={tmp_path}/other.png',) if flag else ()
  arguments += (f'--config={config}', '--config.fit.steps=20')
  arguments += (f'--workdir={tmp_path}/run',)
  status, said = _run(run_experiment, name, photo, *arguments)
  assert status == 0, said
  with Image.open(tmp_path / 'photo_restored.png') as file:
    assert file.mode == 'I;16' and file.size == written


def test_inpainting_asks_for_a_mask(run_experiment, photo, tmp_path):
  arguments = ('--config=inpaint:smoke', f'--workdir={tmp_path}/run')
  status, said = _run(run_experiment, 'inpaint', photo, *arguments)
  assert status == 2 and 'name a --mask=FILE' in said
  assert not (tmp_path / 'run').exists()


def test_a_strength_of_0_gives_the_picture_back(photo, tmp_path, capsys):
  config = req2.get_config('smoke,network=pixels')
  config.data.update(image=str(photo), crop=(), sigma=0.0)
  config.fit.update(steps=30, strength=0.0)
  config.record.every = 10
  denoise.run(config, str(tmp_path / 'run'))
  said = capsys.readouterr().out
  assert re.search(r'^at most \d+ seconds for 30 steps$', said, re.MULTILINE)
  after = np.asarray(Image.open(tmp_path / 'photo_restored.png'))
  np.testing.assert_array_equal(after, np.asarray(Image.open(photo)))


def test_dim_pictures_keep_their_values(tmp_path):
  rng = np.random.default_rng(0)
  counts = rng.poisson(100 + 400 * rng.random((24, 24))).astype(np.uint16)
  Image.fromarray(counts).save(tmp_path / 'dim.png')
  config = req2.get_config('smoke,network=pixels')
  config.data.update(image=str(tmp_path / 'dim.png'), crop=(), sigma=0.0)
  config.fit.update(steps=30, strength=0.0)
  config.record.every = 10
  result = denoise.run(config, str(tmp_path / 'run'))
  assert result.images['measurement'].max() == 1
  with Image.open(tmp_path / 'dim_restored.png') as file:
    np.testing.assert_array_equal(np.asarray(file), counts)


def test_masked_pixels_stay_as_they_were(tmp_path):
  image = np.random.default_rng(0).random((16, 18, 1)).astype(np.float32)
  image[3, 4], image[9:12, :] = np.nan, np.nan
  np.save(tmp_path / 'a.npy', image)
  config = req2.get_config('smoke,network=pixels')
  config.data.update(image=str(tmp_path / 'a.npy'), crop=(), sigma=0.0)
  config.fit.steps = 20
  denoise.run(config, str(tmp_path / 'run'))
  written = np.load(tmp_path / 'a_restored.npy')
  np.testing.assert_array_equal(np.isnan(written), np.isnan(image))


def test_fill_takes_the_nearest_valid_pixel():
  image = np.arange(12.0).reshape(3, 4)[..., None]
  mask = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
  expected = [[0, 0, 3, 3], [0, 0, 3, 3], [9, 9, 9, 9]]
  np.testing.assert_array_equal(images.fill(image, mask)[..., 0], expected)
  assert images.fill(image, None) is image


def test_nobody_can_write_beside_the_picture(photo, tmp_path, monkeypatch):
  monkeypatch.setattr(output.os, 'access', lambda *unused: False)
  config = req2.get_config('smoke,network=pixels')
  config.data.update(image=str(photo), crop=(), sigma=0.0)
  config.fit.steps = 20
  denoise.run(config, str(tmp_path / 'run'))
  assert (tmp_path / 'run' / 'photo_restored.png').exists()


def test_importing_an_experiment_defines_no_flag():
  code = (
    'from absl import flags; before = set(flags.FLAGS); '
    'from experiments import denoise, inpaint, staged; '
    "assert not {'config', 'workdir'} & (set(flags.FLAGS) - before)"
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_help_has_examples_first():
  command = [sys.executable, '-m', 'experiments.denoise', '--help']
  told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert told.returncode == 0
  assert told.stdout.startswith('python -m experiments.denoise photo.jpg\n')
  assert 'fit.strength' in told.stdout and '--output' in told.stdout


@pytest.mark.parametrize('name', ['req2', 'req2.py', 'configs/req2.py'])
def test_a_config_is_found_by_its_name(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  found = cli._find_config(f'{name}:quick')
  assert found == f'{ROOT}/configs/req2.py:quick'
  assert cli._find_config('absent:quick') == 'absent:quick'


def _add_noise(size, kind):
  if 'texture' in kind:
    pytest.importorskip('skimage')
    image = noise.read_clean('gravel', size[0])
    return np.float32(image if kind == 'texture' else 0.5 + image / 20)
  rng = np.random.default_rng(0)
  image = np.full((*size, 3), 0.5, np.float32)
  image += 0.1 * rng.standard_normal(image.shape)
  if kind == 'impulses':
    hit = rng.random(image.shape) < 0.1
    image[hit] = rng.integers(0, 2, hit.sum())
  return np.float32(np.clip(image, 0, 1))


@pytest.mark.parametrize(
  'size, kind, method, rule, window',
  [
    ((96, 80), 'gaussian', 'recorrupted', 'emv', 0),
    ((520, 512), 'gaussian', 'recorrupted', 'last', 128),
    ((96, 96), 'impulses', 'absolute', 'emv', 0),
    # Too small to be sure of the noise.
    ((32, 32), 'gaussian', 'squared', 'cross_validation', 0),
    # It may be noise; where there is little, that does no harm, and a fit of
    # the whole of a large picture takes hours.
    ((256, 256), 'texture', 'squared', 'cross_validation', 0),
    ((256, 256), 'faint texture', 'recorrupted', 'emv', 0),
    ((512, 512), 'texture', 'recorrupted', 'last', 128),
  ],
)
def test_auto_chooses_by_the_picture_and_keeps_what_the_user_set(
  size, kind, method, rule, window, capsys
):
  config = req2.get_config('auto')
  config.fit.steps, config.data.sigma = 77, 0.0
  chosen, why = denoise.choose(config, _add_noise(size, kind))
  assert chosen.method.name == method and chosen.stop.name == rule
  assert chosen.fit.get('window', 0) == window
  assert chosen.fit.steps == 77 and chosen.data.sigma == 0
  assert 'auto' not in chosen
  assert 'because' in why and why in capsys.readouterr().out


def test_a_field_that_the_chosen_config_does_not_read_is_refused():
  config = req2.get_config('auto')
  config.method.ratio = 2.0
  with pytest.raises(ValueError, match='no field method.ratio'):
    denoise.choose(config, _add_noise((96, 96), 'impulses'))


def test_a_file_that_could_not_be_written_is_not_named(
  photo, tmp_path, monkeypatch, capsys
):
  def refuse(*unused):
    raise OSError(28, 'No space left on device', 'photo_restored.png')

  monkeypatch.setattr(output.writing, 'write', refuse)
  config = req2.get_config('smoke,network=pixels')
  config.data.update(image=str(photo), crop=(), sigma=0.0)
  config.fit.steps = 20
  result = denoise.run(config, str(tmp_path / 'run'))
  assert 'output' not in result.summary
  assert 'No space left on device' in capsys.readouterr().out
  assert (tmp_path / 'run' / 'restored.png').exists()
