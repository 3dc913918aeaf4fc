"""The experiment binaries: `python -m experiments.NAME`."""

import signal
import sys

# `python -m experiments.NAME` imports this package first. Until the command
# line takes over, Ctrl-C ends the process without a traceback.
if sys.argv[:1] == ['-m']:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
