"""Times a whole restoration against the paper's fixed 1,800 steps.

    python -m benchmarks.result --image FILE --crop 128 192 128 128 --peer torch

Our side is `dipjax.restore` of requirement 2 with one seed, which EMV stops
without the clean image. Its seconds include compiling, with the persistent
cache off. The peer takes its steps on an image of the same size, in its fastest
variant; its seconds include neither compiling nor choosing the variant. FILE is
the clean picture, to which noise of sigma 25 is added.
"""

import argparse
import time
from collections.abc import Sequence

import jax

import dipjax
from benchmarks import programs
from dipjax import corruptions, metrics
from experiments.lib import images

PAPER_STEPS = 1800


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for ours and one for the peer."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--image', default='astronaut')
  parser.add_argument('--crop', type=int, nargs=4, default=())
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--peer', choices=['torch'])
  arguments = parser.parse_args(argv)
  try:
    image = images.read_image(arguments.image)
    clean = images.crop_image(image, tuple(arguments.crop))
    if arguments.peer:
      programs.check_peer()
      if clean.shape[0] != clean.shape[1] or clean.shape[0] % 32:
        raise ValueError('--peer: the crop must be a square, 32 divides it')
  except ValueError as error:
    parser.error(str(error))
  jax.config.update('jax_enable_compilation_cache', False)
  _time_ours(clean, arguments.seed)
  if arguments.peer:
    _time_peer(clean.shape[0])


def _time_ours(clean, seed):
  noisy = corruptions.add_gaussian_noise(clean, 25 / 255, seed=0)
  begin = time.perf_counter()
  result = dipjax.restore(noisy, seeds=(seed,))
  seconds = time.perf_counter() - begin
  print(
    f'dipjax: {seconds:.0f} s for {result.stopped[0]} steps, compiled, stopped '
    f'by {result.rule}; {metrics.psnr(noisy, clean):.2f} dB before, '
    f'{metrics.psnr(result.image, clean):.2f} dB after',
    flush=True,
  )


def _time_peer(size):
  call = programs.make_peers(size, 'float32')['torch']
  call()
  begin, steps = time.perf_counter(), 0
  while steps < PAPER_STEPS:
    steps += call()
  seconds = time.perf_counter() - begin
  print(f'torch: {seconds:.0f} s for {steps} steps')


if __name__ == '__main__':
  main()
