"""A plain diffusion model (DDPM): trains it, samples it, denoises with it.

python -m experiments.ddpm --config=configs/ddpm.py --workdir=DIR
"""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from dipjax import corruptions, diffusion, metrics, schedules
from dipjax.networks import denoiser
from experiments.lib import (
  checkpoints,
  cli,
  images,
  pictures,
  recorder,
  schema,
)
from experiments.lib import workdir as workdirs
from experiments.lib.task import Result


def run(config: ml_collections.ConfigDict, workdir: str) -> Result:
  """Trains, draws samples, denoises; returns the numbers and the arrays.

  Args:
    config: as configs/ddpm.py.
    workdir: the folder for all files of the run; a second run with the same
      config goes on from the last checkpoint in it.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = load_images(config.data.images)
  model = make_model(config, data.shape[-1])
  check_config(config, data.shape)
  noisy, clean = load_noisy(config, data.shape)
  workdir = workdirs.open_workdir(workdir, config)
  print(
    f'{len(data)} images of {data.shape[2]}x{data.shape[1]}: '
    f'{config.train.steps} steps on {recorder.describe_device()}',
    flush=True,
  )
  state, losses, samples = fit_model(config, model, jnp.asarray(data), workdir)
  arrays = {'samples': samples}
  summary = {
    'experiment': 'ddpm',
    'parameters': sum(x.size for x in jax.tree.leaves(state.params)),
    'images': len(data),
    **describe_losses(losses),
    'device': jax.devices()[0].platform,
    'hardware': recorder.describe_device(),
    'versions': recorder.describe_versions(),
  }
  if clean is not None:
    restored = _denoise(config, model, state.average, noisy, clean, workdir)
    summary |= restored.summary
    arrays |= restored.images
  workdirs.write_json(os.path.join(workdir, 'result.json'), summary)
  print(
    f'loss {summary["loss"]["first"]:.3f} to {summary["loss"]["last"]:.3f}; '
    f'samples in {os.path.abspath(workdir)}'
  )
  return Result(summary, arrays)


def load_images(source: str) -> np.ndarray:
  """Returns the images to learn from, float32 [N, H, W, C] in [0, 1].

  Args:
    source: a folder, an npz with uint8 `images` [N, H, W, C], or 'digits'.

  Raises:
    ValueError: fewer than two images, images of different sizes, or a source
      that cannot be read.
  """
  if source == 'digits':
    return _load_digits()
  path = os.path.expanduser(source)
  if os.path.isdir(path):
    names = sorted(n for n in os.listdir(path) if not n.startswith('.'))
    loaded = [images.read_image(os.path.join(path, name)) for name in names]
    sizes = {image.shape: name for name, image in zip(names, loaded)}
    if len(sizes) > 1:
      (a, first), (b, second), *_ = sizes.items()
      raise ValueError(
        f'images must be of one size: {first!r} is {a}, {second!r} is {b}'
      )
  elif os.path.isfile(path):
    loaded = _load_npz(path)
  else:
    raise ValueError(f"{path!r} is neither a folder, an npz nor 'digits'")
  if len(loaded) < 2:
    raise ValueError(
      f'{path!r} has {len(loaded)} images: at least 2 are needed'
    )
  return np.stack(loaded)


def _load_npz(path):
  try:
    with np.load(path, allow_pickle=False) as file:
      stack = file['images']
  # A file with a single array is no archive, and a damaged archive raises
  # nearly any error.
  except Exception:
    raise ValueError(f'{path!r} is no npz with an array `images`') from None
  if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] not in (1, 3):
    raise ValueError(
      f'`images` of {path!r} must be uint8 [N, H, W, 1 or 3], got '
      f'{stack.dtype} {stack.shape}'
    )
  return stack.astype(np.float32) / 255


def _load_digits():
  try:
    from sklearn import datasets  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ValueError(
      "'digits' needs scikit-learn: pip install 'dipjax[samples]', or give "
      'images with --config.data.images=FOLDER'
    ) from None
  digits = datasets.load_digits().images[..., None] / 16
  return digits.astype(np.float32)


def check_config(
  config: ml_collections.ConfigDict, shape: tuple[int, ...]
) -> None:
  """Raises a ValueError for a config that cannot train on these images.

  Args:
    config: as configs/ddpm.py.
    shape: (N, H, W, C) of the images.
  """
  channels = config.network.channels
  multiple = 2 ** (len(channels) - 1)
  if shape[1] % multiple or shape[2] % multiple:
    raise ValueError(
      f'images of {shape[2]}x{shape[1]} must have sides that are multiples of '
      f'{multiple} for {len(channels)} levels'
    )
  if config.checkpoint.every % config.record.every:
    raise ValueError(
      f'checkpoint.every={config.checkpoint.every} must be a multiple of '
      f'record.every={config.record.every}'
    )
  diffusion.choose_steps(config.schedule.steps, config.sample.steps)


class Model:
  """A network that predicts noise, with its levels and its training.

  Attributes:
    network: predicts the noise.
    levels: [T], the level of the noise after each step.
    training: trains the network.
  """

  def __init__(self, network, levels, training):
    self.network, self.levels, self.training = network, levels, training

  def draw(self, params: Any, key: jax.Array, shape, sample) -> np.ndarray:
    """Returns sample.count images, [count, H, W, C]; shape is (H, W, C)."""
    return np.asarray(
      diffusion.draw_samples(
        self.network,
        params,
        self.levels,
        key,
        (sample.count, *shape),
        steps=diffusion.choose_steps(len(self.levels), sample.steps),
        eta=sample.eta,
      )
    )


def make_model(config: ml_collections.ConfigDict, outputs: int) -> Model:
  """Returns the network, the levels and the training that a config names."""
  schedule, train = config.schedule, config.train
  betas = schedules.make_betas(
    schedule.name,
    schedule.steps,
    beta_min=schedule.beta_min,
    beta_max=schedule.beta_max,
  )
  levels = schedules.cumulate_levels(betas)
  network = denoiser.Denoiser(outputs, tuple(config.network.channels))
  training = diffusion.make_training(
    network,
    optax.adam(train.learning_rate),
    levels,
    batch=train.batch,
    decay=train.decay,
  )
  return Model(network, levels, training)


def fit_model(
  config: ml_collections.ConfigDict,
  model: Model,
  data: jax.Array,
  workdir: str,
) -> tuple[diffusion.TrainState, list[dict], np.ndarray]:
  """Trains to the end, from the last checkpoint if there is one.

  Returns:
    The last state, all records of metrics.jsonl, and the last samples,
    [N, H, W, C], which are none where nothing was left to train.
  """
  key = jax.random.key(config.seed)
  state = diffusion.begin(model.training, key, data)
  path = os.path.join(workdir, 'metrics.jsonl')
  drawn = np.zeros((0, *data.shape[1:]), np.float32)
  with checkpoints.open_checkpoints(workdir) as manager:
    state = checkpoints.restore_latest(manager, state)
    step = int(state.step)
    records = workdirs.keep_lines(path, lambda record: record['step'] < step)
    begun, waiting = time.perf_counter(), []
    while step < config.train.steps:
      state, loss = diffusion.train(model.training, state, data)
      waiting.append(loss)
      step += 1
      due = lambda every, step=step: (
        step % every == 0 or step == config.train.steps
      )
      if due(config.record.every):
        seconds = time.perf_counter() - begun
        record = {'step': step - 1, 'loss': float(np.mean(waiting))}
        records.append(record | {'seconds': seconds})
        waiting = []
        workdirs.append_lines(path, records[-1:])
        print(f'step {step}: loss {record["loss"]:.4f}', flush=True)
      if due(config.sample.every):
        drawn = model.draw(
          state.average,
          jax.random.fold_in(key, 1),
          data.shape[1:],
          config.sample,
        )
        grid = pictures.draw_grid(drawn)
        images.write_image(os.path.join(workdir, 'samples.png'), grid)
      if due(config.checkpoint.every):
        checkpoints.save(manager, step, state)
  return state, records, drawn


def describe_losses(records: list[dict]) -> dict:
  """Returns the steps, the seconds, the first and the last recorded loss.

  `factor` is the first loss divided by the last.
  """
  first, last = records[0]['loss'], records[-1]['loss']
  return {
    'steps': records[-1]['step'] + 1,
    'seconds': {'fit': records[-1]['seconds']},
    'loss': {'first': first, 'last': last, 'factor': first / last},
  }


def load_noisy(
  config: ml_collections.ConfigDict, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray | None]:
  """Returns a noisy picture to denoise and the clean one, or None twice."""
  if not config.denoise.image:
    return None, None
  clean = images.read_image(config.denoise.image)
  if clean.shape != shape[1:]:
    raise ValueError(
      f'denoise.image is {clean.shape}, the images are {shape[1:]}: they must '
      'be of one size'
    )
  if not config.denoise.sigma:
    raise ValueError('denoise.sigma must be above 0')
  sigma = config.denoise.sigma / 255
  noisy = corruptions.add_gaussian_noise(clean, sigma, seed=0)
  return noisy, clean


def _denoise(config, model, params, noisy, clean, workdir):
  """Writes measurement, restored and clean; returns scores and arrays."""
  sigma = config.denoise.sigma / 255
  key = jax.random.fold_in(jax.random.key(config.seed), 2)
  (restored,) = diffusion.denoise(
    model.network, params, model.levels, key, noisy[None], sigma=sigma
  )
  restored = np.asarray(restored)
  psnrs = {
    'measurement': float(metrics.psnr(noisy, clean)),
    'restored': float(metrics.psnr(restored, clean)),
  }
  panels = {
    f'measurement {psnrs["measurement"]:.2f} dB': noisy,
    f'restored {psnrs["restored"]:.2f} dB': restored,
    'clean': clean,
  }
  picture = pictures.draw_comparison(panels)
  images.write_image(os.path.join(workdir, 'comparison.png'), picture)
  images.write_image(os.path.join(workdir, 'restored.png'), restored)
  summary: dict[str, Any] = {
    name: {'psnr': psnr} for name, psnr in psnrs.items()
  }
  summary['from_step'] = diffusion.find_step(model.levels, sigma)
  return Result(summary, {'measurement': noisy, 'restored': restored})


if __name__ == '__main__':
  cli.launch(run)
