"""Every field of every config has a range, and a message that says it."""

import importlib
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from configs import ablation, ddpm, inpaint, req2, staged
from dipjax.methods import METHODS
from dipjax.monitors import MONITORS
from dipjax.networks import NETWORKS
from experiments.lib import explain, schema

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHOICES = {'network': NETWORKS, 'method': METHODS, 'stop': MONITORS}
NO_CONFIGS = {'__init__', 'choices', 'common'}
MODULES = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if path.stem not in NO_CONFIGS
)


def _list_configs(name):
  """Returns the config of each word and of each choice of a module."""
  module = importlib.import_module(f'configs.{name}')
  with pytest.raises(ValueError, match='known are') as known:
    module.get_config('?')
  words = re.search('known are (.*)', str(known.value)).group(1).split(', ')
  variants = ['']
  for word in words:
    kind, _, chosen = word.partition('=')
    variants += [f'{kind}={n}' for n in CHOICES[kind]] if chosen else [word]
  configs = []
  for variant in variants:
    try:
      configs.append(module.get_config(variant))
    except ValueError as error:  # Some choices do not go with an ablation.
      assert name == 'ablation' and 'do not' in str(error)
  return configs


@pytest.mark.parametrize('name', MODULES)
def test_every_field_has_a_range_and_is_in_it(name):
  for config in _list_configs(name):
    schema.check_config(config)
    ranges = schema.find_ranges(config)
    assert ranges and None not in ranges.values()


def test_every_range_is_of_a_field(monkeypatch):
  used = set()

  class Watched(dict):
    def get(self, row, default=None):
      used.update({row} & self.keys())
      return super().get(row, default)

  monkeypatch.setattr(schema, 'RANGES', Watched(schema.RANGES))
  for name in MODULES:
    for config in _list_configs(name):
      schema.find_ranges(config)
  assert schema.RANGES.keys() == used


@pytest.mark.parametrize('fields,other,value', schema._BESIDE)
def test_fields_beside_others_exist(fields, other, value):
  for name in [*fields, other]:
    assert name in schema.RANGES
  if isinstance(value, str):
    assert schema.RANGES[other].allows(value)


def test_one_line_names_every_wrong_field():
  config = req2.get_config('smoke')
  config.fit.steps, config.lanes = -1, 0
  config.fit.jiter = 3
  with config.ignore_type():
    config.data.sigma, config.seed = '2\n5', True
  with pytest.raises(ValueError) as refused:
    schema.check_config(config)
  assert str(refused.value) == (
    "data.sigma must be a number from 0 to 1,000, got '2\\n5'; "
    "no config field 'fit.jiter': nothing reads it (the nearest is "
    'fit.jitter); '
    'fit.steps must be a whole number from 1 to 10,000,000, got -1; '
    'lanes must be a whole number from 1 to 1,000, got 0; '
    'seed must be a whole number from 0 to 4,294,967,295, got True'
  )


@pytest.mark.parametrize(
  'field,value,says',
  [
    ('network.down_size', 4, 'an odd number from 1 to 31, or a tuple of 1 to'),
    ('network.down_size', (3, 4), 'an odd number from 1 to 31, or a tuple'),
    ('network.down', (8, 10**9), 'a tuple of 1 to 12 entries, each a whole'),
    ('network.upsampling', 'box', 'one of nearest, bilinear, or a tuple'),
    ('data.crop', (0, 0, 8), 'a tuple of 0, 2 or 4 entries, each a whole'),
    ('data.image', '', 'a file or the name of a sample'),
    ('average.decay', 1.0, 'a number of at least 0 and below 1, got 1.0'),
    ('fit.tv', float('nan'), 'a number from 0 to 1,000,000, got nan'),
    ('fit.tv', float('inf'), 'a number from 0 to 1,000,000, got inf'),
    ('fit.remat', 1, 'True or False, got 1'),
    ('lanes', True, 'a whole number from 1 to 1,000, got True'),
    ('fit', 3, 'a section of fields, got 3'),
    ('fit.steps', ConfigDict(), 'a whole number from 1 to 10,000,000, got'),
    ('fit.steps', None, 'a whole number from 1 to 10,000,000, got None'),
  ],
  ids=str,
)
def test_a_value_out_of_range_is_named_with_the_range(field, value, says):
  config = req2.get_config('smoke')
  *path, name = field.split('.')
  section = config
  for part in path:
    section = section[part]
  with config.ignore_type():
    section[name] = value
  (error,) = schema.list_errors(config)
  assert error.startswith(f'{field} must be {says}') and '\n' not in error


