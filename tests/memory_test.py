"""The memory of a fit: what is refused, and how soon."""

import re

import jax
import numpy as np
import pytest

from dipjax import Recipe, api, codes, methods, monitors, networks
from dipjax import noise as noise_lib
from dipjax.conv import choose
from dipjax.engine import lanes, memory
from dipjax.engine.problem import find_shapes
from dipjax.networks import plain_unet, skip
from tests import fits


def _pose(shape, **fields):
  """A prepared recipe, and the shapes of the problem of one lane."""
  measurement = np.full(shape, 0.5, np.float32)
  white = noise_lib.Model.make_white(0.1)
  recipe, operator = Recipe(**fields).prepare(measurement, noise=white)
  pose = lambda key: lanes.pose_problem(
    recipe, key, measurement, operator, shape, sigma=0.1
  )
  return recipe, jax.eval_shape(pose, jax.random.key(0))


def _refuse(recipe, problem, available, count=1):
  with pytest.raises(ValueError) as refused:
    memory.check_memory(recipe, problem, available, lanes=count)
  return str(refused.value)


def _read_least(recipe, problem):
  """Bytes, of the refusal where nothing is available."""
  said = _refuse(recipe, problem, 0)
  least = re.fullmatch(
    r'\d+x\d+ in 1 lane takes at least (\S+) GB, there are 0 GB; '
    'crop the image',
    said,
  )
  assert least, said
  return float(least[1]) * 1e9


@pytest.mark.parametrize('shape', [(24, 20, 3), (96, 80, 3)])
@pytest.mark.parametrize('name', networks.NETWORKS)
def test_what_a_fit_takes_at_least_is_less_than_it_takes(name, shape):
  row = networks.NETWORKS[name]
  fields = {'outputs': 3, **row.smoke}
  code = codes.UniformNoise(channels=fields.pop('code_channels'))
  recipe, problem = _pose(shape, network=row.module(**fields), code=code)
  least = _read_least(recipe, problem)
  assert 0 < least < memory.estimate_bytes(recipe, problem)


def test_another_picture_of_the_size_is_not_traced_again():
  network = skip.Skip(down=(4,), up=(4,), skip=(2,))
  found, missed = [], []
  for steps, jitter in ((10, 0.1), (20, 0.2)):
    fields = {'network': network, 'steps': steps, 'jitter': jitter}
    found.append(memory.estimate_bytes(*_pose((18, 22, 3), **fields)))
    missed.append(memory._measure_shapes.cache_info().misses)
  assert found[0] == found[1] and missed[0] == missed[1]


@pytest.mark.parametrize('side', [32, 512])
def test_what_windows_take_at_least_is_less_than_they_take(side):
  recipe, problem = _pose(
    (side, side, 3),
    network=plain_unet.PlainUNet(channels=(8, 8), residual=True),
    method=methods.Recorrupted(ratio=1.0),
    monitors={'last': monitors.Last()},
    window=16,
  )
  least = _read_least(recipe, problem)
  pictures = 8 * 12 * side**2
  assert pictures < least < memory.estimate_bytes(recipe, problem)


def test_two_passes_take_at_least_less_than_they_take():
  network = skip.Skip(down=(8, 8), up=(8, 8), skip=(4, 4))
  recipe, problem = _pose((48, 40, 3), network=network, method=methods.Stein())
  least = _read_least(recipe, problem)
  assert 0 < least < memory.estimate_bytes(recipe, problem)


def test_what_fits_with_remat_alone_is_said_to_fit():
  network = skip.Skip(down=(8, 8), up=(8, 8), skip=(4, 4))
  kept, again = (
    _pose((96, 80, 3), network=network.clone(remat=remat))
    for remat in (False, True)
  )
  needed = memory.estimate_bytes(*again)
  memory.check_memory(*again, needed)
  said = _refuse(*kept, needed)
  assert re.search(r'what would fit: remat \(\S+ GB\)$', said), said


class _Counted(skip.Skip):
  """A network that counts how often it is traced."""

  def __call__(self, code):
    _traces.append(choose.find_target())
    return super().__call__(code)


_traces = []


def _count_traces(monkeypatch, network, available, count=1):
  """What is refused with, and the targets of the traces."""
  monkeypatch.setattr(lanes, 'stack_lanes', None)  # No copy is made.
  _traces.clear()
  find_shapes.cache_clear()
  with pytest.raises(ValueError) as refused:
    fits.restore(
      np.full((64, 48, 3), 0.5, np.float32),
      network=network,
      seeds=range(count),
      memory=available,
    )
  return str(refused.value), tuple(_traces)


def test_what_is_hopeless_is_refused_without_a_gradient(monkeypatch):
  network = _Counted(down=(8, 8), up=(8, 8), skip=(4, 4), outputs=3)
  said, traces = _count_traces(monkeypatch, network, 10**5, count=2)
  assert re.fullmatch(
    r'48x64 in 2 lanes takes at least \S+ GB, there are 0.0001 GB; '
    'crop the image',
    said,
  )
  assert traces == (choose.SHAPES,)


def test_what_is_not_hopeless_is_refused_with_what_fits(monkeypatch):
  """A cheap trace for the shapes, and two for the gradient and for remat."""
  network = _Counted(down=(8, 8), up=(8, 8), skip=(4, 4), outputs=3)
  said, traces = _count_traces(monkeypatch, network, 42 * 10**5, count=2)
  assert re.fullmatch(
    r'48x64 in 2 lanes takes about \S+ GB, there are 0.0042 GB; '
    r'what would fit: remat \(\S+ GB\), one lane with remat \(\S+ GB\), '
    r'one lane \(\S+ GB\)',
    said,
  )
  cheap, full, again = traces
  assert cheap == choose.SHAPES != full == again


def test_a_device_that_saves_memory_is_asked_for_all_its_savings():
  network = skip.Skip(down=(8, 8), up=(8, 8), skip=(4, 4))
  with choose.aim(choose.Target('gpu')):
    recipe, problem = _pose((96, 80, 3), network=network)
    needed = memory.estimate_bytes(recipe, problem)
    said = _refuse(recipe, problem, needed - 1)
    assert 'what would fit: bfloat16' in said
    assert 'takes about' in _refuse(recipe, problem, 0)


def test_a_measurement_is_not_copied_before_it_is_refused():
  measurement = np.full((8, 8, 3), 0.5, np.float32)
  assert api.check_array(measurement, 'the measurement') is measurement
