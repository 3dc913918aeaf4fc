"""The files at the end of a run: pictures, the page and result.json."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dipjax
from dipjax import features, metrics, noise
from experiments.lib import (
  command,
  folders,
  images,
  page,
  pictures,
  plots,
  recorder,
  weights,
)
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data

_RESTORED = 'restored'  # The title of the picture in the page.
_MOST_SEEDS = 8  # Whose pictures are in the page.


def list_images(
  summary: dict,
  data: Data,
  recipe: dipjax.Recipe,
  result: dipjax.Restoration,
) -> dict[str, np.ndarray]:
  """Returns the pictures of a restoration as floats [H, W, C], by name.

  The pictures are 'measurement' and 'restored'; 'residual', what was removed,
  where the measurement is an image itself; 'filled', which keeps the pixels
  that were seen as they are, where some were; with several lanes 'deviation'
  and 'restored_seed_N'; and 'posterior_deviation', the mean over the lanes,
  where the rule returns a mean of samples.

  Args:
    summary: what `summarize` returned.
    data: what was restored.
    recipe: how the data was restored.
    result: what the restoration gave.
  """
  listed = {'measurement': data.picture, 'restored': result.image}
  if data.operator is None:
    listed['residual'] = data.measurement - result.image
  if data.seen is not None:
    listed['filled'] = np.where(data.seen, data.picture, result.image)
  if len(result.images) > 1:
    listed['deviation'] = result.deviation
    for lane, image in zip(summary['lanes'], result.images, strict=True):
      listed[f'restored_seed_{lane["seed"]}'] = image
  rule = recipe.monitors[result.rule]
  samples = rule.find_deviation(result.monitors[result.rule])
  if samples is not None:
    listed['posterior_deviation'] = np.asarray(samples).mean(axis=0)
  return listed


def write_report(
  workdir: str,
  summary: dict,
  data: Data,
  listed: Mapping[str, np.ndarray],
  record: recorder.Recorder,
) -> list[str]:
  """Writes the pictures of a restoration, and returns the files' names.

  The files are restored.png and the other pictures of `list_images` but the
  measurement, comparison.png, animation.webp where the fit was kept, and with
  the extra [plots] curves.png and report.html.

  Args:
    workdir: the folder of the run.
    summary: what `summarize` returned.
    data: what was restored.
    listed: what `list_images` returned.
    record: the recorder of the run.
  """
  drawn = {
    name: _draw(name, image)
    for name, image in listed.items()
    if name != 'measurement'
  }
  drawn['comparison'] = _draw_comparison(data, listed['restored'], summary)
  for name, image in drawn.items():
    images.write_image(os.path.join(workdir, f'{name}.png'), image)
  names = [f'{name}.png' for name in drawn]
  record.records.write_kept(os.path.join(workdir, workdirs.METRICS))
  # The curves of tiles follow each other, each with a selected step of its own.
  lanes = [] if record.plan else summary['lanes']
  selected = [lane['selected_step'] for lane in lanes]
  if plots.draw_curves(
    os.path.join(workdir, 'curves.png'),
    record.records.kept,
    selected=selected,
    title=summary.get('protocol', ''),
  ):
    names.append('curves.png')
  else:
    print("for curves.png: pip install 'dipjax[plots]'")
  animation = 'animation.webp'
  if record.frames.animate(
    os.path.join(workdir, animation), listed['restored']
  ):
    names.append(animation)
  names += write_page(
    workdir,
    summary,
    record,
    list_shots(summary, data, listed),
    maps=_list_maps(data, listed),
    sides=(_find_rival(summary, data), _RESTORED),
  )
  return names


def write_page(
  workdir: str,
  summary: Mapping[str, Any],
  record: recorder.Recorder,
  shots: Sequence[page.Shot],
  **more: Any,
) -> list[str]:
  """Writes report.html, and returns its name where it was written.

  Args:
    workdir: the folder of the run.
    summary: the content of result.json.
    record: the recorder of the run.
    shots: the pictures.
    **more: other fields of `page.Content`.
  """
  content = page.Content(
    summary,
    record.workdir.config,
    shots,
    record.records.kept,
    record.frames.kept,
    command=command.find(record.workdir.path),
    **more,
  )
  return save_page(workdir, content)


def save_page(workdir: str, content: page.Content) -> list[str]:
  """Writes report.html, and returns its name, or says what it needs."""
  if page.write(os.path.join(workdir, workdirs.PAGE), content):
    return [workdirs.PAGE]
  print("for report.html: pip install 'dipjax[plots]'")
  return []


def list_shots(
  summary: Mapping[str, Any], data: Data, listed: Mapping[str, np.ndarray]
) -> list[page.Shot]:
  """Returns the pictures of a restoration as the page shows them.

  Args:
    summary: what `summarize` returned, or {} before the fit.
    data: what is restored.
    listed: what `list_images` returned, or {} before the fit.
  """
  note = lambda scores: (
    f'{scores["psnr"]:.2f} dB' if scores and scores.get('psnr') else ''
  )
  photo = lambda title, image, scores=None, close=True: page.Shot(
    title, image, note(scores), compared=True, close=close
  )
  shots = [photo(data.caption, data.picture, summary.get('measurement'))]
  baselines = summary.get('baselines', {})
  shots += [
    photo(name, image, baselines.get(name), close=name == 'bicubic')
    for name, image in data.baselines.items()
    if image is not data.picture
  ]
  if 'restored' in listed:
    restored = listed['restored']
    shots.append(photo(_RESTORED, restored, summary.get('restored')))
  if 'filled' in listed:
    shots.append(photo('seen pixels kept', listed['filled']))
  if data.clean is not None:
    shots.append(photo('clean', data.clean))
  gain = f'x{pictures.DIFFERENCE_GAIN:g}'
  if data.clean is not None and 'restored' in listed:
    wrong = pictures.draw_difference(listed['restored'], data.clean)
    shots.append(page.Shot(f'restored - clean, {gain}', wrong, close=True))
  others = {
    'residual': f'what was removed, {gain}',
    'deviation': 'where it may be wrong',
    'posterior_deviation': 'where the samples disagree',
  }
  shots += [
    page.Shot(title, _draw(name, listed[name]), close=True)
    for name, title in others.items()
    if name in listed
  ]
  seeds = {lane['seed']: lane for lane in summary.get('lanes', [])}
  shots += [
    photo(f'seed {seed}', listed[f'restored_seed_{seed}'], lane, False)
    for seed, lane in list(seeds.items())[:_MOST_SEEDS]
    if f'restored_seed_{seed}' in listed
  ]
  return shots


def _find_rival(summary, data):
  """Returns the title of what the restored picture is compared with first.

  The best of the simpler restorations, or else the measurement.
  """
  scored = {
    name: summary['baselines'][name].get('psnr') or 0.0
    for name, image in data.baselines.items()
    if image is not data.picture
  }
  return max(scored, key=lambda name: scored[name], default=data.caption)


def _list_maps(data, listed):
  """Returns what tells where to look closely, by what it is."""
  if data.clean is not None:
    return {'largest error': np.abs(listed['restored'] - data.clean)}
  if 'deviation' in listed:
    return {'least sure': listed['deviation']}
  if 'residual' in listed:
    return {'most removed': np.abs(listed['residual'])}
  return {'most changed': np.abs(listed['restored'] - data.picture)}


def _draw(name, image):
  if name.endswith('deviation'):
    return pictures.draw_deviation(image)
  if name == 'residual':
    return pictures.draw_difference(image, np.zeros_like(image))
  return image


def print_summary(workdir: str, summary: dict) -> None:
  """Prints the folder of the pictures, the gain and the jumps of a fit.

  The gain is the PSNR before and after, where the clean image is known.
  """
  psnr = summary['restored'].get('psnr')
  # A measurement that is the clean image has no finite PSNR.
  before = summary['measurement'].get('psnr') if psnr else None
  gain = f'{before:.2f} dB before, ' if before else ''
  gain += f'{psnr:.2f} dB after; ' if psnr else ''
  mark = f'{summary["protocol"]}: ' if 'protocol' in summary else ''
  print(f'{mark}{gain}pictures in {folders.show(os.path.abspath(workdir))}')
  there = os.path.join(os.path.abspath(workdir), workdirs.PAGE)
  if workdirs.PAGE in summary.get('files', []):
    print(f'to look at: {folders.show(there)}')
  if 'output' in summary:
    print(f'restored: {folders.show(summary["output"])}')
  for lane in summary['lanes']:
    if lane['returned_to']:
      print(_describe_returns(lane))


def _describe_returns(lane):
  steps = lane['returned_to']
  times = [f'step {s} {steps.count(s)} time(s)' for s in sorted(set(steps))]
  return (
    f'seed {lane["seed"]} jumped and returned to {", ".join(times)}; its steps '
    f'were {2 ** len(steps)} times smaller at the end: try a lower '
    'fit.learning_rate'
  )


def summarize(
  experiment: str,
  data: Data,
  result: dipjax.Restoration,
  record: recorder.Recorder,
) -> dict:
  """Returns the content of result.json for a restoration."""
  lanes = [
    _summarize_lane(lane, record.seeds[lane], data, result)
    for lane in range(len(result.images))
  ]
  gaps = [
    lane['oracle']['psnr'] - lane['psnr']
    for lane in lanes
    if 'oracle' in lane and None not in (lane['oracle']['psnr'], lane['psnr'])
  ]
  calibration = {}
  if data.clean is not None and len(lanes) > 1:
    # Whether the deviation is large where the image is wrong.
    calibration['deviation_correlation'] = _finite(
      metrics.correlate_error(result.deviation, result.image, data.clean)
    )
  stop: dict[str, Any] = {'rule': result.rule}
  if gaps:
    stop['gap_to_oracle_db'] = float(np.mean(gaps))
  # The run took as long as its longest lane, or as its tiles one after another.
  steps, tiles = int(result.stopped.max()), {}
  if record.plan:
    size, steps = record.plan.tile, record.shown
    tiles = {'tiles': {'count': len(record.plan.corners), 'size': [*size]}}
  return {
    **describe_run(experiment, result.params, steps, record),
    **tiles,
    **({'diverged': True} if result.diverged.all() else {}),
    **({} if data.seen is None else {'missing': float(np.mean(~data.seen))}),
    'stop': stop,
    'measurement': score(data.picture, data),
    'restored': score(result.image, data)
    | {'psnr_measurement': _score_fit(result.image, data)}
    | calibration,
    'baselines': {
      name: score(image, data) for name, image in data.baselines.items()
    },
    'lanes': lanes,
  }


def describe_run(
  experiment: str, params: Any, steps: int, record: recorder.Recorder
) -> dict:
  """Returns the part of result.json that all experiments have in common.

  Args:
    experiment: the experiment's name.
    params: the networks' parameters, arrays [lanes, ...].
    steps: how many steps the run took.
    record: the run's recorder, which knows the seconds.
  """
  seconds = record.seconds
  return {
    'experiment': experiment,
    'parameters': sum(leaf[0].size for leaf in jax.tree.leaves(params)),
    'steps': steps,
    'seconds': seconds,
    'seconds_per_step': seconds['fit'] / max(steps, 1),
    **({'stopped': True} if record.stop else {}),
    'device': jax.devices()[0].platform,
    'hardware': recorder.describe_device(),
    'versions': recorder.describe_versions(),
  }


def describe_noise(model: noise.Model) -> dict[str, Any]:
  """Returns the noise that was found, or told, for result.json.

  The unit of sigma, rows and columns is 1 of 255; the others are those of
  `noise.Model`.
  """
  return {
    'text': model.describe(),
    'sigma': 255 * float(model.sigma),
    'rows': 255 * float(model.rows),
    'columns': 255 * float(model.columns),
    'constant': float(model.constant),
    'gain': float(model.gain),
    'neighbours': model.neighbours,
    'channels': float(model.channels),
    'impulses': float(model.impulses),
    'clipped': {'black': bool(model.black), 'white': bool(model.white)},
    'compressed': bool(model.compressed),
    'confidence': model.confidence,
  }


def score_step(
  image: np.ndarray, clean: np.ndarray | None
) -> dict[str, float | None]:
  """Returns the scores that are cheap enough for every recorded step.

  The scores are psnr, and ssim for images of at least 11 pixels a side. There
  are none where the clean image is not known. The infinite PSNR of equal images
  is None, because JSON has no infinity.
  """
  if clean is None:
    return {}
  scores = {'psnr': _finite(metrics.psnr(image, clean))}
  if min(clean.shape[:2]) >= 11:
    scores['ssim'] = float(metrics.ssim(image, clean))
  return scores


def score(image: np.ndarray, data: Data) -> dict[str, float | None]:
  """Returns all scores of an image against the clean image.

  The scores are the scores of `score_step`, lpips for images of at least 16
  pixels a side, and psnr_y for colour where data.shave is given. There are none
  where the clean image is not known. LPIPS needs dipjax[perceptual].
  """
  if data.clean is None:
    return {}
  scores = score_step(image, data.clean)
  lpips = _score_lpips(image, data.clean)
  if lpips is not None:
    scores['lpips'] = lpips
  if data.shave is not None and data.clean.shape[2] == 3:
    scores['psnr_y'] = _finite(
      metrics.psnr_y(image, data.clean, shave=data.shave)
    )
  return scores


def _score_lpips(image, clean) -> float | None:
  """Returns LPIPS, or None without the weights or below 16 pixels a side."""
  found = weights.find_weights()
  if found is None or min(clean.shape[:2]) < 16:
    return None
  image = np.clip(image, 0, 1).astype(np.float32)
  return float(_lpips(found.params, found.linear, image, clean))


_lpips = jax.jit(features.lpips)


def _score_fit(image, data):
  """Returns the PSNR of the image's prediction against the measurement."""
  predicted = data.operator(image) if data.operator else image
  return _finite(metrics.psnr(predicted, data.measurement))


