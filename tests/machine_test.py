"""The memory that is left: of the machine, a container, a limit."""

import resource
import subprocess
import sys

import jax
import pytest

from experiments.lib import machine


def test_the_machine_has_memory_left():
  found = machine.find_memory()
  assert found is not None and 0 < found < 2**48


@pytest.mark.parametrize('version', [1, 2])
def test_a_container_leaves_what_its_limit_says(version, tmp_path, monkeypatch):
  monkeypatch.setattr(machine, '_CGROUPS', tmp_path)
  names = {
    1: ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes'),
    2: ('memory.max', 'memory.current'),
  }
  (tmp_path / 'memory').mkdir()
  limit, usage = (tmp_path / name for name in names[version])
  limit.write_text('5000\n')
  usage.write_text('3000\n')
  assert machine.find_memory() == 2000
  usage.write_text('6000\n')
  assert machine.find_memory() == 0
  if version == 2:
    limit.write_text('max\n')
    assert machine.find_memory() > 10_000


def test_nothing_that_is_known_is_none(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, '_CGROUPS', tmp_path)
  monkeypatch.setattr(machine, '_MEMINFO', tmp_path / 'none')
  monkeypatch.setattr(machine.os, 'sysconf_names', {})
  assert machine.find_memory() is None


def test_a_limit_of_address_space_counts():
  """In a process of its own, which the limit does not leave."""
  script = (
    'import resource, jax\n'
    'from experiments.lib import machine\n'
    'jax.devices()\n'
    'limit = 64 * 2**30\n'
    'resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n'
    'left = machine._find_address_space()\n'
    'assert 0 < left < limit, left\n'
    'assert machine.find_memory() <= left\n'
  )
  assert resource.getrlimit(resource.RLIMIT_AS)
  subprocess.run([sys.executable, '-c', script], check=True)


ALLOCATIONS = {
  'JAX, a CPU': (
    jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory allocating 6400000000 bytes.'
    ),
    'for 6.4 GB more',
  ),
  'JAX, a GPU': (
    jax.errors.JaxRuntimeError(
      'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123456789 '
      'bytes.\nBufferAssignment OOM Debugging'
    ),
    'for 0.123 GB more',
  ),
  'NumPy': (
    MemoryError('Unable to allocate 11.9 GiB for an array with shape (40, 4)'),
    'for 11.9 GiB more',
  ),
  'Python': (MemoryError(), 'out of memory: try'),
}


@pytest.mark.parametrize('error, said', ALLOCATIONS.values(), ids=ALLOCATIONS)
def test_an_allocation_that_failed_is_one_line_of_what_to_do(error, said):
  line = machine.explain_allocation(error)
  assert line and '\n' not in line and said in line
  assert 'data.crop' in line and 'fewer lanes' in line
  assert 'fit.remat=True' in line


def test_what_saves_memory_on_a_gpu_alone_is_said_there_alone(monkeypatch):
  assert 'bfloat16' not in str(machine.explain_allocation(MemoryError()))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  line = machine.explain_allocation(MemoryError())
  assert line and 'fit.precision=bfloat16' in line


@pytest.mark.parametrize(
  'error', [ValueError('Out of memory'), RuntimeError('INTERNAL: a bug')]
)
def test_other_errors_are_not_explained(error):
  assert machine.explain_allocation(error) is None


def test_what_jax_raises_without_memory_is_recognised():
  """In a process of its own, which the limit does not leave."""
  script = (
    'import resource, jax, jax.numpy as jnp\n'
    'from experiments.lib import machine\n'
    'jax.devices()\n'
    "used = 1024 * machine._read_field(machine.Path('/proc/self/status'), "
    "'VmSize:')\n"
    'limit = used + 10**9\n'
    'resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n'
    'try:\n'
    '  jax.jit(lambda: jnp.ones(2 * 10**9))().block_until_ready()\n'
    'except Exception as error:\n'
    '  print(machine.explain_allocation(error))\n'
  )
  found = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, check=True
  )
  assert found.stdout.startswith('out of memory for 8 GB more: try ')
