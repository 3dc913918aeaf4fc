"""The settings of JAX that a result depends on, the same in every process.

A user's own session may have other defaults: arrays of 64 bits, another
generator of random numbers, errors at the first NaN. dipjax computes in 32 bits
and means its NaNs, so that its functions pin what they depend on.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

import jax

T = TypeVar('T')
U = TypeVar('U')

_MOST_THREADS = 16  # What each one makes has memory of its own.


@contextlib.contextmanager
def pin() -> Iterator[None]:
  """Gives the same result inside of the context, whatever the settings outside.

  Pinned are arrays of 32 bits, the generator of random numbers, promotion of
  types, and transfers between host and device. NaN and infinity raise no error:
  scores begin with them, and the guard of a fit finds those that are faults.

  The settings outside are back after the context, an exception included. Each
  thread has settings of its own. The function decorates functions, too.
  """
  pinned = [
    jax.enable_x64(False),
    jax.default_prng_impl('threefry2x32'),
    jax.threefry_partitionable(True),
    jax.numpy_dtype_promotion('standard'),
    jax.debug_nans(False),
    jax.debug_infs(False),
    jax.transfer_guard('allow'),
  ]
  with contextlib.ExitStack() as stack:
    for setting in pinned:
      stack.enter_context(setting)
    yield


def map_in_threads(
  function: Callable[[T], U], items: Iterable[T]
) -> Iterator[U]:
  """Yields what a function makes of each item, in their order.

  As many are made at a time as there are cores, at most 16, each in a thread
  with the settings of `pin`: for small programs, of which XLA leaves most to
  one core.
  """
  count = min(multiprocessing.cpu_count(), _MOST_THREADS)
  with futures.ThreadPoolExecutor(count) as pool:
    yield from pool.map(pin()(function), items)