def _finite(value) -> float | None:
  return float(value) if np.isfinite(value) else None


def _summarize_lane(lane, seed, data, result):
  summary = {
    'seed': seed,
    'stopped_at': int(result.stopped[lane]),
    'selected_step': int(result.selected[lane]),
    'returned_to': _find_returns(result.trace.returned[lane]),
    **score(result.images[lane], data),
  }
  for name in ('oracle', 'oracle_output'):
    if name in result.monitors:
      oracle = result.monitors[name]
      summary[name] = {
        'step': int(oracle.step[lane]),
        'psnr': _finite(oracle.best[lane]),
      }
  return summary


def _find_returns(returned) -> list[int]:
  """Returns the steps that the jumps of a lane led back to, in order."""
  return returned[returned >= 0].tolist()


def _draw_comparison(data, image, summary):
  """Returns the picture comparison.png.

  Its panels are the measurement, baselines and the restored image. Where the
  clean image is known, the clean image and the restored image's error follow;
  otherwise what was removed from the measurement follows.
  """
  caption = lambda name, scores: (
    f'{name} {scores["psnr"]:.2f} dB' if scores.get('psnr') else name
  )
  gain = f'x{pictures.DIFFERENCE_GAIN:g}'
  restored = ', '.join(['restored', *filter(None, [summary.get('protocol')])])
  panels = {
    caption(data.caption, summary['measurement']): data.picture,
    **{
      caption(name, summary['baselines'][name]): baseline
      for name, baseline in data.baselines.items()
      if baseline is not data.picture
    },
    caption(restored, summary['restored']): image,
  }
  if data.clean is None:
    removed = pictures.draw_difference(data.picture, image)
    panels[f'{data.caption} - restored, {gain}'] = removed
  else:
    panels['clean'] = data.clean
    wrong = pictures.draw_difference(image, data.clean)
    panels[f'restored - clean, {gain}'] = wrong
  return pictures.draw_comparison(panels)
