"""Denoising: requirement 2, or any picture of one's own.

python -m experiments.denoise --config=configs/req2.py --workdir=DIR
"""

import ml_collections

from experiments import cli, task, wiring


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """Restores one picture and returns what is written to result.json.

  Args:
    config: as configs/req2.py.
    workdir: the folder for all that the run leaves.

  Raises:
    ValueError: bad input, in one line; nothing is left behind.
  """
  data = wiring.load_denoising(config.data)
  return task.run('denoise', data, config, workdir)


if __name__ == '__main__':
  cli.launch(run)
