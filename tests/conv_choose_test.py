"""Targets: who is told what, and each threshold on both of its sides."""

import re
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipjax import Recipe, conv
from dipjax.conv import choose
from dipjax.engine import lanes
from dipjax.engine.fit import make_fit
from dipjax.networks import skip

CPU, GPU, TPU = map(choose.Target, choose.PLATFORMS)


def _image(height, width, channels=1, dtype=np.float32):
  return jax.ShapeDtypeStruct((height, width, channels), dtype)


def _kernel(sides=(3, 3), inputs=1, outputs=1):
  return jax.ShapeDtypeStruct((*sides, inputs, outputs), np.float32)


# --- The target.


def test_the_target_is_the_device_of_jax_until_another_is_told():
  assert choose.find_target() == choose.Target(jax.default_backend())
  with choose.aim(TPU):
    assert choose.find_target() == TPU
  assert choose.find_target() == choose.Target(jax.default_backend())


def test_targets_nest():
  with choose.aim(GPU):
    with choose.aim(TPU):
      assert choose.find_target() == TPU
    assert choose.find_target() == GPU


def test_the_target_before_is_back_after_an_exception():
  with choose.aim(GPU):
    with pytest.raises(KeyError), choose.aim(TPU):
      raise KeyError
    assert choose.find_target() == GPU


def test_each_thread_has_a_target_of_its_own():
  found = []
  thread = threading.Thread(target=lambda: found.append(choose.find_target()))
  with choose.aim(TPU):
    thread.start()
    thread.join()
  assert found == [choose.Target(jax.default_backend())]


@pytest.mark.parametrize(
  'fields,says',
  [
    ({'platform': 'cuda'}, "platform 'cuda' is not one of cpu, gpu, tpu"),
    ({'way': 'fft'}, "way 'fft' is not one of None, windows, tiles, products"),
    ({'lanes': 'never'}, "lanes 'never' is not one of None, in_turn, at_once"),
    ({'doubled': 'yes'}, "doubled 'yes' is not one of None, True, False"),
  ],
)
def test_what_is_unknown_is_refused_with_what_is_known(fields, says):
  with pytest.raises(ValueError, match=says):
    choose.Target(**({'platform': 'cpu'} | fields))


def test_jit_keeps_a_program_for_each_target():
  traced = []

  @jax.jit
  def double(x):
    traced.append(choose.find_target())
    return 2 * x

  for target in (CPU, GPU, CPU, GPU):
    with choose.aim(target):
      double(1.0)
  assert traced == [CPU, GPU]


# --- Thresholds at their edges.


def test_products_move_few_pixels_on_the_cpu_alone():
  with choose.aim(CPU):
    assert choose.prefers_products(_image(32, 32))
    assert choose.prefers_products(_image(1, 1024))
    assert not choose.prefers_products(_image(25, 41))
  for target in (GPU, TPU):
    with choose.aim(target):
      assert not choose.prefers_products(_image(1, 1))


def test_products_double_more_pixels_on_a_tpu():
  for target, most in ((CPU, 1024), (TPU, 8192)):
    with choose.aim(target):
      assert choose.doubles_by_product(_image(1, most))
      assert not choose.doubles_by_product(_image(1, most + 1))
  with choose.aim(GPU):
    assert not choose.doubles_by_product(_image(1, 1))


def test_windows_are_for_small_images_but_on_a_tpu():
  prefers = lambda pixels, sides, stride: choose.prefers_windows(
    _image(1, pixels), _kernel(sides), stride
  )
  with choose.aim(CPU):
    # 129^2 x 9 entries are 149,769; 130^2 x 9 are 152,100.
    assert prefers(129, (3, 3), 1) and not prefers(130, (3, 3), 1)
    assert prefers(258, (3, 3), 2) and not prefers(259, (3, 3), 2)
    assert not prefers(129, (5, 5), 1)
  with choose.aim(GPU):
    assert prefers(4096, (3, 3), 1) and not prefers(4097, (3, 3), 1)
    assert prefers(4 * 4096, (3, 3), 2) and not prefers(4 * 4097, (3, 3), 2)
  with choose.aim(TPU):
    assert not prefers(1, (3, 3), 1)


def test_sums_over_channels_are_for_large_images_and_few_outputs_on_a_gpu():
  prefers = lambda pixels, inputs, outputs: choose.prefers_sums(
    _image(1, pixels, inputs), np.empty((inputs, outputs), np.float32)
  )
  with choose.aim(GPU):
    assert prefers(131072, 64, 4)
    assert not prefers(131071, 64, 4)
    assert not prefers(131072, 63, 4)
    assert not prefers(131072, 64, 5)
  for target in (CPU, TPU):
    with choose.aim(target):
      assert not prefers(131072, 64, 4)


