"""Denoisers that know the noise, to compare a deep image prior with."""

import json
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from dipjax import diffusion
from experiments import ddpm
from experiments.lib import checkpoints, report
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data


class Trained(NamedTuple):
  """A diffusion model as a run of `experiments.ddpm` has left it."""

  model: ddpm.Model
  params: Any
  steps: int  # Steps of training so far.


def denoise_bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray | None:
  """Returns the image without its noise, or None without the package bm3d.

  The denoiser is BM3D (Dabov et al. 2007); for colour it works in the opponent
  space.

  Args:
    noisy: [H, W, 1 or 3] in [0, 1].
    sigma: standard deviation of the noise.
  """
  try:
    import bm3d  # pyright: ignore[reportMissingImports]
  except ImportError:
    return None
  noisy = noisy.astype(np.float64)
  if noisy.shape[2] == 1:
    restored = bm3d.bm3d(noisy[..., 0], sigma).reshape(noisy.shape)
  else:
    restored = bm3d.bm3d_rgb(noisy, sigma)
  return np.clip(restored, 0, 1).astype(np.float32)


def load_ddpm(workdir: str, shape: tuple[int, int, int]) -> Trained:
  """Returns the latest checkpoint of a run of `experiments.ddpm`.

  Args:
    workdir: the folder of the run.
    shape: (H, W, C) of the images that the model is to denoise.

  Raises:
    ValueError: the folder has no run or no checkpoint, or the images do not
      fit.
  """
  wrong = f'{workdir!r} is no folder of a run of experiments.ddpm'
  try:
    with open(os.path.join(workdir, 'config.json')) as file:
      config = ml_collections.ConfigDict(json.load(file))
  except (OSError, ValueError, TypeError):
    raise ValueError(wrong) from None
  if not {'schedule', 'network', 'train', 'sample'} <= set(config):
    raise ValueError(wrong)
  ddpm.check_config(config, (1, *shape))
  model = ddpm.make_model(config, shape[-1])
  blank = jnp.zeros((1, *shape))
  fresh = diffusion.begin(model.training, jax.random.key(0), blank)
  folder = os.path.join(workdir, workdirs.CHECKPOINTS)
  with checkpoints.Checkpoints(folder, data=None) as saved:
    try:
      state = saved.load(fresh)
    except ValueError:
      raise ValueError(
        f'the checkpoint in {workdir!r} does not fit images {shape}: train one '
        'on images of as many channels'
      ) from None
  if state is None:
    raise ValueError(f'{workdir!r} has no checkpoint yet')
  return Trained(model, state.average, int(state.step))


def denoise_ddpm(
  trained: Trained, noisy: np.ndarray, sigma: float
) -> np.ndarray:
  """Returns the image without its noise, [H, W, C] in [0, 1].

  The diffusion runs back from the step that has as much noise as the image, and
  adds no noise of its own.
  """
  (restored,) = diffusion.denoise(
    trained.model.network,
    trained.params,
    trained.model.levels,
    jax.random.key(0),
    jnp.asarray(noisy)[None],
    sigma=sigma,
  )
  return np.asarray(restored)


def make_rows(
  data: Data, sigma: float, told: str, trained: Trained | None
) -> list[dict]:
  """Returns the rows that no fit gives: the measurement, DDPM and BM3D."""
  noisy, ddpm, how = data.measurement, None, 'no baselines.ddpm is given'
  if trained:
    ddpm = denoise_ddpm(trained, noisy, sigma)
    how = f'trained for {trained.steps} steps on other pictures; {told}'
  bm3d = denoise_bm3d(noisy, sigma)
  found = {
    'measurement': (noisy, ''),
    'DDPM': (ddpm, how),
    'BM3D': (bm3d, told if bm3d is not None else 'not installed'),
  }
  score = lambda image: (
    [] if image is None else [report.score_step(np.asarray(image), data.clean)]
  )
  return [
    {'arm': name, 'method': name, 'note': note, 'lanes': score(image)}
    for name, (image, note) in found.items()
  ]
