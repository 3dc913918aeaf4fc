"""What every restoration does with its data, whatever the task."""

import ml_collections

import dipjax
from experiments import recorder, report, wiring


def run(
  experiment: str,
  data: wiring.Data,
  config: ml_collections.ConfigDict,
  workdir: str,
  **changes,
) -> dict:
  """Restores one picture, leaves the files of a run, returns result.json.

  Args:
    experiment: its name.
    data: what is restored.
    config: of the fit.
    workdir: the folder for all that the run leaves.
    **changes: arguments of `dipjax.restore` that the config does not decide.

  Raises:
    ValueError: bad input, in one line; nothing is left behind.
  """
  channels = (data.size or data.measurement.shape)[-1]
  arguments = wiring.make_arguments(config, channels) | changes
  if data.operator is not None or 'code' in changes:
    wiring.refuse_known_noise(config.fit)
  noisy = wiring.prepare_noise(config, data.measurement)
  workdir = recorder.open_workdir(workdir, config)
  with recorder.Recorder(
    workdir, steps=config.fit.steps, seeds=arguments['seeds']
  ) as record:
    result = dipjax.restore(
      **noisy._asdict(),
      operator=data.operator,
      size=data.size,
      clean=data.clean,
      watch=record,
      **arguments,
    )
  summary = report.summarize(experiment, data, result, record)
  report.write_report(workdir, summary, data, result, record.records)
  report.print_summary(workdir, summary)
  return summary
