"""The command that started this process, as the user would type it again."""

import pathlib
import shlex
import sys

_FOLDER = pathlib.Path(__file__).resolve().parents[1]


def find_name() -> str:
  """Returns the name of the module that was run."""
  path = pathlib.Path(sys.argv[0])
  return path.parent.name if path.stem == '__main__' else path.stem


def repeat(workdir: str = '') -> str:
  """Returns the command that goes on with a run.

  Args:
    workdir: the folder of the run where the command does not name it, or ''.
  """
  given = [a for a in sys.argv[1:] if a.lstrip('-') != 'overwrite']
  given += [f'--workdir={workdir}'] if workdir else []
  return shlex.join(['python', '-m', f'experiments.{find_name()}', *given])


def find(workdir: str) -> str:
  """Returns the command of a run; '' where no experiment was run by a command.

  Args:
    workdir: the folder of the run.
  """
  if not pathlib.Path(sys.argv[0]).resolve().is_relative_to(_FOLDER):
    return ''
  flags = [argument.lstrip('-').partition('=')[0] for argument in sys.argv[1:]]
  return repeat('' if 'workdir' in flags else workdir)
