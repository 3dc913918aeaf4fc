"""A plain diffusion model (DDPM): trains it, samples it, denoises with it.

python -m experiments.ddpm --config=configs/ddpm.py --workdir=DIR
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
  command,
  folders,
  images,
  leaves,
  page,
  pictures,
  recorder,
  records,
  report,
  schema,
  stopping,
  task,
)
from experiments.lib import workdir as workdirs
from experiments.lib.reading import arrays as archives
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
  digest = leaves.digest_arrays(data, *([] if clean is None else [noisy]))
  with workdirs.open_workdir(workdir, config, data=digest) as folder:
    if folder.finished:
      return task.recall(folder)
    print(
      f'{len(data)} images of {data.shape[2]}x{data.shape[1]}: '
      f'{config.train.steps} steps on {recorder.describe_device()}',
      flush=True,
    )
    fitted = fit_model(config, model, jnp.asarray(data), folder)
    arrays = {'samples': fitted.samples}
    summary = {
      'experiment': 'ddpm',
      'parameters': sum(x.size for x in jax.tree.leaves(fitted.state.params)),
      'images': len(data),
      **describe_losses(fitted.records),
      'seconds': {'fit': fitted.seconds},
      'device': jax.devices()[0].platform,
      'hardware': recorder.describe_device(),
      'versions': recorder.describe_versions(),
      **({'stopped': True} if fitted.signal else {}),
    }
    if clean is not None:
      restored = _denoise(config, model, fitted.state.average, noisy, clean)
      summary |= restored.summary
      arrays |= restored.images
    content = page.Content(
      summary,
      folder.config,
      _list_shots(arrays, clean),
      fitted.records,
      command=command.find(workdir),
    )
    summary = folder.write(
      summary,
      lambda path: [*_write(path, arrays), *report.save_page(path, content)],
    )
    print(
      f'loss {summary["loss"]["first"]:.3f} to {summary["loss"]["last"]:.3f}; '
      f'samples in {folders.show(os.path.abspath(workdir))}'
    )
  shown = {name: arrays[name] for name in arrays if name != 'comparison'}
  return Result(summary, shown, signal=fitted.signal)


def _write(path, arrays) -> list[str]:
  names = [name for name in ('comparison', 'restored') if name in arrays]
  for name in names:
    images.write_image(os.path.join(path, f'{name}.png'), arrays[name])
  if len(arrays['samples']):
    grid = pictures.draw_grid(arrays['samples'])
    images.write_image(os.path.join(path, 'samples.png'), grid)
  return [*(f'{name}.png' for name in names), 'samples.png']


def _list_shots(arrays, clean) -> list[page.Shot]:
  shots = [
    page.Shot(name, arrays[name], compared=True)
    for name in ('measurement', 'restored')
    if name in arrays
  ]
  if clean is not None:
    shots.append(page.Shot('clean', clean, compared=True))
  if len(arrays['samples']):
    shots.append(page.Shot('samples', pictures.draw_grid(arrays['samples'])))
  return shots


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
    stack = archives.load_arrays(path, ['images'])['images']
  except KeyError:
    raise ValueError(f'{path!r} is no npz with an array `images`') from None
  except ValueError as error:
    raise ValueError(f'no npz with an array `images`: {error}') from None
  if stack.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] not in (1, 3):
    raise ValueError(
      f'`images` of {path!r} must be uint8 [N, H, W, 1 or 3], got '
      f'{stack.dtype} {stack.shape}'
    )
  return list(stack.astype(np.float32) / 255)


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


class Fitted(NamedTuple):
  """What a training leaves."""

  state: diffusion.TrainState
  records: Sequence[Mapping[str, Any]]  # Of metrics.jsonl, thinned.
  samples: np.ndarray  # [N, H, W, C], the last ones of this start, if any.
  seconds: float  # Of training and sampling, earlier starts included.
  signal: int  # That ended the training; 0 for none.


def fit_model(
  config: ml_collections.ConfigDict,
  model: Model,
  data: jax.Array,
  folder: workdirs.Workdir,
) -> Fitted:
  """Trains to the end, from the last checkpoint if there is one."""
  key = jax.random.key(config.seed)
  state = diffusion.begin(model.training, key, data)
  record = records.Records(folder.find(workdirs.METRICS))
  drawn = np.zeros((0, *data.shape[1:]), np.float32)
  with (
    stopping.catch_signals() as stop,
    checkpoints.Checkpoints(
      folder.find(workdirs.CHECKPOINTS),
      every=config.checkpoint.every,
      data=folder.data,
    ) as saved,
  ):
    notes, earlier = saved.find_latest(), 0.0
    if notes:
      state, earlier = saved.load(state), notes['seconds']
      record.rewind(notes['records'])
    else:
      record.begin(None)
    step, begun, waiting = int(state.step), time.perf_counter(), []
    while step < config.train.steps and not (stop and not waiting):
      state, loss = diffusion.train(model.training, state, data)
      waiting.append(loss)
      step += 1
      due = lambda every, step=step: (
        step % every == 0 or step == config.train.steps
      )
      if due(config.sample.every):
        drawn = model.draw(
          state.average,
          jax.random.fold_in(key, 1),
          data.shape[1:],
          config.sample,
        )
        # The end writes the last ones again, and says where there is no room.
        with contextlib.suppress(OSError):
          _write(folder.path, {'samples': drawn})
      # A checkpoint has no losses that wait for their record.
      if due(config.record.every):
        mean = float(np.mean(waiting))
        record.add([{'step': step - 1, 'loss': mean}])
        waiting = []
        print(f'step {step}: loss {mean:.4f}', flush=True)
        seconds = earlier + time.perf_counter() - begun
        if saved.is_due(step) or stop or step == config.train.steps:
          end = record.find_end()
          saved.save(state, step, records=end, seconds=seconds)
    seconds = earlier + time.perf_counter() - begun
  return Fitted(state, record.kept, drawn, seconds, stop.signal)


def describe_losses(records: Sequence[Mapping[str, Any]]) -> dict:
  """Returns the steps, the first and the last recorded loss.

  `factor` is the first loss divided by the last.
  """
  first, last = records[0]['loss'], records[-1]['loss']
  return {
    'steps': records[-1]['step'] + 1,
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


def _denoise(config, model, params, noisy, clean):
  """Returns the scores, and the arrays with a comparison of them."""
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
  summary: dict[str, Any] = {
    name: {'psnr': psnr} for name, psnr in psnrs.items()
  }
  summary['from_step'] = diffusion.find_step(model.levels, sigma)
  compared = pictures.draw_comparison(panels)
  return Result(
    summary,
    {'measurement': noisy, 'restored': restored, 'comparison': compared},
  )


if __name__ == '__main__':
  cli.launch(run)
