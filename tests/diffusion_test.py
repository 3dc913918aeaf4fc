"""The diffusion model: sampling, a toy with two modes, runs that go on."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs import ddpm as ddpm_config
from dipjax import diffusion, schedules
from dipjax.networks import denoiser
from experiments import ddpm
from experiments.lib import images

LEVELS = schedules.cumulate_levels(
  schedules.make_betas('linear', 30, beta_min=1e-3, beta_max=0.4)
)


class Knowing(nn.Module):
  """Knows that every clean value is `value`, in [-1, 1]: a perfect denoiser."""

  value: float

  def __call__(self, noisy, steps):
    level = jnp.asarray(LEVELS, jnp.float32)[steps - 1][:, None, None, None]
    return (noisy - jnp.sqrt(1 - level) * self.value) / jnp.sqrt(level)


@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('count', [1, 7, 30])
def test_a_perfect_network_samples_what_it_knows(eta, count):
  drawn = diffusion.draw_samples(
    Knowing(0.5),
    {},
    LEVELS,
    jax.random.key(0),
    (2, 4, 4, 1),
    steps=diffusion.choose_steps(30, count),
    eta=eta,
  )
  np.testing.assert_allclose(drawn, np.full((2, 4, 4, 1), 0.75), atol=1e-4)


class Gaussian(nn.Module):
  """The exact noise to expect where clean values are N(0, 0.3^2)."""

  def __call__(self, noisy, steps):
    level = jnp.asarray(LEVELS, jnp.float32)[steps - 1][:, None, None, None]
    return jnp.sqrt(level) * noisy / (level + (1 - level) * 0.09)


@pytest.mark.parametrize('eta', [0.0, 1.0])
def test_samples_have_the_spread_of_what_was_learned(eta):
  drawn = diffusion.draw_samples(
    Gaussian(),
    {},
    LEVELS,
    jax.random.key(0),
    (64, 8, 8, 1),
    steps=diffusion.choose_steps(30, 30),
    eta=eta,
  )
  values = 2 * np.asarray(drawn) - 1
  assert abs(values.mean()) < 0.03
  assert values.std() == pytest.approx(_follow_spread(eta), rel=0.05)


def _follow_spread(eta):
  """The same for a variance alone, in float64: near 0.3, the steps are few."""
  variance = 1.0
  for step in range(30, 0, -1):
    level, lower = LEVELS[step - 1], LEVELS[step - 2] if step > 1 else 0.0
    gain = np.sqrt(level) / (level + (1 - level) * 0.09)
    clean = (1 - np.sqrt(level) * gain) / np.sqrt(1 - level)
    beta = 1 - (1 - level) / (1 - lower)
    fresh = eta**2 * lower / level * beta
    factor = np.sqrt(1 - lower) * clean + np.sqrt(lower - fresh) * gain
    variance = factor**2 * variance + fresh
  return np.sqrt(variance)


def test_the_step_of_a_noise_has_its_level():
  levels = schedules.cumulate_levels(schedules.make_betas('linear', 1000))
  steps = [diffusion.find_step(levels, s / 255) for s in (5, 25, 50)]
  assert steps == sorted(steps)
  for sigma, step in zip((5, 25, 50), steps):
    # In [-1, 1] the noise is twice as strong; in units of the image's factor.
    ratio = np.sqrt(levels[step - 1] / (1 - levels[step - 1]))
    assert ratio == pytest.approx(2 * sigma / 255, rel=0.05)


def test_steps_fall_to_one_without_repeats():
  for count in (1, 2, 7, 50):
    steps = diffusion.choose_steps(50, count)
    assert steps[0] == 50 and (count == 1 or steps[-1] == 1)
    assert len(set(steps.tolist())) == count and np.all(np.diff(steps) < 0)


@pytest.mark.parametrize(
  'call,message',
  [
    (lambda: diffusion.choose_steps(10, 0), '1 to 10 steps .* got 0'),
    (lambda: diffusion.choose_steps(10, 11), 'got 11'),
    (lambda: diffusion.find_step(LEVELS, 0.0), 'sigma must be'),
    (lambda: diffusion.find_step(LEVELS, np.nan), 'sigma must be'),
    (
      lambda: diffusion.make_training(Gaussian(), ADAM, LEVELS, batch=0),
      'batch must be >= 1',
    ),
    (
      lambda: diffusion.make_training(
        Gaussian(), ADAM, LEVELS, batch=1, decay=1.0
      ),
      r'decay in \[0, 1\), got 1 and 1.0',
    ),
  ],
)
def test_bad_numbers_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


# --- A toy: every image is all dark, or all light.

ADAM = optax.adam(3e-3)
TOY = np.repeat(np.float32([0.2, 0.8] * 8), 16).reshape(16, 4, 4, 1)


@pytest.fixture(scope='module')
def trained():
  network = denoiser.Denoiser(1, (8, 16))
  training = diffusion.make_training(
    network, ADAM, LEVELS, batch=32, decay=0.98
  )
  data = jnp.asarray(TOY)
  state, losses = diffusion.begin(training, jax.random.key(0), data), []
  for _ in range(500):
    state, loss = diffusion.train(training, state, data)
    losses.append(float(loss))
  return network, state, losses


def test_the_loss_falls(trained):
  _, _, losses = trained
  # Of a network that knows nothing it is the variance of the noise.
  assert losses[0] == pytest.approx(1, abs=0.2)
  assert np.mean(losses[-50:]) < 0.25


@pytest.mark.parametrize('eta,count', [(1.0, 30), (0.0, 10)])
def test_both_modes_are_recovered(trained, eta, count):
  network, state, _ = trained
  drawn = diffusion.draw_samples(
    network,
    state.average,
    LEVELS,
    jax.random.key(1),
    (64, 4, 4, 1),
    steps=diffusion.choose_steps(30, count),
    eta=eta,
  )
  drawn = np.asarray(drawn).reshape(64, 16)
  near = {mode: np.abs(drawn - mode).mean(axis=1) < 0.1 for mode in (0.2, 0.8)}
  assert near[0.2].sum() + near[0.8].sum() > 48
  assert min(near[0.2].sum(), near[0.8].sum()) > 10


def test_noise_is_taken_away(trained):
  network, state, _ = trained
  noise = np.random.RandomState(0).normal(scale=0.2, size=TOY.shape)
  noisy = np.float32(TOY + noise)
  restored = diffusion.denoise(
    network, state.average, LEVELS, jax.random.key(0), noisy, sigma=0.2
  )
  error = np.mean(np.square(restored - TOY))
  assert error < np.mean(np.square(noisy - TOY)) / 4


def test_the_average_is_not_the_parameters(trained):
  _, state, _ = trained
  pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.average))
  assert any(np.abs(a - b).max() > 1e-4 for a, b in pairs)


# --- The experiment.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for i in range(3):
    images.write_image(path / f'{i}.png', rng.random((8, 12, 3)))
  return path


def _make_config(source, **changes):
  config = ddpm_config.get_config('smoke')
  config.data.images = str(source)
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
  """The config of a run that nothing stopped, its folder and its numbers."""
  changes = {'denoise.image': str(folder / '0.png'), 'checkpoint.every': '20'}
  config = _make_config(folder, **changes)
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return config, workdir, ddpm.run(config, str(workdir)).summary


def test_a_run_leaves_samples_and_scores(whole):
  _, workdir, result = whole
  assert json.loads((workdir / 'result.json').read_text()) == result
  assert result['steps'] == 40 and result['loss']['factor'] > 1
  assert result['restored'].keys() == {'psnr'}
  assert {'samples.png', 'comparison.png', 'restored.png', 'metrics.jsonl'} <= (
    set(os.listdir(workdir))
  )
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [9, 19, 29, 39]


def test_a_resumed_run_equals_an_uninterrupted_one(
  whole, tmp_path, monkeypatch
):
  config, workdir, result = whole
  parts = tmp_path / 'parts'
  assert config.checkpoint.every == '20'

  train, calls = diffusion.train, []

  def break_off(*arguments):
    calls.append(0)
    if len(calls) > 27:
      raise KeyboardInterrupt
    return train(*arguments)

  monkeypatch.setattr(diffusion, 'train', break_off)
  with pytest.raises(KeyboardInterrupt):
    ddpm.run(config, str(parts))
  monkeypatch.setattr(diffusion, 'train', train)
  resumed = ddpm.run(config, str(parts)).summary
  assert resumed['loss'] == result['loss']
  assert resumed['steps'] == result['steps']
  assert resumed['restored'] == result['restored']
  for name in ('samples.png', 'restored.png'):
    assert (parts / name).read_bytes() == (workdir / name).read_bytes()
  keys = lambda folder: [
    {key: json.loads(line)[key] for key in ('step', 'loss')}
    for line in (folder / 'metrics.jsonl').read_text().splitlines()
  ]
  assert keys(workdir) == keys(parts)


def _write_bad_sources(folder):
  rng = np.random.default_rng(0)
  for name, sizes in (('one', [(8, 8)]), ('two', [(8, 8), (8, 12)])):
    (folder / name).mkdir()
    for i, size in enumerate(sizes):
      images.write_image(folder / name / f'{i}.png', rng.random((*size, 3)))
  (folder / 'none').mkdir()
  np.savez(folder / 'floats.npz', images=rng.random((4, 8, 8, 3)))
  np.savez(folder / 'other.npz', pictures=np.zeros((4, 8, 8, 3), np.uint8))
  np.savez(folder / 'objects.npz', images=np.array([{}, {}]))
  (folder / 'text.npz').write_text('no array')


@pytest.mark.parametrize(
  'source,message',
  [
    ('one', 'has 1 images: at least 2'),
    ('none', 'has 0 images: at least 2'),
    ('two', "one size: '0.png' is .8, 8, 3., '1.png' is .8, 12, 3."),
    ('floats.npz', 'must be uint8'),
    ('other.npz', 'no npz with an array `images`'),
    ('objects.npz', 'no npz with an array `images`'),
    ('text.npz', 'no npz with an array `images`'),
    ('nothing', "neither a folder, an npz nor 'digits'"),
  ],
)
def test_bad_images_are_refused(source, message, tmp_path):
  _write_bad_sources(tmp_path)
  with pytest.raises(ValueError, match=message):
    ddpm.run(_make_config(tmp_path / source), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'schedule.name': 'sigmoid'}, "schedule.name must be .*'sigmoid'"),
    ({'schedule.beta_max': 5e-5}, '0 < beta_min <= beta_max'),
    ({'schedule.steps': 0}, 'schedule.steps must be'),
    ({'train.steps': 0}, 'train.steps must be'),
    ({'train.batch': 0}, 'train.batch must be'),
    ({'train.learning_rate': 0.0}, 'train.learning_rate must be'),
    ({'sample.steps': 21}, '1 to 20 steps to take, got 21'),
    ({'sample.eta': 2.0}, 'sample.eta must be'),
    ({'network.channels': (8, 12)}, 'each a multiple of 8'),
    ({'network.channels': (8, 8, 8, 8)}, 'multiples of 8 for 4 levels'),
    ({'checkpoint.every': 'often'}, "must be seconds, as '60s'"),
    ({'denoise.image': 'no.png'}, 'neither a file'),
    ({'denoise.sigma': -1.0}, 'denoise.sigma must be'),
  ],
  ids=str,
)
def test_bad_configs_are_refused(changes, message, folder, tmp_path):
  with pytest.raises(ValueError, match=message):
    ddpm.run(_make_config(folder, **changes), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_digits_need_scikit_learn(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  with pytest.raises(ValueError, match="needs scikit-learn: pip install 'dip"):
    ddpm.load_images('digits')


def test_digits_are_images():
  pytest.importorskip('sklearn')
  digits = ddpm.load_images('digits')
  assert digits.shape == (1797, 8, 8, 1) and digits.dtype == np.float32
  assert digits.min() == 0 and digits.max() == 1


@pytest.mark.parametrize('channels', [(), (0,), (-8,), (8, 12)])
def test_channels_that_cannot_be_grouped_are_refused(channels):
  with pytest.raises(ValueError, match='must be multiples of 8, got'):
    denoiser.Denoiser(1, channels)
