"""Times a whole restoration against the paper's fixed 1,800 steps.

    python -m benchmarks.result --image FILE --crop 128 192 128 128 --peer torch

Our side is `dipjax.restore` of requirement 2 with one seed, or with several at
once, which EMV stops without the clean image. Its seconds include compiling,
with the persistent cache off. The peer takes its steps on an image of the same
size, in its fastest variant; its seconds include neither compiling nor choosing
the variant. FILE is the clean picture, to which noise of sigma 25 is added.
"""

import argparse
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

import dipjax
from benchmarks import programs
from dipjax import corruptions, metrics, recipe
from experiments.lib import images

PAPER_STEPS = 1800


class Row(NamedTuple):
  """The entry of the JSON: ours."""

  height: int
  width: int
  seeds: int
  precision: str
  steps: int  # Until the last lane stopped.
  seconds: float
  first_seconds: float  # Until the first chunk of steps: mostly compiling.
  psnr_before: float
  psnr_after: float
  device: str


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for ours and one for the peer."""
  arguments, clean = _parse(argv)
  jax.config.update('jax_enable_compilation_cache', False)
  row = _time_ours(clean, arguments)
  programs.write_rows(arguments.json, [row])
  if arguments.peer:
    _time_peer(clean.shape[0], arguments)


def _parse(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--image', default='astronaut')
  add('--crop', type=int, nargs=4, default=())
  add('--seed', type=int, default=0, help='of the first lane')
  add('--seeds', type=int, default=1, help='how many are fitted at once')
  known = list(recipe.PRECISIONS)
  add('--precision', choices=known, default='float32')
  add('--steps', type=int, default=dipjax.Recipe().steps, help='at most')
  add('--channels', type=int, default=128, help='of each level')
  add('--peer', choices=['torch'])
  add('--json', type=pathlib.Path, metavar='FILE', help='write the row of ours')
  arguments = parser.parse_args(argv)
  try:
    image = images.read_image(arguments.image)
    clean = images.crop_image(image, tuple(arguments.crop))
    if min(arguments.seeds, arguments.steps, arguments.channels) < 1:
      raise ValueError('--seeds, --steps and --channels must be at least 1')
    if arguments.peer:
      programs.check_peer()
      if clean.shape[0] != clean.shape[1] or clean.shape[0] % 32:
        raise ValueError('--peer: the crop must be a square, 32 divides it')
  except ValueError as error:
    parser.error(str(error))
  return arguments, clean


def _time_ours(clean, arguments) -> Row:
  noisy = corruptions.add_gaussian_noise(clean, 25 / 255, seed=0)
  ours = dipjax.Recipe(
    network=programs.make_network(arguments.channels),
    precision=arguments.precision,
    steps=arguments.steps,
  )
  seeds = range(arguments.seed, arguments.seed + arguments.seeds)
  chunks = []
  begin = time.perf_counter()

  def watch(states, _):
    # The first chunk alone is waited for.
    if not chunks:
      jax.block_until_ready(states.params)
      chunks.append(time.perf_counter() - begin)

  result = dipjax.restore(noisy, recipe=ours, seeds=tuple(seeds), watch=watch)
  seconds = time.perf_counter() - begin
  row = Row(
    height=clean.shape[0],
    width=clean.shape[1],
    seeds=arguments.seeds,
    precision=arguments.precision,
    steps=int(result.stopped.max()),
    seconds=seconds,
    first_seconds=chunks[0],
    psnr_before=float(metrics.psnr(noisy, clean)),
    psnr_after=float(metrics.psnr(result.image, clean)),
    device=jax.devices()[0].device_kind,
  )
  print(
    f'dipjax: {seconds:.0f} s for {row.steps} steps of {row.seeds} '
    f'seed{"s" * (row.seeds > 1)}, compiled, the first '
    f'{row.first_seconds:.0f} s until the first steps, stopped by '
    f'{result.rule}; {row.psnr_before:.2f} dB before, '
    f'{row.psnr_after:.2f} dB after',
    flush=True,
  )
  return row


def _time_peer(size, arguments):
  peers = programs.make_peers(size, arguments.precision, arguments.channels)
  if 'torch' not in peers:
    return
  call = peers['torch']
  call()
  begin, steps = time.perf_counter(), 0
  while steps < PAPER_STEPS:
    steps += call()
  seconds = time.perf_counter() - begin
  print(f'torch: {seconds:.0f} s for {steps} steps')


if __name__ == '__main__':
  main()
