"""Noise impedance, requirement 1: a network fits pictures before noise.

python -m experiments.noise_impedance --config=configs/req1.py --workdir=DIR
"""

import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import corruptions, fit, lanes, monitors, objectives, operators
from dipjax.restore import make_problem, run_lanes
from experiments import cli, images, pictures, plots, recorder, report, wiring


def run(config: ml_collections.ConfigDict, workdir: str) -> dict:
  """Fits four targets at once and returns what is written to result.json.

  Args:
    config: as configs/req1.py.
    workdir: the folder for all that the run leaves.

  Raises:
    ValueError: bad input, in one line; nothing is left behind.
  """
  targets = make_targets(config.data)
  snapshots = _check_snapshots(config)
  one, keys, problems = make_fits(config, list(targets.values()))
  workdir = recorder.open_workdir(workdir, config)
  seeds = [config.seed] * len(targets)
  shown: dict[int, np.ndarray] = {}
  with recorder.Recorder(
    workdir, steps=config.fit.steps, seeds=seeds
  ) as record:

    def watch(states, trace):
      record(states, trace)
      if int(states.step[0]) in snapshots:
        shown[int(states.step[0])] = np.asarray(states.average)

    states, trace = run_lanes(
      one, keys, problems, chunk=config.record.every, watch=watch
    )
  taken = trace.active[0]  # All lanes take the same steps.
  losses = dict(zip(targets, trace.loss[:, taken], strict=True))
  summary = {
    **report.describe_run(
      'noise_impedance', states.params, config.fit.steps, record
    ),
    'stop': {'rule': 'last'},
    'measurement': {},
    'restored': {},
    'baselines': {},
    'levels': find_levels(losses, config.levels),
    'lanes': [
      {'target': name, 'seed': config.seed, 'loss': float(loss[-1])}
      for name, loss in losses.items()
    ],
  }
  _write(workdir, targets, shown, losses, summary)
  print(f'pictures in {os.path.abspath(workdir)}')
  return summary


def make_targets(data: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
  """Returns the four targets of the paper by name, [H, W, C] each."""
  image = wiring.read(data.image, data.crop)
  seed = data.noise_seed
  noisy = corruptions.add_gaussian_noise(image, data.sigma / 255, seed=seed)
  return {
    'image': image,
    'image + noise': noisy,
    'shuffled pixels': corruptions.shuffle_pixels(image, seed=seed),
    'noise': corruptions.draw_noise_image(image.shape, seed=seed),
  }


def make_fits(
  config: ml_collections.ConfigDict, targets: list[np.ndarray]
) -> tuple[fit.Fit, jax.Array, objectives.Problem]:
  """Returns the fit, the keys and the problems of one lane for each target.

  All lanes have the same code and the same initial network: only the targets
  differ.
  """
  wiring.refuse_known_noise(config.fit)
  arguments = wiring.make_arguments(config, targets[0].shape[-1])
  network = arguments['network']
  one = fit.make_fit(
    network,
    objectives.measurement_error(network, error=arguments['error']),
    arguments['optimizer'],
    {'last': monitors.last(config.fit.steps)},
    decay=0.0,  # What is shown are the outputs themselves.
    precision=arguments['precision'],
  )
  key = jax.random.key(config.seed)
  problems = [
    make_problem(
      key,
      jnp.asarray(target),
      operators.Identity(),
      network,
      target.shape,
      code=arguments['code'],
      jitter=arguments['jitter'],
      steps=arguments['steps'],
    )
    for target in targets
  ]
  keys = jnp.stack([key] * len(targets))
  return one, keys, lanes.stack_lanes(problems)


def find_levels(
  losses: dict[str, np.ndarray], levels: tuple[float, ...]
) -> list[dict]:
  """Returns for each level the first step at which each loss is below it."""
  first = lambda loss, level: (
    int(np.argmax(loss < level)) if np.any(loss < level) else None
  )
  return [
    {
      'loss': level,
      'steps': {name: first(loss, level) for name, loss in losses.items()},
    }
    for level in levels
  ]


def _check_snapshots(config):
  wrong = [
    step
    for step in config.snapshots
    if step % config.record.every or not 0 < step <= config.fit.steps
  ]
  if wrong:
    raise ValueError(
      f'snapshots {wrong} are no multiples of record.every='
      f'{config.record.every} up to fit.steps={config.fit.steps}'
    )
  return set(config.snapshots)


def _write(workdir, targets, shown, losses, summary):
  rows = [pictures.draw_comparison(targets)]
  for step, outputs in sorted(shown.items()):
    captions = [f'{name}, step {step}' for name in targets]
    rows.append(pictures.draw_comparison(dict(zip(captions, outputs))))
  width = max(row.shape[1] for row in rows)
  rows = [pictures.widen(row, width) for row in rows]
  path = lambda name: os.path.join(workdir, name)
  images.write_image(path('fits.png'), np.concatenate(rows))
  if not plots.draw_losses(path('curves.png'), losses):
    print("for curves.png: pip install 'dipjax[plots]'")
  recorder.write_json(path('result.json'), summary)


if __name__ == '__main__':
  cli.launch(run)
