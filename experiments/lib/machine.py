"""What the machine has left: the memory that a run may take."""

import os
import re
from pathlib import Path

import jax

_MEMINFO = Path('/proc/meminfo')
_CGROUPS = Path('/sys/fs/cgroup')


def find_memory() -> int | None:
  """Returns the bytes that a run on a CPU may still take, None where unknown.

  The least of what the machine has available, what is left of the limits of the
  process's control group (version 2, or 1), and what is left of its limit of
  address space. dipjax itself asks other devices.
  """
  if jax.default_backend() != 'cpu':
    return None
  found = [_find_available(), _find_group(), _find_address_space()]
  return min((count for count in found if count is not None), default=None)


def _find_available() -> int | None:
  """The memory that programs can take without swapping."""
  available = _read_field(_MEMINFO, 'MemAvailable:')
  if available is not None:
    return 1024 * available
  if not hasattr(os, 'sysconf') or 'SC_PHYS_PAGES' not in os.sysconf_names:
    return None
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _find_group() -> int | None:
  """What the control group of a container leaves."""
  files = [
    ('memory.max', 'memory.current'),
    ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes'),
  ]
  for limit, usage in files:
    most, used = _read_number(_CGROUPS / limit), _read_number(_CGROUPS / usage)
    if most is not None and used is not None:
      return max(most - used, 0)
  return None


def _find_address_space() -> int | None:
  """What `ulimit -v` leaves of the address space."""
  try:
    import resource
  except ImportError:  # On Windows there is none.
    return None
  soft, _ = resource.getrlimit(resource.RLIMIT_AS)
  used = _read_field(Path('/proc/self/status'), 'VmSize:')
  if soft == resource.RLIM_INFINITY:
    return None
  return max(soft - 1024 * (used or 0), 0)


def _read_number(path: Path) -> int | None:
  """The number in a file; None for `max`, which is no limit, and no file."""
  try:
    return int(path.read_text())
  except (OSError, ValueError):
    return None


def _read_field(path: Path, name: str) -> int | None:
  try:
    lines = path.read_text().splitlines()
  except OSError:
    return None
  values = [line.split()[1] for line in lines if line.startswith(name)]
  return int(values[0]) if values else None


def explain_allocation(error: BaseException) -> str | None:
  """Returns one line about an allocation that failed; None of other errors.

  NumPy and Python raise a MemoryError. JAX raises a runtime error that begins
  with RESOURCE_EXHAUSTED, on a CPU as on other devices.
  """
  message = str(error)
  exhausted = isinstance(error, RuntimeError) and any(
    sign in message for sign in ('RESOURCE_EXHAUSTED', 'Out of memory')
  )
  if not (exhausted or isinstance(error, MemoryError)):
    return None
  advice = ['a smaller data.crop', 'fewer lanes', 'fit.remat=True']
  # On a CPU it saves nothing.
  if jax.default_backend() != 'cpu':
    advice.append('fit.precision=bfloat16')
  return f'out of memory{_find_size(message)}: try {" or ".join(advice)}'


def _find_size(message: str) -> str:
  """What could not be had, as JAX and NumPy write it; '' where they do not."""
  number = re.search(r'allocat\w* (\d+) bytes', message)
  if number:
    return f' for {int(number[1]) / 1e9:.3g} GB more'
  number = re.search(r'allocate ([\d.]+ ?[KMGT]i?B)', message)
  return f' for {number[1]} more' if number else ''
