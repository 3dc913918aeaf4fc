"""The memory that is left: of the machine, a container, a limit."""

import resource
import subprocess
import sys

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
