"""Measures how far each stopping rule is from the best image of its run.

    python -m benchmarks.stopping --images astronaut coffee --sigmas 15 25 \
      --seeds 0 1 --crop 128 --channels 128 --json stopping.jsonl

For each picture, damage and seed there are two fits with all rules watching at
once: a fit of the damaged picture, and, for `pseudo_reference` and
`cross_validation`, a fit of the damaged picture split in two; the noise for the
split is estimated from the picture. `discrepancy` is told the true sigma of
Gaussian noise, and the estimate for any other damage; the methods that need the
noise are told the estimate, and so is `discrepancy` with these methods. Only
the oracle sees the clean picture: the oracle has the best average of the fit of
the damaged picture, with which all rules are compared. `--kind` takes other
noise, of `benchmarks.noise`, whose levels are then `--sigmas`.

The benchmark prints for each rule the gap to the oracle in dB, median and
worst, and how many times the oracle's steps the rule spent; then what the best
average of other horizons is worth beside the best average of 0.99. Each fit is
a line of the file. Fits that are in the file are not run again, so that the
same command goes on where it was.
"""

import argparse
import io
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

import dipjax
from benchmarks import noise as kinds
from dipjax import Recipe, corruptions, methods, metrics, monitors, noise
from dipjax.networks import skip
from experiments.lib import build, images, records

SAMPLES = ['astronaut', 'chelsea', 'coffee', 'rocket', 'camera', 'brick']
# One of each; Gaussian noise comes with --sigmas.
DAMAGES = ('poisson', 'impulse', 'jpeg')
PEAK = 30  # Photons.
FRACTION = 0.1
QUALITY = 10
DECAYS = (0.9, 0.97, 0.997)  # Averages beside the fit's own, which has 0.99.


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the fits that are not in the file yet and prints the table."""
  parser = _make_parser()
  arguments = parser.parse_args(argv)
  if arguments.smoke:
    arguments.channels, arguments.levels = 8, 1
    arguments.crop, arguments.steps, arguments.patience = 24, 60, 20
  try:
    run = lambda cell: {'rules': run_cell(cell)}
    rows = run_missing(arguments.json, make_cells(arguments), run, _print_cell)
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print_table(rows)


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--images', nargs='+', default=SAMPLES, help='samples or files')
  add('--damages', nargs='*', choices=DAMAGES, default=list(DAMAGES))
  add('--sigmas', type=float, nargs='*', default=[15.0, 25.0], help='of 255')
  known = ['gaussian', *kinds.KINDS]
  add('--kind', choices=known, default='gaussian', help='of noise')
  add('--seeds', type=int, nargs='+', default=[0, 1])
  add('--crop', type=int, default=128, help='the square in the middle')
  add('--channels', type=int, default=128)
  add('--levels', type=int, default=5)
  add('--steps', type=int, default=5000, help='at most')
  add('--patience', type=int, default=300, help='of all but the papers')
  add('--method', choices=list(methods.METHODS), help='default: squared')
  add('--smoke', action='store_true', help='as small as in the tests')
  path = pathlib.Path('stopping.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  return parser


def make_cells(arguments: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns what describes each fit, in the order of the runs."""
  damages = [(arguments.kind, sigma) for sigma in arguments.sigmas]
  damages += [(damage, None) for damage in arguments.damages]
  fixed = ('crop', 'channels', 'levels', 'steps', 'patience')
  return [
    {'image': image, 'damage': damage, 'sigma': sigma, 'seed': seed}
    | {name: getattr(arguments, name) for name in fixed}
    # The method; older rows, which are still read, have it by this key.
    | {'error': arguments.method}
    for seed in arguments.seeds
    for damage, sigma in damages
    for image in arguments.images
  ]


