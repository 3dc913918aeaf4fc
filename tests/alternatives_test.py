"""The benchmark of what was published in place of a stopped fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import alternatives
from dipjax import Recipe, monitors
from dipjax.device import packing
from dipjax.engine import fit, lanes
from dipjax.networks import skip

SMOKE = ['--images', 'astronaut', '--crop', '16', '--channels', '4']
SMOKE += ['--levels', '1', '--steps', '20']
NETWORK = skip.Skip(down=(4,), up=(4,), skip=(2,))
NOISY = np.random.RandomState(0).uniform(size=(16, 16, 3)).astype(np.float32)


def _pose(name, steps=1):
  """A method's recipe and problem, made as `dipjax.restore` does."""
  recipe = Recipe(
    network=NETWORK,
    method=alternatives.METHODS[name],
    monitors={'last': monitors.Last(steps=steps)},
    steps=steps,
  )
  recipe, operator = recipe.prepare(jnp.asarray(NOISY))
  key = jax.random.key(0)
  return recipe, lanes.pose_problem(
    recipe, key, jnp.asarray(NOISY), operator, NOISY.shape
  )


def _fit(name, steps):
  """The network's image before each step, and the state after it."""
  recipe, problem = _pose(name, steps)
  one = fit.make_fit(recipe)
  state = jax.jit(one.init)(jax.random.key(0), problem, None)
  images, states = [], []
  step, apply = jax.jit(one.step), jax.jit(NETWORK.apply)
  for _ in range(steps):
    params = packing.unpack(state.params)
    images.append(apply({'params': params['network']}, params['code']))
    state, _ = step(state, problem)
    states.append(state)
  return images, states


def test_the_code_becomes_the_image_of_every_second_step():
  images, states = _fit('autoencoding', 3)
  first, second, third = (state.params['code'] for state in states)
  np.testing.assert_array_equal(first, NOISY)
  np.testing.assert_allclose(second, images[1], atol=1e-6)
  np.testing.assert_array_equal(third, second)
  assert np.abs(images[2] - images[1]).max() > 1e-3


def test_the_loss_of_autoencoding_by_hand():
  code, key = jnp.asarray(NOISY[::-1]), jax.random.key(0)
  params = jax.jit(NETWORK.init)(jax.random.key(1), code)['params']
  both = {'network': params, 'code': code}
  recipe, problem = _pose('autoencoding')
  loss, image = jax.jit(fit.make_objective(recipe))(both, problem, key)
  expected = np.mean((image - NOISY) ** 2) + np.mean((image - code) ** 2)
  assert loss == pytest.approx(float(expected), rel=1e-5)
  recipe, problem = _pose('self-guided')
  still = problem.replace(jitter=jnp.float32(0))
  guided, other = jax.jit(fit.make_objective(recipe))(both, still, key)
  assert guided == pytest.approx(float(loss), rel=1e-5)
  np.testing.assert_allclose(other, image, atol=1e-6)


def test_a_self_guided_code_moves_with_the_network():
  _, (_, state) = _fit('self-guided', 2)
  moved = np.abs(state.params['code'] - NOISY)
  assert 0.001 < moved.max() < 0.03


def test_a_row_is_run_once(tmp_path, capsys, monkeypatch):
  pytest.importorskip('skimage')
  arguments = [*SMOKE, '--json', str(tmp_path / 'rows.jsonl')]
  arguments += ['--methods', 'double', 'self-guided']
  alternatives.main(arguments)
  rows = [*map(json.loads, (tmp_path / 'rows.jsonl').read_text().splitlines())]
  assert [row['method'] for row in rows] == ['double', 'self-guided']
  for row in rows:
    assert row['psnr'] <= row['best'] + 1e-4 and row['steps_taken'] == 20
  monkeypatch.setattr(alternatives, 'run_cell', None)
  shown = capsys.readouterr().out
  alternatives.main(arguments)
  assert capsys.readouterr().out in shown


def test_a_crop_that_the_network_does_not_cover_is_one_line(tmp_path, capsys):
  pytest.importorskip('skimage')
  arguments = [*SMOKE, '--json', str(tmp_path / 'rows.jsonl'), '--crop', '17']
  with pytest.raises(SystemExit) as exit_:
    alternatives.main(arguments)
  assert exit_.value.code == 2
  assert '--crop 17 is no multiple of 2' in capsys.readouterr().err


def test_no_steps_are_one_line(tmp_path, capsys):
  pytest.importorskip('skimage')
  path = tmp_path / 'rows.jsonl'
  with pytest.raises(SystemExit) as exit_:
    alternatives.main([*SMOKE, '--json', str(path), '--steps', '0'])
  assert exit_.value.code == 2 and not path.exists()
  assert '--steps must be at least 1, got 0' in capsys.readouterr().err
