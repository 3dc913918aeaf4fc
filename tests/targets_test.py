"""What is read of a compiled program, and what benchmarks.targets says."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import chips, fleet, hlo, limits, programs, targets
from dipjax.conv import choose
from dipjax.networks import skip

DATA = pathlib.Path(__file__).parent / 'data'

# As XLA writes it for a GPU: a loop of ten turns, a convolution and its two
# gradients by cuDNN, and fusions that slice, write in place, and multiply.
GPU = (DATA / 'gpu.hlo').read_text()


def test_kernels_of_a_gpu():
  kernels = {kernel.name: kernel for kernel in hlo.find_kernels(GPU)}
  # Neither names nor the sum of two numbers, of which the loop counts itself.
  assert list(kernels) == [
    'conv', 'to_x', 'to_k', 'written', 'product', 'part'
  ]  # fmt: skip
  assert [kernel.count for kernel in kernels.values()] == [10] * 3 + [1] * 3
  assert kernels['conv'].opcode == '__cudnn$convForward'
  assert kernels['conv'].source == 'jit(advance)/while/body/closed_call/conv'


def test_a_convolution_has_the_flops_of_its_gradients():
  flops = {kernel.name: kernel.flops for kernel in hlo.find_kernels(GPU)}
  multiplied = 6 * 8 * 9 * 16 * 32
  assert {flops[k] for k in ('conv', 'to_x', 'to_k')} == {2 * multiplied}
  assert flops['product'] == 2 * 64 * 32 * 4
  assert flops['written'] == flops['part'] == 0


def test_bytes_are_what_is_read_and_written():
  moved = {kernel.name: kernel.bytes for kernel in hlo.find_kernels(GPU)}
  x, k, y = 6 * 8 * 16, 32 * 9 * 16, 6 * 8 * 32
  assert moved['conv'] == moved['to_x'] == moved['to_k'] == 2 * (x + k + y)
  # Of 64 rows one is written, and two are read and given.
  assert moved['written'] == 4 * (8 + 8 + 1)
  assert moved['part'] == 4 * (2 * 8 + 2 * 8)
  assert moved['product'] == 2 * (64 * 32 + 32 * 4 + 64 * 4)


def test_a_tpu_tells_cycles_and_what_stays_on_the_chip():
  text = (DATA / 'tpu.hlo').read_text()
  start, copied = hlo.find_kernels(text)
  assert (start.bytes, start.cycles) == (4 * 8 * 128, 0)
  assert (copied.bytes, copied.cycles) == (4 * 8 * 128, 1234)


def test_flops_are_those_of_a_program_that_is_not_compiled():
  def run(x, kernel):
    def turn(x, _):
      y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
      return y @ jnp.ones((3, 3)), None

    return jax.lax.scan(turn, x, length=7)[0]

  lowered = jax.jit(run).lower(jnp.ones((1, 4, 6, 3)), jnp.ones((3, 3, 3, 3)))
  kernels = hlo.find_kernels(lowered.as_text('hlo'))
  total = sum(kernel.count * kernel.flops for kernel in kernels)
  assert total == 7 * 2 * 4 * 6 * (9 * 3 * 3 + 3 * 3)


def test_a_loop_that_asks_a_flag_counts_once():
  def run(flag, x):
    turn = lambda carry: (False, carry[1] @ x)
    return jax.lax.while_loop(lambda carry: carry[0], turn, (flag, x))[1]

  lowered = jax.jit(run).lower(True, jnp.ones((4, 4)))
  compiled: Any = lowered.compile().as_text()
  for text in (lowered.as_text('hlo'), compiled):
    assert sum(k.count * k.flops for k in hlo.find_kernels(text)) == 2 * 4**3


def test_a_product_that_is_written_as_a_convolution_has_its_own_flops():
  def run(x, kernel):
    labels = 'WNC', 'WOI', 'NWC'
    return jax.lax.conv_general_dilated(
      x, kernel, (1,), ((6, 6),), dimension_numbers=labels
    )

  lowered = jax.jit(run).lower(jnp.ones((1, 5, 3)), jnp.ones((7, 4, 3)))
  (kernel,) = hlo.find_kernels(lowered.as_text('hlo'))
  assert kernel.flops == 2 * 7 * 5 * 3 * 4


@pytest.mark.parametrize(
  'text,says',
  [
    ('nothing', 'no computation is the entry'),
    (GPU.replace('constant(10)', 'parameter(1)'), 'how often does this loop'),
  ],
)
def test_what_cannot_be_read_is_refused(text, says):
  with pytest.raises(ValueError, match=says):
    hlo.find_kernels(text)


def test_bytes_of_the_ideal_by_hand():
  network = skip.Skip(outputs=1, down=(2,), up=(3,), skip=(1,), point=False)
  pixels, inputs = 8 * 8, 4
  kernels = {  # What is read, written, the kernel's entries, and the passes.
    'skip': (pixels * inputs, pixels, inputs, 2),
    'down': (pixels * inputs, pixels // 4 * 2, 9 * inputs * 2, 2),
    'mid': (pixels // 4 * 2, pixels // 4 * 2, 9 * 2 * 2, 3),
    'up': (pixels + pixels // 4 * 2, pixels * 3, 9 * 3 * 3, 3),
    'out': (pixels * 3, pixels, 3, 3),
  }
  moved = 2 * sum(p * (x + y + k) for x, y, k, p in kernels.values())
  # Scale and bias of five normalisations, and five biases.
  vectors = 2 * (1 + 2 + 2 + 3 + 3) + (1 + 2 + 2 + 3 + 1)
  entries = sum(k for _, _, k, _ in kernels.values()) + vectors
  # Adam reads four numbers of each parameter and writes three.
  expected = moved + 7 * 4 * entries
  assert limits.count_bytes(network, 8, 'bfloat16', inputs) == expected


def _kernel(name, count, moved, flops, cycles=0):
  return hlo.Kernel(
    name, 'fusion', f'a/b/c/{name}', count, moved, flops, cycles
  )


def test_estimates_of_a_gpu_by_hand():
  target = targets.TARGETS['h100']._replace(
    bandwidth=1e9, flops={'bfloat16': 1e12}, launch=5e-6
  )
  kernels = [
    _kernel('reads', 10, 2_000_000, 0),  # 2 ms each
    _kernel('multiplies', 10, 1000, 3_000_000_000),  # 3 ms
    _kernel('small', 80, 1000, 0),  # 1 us, 5 us from launch to launch.
    _kernel('once', 1, 1000, 0),
  ]
  row = targets.estimate(kernels, target, 'bfloat16')
  assert row['kernels'] == 10.1
  assert row['roofline_ms'] == pytest.approx(2 + 3 + 8e-3 + 1e-4)
  assert row['estimated_ms'] == pytest.approx(2 + 3 + 40e-3 + 5e-4)
  names = [one['kernel'] for one in row['costliest']]
  assert names == ['multiplies', 'reads', 'small', 'once']
  assert row['costliest'][2]['estimated_ms'] == pytest.approx(40e-3)


def test_estimates_of_a_tpu_are_the_cycles_of_xla():
  kernels = [_kernel('slow', 10, 0, 0, 3_000_000), _kernel('free', 10, 8, 0)]
  row = targets.estimate(kernels, targets.TARGETS['v5e'], 'bfloat16')
  assert row['estimated_ms'] == pytest.approx(2)


def test_rows_are_resumed_and_say_that_they_are_estimated(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(targets, 'prepare_process', lambda: None)
  monkeypatch.setattr(targets, 'find_device', lambda name, spec: name)
  compiled = []

  def run(work, device):
    compiled.append((device, work.cell['size']))
    row = dict.fromkeys(
      ('compile_seconds', 'argument_bytes', 'temporary_bytes', 'kernels')
      + ('gigabytes_a_megapixel', 'flops_of_ideal', 'bytes_of_ideal')
      + ('roofline_ms',),
      0,
    )
    costliest = [{'kernel': 'conv', 'estimated_ms': 1.0, 'source': 'a/b/c/d/e'}]
    return row | {'estimated_ms': 1.5, 'costliest': costliest}

  monkeypatch.setattr(targets, 'run_work', run)
  path = tmp_path / 'rows.jsonl'
  arguments = ['--target', 'v5e', '--json', str(path), '--sizes']
  targets.main([*arguments, '64'])
  targets.main([*arguments, '64', '128'])
  assert compiled == [('v5e', 64), ('v5e', 128)]
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['size'] for row in rows] == [64, 128]
  lines = capsys.readouterr().out.splitlines()
  assert 'all times are estimated' in lines[0]
  assert lines[1].endswith('estimated 1.50 ms a step of all lanes')
  assert 'estimated  conv' in lines[2] and lines[2].endswith('d/e')


def _refuse(capsys, *arguments):
  with pytest.raises(SystemExit) as stop:
    targets.main(arguments)
  assert stop.value.code == 2
  return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_compiled_is_refused_in_one_line(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(targets, 'prepare_process', lambda: None)
  assert 'the network needs 128' in _refuse(capsys, '--sizes', '100')
  assert 'at least 1' in _refuse(capsys, '--lanes', '0')
  assert '--spec h100_sxm' in _refuse(capsys, '--target', 'h100')
  missing = str(tmp_path / 'none')
  said = _refuse(capsys, '--target', 'h100', '--spec', missing)
  assert 'No such file' in said


# What jax itself raises where a plugin is missing.
@pytest.mark.parametrize('error', [RuntimeError, NotImplementedError])
def test_a_missing_plugin_says_what_to_install(error, monkeypatch, capsys):
  def refuse(**named):
    raise error('not installed')

  monkeypatch.setattr(targets, 'prepare_process', lambda: None)
  monkeypatch.setattr(targets.topologies, 'get_topology_desc', refuse)
  assert "pip install -e '.[targets]'" in _refuse(capsys, '--target', 'v5e')


# --- Many chips.


def test_a_step_is_measured_estimated_or_at_least(capsys):
  steps = {one[0]: one[1:] for one in fleet.list_steps(512, ['h200=4.71'])}
  assert steps['h200'] == (4.71, 'measured')
  assert steps['h100'][1] == 'estimated' and 1 < steps['h100'][0] < 10
  assert steps['v5e'][1] == 'estimated' and 5 < steps['v5e'][0] < 50
  # No program of this size was compiled.
  steps = {one[0]: one[1:] for one in fleet.list_steps(2048)}
  flops = limits.count_flops(programs.make_network(), 2048, programs.INPUTS)
  assert steps['v5e'] == (pytest.approx(1e3 * flops / 197e12), 'at least')
  numbers = '--pictures 10 --chips 5 --steps 1000 --measured slow=86400'
  fleet.main(numbers.split())
  assert capsys.readouterr().out.splitlines()[2].endswith('| 0 | 2.0 |')


@pytest.mark.parametrize('given', ['h200', 'h200=', 'h200=fast', 'h200=-1'])
def test_a_step_that_was_not_measured_is_refused(given, capsys):
  with pytest.raises(SystemExit, match='2'):
    fleet.main(['--measured', given])
  out, said = capsys.readouterr()
  expected = f'--measured must be NAME=MILLISECONDS, got {given!r}'
  assert not out and said.splitlines()[-1].endswith(expected)


def test_chips_refuse_a_size_in_one_line(monkeypatch, capsys):
  monkeypatch.setattr(targets, 'prepare_process', lambda: None)
  with pytest.raises(SystemExit) as stop:
    chips.main(['--size', '33'])
  assert stop.value.code == 2
  assert 'the network needs' in capsys.readouterr().err.splitlines()[-1]


# --- The step for devices that are not here, lowered and not compiled.


@pytest.mark.parametrize('platform,aimed', [('cuda', 'gpu'), ('tpu', 'tpu')])
def test_the_step_for_other_devices(platform, aimed):
  """No grouped convolution, no float64, few FLOPs, and a state in place."""
  # One level that is doubled late and one that is not, each as any other.
  size, lanes = 512, 2
  network = skip.Skip(down=(128,) * 2, up=(128,) * 2, skip=(4,) * 2)
  with choose.aim(choose.Target(aimed)):
    traced = programs.trace_advance(network, 'bfloat16', size, lanes)
    lowered = traced.lower(lowering_platforms=(platform,))
  text = lowered.as_text()
  groups = {
    int(line.split(f'{kind}_group_count = ')[1].split()[0])
    for line in text.splitlines()
    for kind in ('feature', 'batch')
    if f'{kind}_group_count' in line
  }
  assert groups == {1}
  assert 'f64' not in text
  kernels = hlo.find_kernels(lowered.as_text('hlo'))
  flops = sum(kernel.count * kernel.flops for kernel in kernels)
  ideal = limits.count_flops(network, size, programs.INPUTS)
  assert 1 <= flops / (programs.SCAN * lanes * ideal) <= 1.15
  (states, _), _ = lowered.args_info
  donated = [leaf.donated for leaf in jax.tree.leaves(states)]
  assert all(donated) and text.count('tf.aliasing_output') == len(donated)


def test_words_are_the_fits_that_users_run():
  given = ['--target', 'h100', '--words', 'smoke', 'smoke,windows']
  given += ['--sizes', '32', '--lanes', '1', '4']
  works = targets.list_words(targets.make_parser().parse_args(given))
  assert [(w.cell['words'], w.cell['lanes'], w.inputs) for w in works] == [
    ('smoke', 1, 4), ('smoke', 4, 4),
    ('smoke,windows', 1, 3), ('smoke,windows', 4, 3),
  ]  # fmt: skip
  assert {work.cell['size'] for work in works} == {32}
  # What is ideal is known of the paper's network alone.
  assert [work.network is None for work in works] == [False] * 2 + [True] * 2


def test_unknown_words_are_refused(monkeypatch, capsys):
  monkeypatch.setattr(targets, 'prepare_process', lambda: None)
  monkeypatch.setattr(targets, 'find_device', lambda name, spec: name)
  assert "'nothing'" in _refuse(capsys, '--words', 'nothing')