def run_missing(
  path: pathlib.Path,
  cells: Sequence[dict[str, Any]],
  run: Callable[[dict[str, Any]], dict[str, Any]],
  show: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
  """Returns the rows of all cells; runs those that are not in the file yet.

  Args:
    path: of JSON lines, a row each; each result is appended at once.
    cells: what describes each row.
    run: of a cell, what its row holds besides it.
    show: called with each new row.
  """
  rows = records.read_lines(str(path))
  is_of = lambda row, cell: all(
    row.get(name) == value for name, value in cell.items()
  )
  for cell in cells:
    if not any(is_of(row, cell) for row in rows):
      rows.append(cell | run(cell))
      records.append_lines(str(path), rows[-1:])
      show(rows[-1])
  return [row for row in rows if any(is_of(row, cell) for cell in cells)]


def make_rules(patience: int, steps: int) -> dict[str, monitors.Monitor]:
  """Returns what watches the fit of the damaged picture, by name."""
  longer = (1000 * patience) // 300
  return {
    'wmv': monitors.WMV(patience=patience),
    'wmv, paper': monitors.WMV(of='output', window=100, patience=longer),
    'emv': monitors.EMV(patience=patience),
    'emv, 0.1': monitors.EMV(alpha=0.1, patience=patience),
    'emv, paper': monitors.EMV(of='output', alpha=0.1, patience=longer),
    'discrepancy': monitors.Discrepancy(),
    'discrepancy, output': monitors.Discrepancy(of='output'),
    'fixed': monitors.Last(steps=min(1800, steps)),
  }


def run_cell(cell: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns for each rule its step, PSNR, gap and the steps spent.

  The oracle's has the best PSNR of the averages of DECAYS too.

  Args:
    cell: of `make_cells`.
  """
  clean = read_middle(cell['image'], cell['crop'])
  damaged, clean = damage_image(clean, cell)
  estimated = build.find_noise(damaged)
  method = methods.METHODS[cell['error'] or 'squared']()
  blind = cell['damage'] != 'gaussian' or 'sigma' in method.needs
  told = lambda: noise.Model.make_white(cell['sigma'] / 255, clipped=True)
  patience, steps = cell['patience'], cell['steps']
  split = {
    'pseudo_reference': monitors.PseudoReference(patience=patience),
    'cross_validation': monitors.CrossValidation(patience=patience),
  }
  tau = noise.choose_tau(damaged.size)
  expected = build.expect_noise(damaged, estimated)
  fitted, reference = noise.split_measurement(
    damaged, expected, tau=tau, seed=1000 + cell['seed']
  )
  rules = make_rules(patience, steps)
  if method.estimates_risk:
    rules['sure'] = monitors.SURE()
  best_of = {
    str(decay): monitors.AtHorizon(monitor=monitors.Oracle(), decay=decay)
    for decay in DECAYS
  }
  network = make_network(cell['channels'], cell['levels'], clean.shape[2])
  fit = lambda measurement, rules, **noisy: dipjax.restore(
    measurement,
    recipe=Recipe(network=network, method=method, monitors=rules, steps=steps),
    clean=clean,
    seeds=(cell['seed'],),
    chunk=min(50, steps),
    **noisy,
  )
  result = fit(damaged, rules | best_of, noise=estimated if blind else told())
  more = expected.scale(1 + tau**2)
  other = fit(fitted, split, noise=more, reference=reference)
  best = _find_oracle(result, 'oracle')
  horizons = {name: _find_oracle(result, name)['psnr'] for name in best_of}
  return {
    **{name: _score(result, name, clean, best) for name in rules},
    **{name: _score(other, name, clean, best) for name in split},
    'oracle': best | {'horizons': horizons},
  }


def make_network(channels: int, levels: int, outputs: int) -> skip.Skip:
  """Returns the skip network with as many channels at each of its levels."""
  widths = (channels,) * levels
  return skip.Skip(outputs, down=widths, up=widths, skip=(4,) * levels)


def read_middle(source: str, crop: int) -> np.ndarray:
  """Returns the square in the middle of a picture."""
  image = images.read_image(source)
  top, left = ((side - crop) // 2 for side in image.shape[:2])
  return images.crop_image(image, (top, left, crop, crop))


def damage_image(
  clean: np.ndarray, cell: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the picture with the damage of a cell, and without.

  The seed of the cell draws the damage. The picture without damage is larger
  than the clean one where the damage is that of enlarging.
  """
  damage, sigma, seed = cell['damage'], cell['sigma'], cell['seed']
  if damage == 'gaussian':
    noisy = corruptions.add_gaussian_noise(clean, sigma / 255, seed=seed)
    return noisy, clean
  # Of this name there is damage without a level, and noise with one.
  if sigma is not None:
    return kinds.add_noise(clean, damage, sigma, seed)[:2]
  if damage == 'poisson':
    return corruptions.add_poisson_noise(clean, PEAK, seed=seed), clean
  if damage == 'impulse':
    return corruptions.add_impulse_noise(clean, FRACTION, seed=seed), clean
  return _compress(clean), clean


def _compress(image: np.ndarray) -> np.ndarray:
  levels = np.rint(255 * image).astype(np.uint8)
  grey = image.shape[2] == 1
  file = io.BytesIO()
  picture = Image.fromarray(levels[..., 0] if grey else levels)
  picture.save(file, 'JPEG', quality=QUALITY)
  pixels = np.asarray(Image.open(file), np.float32) / 255
  return pixels.reshape(image.shape)


def _find_oracle(result: dipjax.Restoration, name: str) -> dict[str, Any]:
  oracle = result.monitors[name]
  return {'step': int(oracle.step[0]), 'psnr': float(oracle.best[0])}


def _score(
  result: dipjax.Restoration,
  name: str,
  clean: np.ndarray,
  best: Mapping[str, Any],
) -> dict[str, Any]:
  """Compares a rule with the best image of the fit of the damaged picture."""
  state = result.monitors[name]
  psnr = float(metrics.psnr(state.image[0], clean))
  return {
    'step': int(state.step[0]),
    'psnr': psnr,
    'gap': best['psnr'] - psnr,
    'spent': int(state.spent[0]),
    'spent_ratio': int(state.spent[0]) / (best['step'] + 1),
    'done': bool(state.done[0]),
  }


def _print_cell(row: Mapping[str, Any]) -> None:
  sigma = f' {row["sigma"]:g}' if row['sigma'] else ''
  oracle = row['rules']['oracle']
  print(
    f'{row["image"]}, {row["damage"]}{sigma}, seed {row["seed"]}: oracle '
    f'{oracle["psnr"]:.2f} dB at step {oracle["step"]}'
  )
  for name, rule in row['rules'].items():
    if name != 'oracle':
      print(
        f'  {name:20s} {rule["psnr"]:6.2f} dB at step {rule["step"]:5d}, gap '
        f'{rule["gap"]:5.2f} dB, {rule["spent"]:5d} steps spent'
        f'{"" if rule["done"] else ", not done"}',
        flush=True,
      )


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints a line for each rule, over all fits of a kind of damage."""
  for damage in dict.fromkeys(row['damage'] for row in rows):
    chosen = [row for row in rows if row['damage'] == damage]
    print(f'{damage}, {len(chosen)} fits')
    for name in chosen[0]['rules']:
      if name != 'oracle':
        _print_rule(name, [row['rules'][name] for row in chosen])
    _print_horizons([row['rules']['oracle'] for row in chosen])


def _print_rule(name: str, results: Sequence[Mapping[str, Any]]) -> None:
  gaps = [result['gap'] for result in results]
  ratios = [result['spent_ratio'] for result in results]
  undone = sum(not result['done'] for result in results)
  print(
    f'  {name:20s} gap median {statistics.median(gaps):5.2f}, worst '
    f"{max(gaps):5.2f} dB; steps spent over the oracle's median "
    f'{statistics.median(ratios):5.2f}, worst {max(ratios):6.2f}; '
    f'not done {undone}'
  )


def _print_horizons(oracles: Sequence[Mapping[str, Any]]) -> None:
  for decay in DECAYS:
    gains = [best['horizons'][str(decay)] - best['psnr'] for best in oracles]
    print(
      f'  best average of {decay}: median {statistics.median(gains):+.2f} dB '
      f'to that of 0.99, {min(gains):+.2f} to {max(gains):+.2f}'
    )


if __name__ == '__main__':
  main()
