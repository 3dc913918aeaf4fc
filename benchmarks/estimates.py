"""Measures what seeds, samples, networks and losses are worth, beside BM3D.

    python -m benchmarks.estimates --images astronaut coffee --sigmas 25 \
      --variants default,quality fast --json estimates.jsonl

The benchmark makes one blind restoration for each picture, sigma and variant of
configs/req2.py. It records the restoration's PSNR, SSIM and, with the extra
`[perceptual]`, LPIPS, the PSNR of its seeds, and how the deviation of the seeds
from it (`finish.find_deviation`) correlates with the true error. BM3D and
non-local means, which are told the true sigma (extra `[bench]`), are recorded
beside the restorations. Each result is a line of the file. Results that are in
the file are not made again, so that the same command goes on where it was. The
mean of n seeds is the mean of the first n seeds. `--kind` takes other noise, of
`benchmarks.noise`, whose levels are then `--sigmas`; `--draws` draws the noise
several times; `--unclipped` leaves white noise below 0 and above 1 as it is.
`--beside` lists every picture beside a peer, the worst first. "Correlation a of
b" is the median correlation, and the one of the true deviation around each
pixel, which no map of such pixels exceeds by much; "of squares" is that of root
mean squares of 8x8 pixels; "their ratio" is the error over the deviation, root
mean squares, 1 where the deviation tells its size.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

import dipjax
from benchmarks import noise as kinds
from benchmarks import stopping
from configs import req2
from dipjax import corruptions, finish, metrics, noise
from experiments.ablation import baselines
from experiments.lib import build, machine, report
from experiments.lib.data import Data

_SIDE = 8  # Of the squares whose errors are compared, in pixels.


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is not in the file yet and prints the table."""
  parser = _make_parser()
  arguments = parser.parse_args(argv)
  try:
    rows = stopping.run_missing(
      arguments.json, make_cells(arguments), run_cell, _print_row
    )
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print_table(rows)
  if arguments.beside:
    print_beside(rows, arguments.beside)


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--images', nargs='+', default=stopping.SAMPLES, help='samples or files')
  add('--sigmas', type=float, nargs='+', default=[25.0], help='of 255')
  add('--kind', choices=list(kinds.KINDS), default='white', help='of noise')
  add('--crop', type=int, default=128, help='the square in the middle')
  add(
    '--variants',
    nargs='*',
    default=['default', 'fast', 'quality'],
    help='words behind the colon of configs/req2.py; default is none',
  )
  add('--peers', nargs='*', choices=list(PEERS), default=[])
  add('--draws', type=int, default=1, help='of the noise')
  add('--unclipped', action='store_true', help='white noise as it is drawn')
  add('--beside', choices=list(PEERS), help='the peer to compare with')
  add('--lanes', type=int, help='seeds of every variant; default: its own')
  add('--steps', type=int, help='at most, of every variant; default: its own')
  path = pathlib.Path('estimates.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  return parser


def make_cells(arguments: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns what describes each restoration, in the order of the runs."""
  ours = {'lanes': arguments.lanes, 'steps': arguments.steps}
  # Files from before there were kinds go on.
  white = arguments.kind == 'white'
  kind = {} if white else {'kind': arguments.kind}
  kind |= {'unclipped': True} if arguments.unclipped else {}
  draws = [{'draw': draw} if draw else {} for draw in range(arguments.draws)]
  methods = [(peer, dict.fromkeys(ours)) for peer in arguments.peers]
  methods += [(variant, ours) for variant in arguments.variants]
  return [
    {'image': image, 'sigma': sigma, 'crop': arguments.crop}
    | {'method': method, **own, **kind, **draw}
    for method, own in methods
    for sigma in arguments.sigmas
    for draw in draws
    for image in arguments.images
  ]


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns scores, seconds and, of ours, what its seeds gave.

  Args:
    cell: of `make_cells`.
  """
  clean = stopping.read_middle(cell['image'], cell['crop'])
  noisy, clean, sigma = _add_noise(clean, cell)
  begin = time.perf_counter()
  if cell['method'] in PEERS:
    image, rest = PEERS[cell['method']](noisy, sigma), {}
    if image is None:
      raise ValueError(
        f"--peers {cell['method']}: try pip install -e '.[bench]'"
      )
  else:
    image, rest = _restore(cell, noisy, clean)
  seconds = time.perf_counter() - begin
  return {
    'before': float(metrics.psnr(noisy, clean)),
    **report.score(image, Data(noisy, clean)),
    'seconds': seconds,
    **rest,
  }


def _add_noise(clean, cell):
  """Returns the noisy picture, the one without noise, and the true sigma."""
  level, seed = cell['sigma'], cell.get('draw', 0)
  if 'kind' in cell:
    return kinds.add_noise(clean, cell['kind'], level, seed=seed)
  noisy = corruptions.add_gaussian_noise(
    clean, level / 255, seed=seed, clip='unclipped' not in cell
  )
  return noisy, clean, level / 255


def restore(
  config: ml_collections.ConfigDict,
  noisy: np.ndarray,
  clean: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, dipjax.Restoration]:
  """Returns the image as an experiment makes it, and what it was made from.

  These are the image before a rehearsal, the same where none follows, and the
  restoration with the deviation of the image.

  Args:
    config: of configs/req2.py.
    noisy: [H, W, C].
    clean: for the oracles, where they are wanted.
  """
  recipe = build.make_recipe(config, noisy.shape[2])
  known = build.prepare_noise(config, recipe, noisy)
  result = dipjax.restore(
    known.measurement,
    recipe=recipe,
    seeds=build.make_seeds(config),
    clean=clean,
    noise=known.model,
    reference=known.reference,
    perceptual=build.make_perceptual(config.fit),
    memory=machine.find_memory(),
    chunk=config.record.every,
  )
  finished = build.finish_image(config, known, result.image)
  image, _ = build.rehearse_image(config, recipe, known, result, finished)
  deviation = build.find_deviation(config, known, result, image)
  return image, finished[0], result._replace(deviation=deviation)


def _restore(cell, noisy, clean):
  variant = cell['method']
  config = req2.get_config('' if variant == 'default' else variant)
  config.lanes = cell['lanes'] or config.lanes
  config.fit.steps = cell['steps'] or config.fit.steps
  image, _, result = restore(config, noisy, clean)
  lanes = range(1, len(result.images) + 1)
  told = {}
  if len(lanes) > 1:
    power = lambda x: float(np.mean(np.square(x)))
    told = {
      'correlation': _correlate(result.deviation, image, clean),
      'correlation_of_squares': _correlate(
        result.deviation, image, clean, side=_SIDE
      ),
      'error_ratio': (power(image - clean) / power(result.deviation)) ** 0.5,
    }
  score = lambda image: float(metrics.psnr(image, clean))
  return image, {
    'unfinished': score(result.image),
    'seeds': [score(image) for image in result.images],
    'means': [score(result.images[:n].mean(axis=0)) for n in lanes],
    'oracles': _list_oracles(result),
    'selected': result.selected.tolist(),
    'stopped': result.stopped.tolist(),
    **told,
    # What it would be for who knows the error around each pixel.
    'most_correlation': _correlate(
      finish.find_deviation(clean[None], image), image, clean
    ),
  }


def _correlate(deviation, image, clean, **options):
  score = metrics.correlate_error(deviation, image, clean, **options)
  return float(score)


def _list_oracles(result):
  # Windows have none.
  oracle = result.monitors.get('oracle')
  return [float(best) for best in oracle.best] if oracle else []


def denoise_means(noisy: np.ndarray, sigma: float) -> np.ndarray | None:
  """Returns the image by non-local means, or None without scikit-image.

  Args:
    noisy: [H, W, C] in [0, 1].
    sigma: standard deviation of the noise.
  """
  try:
    from skimage import restoration
  except ImportError:
    return None
  grey = noisy.shape[2] == 1
  restored = restoration.denoise_nl_means(
    noisy[..., 0] if grey else noisy,
    sigma=sigma,
    h=0.8 * sigma,
    channel_axis=None if grey else 2,
    fast_mode=False,
  )
  return restored.reshape(noisy.shape)


def denoise_unclipped(noisy: np.ndarray, sigma: float) -> np.ndarray | None:
  """Returns BM3D's image without the bias of clipped noise, or None without it.

  The image of which BM3D's is what `noise.expect_clipped` makes: for BM3D what
  `operators.Noisy` is for a fit.

  Args:
    noisy: [H, W, C] in [0, 1].
    sigma: standard deviation of the noise.
  """
  image = baselines.denoise_bm3d(noisy, sigma)
  if image is None:
    return None
  levels = jnp.linspace(0, 1, 1001)
  seen = noise.expect_clipped(levels, jnp.asarray(sigma))
  return np.interp(image, seen, levels)


PEERS = {
  'bm3d': baselines.denoise_bm3d,
  'bm3d_unclipped': denoise_unclipped,
  'nlm': denoise_means,
}


def _print_row(row: Mapping[str, Any]) -> None:
  print(
    f'{row["image"]}, sigma {row["sigma"]:g}, {row["method"]}: '
    f'{row["before"]:.2f} dB before, {row["psnr"]:.2f} after, '
    f'{row["seconds"]:.0f} s',
    flush=True,
  )


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints a line for each method: means over pictures and sigmas."""
  for method in dict.fromkeys(row['method'] for row in rows):
    chosen = [row for row in rows if row['method'] == method]
    mean = statistics.fmean
    line = (
      f'{method}: {mean(row["psnr"] for row in chosen):.2f} dB over '
      f'{len(chosen)} pictures, {mean(row["seconds"] for row in chosen):.0f} s'
    )
    for score in ('ssim', 'lpips'):
      if all(score in row for row in chosen):
        line += f'; {score} {mean(row[score] for row in chosen):.3f}'
    counts = [len(row['means']) for row in chosen if 'means' in row]
    for count in range(1, min(counts, default=0) + 1):
      if count & (count - 1) == 0:
        values = mean(row['means'][count - 1] for row in chosen)
        line += f'; {count} seed{"s" * (count > 1)} {values:.2f}'
    if counts and min(counts) > 1:
      values, most = (
        statistics.median(row[name] for row in chosen)
        for name in ('correlation', 'most_correlation')
      )
      line += f'; correlation of deviation and error {values:.2f} of {most:.2f}'
      name = 'correlation_of_squares'
      squares = [row[name] for row in chosen if name in row]
      if squares:
        line += f', {statistics.median(squares):.2f} of squares'
      ratios = [row['error_ratio'] for row in chosen if 'error_ratio' in row]
      if ratios:
        line += f', their ratio {statistics.median(ratios):.2f}'
    print(line)


def print_beside(rows: Sequence[Mapping[str, Any]], peer: str) -> None:
  """Prints a table of each method's pictures beside a peer's, worst first."""
  same = ('image', 'sigma', 'crop', 'kind', 'draw', 'unclipped')
  name = lambda row: tuple(row.get(field) for field in same)
  peers = {name(row): row for row in rows if row['method'] == peer}
  others = [row for row in rows if row['method'] not in PEERS]
  for method in dict.fromkeys(row['method'] for row in others):
    pairs = [
      (row, peers[name(row)])
      for row in others
      if row['method'] == method and name(row) in peers
    ]
    if not pairs:
      continue
    find_gain = lambda pair: pair[0]['psnr'] - pair[1]['psnr']
    pairs.sort(key=find_gain)
    mean, worst = statistics.fmean(map(find_gain, pairs)), find_gain(pairs[0])
    print(f'\n{method} less {peer}: {mean:+.2f} dB, worst {worst:+.2f}')
    print(f'| picture | sigma | draw | before | {peer} | {method} | more |')
    print('|---|---|---|---|---|---|---|')
    for row, other in pairs:
      print(
        f'| {row["image"]} | {row["sigma"]:g} | {row.get("draw", 0)} '
        f'| {row["before"]:.2f} | {other["psnr"]:.2f} | {row["psnr"]:.2f} '
        f'| {find_gain((row, other)):+.2f} |'
      )


if __name__ == '__main__':
  main()
