"""Measures whole photographs: seconds, PSNR and memory, beside BM3D.

    python -m benchmarks.photograph --images FILE --megapixels 0 1 12 \
      --methods windows bm3d --json photograph.jsonl

The benchmark adds noise to a picture and restores it, blind, by variants of
configs/req2.py. BM3D and non-local means, which are told the true sigma (extra
`[bench]`), run beside them. Each restoration has a process of its own, so that
its peak memory is its own; the seconds are of the restoration, compiling
included, and those of all cores together follow. Pictures joined by + are one
picture: squares of 512 pixels of each, side by side. Megapixels of 0 take the
picture as it is; otherwise the picture is reflected at its edges until it has
so many, which is fair for time and memory, and kind in PSNR to whoever finds
that the picture repeats. The PSNR of the upper left 256x256 pixels is there
too, for a fit of that part alone: megapixels of 0.065536. Both are there too of
the image before a rehearsal, as `earlier`. Each result is a line of the file.
Results that are in the file are not made again, so that the same command goes
on where it was.
"""

import argparse
import concurrent.futures
import math
import multiprocessing
import pathlib
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import estimates, stopping
from configs import req2
from dipjax import corruptions, metrics
from experiments.lib import images

_SQUARE = 512  # Pixels of each picture of several.
_PART = np.s_[:256, :256]


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is not in the file yet and prints a line for each row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--images', nargs='+', default=['astronaut'], help='samples or files')
  add('--megapixels', type=float, nargs='+', default=[0.0])
  add('--sigma', type=float, default=25.0, help='of 255')
  names = (
    f'words behind the colon of configs/req2.py, or {list(estimates.PEERS)}'
  )
  add('--methods', nargs='+', default=['windows'], help=names)
  add('--steps', type=int, help='at most, of every variant; default: its own')
  path = pathlib.Path('photograph.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  arguments = parser.parse_args(argv)
  cells = [
    {
      'image': image,
      'megapixels': size,
      'sigma': arguments.sigma,
      'method': method,
      'steps': None if method in estimates.PEERS else arguments.steps,
    }
    for image in arguments.images
    for size in arguments.megapixels
    for method in arguments.methods
  ]
  try:
    stopping.run_missing(arguments.json, cells, run_alone, print_row)
  except (ValueError, OSError) as error:
    parser.error(str(error))


def run_alone(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what `run_cell` returns, in a process of its own."""
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
    return pool.submit(run_cell, dict(cell)).result()


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the size, seconds, PSNR and peak memory of one restoration.

  Args:
    cell: of `main`.

  Raises:
    ValueError: a picture that cannot be read, an unknown method, or a peer that
      is not installed.
  """
  clean = grow_image(join_images(cell['image']), cell['megapixels'])
  sigma = cell['sigma'] / 255
  noisy = corruptions.add_gaussian_noise(clean, sigma, seed=0)
  begin, worked = time.perf_counter(), _count_seconds()
  if cell['method'] in estimates.PEERS:
    image = estimates.PEERS[cell['method']](noisy, sigma)
    if image is None:
      raise ValueError(f'{cell["method"]}: try pip install -e ".[bench]"')
    earlier = image
  else:
    image, earlier = _restore(cell, noisy)
  return {
    'height': clean.shape[0],
    'width': clean.shape[1],
    'before': float(metrics.psnr(noisy, clean)),
    'psnr': float(metrics.psnr(image, clean)),
    'psnr_part': float(metrics.psnr(image[_PART], clean[_PART])),
    'earlier': float(metrics.psnr(earlier, clean)),
    'earlier_part': float(metrics.psnr(earlier[_PART], clean[_PART])),
    'seconds': time.perf_counter() - begin,
    'seconds_of_cores': _count_seconds() - worked,
    'peak_gb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
  }


def _count_seconds():
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def join_images(names: str) -> np.ndarray:
  """Returns a picture, or the squares of several, side by side, [H, W, C].

  Args:
    names: samples or files, joined by +; one alone is taken whole.
  """
  pictures = [images.read_image(name) for name in names.split('+')]
  if len(pictures) == 1:
    return pictures[0]
  squares = [_reflect(picture, _SQUARE, _SQUARE) for picture in pictures]
  return np.concatenate(squares, axis=1)


def grow_image(image: np.ndarray, megapixels: float) -> np.ndarray:
  """Returns the picture, reflected at its edges up to so many megapixels.

  Args:
    image: [H, W, C].
    megapixels: of the result, in the picture's proportions; 0 takes the picture
      as it is. A picture that is larger is cropped.
  """
  if not megapixels:
    return image
  height, width, _ = image.shape
  factor = math.sqrt(1e6 * megapixels / (height * width))
  rows, columns = (round(factor * side) for side in (height, width))
  return _reflect(image, rows, columns)


def _reflect(image, rows, columns):
  height, width, _ = image.shape
  more = [(0, max(0, rows - height)), (0, max(0, columns - width)), (0, 0)]
  return np.pad(image, more, mode='symmetric')[:rows, :columns]


def _restore(cell, noisy):
  config = req2.get_config(cell['method'])
  config.fit.steps = cell['steps'] or config.fit.steps
  image, earlier, _ = estimates.restore(config, noisy)
  return image, earlier


def print_row(row: Mapping[str, Any]) -> None:
  """Prints a row in one line."""
  rehearsed = row['earlier'] != row['psnr']
  before = f' ({row["earlier"]:.2f} before a rehearsal)' if rehearsed else ''
  print(
    f'{row["image"]}, {row["width"]}x{row["height"]}, {row["method"]}: '
    f'{row["before"]:.2f} dB before, {row["psnr"]:.2f} after{before}, '
    f'{row["seconds"]:.0f} s, {row["seconds_of_cores"]:.0f} s of cores, '
    f'{row["peak_gb"]:.2f} GB',
    flush=True,
  )


if __name__ == '__main__':
  main()
