"""Noise impedance, requirement 1: a network fits pictures before noise.

python -m experiments.noise_impedance --config=configs/req1.py --workdir=DIR
"""

import os

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import Recipe, corruptions
from dipjax.engine import guard, lanes, loop, memory
from dipjax.engine.fit import make_fit
from dipjax.engine.problem import Problem
from experiments.lib import (
  build,
  cli,
  fields,
  folders,
  images,
  leaves,
  machine,
  page,
  pictures,
  plots,
  recorder,
  report,
  schema,
  task,
)
from experiments.lib import workdir as workdirs
from experiments.lib.data import IMAGE, read
from experiments.lib.task import Result

# The fields of config.data that this experiment reads.
_READ = (*IMAGE, 'sigma', 'noise_seed')

_TARGETS = 'the targets'  # The title of their pictures in the page.


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
  seeds = [config.seed] * len(targets)
  with workdirs.open_workdir(
    workdir, config, data=leaves.digest_arrays(*targets.values())
  ) as folder:
    if folder.finished:
      return task.recall(folder)
    shown: dict[int, np.ndarray] = {}
    lanes_of_page = [{'target': name, 'seed': config.seed} for name in targets]
    about = recorder.About(
      {'experiment': 'noise_impedance', 'lanes': lanes_of_page},
      [_show_row(_TARGETS, list(targets.values()))],
      apart=True,
    )
    record = recorder.Recorder(
      folder, config, steps=config.fit.steps, seeds=seeds, about=about
    )

    def watch(states, trace):
      step = int(states.step[0])
      if step in snapshots:
        shown[step] = np.asarray(states.average)
        record.checkpoints.keep(f'step-{step}', shown[step])
      return record(states, trace)

    with record:
      states, trace = loop.run_lanes(
        make_fit(recipe),
        jnp.stack([key] * len(targets)),
        lanes.stack_lanes(problems),
        chunk=min(config.record.every, config.fit.steps),
        watch=watch,
        store=record,
      )
      if np.all(guard.has_given_up(states.guard)):
        raise ValueError(loop.describe_divergence(int(states.step.max())))
      taken = np.asarray(trace.step[0])  # All lanes take the same steps.
      steps = int(states.step[0])
      # Pictures of a run before this one.
      like = np.asarray(states.average)
      for step in sorted(snapshots - shown.keys()):
        picture = record.checkpoints.recall(f'step-{step}', like)
        if step <= steps and picture is not None:
          shown[step] = picture
    losses = dict(zip(targets, trace.loss, strict=True))
    summary = {
      **report.describe_run('noise_impedance', states.params, steps, record),
      'stop': {'rule': 'last'},
      'measurement': {},
      'restored': {},
      'baselines': {},
      'levels': find_levels(losses, taken, config.levels),
      'lanes': [
        {'target': name, 'seed': config.seed, 'loss': float(loss[-1])}
        for name, loss in losses.items()
      ],
    }
    summary = folder.write(
      summary,
      lambda path: _write(path, summary, targets, shown, losses, taken, record),
    )
    record.finish()
    print(f'pictures in {folders.show(os.path.abspath(workdir))}')
  fitted = dict(zip(targets, np.asarray(states.average), strict=True))
  return Result(summary, fitted, signal=int(record.stop.signal))


def make_targets(data: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
  """Returns the four targets of the paper by name, [H, W, C] each."""
  fields.refuse_unread(data, _READ, 'data')
  image = read(data).pixels
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
  shapes, available = jax.eval_shape(pose, arrays[0]), machine.find_memory()
  memory.check_memory(prepared, shapes, available, lanes=len(arrays))
  return prepared, key, list(map(pose, arrays))


def find_levels(
  losses: dict[str, np.ndarray], steps: np.ndarray, levels: tuple[float, ...]
) -> list[dict]:
  """Returns for each level the first step at which each loss is below it.

  The step counts from 0; it is None where the loss never falls below the level.

  Args:
    losses: by target, [n].
    steps: the step of each loss, [n].
    levels: losses.
  """
  first = lambda loss, level: (
    int(steps[np.argmax(loss < level)]) if np.any(loss < level) else None
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


def _write(path, summary, targets, shown, losses, taken, record) -> list[str]:
  rows = [pictures.draw_comparison(targets)]
  for step, outputs in sorted(shown.items()):
    captions = [f'{name}, step {step}' for name in targets]
    rows.append(pictures.draw_comparison(dict(zip(captions, outputs))))
  width = max(row.shape[1] for row in rows)
  rows = [pictures.widen(row, width) for row in rows]
  images.write_image(os.path.join(path, 'fits.png'), np.concatenate(rows))
  record.records.write_kept(os.path.join(path, workdirs.METRICS))
  names = ['fits.png']
  if plots.draw_losses(os.path.join(path, 'curves.png'), losses, taken):
    names.append('curves.png')
  else:
    print("for curves.png: pip install 'dipjax[plots]'")
  shots = [_show_row(_TARGETS, list(targets.values()))]
  shots += [
    _show_row(f'after {step} steps', outputs)
    for step, outputs in sorted(shown.items())
  ]
  if record.frames.animate(
    os.path.join(path, 'animation.webp'), shots[-1].pixels
  ):
    names.append('animation.webp')
  return names + report.write_page(
    path, summary, record, shots, sides=(_TARGETS, shots[-1].title)
  )


def _show_row(title, images_of_row):
  """Returns pictures side by side, in the order of the lanes."""
  return page.Shot(title, np.concatenate(images_of_row, axis=1), compared=True)


if __name__ == '__main__':
  cli.launch(run)
