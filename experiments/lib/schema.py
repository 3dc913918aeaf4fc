"""The range of every field of every config, and the check of a whole config.

The limits keep a run from crashes and from waiting for ever. Whether a fit is
too large for the memory is judged later, from its shapes.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

import ml_collections

from dipjax import features, resampling, schedules
from dipjax.methods import METHODS
from dipjax.monitors import MONITORS
from dipjax.monitors.base import WATCHED
from dipjax.networks import NETWORKS, layers, unet
from dipjax.optimizers import OPTIMIZERS, SCHEDULES
from dipjax.recipe import PRECISIONS
from experiments.lib import fields
from experiments.lib.ranges import Flag, Many, Number, Range, Text, Whole, Word

_STEPS = Whole(1, 10**7)
_SEED = Whole(0, 2**32 - 1)  # Others repeat these.
_SIGMA = Number(0, 1000)
_WEIGHT = Number(0, 10**6)
_SHARE = Number(0, 1, below=True)
_BETA = Number(0, 1, above=True, below=True)
_CHANNELS = Whole(1, 8192)
_SIDE = Whole(1, 31, 2, 'an odd number')  # Of a kernel.
_LAYERS = range(1, 101)
_LEVELS = range(1, 13)  # A further level would halve 4096 pixels to one.
_LIST = range(0, 101)
_FILE = Text('a file, or empty')
_PICTURE = Text('a file or the name of a sample', '.+')
_FEATURES = Word(tuple(features.LAYERS))
_REFERENCE = Word(('measurement', 'clean'))
_SCHEDULE = Word(schedules.NAMES)

# By a field's name. Where a network gives the field another meaning, its row is
# 'FIELD of NAME'; the sections of the diffusion model have no name of their own
# and are 'ddpm'.
RANGES: dict[str, Range] = {
  'seed': _SEED,
  'auto': Flag(),
  'task': Word(('denoise', 'jpeg', 'super_resolution', 'inpaint')),
  'output': Text("a file, 'beside', or empty"),
  'lanes': Whole(1, 1000),
  'folder.share': Flag(),
  'data.image': _PICTURE,
  'data.images': Text('pictures: a folder, or what the task takes', '.+'),
  'data.crop': Many(Whole(0, 10**6), (0, 2, 4)),
  'data.white': Number(0, 1e300),
  'data.page': Whole(-1, 10**6),
  'data.sigma': _SIGMA,
  'data.noise_seed': _SEED,
  'data.clip': Flag(),
  'data.clean': _FILE,
  'data.mask': _FILE,
  'data.missing': Number(0, 1, below=True),
  'data.complete': Flag(),
  'data.invert': Flag(),
  'data.flash': _FILE,
  'data.blur': Flag(),
  'data.kernel.name': Word(('gaussian', 'motion', 'file')),
  'data.kernel.file': _FILE,
  'data.kernel.width': Number(0, 200),
  'data.kernel.length': Number(1, 1000),
  'data.kernel.angle': Number(-360, 360),
  'data.reduce': Flag(),
  'data.factor': Whole(1, 64),
  'data.filter': Word(tuple(resampling.FILTERS)),
  'data.multiple': Whole(1, 10**5),
  'data.layer': _FEATURES,
  'data.layers': Many(_FEATURES, range(1, 14)),
  'data.channel': Whole(0, 511),
  'data.level': Number(0, 10**6, above=True),
  'data.weights': _FILE,
  'network.name': Word(tuple(NETWORKS)),
  'network.code': Word(('noise', 'meshgrid')),
  'network.code_channels': _CHANNELS,
  'network.down': Many(_CHANNELS, _LEVELS),
  'network.up': Many(_CHANNELS, _LEVELS),
  'network.skip': Many(Whole(0, 8192), _LEVELS),
  'network.down_size': Many(_SIDE, _LEVELS, or_one=True),
  'network.up_size': Many(_SIDE, _LEVELS, or_one=True),
  'network.upsampling': Many(Word(layers.UPSAMPLINGS), _LEVELS, or_one=True),
  'network.upsampling of unet': Word(unet.UPSAMPLINGS),
  'network.downsampling': Word(layers.DOWNSAMPLINGS),
  'network.padding': Word(layers.PADDINGS),
  'network.activation': Word(tuple(layers.ACTIVATIONS)),
  'network.point': Flag(),
  'network.sigmoid': Flag(),
  'network.residual': Flag(),
  'network.channels': Many(_CHANNELS, _LEVELS),
  'network.channels of dncnn': _CHANNELS,
  'network.channels of resnet': _CHANNELS,
  'network.channels of ddpm': Many(
    Whole(8, 1024, 8, 'a multiple of 8'), range(1, 9)
  ),
  'network.depth': Whole(2, 100),
  'network.blocks': Whole(1, 100),
  'network.width': _CHANNELS,
  'network.doublings': Whole(0, 11),
  'method.name': Word(tuple(METHODS)),
  'method.ratio': Number(0, 1000, above=True),
  'method.mirrored': Flag(),
  'method.distance': Number(1e-6, 1),
  'stop.name': Word(tuple(MONITORS)),
  'stop.of': Word(WATCHED),
  'stop.alpha': Number(0, 1, above=True, below=True),
  'stop.patience': _STEPS,
  'stop.warmup': Whole(0, 10**7),
  'stop.window': Whole(2, 10**4),
  'stop.pixels': Whole(1, 10**8),
  'stop.factor': Number(0, 1000, above=True),
  'stop.every': _STEPS,
  'fit.steps': _STEPS,
  'fit.optimizer': Word(tuple(OPTIMIZERS)),
  'fit.learning_rate': Number(0, 1000),
  'fit.schedule': Word(SCHEDULES),
  'fit.clip': Number(0, 10**9),
  'fit.window': Whole(0, 10**4),
  'fit.rehearsal': Whole(0, 10**6),
  'fit.tile': Whole(0, 10**4),
  'fit.jitter': Number(0, 1000),
  'fit.precision': Word(('auto', *PRECISIONS)),
  'fit.sigma': _SIGMA,
  'fit.strength': Number(0, 1),
  'fit.finish': Flag(),
  'fit.remat': Flag(),
  'fit.tv': _WEIGHT,
  'fit.perceptual': _WEIGHT,
  'fit.perceptual_layers': Many(_FEATURES, range(1, 14)),
  'fit.perceptual_factor': Whole(1, 64),
  'fit.perceptual_weights': _FILE,
  'average.decay': _SHARE,
  'record.every': _STEPS,
  'record.preview': Number(0, 10**9),
  'record.frames': Whole(0, 1000),
  'record.tensorboard': Flag(),
  'checkpoint.every': Text(
    "seconds, as '60s', steps, as '500', or '0'",
    r'\d{1,7}|\d{1,7}(\.\d{1,3})?s',
  ),
  'levels': Many(Number(0, 10**6, above=True), _LIST),
  'snapshots': Many(_STEPS, _LIST),
  'schedule.name': _SCHEDULE,
  'schedule.stages': Whole(1, 1000),
  'schedule.steps': Whole(1, 10**5),
  'schedule.beta_min': _BETA,
  'schedule.beta_max': _BETA,
  'schedule.alpha': Number(0, 1),
  'schedule.k': Number(-500, 500),
  'staged.reference': _REFERENCE,
  'staged.code': Word(('measurement', 'noise', 'fixed')),
  'staged.keep_optimizer': Flag(),
  'staged.residual': Flag(),
  'staged.sigma': _SIGMA,
  'staged.parallel': Flag(),
  'sweep.learning_rate': Many(Number(0, 1000), _LIST),
  'sweep.jitter': Many(Number(0, 1000), _LIST),
  'sweep.sigma': Many(_SIGMA, _LIST),
  'sweep.seeds': Many(_SEED, _LIST),
  'arms.networks': Many(Word(tuple(NETWORKS)), _LAYERS),
  'arms.perceptual': Many(_WEIGHT, _LAYERS),
  'arms.references': Many(_REFERENCE, _LIST),
  'arms.schedules': Many(_SCHEDULE, _LIST),
  'arms.beta_max': Many(_BETA, _LIST),
  'arms.together': Whole(1, 1000),
  'baselines.ddpm': Text('a folder, or empty'),
  'train.steps': _STEPS,
  'train.batch': Whole(1, 4096),
  'train.learning_rate': Number(0, 1000, above=True),
  'train.decay': _SHARE,
  'sample.every': _STEPS,
  'sample.count': Whole(1, 1024),
  'sample.steps': Whole(1, 10**5),
  'sample.eta': Number(0, 1),
  'denoise.image': _FILE,
  'denoise.sigma': _SIGMA,
}

# Fields that are read only where another field has a value: (the fields, the
# other field, its value; a bool stands for any value that is, or is not, set).
_BESIDE = (
  (('data.missing', 'data.noise_seed'), 'data.mask', False),
  (('data.complete', 'data.invert'), 'data.mask', True),
  (('data.clip',), 'data.sigma', True),
  (('data.sigma', 'data.noise_seed', 'data.clip'), 'data.blur', True),
  (('data.multiple',), 'data.reduce', True),
  (('network.code_channels',), 'network.code', 'noise'),
  (('network.code', 'network.code_channels'), 'staged.code', 'fixed'),
  (('network.code', 'network.code_channels'), 'data.flash', False),
  (('staged.keep_optimizer',), 'staged.parallel', False),
  (
    tuple(f'fit.perceptual_{end}' for end in ('layers', 'factor', 'weights')),
    'fit.perceptual',
    True,
  ),
  (('denoise.sigma',), 'denoise.image', True),
)


def check_config(
  config: ml_collections.ConfigDict, typed: Collection[str] = ()
) -> None:
  """Raises one ValueError, of one line, that names every wrong field.

  Args:
    config: of any experiment.
    typed: the fields that the user set: one of them that nothing reads, because
      of the value of another field, is wrong too.
  """
  if errors := list_errors(config, typed):
    raise ValueError('; '.join(errors))


def list_errors(
  config: ml_collections.ConfigDict, typed: Collection[str] = ()
) -> list[str]:
  """Returns a line for each wrong field, see `check_config`."""
  given = list(list_fields(config))
  known = [field for field, _, allowed in given if allowed is not None]
  errors = []
  for field, value, allowed in given:
    if allowed is None and not _is_section(field):
      errors.append(fields.describe_unknown(field, known))
    elif allowed is None or not allowed.allows(value):
      errors.append(describe(field, value, allowed))
  values = {field: value for field, value, _ in given}
  return errors + _list_unread(values, typed)


def find_ranges(config: ml_collections.ConfigDict) -> dict[str, Range | None]:
  """Returns the range of each field of a config, None where it has none.

  A field keeps its type on a command line: the range of one that may be a tuple
  or an entry alone is that of what it is.
  """
  return {
    field: allowed.entry
    if isinstance(allowed, Many) and not isinstance(value, tuple)
    else allowed
    for field, value, allowed in list_fields(config)
  }


def describe(field: str, value: Any, allowed: Range | None) -> str:
  """Returns the line for a value that is not allowed; None is a section's."""
  shown = ' '.join(repr(value).split())
  shown = shown if len(shown) <= 80 else f'{shown[:80]}...'
  wanted = 'a section of fields' if allowed is None else allowed
  return f'{field} must be {wanted}, got {shown}'


def list_fields(
  section: ml_collections.ConfigDict, prefix: str = ''
) -> Iterator[tuple[str, Any, Range | None]]:
  """Yields each field below a section, its value and its range or None."""
  for name, value in section.items():
    field = f'{prefix}{name}'
    allowed = _find_range(field, section.get('name', 'ddpm'))
    if allowed is None and isinstance(value, ml_collections.ConfigDict):
      yield from list_fields(value, f'{field}.')
    else:
      yield field, value, allowed


def _find_range(field, owner):
  """Returns the range of a field in a section of the name `owner`."""
  # An arm's case has a network, a fit and a stop of its own.
  row = re.sub(r'^cases\.\w+\.', '', field)
  return RANGES.get(f'{row} of {owner}', RANGES.get(row))


def _is_section(field):
  return any(row.startswith(f'{field}.') for row in RANGES)


def _list_unread(values, typed):
  return [
    f'{field} is set and nothing reads it with {other}={values[other]!r}'
    for names, other, wanted in _BESIDE
    for field in names
    if field in typed and not _is_met(values.get(other, wanted), wanted)
  ]


def _is_met(value, wanted):
  return bool(value) == wanted if isinstance(wanted, bool) else value == wanted
