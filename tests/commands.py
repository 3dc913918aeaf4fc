"""Parses commands as `python -m` does, and runs none of them.

A command is a module of `experiments` or `benchmarks` and its arguments. It
ends with what the module said against them on standard error, '' where it would
have run, see `forks`. Each is parsed by the flags and the config of the module,
in a process forked from this one.
"""

import argparse
import os
import runpy
import sys

from experiments import denoise  # noqa: F401  Imported before the fork.
from experiments.lib import cli, hosts
from tests import forks

_PARSED = 77  # The exit status of a command that would have run.


def _describe(status: int, errors: str) -> str:
  return '' if status == _PARSED else errors or f'exit status {status}'


def _parse(module, *arguments):
  """Never returns."""
  parse_args = argparse.ArgumentParser.parse_args

  def stop(*_, **__):
    os._exit(_PARSED)

  def parse(parser, *given):
    parse_args(parser, *given)
    stop()

  argparse.ArgumentParser.parse_args = parse
  hosts.join = lambda *_: None  # There is no job to come together.
  cli.perform = stop
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit:
    pass
  except Exception as error:
    print(error, file=sys.stderr)
  finally:
    sys.stderr.flush()
    os._exit(1)


if __name__ == '__main__':
  forks.serve(_parse, _describe)
