"""Denoising: requirement 2, or any picture of one's own.

python -m experiments.denoise --config=configs/req2.py --workdir=DIR
"""

import ml_collections

import dipjax
from experiments import cli, recorder, report, wiring


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """Restores one picture and returns what is written to result.json.

  Args:
    config: as configs/req2.py.
    workdir: the folder for all that the run leaves.

  Raises:
    ValueError: bad input, in one line; nothing is left behind.
  """
  data = wiring.load_denoising(config.data)
  arguments = wiring.make_arguments(config, data.measurement.shape[-1])
  workdir = recorder.open_workdir(workdir, config)
  with recorder.Recorder(
    workdir, steps=config.fit.steps, seeds=arguments['seeds']
  ) as record:
    result = dipjax.restore(
      data.measurement, clean=data.clean, watch=record, **arguments
    )
  summary = report.summarize('denoise', data, result, record)
  report.write_report(workdir, summary, data, result, record.records)
  report.print_summary(workdir, summary)
  return summary


if __name__ == '__main__':
  cli.launch(run)