def test_tiles_are_for_many_pixels_and_channels_on_the_cpu():
  def prefers(
    shape=(32, 32), sides=(3, 3), inputs=16, outputs=16, dtype=np.float32
  ):
    kernel = _kernel(sides, inputs, outputs)
    return choose.prefers_tiles(_image(*shape, inputs, dtype), kernel)

  with choose.aim(CPU):
    assert prefers() and not prefers(dtype=jnp.bfloat16)
    assert not prefers(shape=(31, 33)) and not prefers(sides=(5, 5))
    assert not prefers(inputs=15) and not prefers(outputs=15)
  for target in (GPU, TPU):
    with choose.aim(target):
      assert not prefers(shape=(512, 512), inputs=128, outputs=128)


@pytest.mark.parametrize('target,side', [(CPU, 64), (GPU, 256), (TPU, 256)])
def test_blocks_are_for_large_images_on_every_device(target, side):
  prefers = lambda height, width: choose.prefers_blocks(
    _image(height, width), None, 3, 'reflect'
  )
  with choose.aim(target):
    assert prefers(side, side) and not prefers(side - 1, side + 1)


@pytest.mark.parametrize('doubled', [None, True])
def test_blocks_need_shapes_that_allow_them(doubled):
  x, skip = _image(64, 64), _image(128, 128)
  with choose.aim(choose.Target('cpu', doubled=doubled)):
    assert choose.prefers_blocks(x, skip, 3, 'reflect')
    assert not choose.prefers_blocks(x, _image(127, 128), 3, 'reflect')
    assert not choose.prefers_blocks(x, skip, 5, 'reflect')
    assert not choose.prefers_blocks(x, skip, 3, 'zero')
    assert not choose.prefers_blocks(_image(1, 4096), None, 3, 'reflect')


def test_channels_are_counted_in_whole_groups():
  counts = {1: 1, 127: 127, 128: 128, 129: 128, 255: 128, 256: 256, 260: 256}
  assert {n: choose.count_grouped(n) for n in counts} == counts


def test_bands_have_equal_heights_and_not_too_many_tiles():
  sizes = {(1, 1): 1, (32, 32): 1, (64, 64): 4, (68, 68): 17, (7, 4096): 7}
  assert {size: choose.count_bands(*size) for size in sizes} == sizes


def test_a_product_has_eight_columns_or_more_on_the_cpu():
  with choose.aim(CPU):
    assert [choose.count_columns(n) for n in (1, 7, 8, 9)] == [8, 8, 8, 9]
  for target in (GPU, TPU):
    with choose.aim(target):
      assert [choose.count_columns(n) for n in (1, 7, 8, 9)] == [1, 7, 8, 9]


def test_how_a_program_is_run_follows_the_platform():
  asked = choose.runs_in_turn, choose.loops_in_place, choose.halves_memory
  answers = {
    CPU: (True, True, False),
    GPU: (False, False, True),
    TPU: (True, True, True),
  }
  for target, answer in answers.items():
    with choose.aim(target):
      assert tuple(ask() for ask in asked) == answer


def test_bfloat16_is_for_devices_that_are_fast_with_it():
  for target in (CPU, GPU, TPU):
    with choose.aim(target):
      assert choose.prefers_bfloat16() == (target != CPU)


@pytest.mark.parametrize(
  'capability,fast',
  [('7.5', False), ('8.0', True), ('12.0', True), ('gfx', True)],
)
def test_an_old_gpu_is_not_fast_with_bfloat16(monkeypatch, capability, fast):
  device = types.SimpleNamespace(compute_capability=capability)
  monkeypatch.setattr(jax, 'devices', lambda: [device])
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with choose.aim(GPU):
    assert choose.prefers_bfloat16() == fast


def test_a_gpu_has_a_library_and_few_kernels():
  asked = choose.prefers_library, choose.sums_once, choose.changes_layouts
  answers = {CPU: [False] * 3, GPU: [True] * 3, TPU: [True, False, False]}
  for target, answer in answers.items():
    with choose.aim(target):
      assert [ask() for ask in asked] == answer


def test_a_tpu_has_few_copies():
  asked = choose.keeps_blocks, choose.splits_channels, choose.keeps_lines
  for target in (CPU, GPU, TPU):
    with choose.aim(target):
      assert [ask() for ask in asked] == [target == TPU] * 3
      assert not choose.sums_squares(_image(1, 1))
      rounded = _image(1, 1, dtype=jnp.bfloat16)
      assert choose.sums_squares(rounded) == (target == TPU)


