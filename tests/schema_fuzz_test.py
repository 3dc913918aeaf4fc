"""No value of any field is a traceback: it is refused in one line, or it fits.

A run ends here where its first step would come. By then the run knows all of
its shapes and has refused what it refuses.
"""

import copy
import functools
import math

import jax
import numpy as np
import pytest

from configs import ddpm as ddpm_config
from configs import inpaint as inpaint_config
from configs import req2, req3
from configs import staged as staged_config
from dipjax.engine import lanes, loop, slots
from experiments import ddpm, denoise, inpaint, staged, super_resolution
from experiments.lib import chains, schema

NUMBERS = (-1, 0, 10**9, 10**30, -1.0, 0.0, 1.5, 1e9, 1e30, math.nan, math.inf)
VALUES = (*NUMBERS, '', 'x', True, None, (), (1,), {})
# By name: the experiment, its config, and the sections that are changed.
RUNS = {
  'req2': (denoise, req2.get_config('smoke'), ''),
  'recorrupted': (denoise, req2.get_config('smoke,method=recorrupted'), 'meth'),
  'stein': (denoise, req2.get_config('smoke,method=stein'), 'method'),
  'wmv': (denoise, req2.get_config('smoke,stop=wmv'), 'stop'),
  'req3': (super_resolution, req3.get_config('smoke'), 'data'),
  'inpaint': (inpaint, inpaint_config.get_config('smoke'), 'data'),
  'staged': (staged, staged_config.get_config('smoke'), ''),
  'ddpm': (ddpm, ddpm_config.get_config('smoke'), ''),
}
FIELDS = [
  (run, field)
  for run, (_, config, below) in RUNS.items()
  for field in schema.find_ranges(config)
  if field.startswith(below)
]


class BegunError(Exception):
  """The run has come to its first step."""


@pytest.fixture(scope='module')
def files(write_photograph, tmp_path_factory):
  """The fields of config.data of a small picture, and of small images."""
  images = tmp_path_factory.mktemp('images') / 'images.npz'
  noise = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 1))
  np.savez(images, images=noise.astype(np.uint8))
  photograph = write_photograph(32, 32, (9, 8, 6))
  return {'image': photograph, 'crop': ()}, {'images': str(images)}


@pytest.fixture(scope='module')
def traced():
  """The fits whose shapes were computed, with their problems' shapes."""
  return set()


@pytest.fixture
def begin(monkeypatch, traced):
  """Ends a run at its first step, whose shapes are computed."""

  class TracedSlots(slots.Slots):
    def fill(self, index, key, problem, clean=None, **unused):
      del index, unused
      fit, cleans = self._fit, None if clean is None else clean[None]
      arrays = key[None], lanes.stack_lanes([problem]), cleans
      shapes = jax.eval_shape(lambda *arrays: arrays, *arrays)
      if (fit, str(shapes)) not in traced:
        states = jax.eval_shape(lanes._map_at_once(fit.init), *shapes)
        jax.eval_shape(lanes._map_at_once(fit.step), states, shapes[1])
      traced.add((fit, str(shapes)))
      raise BegunError

  def fit_model(config, model, data, workdir):
    training, key = model.training, jax.random.key(config.seed)
    state = jax.eval_shape(training.init, key, data)
    jax.eval_shape(training.step, state, data)
    raise BegunError

  def run_traced_lanes(*unused, **also_unused):
    raise BegunError

  # `restore` has traced what it begins, for its estimate of the memory.
  monkeypatch.setattr(loop, 'run_lanes', run_traced_lanes)
  monkeypatch.setattr(chains, 'Slots', TracedSlots)
  monkeypatch.setattr(ddpm, 'fit_model', fit_model)


def list_values(config, field):
  """Returns the values to try; for a tuple also tuples of its length."""
  given = _find(config, field)
  if not isinstance(given, tuple):
    return VALUES
  return *VALUES, *((value,) * max(len(given), 1) for value in NUMBERS)


def change(config, field, value, files):
  """Returns the config with small files and one other value."""
  config = copy.deepcopy(config)
  config.data.update(next(f for f in files if f.keys() <= {*config.data}))
  *path, name = field.split('.')
  section = _find(config, '.'.join(path))
  with config.ignore_type():
    section[name] = value
  return config


def _find(config, field):
  parts = filter(None, field.split('.'))
  return functools.reduce(lambda section, part: section[part], parts, config)


@pytest.mark.parametrize('run', RUNS)
def test_what_is_not_changed_begins(run, files, begin, tmp_path):
  experiment, config, _ = RUNS[run]
  field = next(iter(schema.find_ranges(config)))
  unchanged = change(config, field, _find(config, field), files)
  with pytest.raises(BegunError):
    experiment.run(unchanged, str(tmp_path / 'run'))


@pytest.mark.parametrize('run,field', FIELDS)
def test_a_value_is_refused_in_one_line_or_begun(
  run, field, files, begin, tmp_path, capsys
):
  experiment, config, _ = RUNS[run]
  tried = set()
  for i, value in enumerate(list_values(config, field)):
    changed = change(config, field, value, files)
    # A config makes a float of a whole number where it holds a float.
    stored = repr(_find(changed, field))
    if stored in tried:
      continue
    tried.add(stored)
    workdir = tmp_path / str(i)
    try:
      experiment.run(changed, str(workdir))
    except BegunError:
      continue
    except ValueError as error:
      assert '\n' not in str(error), value
      assert not workdir.exists(), value
    else:
      raise AssertionError(f'{value} ended the run')
