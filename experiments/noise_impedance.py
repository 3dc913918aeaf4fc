"""Noise impedance, requirement 1: a network fits pictures before noise.

python -m experiments.noise_impedance --config=configs/req1.py --workdir=DIR
"""

import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import Recipe, corruptions
from dipjax.engine import lanes, memory
from dipjax.engine.fit import make_fit
from dipjax.engine.loop import run_lanes
from dipjax.engine.problem import Problem
from experiments.lib import (
  build,
  cli,
  fields,
  images,
  machine,
  pictures,
  plots,
  recorder,
  report,
  schema,
)
from experiments.lib import workdir as workdirs
from experiments.lib.data import read
from experiments.lib.task import Result

# The fields of config.data that this experiment reads.
_READ = ('image', 'crop', 'sigma', 'noise_seed')


def run(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Fits four targets at once; returns the numbers and the arrays.

  Args:
    config: as configs/req1.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  targets = make_targets(config.data)
  snapshots = _check_snapshots(config)
  recipe, key, problems = pose_targets(config, list(targets.values()))
  workdir = workdirs.open_workdir(workdir, config)
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
      make_fit(recipe),
      jnp.stack([key] * len(targets)),
      lanes.stack_lanes(problems),
      chunk=min(config.record.every, config.fit.steps),
      watch=watch,
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
  fitted = dict(zip(targets, np.asarray(states.average), strict=True))
  return Result(summary, fitted)


def make_targets(data: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
  """Returns the four targets of the paper by name, [H, W, C] each."""
  fields.refuse_unread(data, _READ, 'data')
  image = read(data.image, data.crop)
  seed = data.noise_seed
  noisy = corruptions.add_gaussian_noise(image, data.sigma / 255, seed=seed)
  return {
    'image': image,
    'image + noise': noisy,
    'shuffled pixels': corruptions.shuffle_pixels(image, seed=seed),
    'noise': corruptions.draw_noise_image(image.shape, seed=seed),
  }


def pose_targets(
  config: ml_collections.ConfigDict, targets: list[np.ndarray]
) -> tuple[Recipe, jax.Array, list[Problem]]:
  """Returns the recipe, the lanes' one key, and a problem for each target.

  All lanes have the same code and the same initial network: only the targets
  differ. The pictures show the outputs themselves, without an average.
  """
  recipe = build.make_recipe(
    config, targets[0].shape[-1], own=('levels', 'snapshots'), stops=False
  )
  if recipe.method.needs:
    raise ValueError(
      f'the method {recipe.method.name!r} needs the noise of what it fits, and '
      'noise impedance fits targets that have none or are nothing else: choose '
      'another method'
    )
  key = jax.random.key(config.seed)
  arrays = list(map(jnp.asarray, targets))
  prepared, operator = recipe.prepare(arrays[0])
  pose = lambda target: lanes.pose_problem(
    prepared, key, target, operator, target.shape
  )
  available = machine.find_memory()
  if available is not None:
    shapes = jax.eval_shape(pose, arrays[0])
    memory.check_memory(prepared, shapes, available, lanes=len(arrays))
  return prepared, key, list(map(pose, arrays))


def find_levels(
  losses: dict[str, np.ndarray], levels: tuple[float, ...]
) -> list[dict]:
  """Returns for each level the first step at which each loss is below it.

  The step counts from 0; it is None where the loss never falls below the level.
  """
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
  workdirs.write_json(path('result.json'), summary)


if __name__ == '__main__':
  cli.launch(run)
