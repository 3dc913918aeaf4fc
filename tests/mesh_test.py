"""Lanes over several devices: equal to one device, and without collectives."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_four_devices():
  """JAX makes the devices of a CPU when it starts: another process has four."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'
  ran = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    + ['-p', 'no:xdist', 'tests/on_four_devices.py'],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': flags},
    capture_output=True,
    text=True,
  )
  assert ran.returncode == 0, ran.stdout
  assert re.search(r'\n\d+ passed in ', ran.stdout), ran.stdout
  # The programs that this run keeps are still there.
  assert pathlib.Path(os.environ['DIPJAX_TEST_CACHE']).is_dir()