def test_columns_are_for_larger_images_on_a_tpu():
  with choose.aim(TPU):
    assert choose.prefers_columns(_image(32, 32), _kernel())
    assert not choose.prefers_columns(_image(31, 33), _kernel())
    assert not choose.prefers_columns(_image(32, 32), _kernel((5, 5)))
  for target in (CPU, GPU):
    with choose.aim(target):
      assert not choose.prefers_columns(_image(512, 512), _kernel())


@pytest.mark.parametrize('target', [CPU, GPU, TPU])
def test_a_kernel_and_its_gradient_keep_their_layout_on_a_gpu(target):
  shapes = _image(128, 128, 3), _kernel((3, 3), 3, 4)
  convolve = lambda x, kernel: conv.convolve(x, kernel).sum()
  with choose.aim(target):
    both = jax.jit(jax.value_and_grad(convolve, argnums=1))
    lowered = both.lower(*shapes)
  told = 2 if target == GPU else 0
  assert lowered.as_text().count('@LayoutConstraint') == told


def test_lanes_share_a_product_but_on_the_cpu():
  for target in (CPU, GPU, TPU):
    with choose.aim(target):
      assert choose.unrolls_products() == (target == CPU)


# --- What is forced.


@pytest.mark.parametrize('platform', choose.PLATFORMS)
@pytest.mark.parametrize('way', choose.WAYS)
def test_a_way_is_forced_on_every_platform_for_every_size(platform, way):
  for sides in ((1, 2), (512, 512)):
    x, kernel = _image(*sides), _kernel()
    with choose.aim(choose.Target(platform, way=way)):
      assert choose.prefers_windows(x, kernel, 1) == (way == 'windows')
      assert choose.prefers_products(x) == (way == 'products')
      assert choose.prefers_tiles(x, kernel) == (way == 'tiles')
      assert choose.prefers_library() == (way == 'library')
      assert choose.prefers_columns(x, kernel) == (way == 'columns')
      assert not choose.prefers_tiles(x, _kernel((5, 5)))


def test_doubling_and_lanes_are_forced():
  with choose.aim(choose.Target('cpu', doubled=True, lanes='at_once')):
    assert choose.prefers_blocks(_image(2, 2), None, 3, 'reflect')
    assert not choose.runs_in_turn()
  with choose.aim(choose.Target('gpu', doubled=False, lanes='in_turn')):
    assert not choose.prefers_blocks(_image(64, 64), None, 3, 'reflect')
    assert choose.runs_in_turn()


def test_the_program_of_a_tpu_is_made_on_a_cpu():
  x, kernel = _image(8, 8, 3), _kernel((3, 3), 3, 4)
  lower = lambda: jax.jit(conv.convolve).lower(x, kernel).as_text()
  with choose.aim(TPU):
    program = lower()
  assert 'stablehlo.convolution' in program
  assert 'stablehlo.dot_general' not in program
  with choose.aim(CPU):
    program = lower()
  assert 'stablehlo.convolution' not in program
  assert 'stablehlo.dot_general' in program


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
@pytest.mark.parametrize(
  'precision, expected', [('float32', 'HIGHEST'), ('tensorfloat32', 'HIGH')]
)
def test_every_product_has_the_precision_of_the_recipe(
  platform, precision, expected
):
  """Lanes at once too, whose products JAX makes after the step was traced."""
  network = skip.Skip(down=(16, 16), up=(16, 16), skip=(4, 4))
  recipe = Recipe(network=network, precision=precision)
  with choose.aim(choose.Target(platform)):
    text = _lower_lanes(recipe)
  products = [
    line
    for line in text.splitlines()
    if re.search(r'= stablehlo\.(convolution|dot_general)', line)
  ]
  assert len(products) > 20
  found = {
    word
    for line in products
    for word in re.findall(r'\b(?:HIGHEST|HIGH|DEFAULT)\b', line)
  }
  # Products that only move pixels are exact in every precision.
  assert {expected} == found - ({'HIGHEST'} if expected == 'HIGH' else set())


def _lower_lanes(recipe):
  measurement = jnp.zeros((32, 32, 3))
  recipe, operator = recipe.prepare(measurement)
  keys = jax.random.split(jax.random.key(0), 2)
  pose = lambda key: lanes.pose_problem(
    recipe, key, measurement, operator, measurement.shape
  )
  one, problems = make_fit(recipe), lanes.stack_lanes(list(map(pose, keys)))
  states = lanes.shape(one, keys, problems)
  return lanes.advance.lower(one, 2, states, problems).as_text()