def test_a_network_has_channels_of_its_own():
  for variant, right, wrong in [
    ('network=unet', (8, 8), 8),
    ('network=dncnn', 8, (8, 8)),
    ('network=resnet', 8, (8, 8)),
  ]:
    config = req2.get_config(variant)
    for channels in (right, wrong):
      with config.ignore_type():
        config.network.channels = channels
      errors = schema.list_errors(config)
      assert bool(errors) == (channels == wrong)
  config = ddpm.get_config()
  config.network.channels = (8, 12)
  assert 'each a multiple of 8' in schema.list_errors(config)[0]


def test_the_cases_of_an_ablation_have_the_ranges_of_a_config():
  config = ablation.get_config()
  config.cases.unet.network.channels = (0,)
  config.cases.skip.fit.learning_rate = -1.0
  errors = schema.list_errors(config)
  assert [error.split(' must')[0] for error in errors] == [
    'cases.skip.fit.learning_rate',
    'cases.unet.network.channels',
  ]


@pytest.mark.parametrize(
  'module,changes,typed',
  [
    (inpaint, {'data.mask': 'm.png'}, 'data.missing'),
    (inpaint, {'data.mask': 'm.png'}, 'data.noise_seed'),
    (inpaint, {}, 'data.complete'),
    (req2, {}, 'fit.perceptual_layers'),
    (req2, {}, 'fit.perceptual_weights'),
    (req2, {'data.sigma': 0.0}, 'data.clip'),
    (req2, {'network.code': 'meshgrid'}, 'network.code_channels'),
    (staged, {}, 'network.code'),
    (ddpm, {}, 'denoise.sigma'),
  ],
  ids=str,
)
def test_a_field_that_another_value_makes_unread_is_an_error(
  module, changes, typed
):
  config = module.get_config()
  config.update_from_flattened_dict(changes)
  assert not schema.list_errors(config)
  (error,) = schema.list_errors(config, {typed, 'data.image'})
  assert error.startswith(f'{typed} is set and nothing reads it with ')


# --- The command line.

SMOKE = '--config=configs/req2.py:smoke'


@pytest.mark.parametrize(
  'arguments,errors',
  [
    ([], []),
    (['--config.fit.steps=3', '--config.fit.tv', '3', '--workdir=x'], []),
    (['--noconfig.data.clip', '--config.fit.remat', '--config.seed=3'], []),
    (['--config.fit.steps=abc'], ["fit.steps must .* got 'abc'"]),
    (['--config.fit.steps=1.5'], ["fit.steps must .* got '1.5'"]),
    (['--config.fit.steps='], ["fit.steps must .* got ''"]),
    (['--config.fit.steps', 'abc'], ["fit.steps must .* got 'abc'"]),
    (['--config.fit.remat=maybe'], ["fit.remat must be True or .* 'maybe'"]),
    (['--config.data.image='], ["data.image must be a file .* got ''"]),
    (['--config.data.crop=(1,2'], ["data.crop must .* got '.1,2'"]),
    (['--config.network.down_size=(3,3)'], ["down_size .* 31, got '.3,3.'"]),
    (['--config.fit=3'], ["fit must be a section of fields, got '3'"]),
    (
      ['--config.lane=4', '--config.fit.steps=x', '--config.data.sigma=-1'],
      ["field 'lane': .* nearest is lanes", "steps .* 'x'", 'sigma .* -1.0'],
    ),
    (['--config.fit.perceptual_factor=2'], ['is set and nothing reads it']),
  ],
  ids=str,
)
def test_all_wrong_fields_of_a_command_are_named(
  arguments, errors, monkeypatch
):
  monkeypatch.chdir(ROOT)
  found = explain.list_errors(['denoise.py', SMOKE, *arguments])
  assert len(found) == len(errors)
  for error, says in zip(found, errors):
    assert re.search(says, error) and '\n' not in error


@pytest.mark.parametrize('config', ['none.py', 'req2.py:smok'])
def test_of_a_config_that_cannot_be_read_no_field_is_wrong(config, monkeypatch):
  monkeypatch.chdir(ROOT)
  arguments = [f'--config=configs/{config}', '--config.nope=3']
  assert explain.list_errors(['denoise.py', *arguments]) == []
