"""What a run leaves behind: pictures and result.json."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dipjax
from dipjax import features, metrics
from experiments.lib import images, pictures, plots, recorder, weights
from experiments.lib import workdir as workdirs
from experiments.lib.data import Data


def list_images(
  summary: dict,
  data: Data,
  recipe: dipjax.Recipe,
  result: dipjax.Restoration,
) -> dict[str, np.ndarray]:
  """Returns the pictures of a restoration as floats [H, W, C], by name.

  They are 'measurement' and 'restored'; with several lanes 'deviation' and
  'restored_seed_N'; and 'posterior_deviation', the mean over the lanes, where
  the rule returns a mean of samples.

  Args:
    summary: what `summarize` returned.
    data: what was restored.
    recipe: how.
    result: of the restoration.
  """
  listed = {'measurement': data.picture, 'restored': result.image}
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
  records: Sequence[Mapping],
) -> None:
  """Writes the pictures and result.json of a restoration.

  Files: restored.png and the others of `list_images` but the measurement,
  comparison.png, curves.png (with matplotlib), result.json.

  Args:
    workdir: the folder.
    summary: what `summarize` returned.
    data: what was restored.
    listed: what `list_images` returned.
    records: those of the recorder.
  """
  write = lambda name, image: images.write_image(
    os.path.join(workdir, f'{name}.png'), image
  )
  for name, image in listed.items():
    if name != 'measurement':
      is_map = name.endswith('deviation')
      write(name, pictures.draw_deviation(image) if is_map else image)
  write('comparison', _draw_comparison(data, listed['restored'], summary))
  selected = [lane['selected_step'] for lane in summary['lanes']]
  if not plots.draw_curves(
    os.path.join(workdir, 'curves.png'),
    records,
    selected=selected,
    title=summary.get('protocol', ''),
  ):
    print("for curves.png: pip install 'dipjax[plots]'")
  # Last: where it is, the run is whole.
  workdirs.write_json(os.path.join(workdir, 'result.json'), summary)


def print_summary(workdir: str, summary: dict) -> None:
  """Prints where the pictures are, before and after where it is known, and what
  went wrong on the way."""
  psnr = summary['restored'].get('psnr')
  gain = f'{summary["measurement"]["psnr"]:.2f} dB before, ' if psnr else ''
  gain += f'{psnr:.2f} dB after; ' if psnr else ''
  mark = f'{summary["protocol"]}: ' if 'protocol' in summary else ''
  print(f'{mark}{gain}pictures in {os.path.abspath(workdir)}')
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
  """Returns the content of result.json."""
  lanes = [
    _summarize_lane(lane, record.seeds[lane], data, result)
    for lane in range(len(result.images))
  ]
  gaps = [
    lane['oracle']['psnr'] - lane['psnr'] for lane in lanes if 'oracle' in lane
  ]
  calibration = {}
  if data.clean is not None and len(lanes) > 1:
    # How far the deviation between the seeds tells where they are all wrong.
    calibration['deviation_correlation'] = _finite(
      metrics.correlate_error(result.deviation, result.image, data.clean)
    )
  stop: dict[str, Any] = {'rule': result.rule}
  if gaps:
    stop['gap_to_oracle_db'] = float(np.mean(gaps))
  return {
    # The run took as long as its longest lane.
    **describe_run(
      experiment, result.params, int(result.stopped.max()), record
    ),
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
  """Returns what result.json says of a run whatever it was for.

  Args:
    experiment: its name.
    params: of the networks, arrays [lanes, ...].
    steps: that were taken.
    record: of the run, for the time.
  """
  seconds = record.seconds
  return {
    'experiment': experiment,
    'parameters': sum(leaf[0].size for leaf in jax.tree.leaves(params)),
    'steps': steps,
    'seconds': seconds,
    'seconds_per_step': seconds['fit'] / steps,
    'device': jax.devices()[0].platform,
    'hardware': recorder.describe_device(),
    'versions': recorder.describe_versions(),
  }


def score_step(
  image: np.ndarray, clean: np.ndarray | None
) -> dict[str, float | None]:
  """Returns what every recorded step can pay for: psnr, ssim from 11 pixels.

  Nothing where the clean image is not known. Infinite, of equal images, is
  None: JSON has no infinity.
  """
  if clean is None:
    return {}
  scores = {'psnr': _finite(metrics.psnr(image, clean))}
  if min(clean.shape[:2]) >= 11:
    scores['ssim'] = float(metrics.ssim(image, clean))
  return scores


def score(image: np.ndarray, data: Data) -> dict[str, float | None]:
  """Returns those of `score_step`, lpips from 16 pixels, psnr_y if wanted.

  Nothing where the clean image is not known. LPIPS needs dipjax[perceptual].
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
  """None where the weights are not installed, or for images of few pixels."""
  found = weights.find_weights()
  if found is None or min(clean.shape[:2]) < 16:
    return None
  image = np.clip(image, 0, 1).astype(np.float32)
  return float(_lpips(found.params, found.linear, image, clean))


_lpips = jax.jit(features.lpips)


def _score_fit(image, data):
  """PSNR of what the operator makes of the image, against the measurement."""
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
        'psnr': float(oracle.best[lane]),
      }
  return summary


def _find_returns(returned) -> list[int]:
  """The steps that jumps of a lane led back to, in order."""
  return returned[returned >= 0].tolist()


def _draw_comparison(data, image, summary):
  """Measurement, restored, and either the clean image and what is wrong with
  the restored one, or what was removed from the measurement."""
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
