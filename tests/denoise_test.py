"""The experiment as a user runs it: what it leaves, and what it refuses."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from benchmarks import noise as kinds
from configs import req2
from dipjax import noise
from experiments import denoise
from experiments.lib import build, images, report

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = {
  'animation.webp',
  'checkpoints',
  'comparison.png',
  'residual.png',
  'config.json',
  'curves.png',
  'metrics.jsonl',
  'report.html',
  'restored.png',
  'result.json',
}


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  """A file with a small picture, 40 wide and 36 high."""
  return write_photograph(36, 40, (5, 4, 3))


def _make_config(image, variant='smoke', **data):
  """The smoke config for another picture."""
  config = req2.get_config(variant)
  config.data.update(image=image, crop=(), **data)
  return config


def _read(workdir):
  result = json.loads((workdir / 'result.json').read_text())
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return result, [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def finished(photograph, tmp_path_factory):
  """A run of two lanes with noise added: its folder and what it returned."""
  workdir = tmp_path_factory.mktemp('run') / 'new' / 'folder'
  config = _make_config(photograph, 'smoke,network=dncnn')
  config.lanes, config.seed = 2, 5
  config.fit.steps = 700  # The rule stops both.
  config.record.tensorboard = True
  return workdir, denoise.run(config, str(workdir))


def test_a_run_leaves_its_files_and_no_others(finished):
  workdir, returned = finished
  more = {'deviation.png', 'restored_seed_5.png', 'restored_seed_6.png'}
  assert set(os.listdir(workdir)) == FILES | more | {'tensorboard'}
  result, _ = _read(workdir)
  assert result == returned.summary


def test_the_page_shows_every_picture(finished):
  text = (finished[0] / 'report.html').read_text()
  titles = {'measurement', 'restored', 'clean', 'restored - clean, x4'}
  titles |= {'what was removed, x4', 'where it may be wrong'}
  titles |= {'seed 5', 'seed 6', 'the fit after some steps'}
  for title in titles:
    assert f'alt="{title}"' in text, title
  assert 'chosen by emv' in text and 'data-state="finished"' in text


def test_a_run_returns_the_arrays_behind_its_pictures(finished):
  workdir, returned = finished
  names = {'measurement', 'restored', 'residual', 'deviation'}
  names |= {'restored_seed_5', 'restored_seed_6'}
  assert set(returned.images) == names
  for name in ('restored', 'restored_seed_5'):
    image = returned.images[name]
    assert image.dtype == np.float32 and image.shape == (36, 40, 3)
    shown = images.read_image(str(workdir / f'{name}.png'))
    np.testing.assert_allclose(image, shown, atol=0.5001 / 255)
  # Finer than the 256 levels of a file.
  assert len(np.unique(returned.images['restored'])) > 1000
  assert returned.restoration.rule == 'emv'


def test_result_has_the_promised_keys(finished):
  result, _ = _read(finished[0])
  assert result['experiment'] == 'denoise'
  assert result['device'] == 'cpu'
  assert {'jax', 'jaxlib', 'flax', 'python'} <= result['versions'].keys()
  assert result['seconds']['compile'] > 0 and result['seconds']['fit'] > 0
  assert -1 <= result['restored']['deviation_correlation'] <= 1
  np.testing.assert_allclose(
    result['seconds_per_step'], result['seconds']['fit'] / result['steps']
  )
  assert result['stop']['rule'] == 'emv'
  assert result['stop']['gap_to_oracle_db'] >= 0
  assert [lane['seed'] for lane in result['lanes']] == [5, 6]
  for lane in result['lanes']:
    assert lane['selected_step'] < lane['stopped_at'] <= result['steps']
    assert lane['psnr'] <= lane['oracle']['psnr']
    assert -1 <= lane['ssim'] <= 1


def test_scores_are_those_of_the_files(finished, photograph):
  workdir, result = finished[0], finished[1].summary
  clean = images.read_image(photograph)
  restored = images.read_image(str(workdir / 'restored.png'))
  psnr = -10 * np.log10(np.mean(np.square(restored - clean)))
  # A file has 256 levels, the score is of the image before.
  np.testing.assert_allclose(result['restored']['psnr'], psnr, atol=0.02)
  lanes = [
    images.read_image(str(workdir / f'restored_seed_{seed}.png'))
    for seed in (5, 6)
  ]
  np.testing.assert_allclose(restored, np.mean(lanes, axis=0), atol=1 / 255)


def test_metrics_follow_the_fit(finished):
  result, records = _read(finished[0])
  for lane, summary in enumerate(result['lanes']):
    own = [record for record in records if record['lane'] == lane]
    steps = [record['step'] for record in own]
    assert steps == sorted(set(steps))
    assert steps[-1] == summary['stopped_at'] - 1
    assert own[-1]['loss'] < own[0]['loss']
    assert {'psnr', 'psnr_output', 'psnr_measurement', 'seed'} <= own[0].keys()


def test_a_picture_without_a_clean_one(photograph, tmp_path):
  config = _make_config(photograph, 'smoke,network=pixels', sigma=0.0)
  result = denoise.run(config, str(tmp_path)).summary
  assert result['measurement'] == {}
  assert result['restored'].keys() == {'psnr_measurement'}
  assert result['stop'] == {'rule': 'emv'}
  assert 'oracle' not in result['lanes'][0]
  assert set(os.listdir(tmp_path)) == FILES
  assert images.read_image(str(tmp_path / 'restored.png')).shape == (36, 40, 3)


def test_the_clean_file_is_compared_with_and_changes_nothing(
  photograph, tmp_path
):
  noisy = tmp_path / 'noisy.png'
  clean = images.read_image(photograph)
  noise = np.random.RandomState(0).normal(scale=0.1, size=clean.shape)
  images.write_image(noisy, clean + noise)
  restored = []
  for name, data in (('with', {'clean': photograph}), ('without', {})):
    workdir = tmp_path / name
    words = 'smoke,network=pixels'
    config = _make_config(str(noisy), words, sigma=0.0, **data)
    result = denoise.run(config, str(workdir)).summary
    assert ('psnr' in result['restored']) == ('clean' in data)
    restored.append(images.read_image(str(workdir / 'restored.png')))
  np.testing.assert_allclose(*restored, atol=1 / 255)


def test_a_rule_or_a_method_gets_the_noise_that_it_needs(photograph):
  noisy = np.random.RandomState(0).normal(0.5, 0.1, (32, 32, 3))

  def prepare(variant, **fit):
    config = _make_config(photograph, variant)
    config.seed = 3
    config.fit.update(fit)
    recipe = build.make_recipe(config, 3)
    return build.prepare_noise(config, recipe, noisy)

  assert prepare('smoke') == (noisy, None, None)
  for words in ('stop=discrepancy', 'method=recorrupted'):
    measurement, found, reference = prepare(f'smoke,{words}')
    assert measurement is noisy and reference is None
    assert found.sigma == pytest.approx(0.1, rel=0.1)
  both = 'smoke,method=recorrupted,stop=pseudo_reference'
  fitted, found, reference = prepare(both, sigma=51.0)
  tau = noise.choose_tau(noisy.size)
  more = 1 + tau**2
  assert found.sigma == pytest.approx(0.2 * more**0.5)
  assert found.constant == pytest.approx(0.04 * more)
  whole = (fitted + tau**2 * reference) / more
  np.testing.assert_allclose(whole, noisy, atol=1e-6)
  assert np.std(fitted - noisy) == pytest.approx(0.2 * tau, rel=0.1)


def test_a_rule_expects_the_noise_that_is_told_or_sure():
  told = build.find_noise(np.zeros((8, 8, 1)), 0.1)
  assert build.expect_noise(np.zeros((8, 8, 1)), told) == told
  noisy = np.random.RandomState(0).normal(0.5, 0.1, (96, 96, 3))
  found = build.find_noise(noisy)
  assert found.error < build.WRONG
  assert build.expect_noise(noisy, found) == found
  # A small picture tells too little, but for the level of white noise.
  found = build.find_noise(noisy[:32, :32])
  assert found.error > build.WRONG
  expected = build.expect_noise(noisy[:32, :32], found)
  assert expected.sigma == pytest.approx(found.sigma)


def test_a_rule_expects_noise_that_neighbours_share_where_texture_hides_it():
  pytest.importorskip('skimage')
  clean = kinds.read_clean('gravel', 128)
  noisy, _, sigma = kinds.add_noise(clean, 'enlarged', 10, seed=0)
  found = build.find_noise(noisy)
  assert found.error > build.WRONG and found.sigma < sigma / 3
  expected = build.expect_noise(noisy, found)
  assert expected.sigma == pytest.approx(sigma, rel=0.35)
  assert expected.neighbours > 0.5 and expected.error == found.error


@pytest.mark.parametrize(
  'method,rule', [('recorrupted', 'emv'), ('stein', 'sure')]
)
def test_a_method_that_knows_the_noise(method, rule, photograph, tmp_path):
  words = f'smoke,network=dncnn,stop={rule},method={method}'
  config = _make_config(photograph, words)
  config.fit.steps = 60
  result = denoise.run(config, str(tmp_path)).summary
  assert result['stop']['rule'] == rule
  assert result['restored']['psnr'] > result['measurement']['psnr']


def test_a_split_measurement_clipped_gradients_and_what_is_said_of_them(
  photograph, tmp_path, capsys
):
  words = 'smoke,network=pixels,stop=pseudo_reference'
  config = _make_config(photograph, words)
  config.fit.steps, config.fit.clip = 40, 1.0
  result = denoise.run(config, str(tmp_path)).summary
  assert result['stop']['rule'] == 'pseudo_reference'
  assert result['restored']['psnr'] > result['measurement']['psnr'] - 10
  (lane,) = result['lanes']
  assert lane['returned_to'] == []
  assert 'returned' not in capsys.readouterr().out
  lane['returned_to'] = [0, 50, 50]
  report.print_summary(str(tmp_path), result)
  said = capsys.readouterr().out.splitlines()[-1]
  assert 'returned to step 0 1 time(s), step 50 2 time(s); its' in said
  assert '8 times smaller' in said


def test_noise_of_which_nothing_is_sure(photograph, tmp_path):
  config = _make_config(photograph, 'smoke,unsure')
  config.fit.steps = 100
  result = denoise.run(config, str(tmp_path)).summary
  assert result['stop']['rule'] == 'cross_validation'
  # No filter followed, and the noise was not learned.
  assert 'unfinished' not in result
  assert result['restored']['psnr'] > result['measurement']['psnr']


def test_what_is_said_of_a_fit_without_steps_or_with_nothing_to_restore(capsys):
  summary = {'measurement': {'psnr': None}, 'restored': {'psnr': 30.0}}
  report.print_summary('run', summary | {'lanes': []})
  assert capsys.readouterr().out.startswith('30.00 dB after; pictures in')
  record = types.SimpleNamespace(
    seconds={'compile': 1.0, 'fit': 2.0}, stop=False
  )
  run = report.describe_run('denoise', {}, 0, record)
  assert run['steps'] == 0 and run['seconds_per_step'] == 2.0


def test_samples_give_their_mean_and_deviation(photograph, tmp_path):
  config = _make_config(photograph, 'smoke,network=pixels,stop=mean')
  config.fit.update(steps=40, optimizer='langevin', learning_rate=0.001)
  config.stop.update(warmup=10, every=5)
  result = denoise.run(config, str(tmp_path)).summary
  assert set(os.listdir(tmp_path)) == FILES | {'posterior_deviation.png'}
  (lane,) = result['lanes']
  assert lane['stopped_at'] == 40 and lane['selected_step'] == 39
  assert np.isfinite(result['restored']['psnr'])
  shown = images.read_image(str(tmp_path / 'posterior_deviation.png'))
  assert shown.max() > 0


def test_the_same_config_runs_again_and_another_is_refused(
  photograph, tmp_path
):
  config = _make_config(photograph, 'smoke,network=pixels')
  config.fit.steps = 3
  denoise.run(config, str(tmp_path))
  denoise.run(config, str(tmp_path))
  config.stop.patience = 7
  before = (tmp_path / 'config.json').read_bytes()
  with pytest.raises(ValueError, match='stop.patience=100, this one has 7'):
    denoise.run(config, str(tmp_path))
  assert (tmp_path / 'config.json').read_bytes() == before


def _write_truncated(path, photograph):
  path.write_bytes(pathlib.Path(photograph).read_bytes()[:200])


def _write_text(path, photograph):
  path.write_text('no image')


def _write_smaller(path, photograph):
  Image.open(photograph).resize((39, 36)).save(path)


SMOKE = '--config=configs/req2.py:smoke'
BAD_INPUT = {
  'missing': (['--config.data.image=/no/such.png'], 'neither a file nor'),
  'no_image': (['--config.data.image={text}'], 'not a known image'),
  'truncated': (['--config.data.image={truncated}'], 'truncated'),
  'empty': (['--config.data.image={empty}'], 'is empty'),
  'folder': (['--config.data.image={folder}'], 'is a folder'),
  'workdir_is_a_file': (['--workdir={text}'], 'workdir'),
  'workdir_in_a_file': (['--workdir={text}/sub'], 'workdir'),
  'workdir_unwritable': (['--workdir=/proc/no/such'], 'workdir'),
  'unknown_field': (['--config.data.nope=1'], "no config field 'data.nope'"),
  'typing_error': (['--config.lane=4'], "field 'lane': nothing reads it with"),
  'nearest_field': (['--config.fit.jiter=0'], 'the nearest is fit.jitter'),
  'old_name_of_the_method': (
    ['--config.fit.error=stein'],
    'fit.error is now method.name: write method=NAME behind the colon',
  ),
  'old_name_of_the_rule': (
    ['--config.stop.rule=wmv'],
    'stop.rule is now stop.name: write stop=NAME behind the colon',
  ),
  'field_that_the_method_does_not_read': (
    [f'{SMOKE},method=recorrupted', '--config.fit.jitter=0.1'],
    "no config field 'fit.jitter': nothing reads it with network=skip",
  ),
  'field_that_the_rule_does_not_read': (
    [f'{SMOKE},stop=mean', '--config.stop.window=5'],
    "no config field 'stop.window'",
  ),
  'sigma_that_nothing_reads': (
    ['--config.fit.sigma=25'],
    "no config field 'fit.sigma'",
  ),
  'unknown_variant': (
    ['--config=configs/req2.py:smok'],
    'perceptual, quality, quick, smoke, unsure, windows, method=NAME',
  ),
  'unknown_config': (['--config=configs/none.py'], 'configs/none.py'),
  'no_config': (['--config='], 'config'),
  'unknown_flag': (['--nope'], 'nope'),
  'stray_word': (['nope'], "'nope' is neither a file nor"),
  'sigma_negative': (['--config.data.sigma=-1'], 'data.sigma must be'),
  'sigma_nan': (['--config.data.sigma=nan'], 'data.sigma must be'),
  'sigma_word': (['--config.data.sigma=much'], 'data.sigma'),
  'clean_and_sigma': (['--config.data.clean={photograph}'], 'leave out'),
  'clean_missing': (
    ['--config.data.sigma=0', '--config.data.clean=/no/such.png'],
    'neither a file nor',
  ),
  'clean_of_another_size': (
    ['--config.data.sigma=0', '--config.data.clean={smaller}'],
    'data.clean is 39x36',
  ),
  'crop_outside': (['--config.data.crop=(0,0,99,99)'], 'crop'),
  'no_lanes': (
    ['--config.lanes=0'],
    'lanes must be a whole number from 1 to 1,000, got 0',
  ),
  'no_steps': (
    ['--config.fit.steps=0'],
    'fit.steps must be a whole number from 1',
  ),
  'record_never': (['--config.record.every=0'], 'record.every'),
  'rule': (
    [f'{SMOKE},stop=never'],
    "unknown stop 'never'; known are emv, wmv",
  ),
  'sigma_of_the_rule': (
    [f'{SMOKE},stop=discrepancy', '--config.fit.sigma=-1'],
    'fit.sigma must be a number from 0 to 1,000, got -1',
  ),
  'rule_of_another_method': (
    [f'{SMOKE},stop=sure'],
    "as that of the method 'stein', not of 'squared'",
  ),
  'penalty_on_steins_risk': (
    [f'{SMOKE},method=stein', '--config.fit.tv=1e-7'],
    "no config field 'fit.tv'",
  ),
  'precision_of_steins_risk': (
    [f'{SMOKE},method=stein', '--config.fit.precision=bfloat16'],
    "the method 'stein' is for the precision float32, got 'bfloat16'",
  ),
  'name_of_a_method_without_its_fields': (
    ['--config.method.name=stein'],
    'choose it by method=stein behind the colon',
  ),
  'code_smaller_than_the_picture': (
    [
      f'{SMOKE},network=decoder,method=recorrupted',
    ],
    'take a network whose code is as large as the image',
  ),
  'clip': (['--config.fit.clip=-1.0'], 'fit.clip must be a number from 0'),
  'network': (
    ['--config.network.name=big'],
    'network.name must be one of skip, unet',
  ),
  'unknown_network': (
    ['--config=configs/req2.py:smoke,network=vit'],
    "unknown network 'vit'; known are skip, unet",
  ),
  'field_of_another_network': (
    ['--config=configs/req2.py:network=unet', '--config.network.skip=(4,4)'],
    "no config field 'network.skip'",
  ),
  'name_without_its_fields': (
    ['--config.network.name=unet'],
    'choose it by network=unet',
  ),
  'residual_of_a_code': (
    [
      '--config=configs/req2.py:smoke,network=dncnn',
      '--config.network.residual=True',
    ],
    'a code with the 3 channels of the image, got 4',
  ),
  'code': (
    ['--config.network.code=zeros'],
    "network.code must be one of noise, meshgrid, got 'zeros'",
  ),
  'levels': (['--config.network.down=(8,8,8)'], 'levels'),
  'activation': (
    ['--config.network.activation=tanh'],
    'activation must be one of leaky_relu',
  ),
  'decay': (
    ['--config.average.decay=1.0'],
    'average.decay must be a number of at least 0 and below 1',
  ),
}


@pytest.mark.parametrize('name', BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
  name, photograph, tmp_path, run_experiment
):
  arguments, message = BAD_INPUT[name]
  files = {key: tmp_path / f'{key}.png' for key in ('text', 'truncated')}
  files |= {'empty': tmp_path / 'empty.png', 'smaller': tmp_path / 'small.png'}
  _write_text(files['text'], photograph)
  _write_truncated(files['truncated'], photograph)
  _write_smaller(files['smaller'], photograph)
  files['empty'].touch()
  files |= {'folder': tmp_path, 'photograph': photograph}
  before = sorted(os.listdir(tmp_path))
  given = [argument.format(**files) for argument in arguments]
  # The config comes before its overrides, and only once.
  configs = [argument for argument in given if argument.startswith('--config=')]
  others = [argument for argument in given if argument not in configs]
  status, said = run_experiment(
    'denoise',
    f'--workdir={tmp_path}/run',
    *(configs or ['--config=configs/req2.py:smoke']),
    *(f'--config.data.image={photograph}', '--config.data.crop=()'),
    *others,
  )
  assert status == 2, said
  assert said.startswith('error: ') and said.count('\n') == 1
  assert message in said
  assert sorted(os.listdir(tmp_path)) == before


def test_the_command_itself_says_what_is_missing():
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.denoise'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  advice = 'name a picture, or a config as --config=configs/req2.py'
  assert done.stderr == f'error: {advice}\n'
