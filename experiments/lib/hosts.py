"""The processes of one job, on one host or on many, each with its share.

What is restored does not depend on the others, so that processes tell each
other little: that they have come so far, or what stopped them. They tell it
through the service by which `jax.distributed` has brought them together.
"""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax

from experiments.lib import folders, records
from experiments.lib.stopping import Stop

T = TypeVar('T')

# Where processes tell each other.
_HOME = 'dipjax'
_GONE = f'{_HOME}/gone'
_PAUSE = 0.2  # Seconds between two looks.
_PATIENCE = 20.0  # Seconds that a process that was asked to stop waits.

_meetings = itertools.count()


def join(
  coordinator: str | None, processes: int | None, process: int | None
) -> None:
  """Makes this process one of a job; JAX must not have computed anything.

  Args:
    coordinator: HOST:PORT of the first process; None: JAX finds it, the number
      of processes and this one's place, as on a TPU pod, with Slurm and on GKE.
    processes: how many there are.
    process: the place of this one, from 0.

  Raises:
    ValueError: there is no job to be found, or it does not come together.
  """
  # A SIGTERM ends a run in order, see `stopping`: it is not JAX's.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(coordinator, processes, process)
  except (ValueError, TypeError) as error:
    raise ValueError(
      'no TPU pod, Slurm or GKE is found: name --coordinator=HOST:PORT, '
      f'--processes=N and --process=I ({error})'
    ) from error
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise ValueError(f'the processes do not come together: {reason}') from error


class Team(NamedTuple):
  """The processes of a job, as one of them sees them."""

  index: int = 0  # Of this one.
  count: int = 1

  @property
  def leads(self) -> bool:
    """Whether this process does what is done once."""
    return self.index == 0

  def name(self) -> str:
    """Returns what to call this process among the others."""
    return f'{self.index}-of-{self.count}'

  def take_share(self, items: Sequence[T]) -> list[T]:
    """Returns the items of this process; each item is one process's.

    The same items and the same number of processes give the same shares.
    """
    return list(items[self.index :: self.count])

  @contextlib.contextmanager
  def meet(self, stop: Stop | None = None) -> Iterator[dict[str, Any]]:
    """Waits at its end for all processes; an error of one ends all.

    All processes meet equally often. A process that is interrupted waits for
    nobody, and nobody waits for it.

    Args:
      stop: whether somebody asked this process to stop. If so, it waits some
        seconds for the others, who were probably asked too.

    Returns:
      A dict for what to tell the others, of JSON. After the context its entry
      'all' has the dicts of all processes.

    Raises:
      ValueError: another process was interrupted, or raised an exception in its
        context.
      SystemExit: this process was asked to stop, and another did not come.
    """
    told: dict[str, Any] = {}
    if self.count == 1:
      yield told
      told['all'] = [dict(told)]
      return
    place, own, client = f'{_HOME}/{next(_meetings)}', None, _find_client()
    tell = lambda place, error: client.key_value_set(
      f'{place}/{self.index}', json.dumps({'error': error, 'told': told})
    )
    try:
      try:
        yield told
      except Exception as error:
        own = error
        records.say(f'process {self.index}: {error}; it waits for the others')
      tell(place, own and _describe(own))
      left = _PATIENCE
      while len(heard := _hear(client, place)) < self.count:
        time.sleep(_PAUSE)
        left -= _PAUSE * bool(stop)
        if stop and left < 0:
          records.say('the other processes go on; the same command goes on too')
          sys.exit(128 + stop.signal)
    except BaseException:
      tell(_GONE, 'was interrupted')
      raise
    if own:
      raise own
    for index, one in enumerate(heard):
      if one['error']:
        raise ValueError(f'process {index}: {one["error"]}')
    told['all'] = [one['told'] for one in heard]


def _hear(client: Any, place: str) -> list[dict[str, Any]]:
  """Returns what processes have told so far, in their order."""
  found = {
    int(key.rpartition('/')[2]): json.loads(value)
    for where in (_GONE, place)
    for key, value in client.key_value_dir_get(f'{where}/')
  }
  return [one for _, one in sorted(found.items())]


def _describe(error: Exception) -> str:
  if isinstance(error, OSError) and error.filename:
    return f'{folders.show(error.filename)}: {error.strerror}'
  return ' '.join(str(error).split())


def find_team() -> Team:
  """Returns the processes of this job; one process alone without `join`."""
  if not jax.distributed.is_initialized():
    return Team()
  return Team(jax.process_index(), jax.process_count())


def _find_client() -> Any:
  # JAX has no public way to ask the service that it has started.
  from jax._src import distributed

  return distributed.global_state.client
