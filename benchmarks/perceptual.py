"""Times a step with a perceptual loss, and without it.

    python -m benchmarks.perceptual --sizes 128 256

The benchmark has requirement 2's network and VGG16 with random parameters,
which take as long as the real parameters. It times each loss in turn with plain
squared error, in a scan of steps, round after round, and prints the ratio of
the medians.
"""

import argparse
from collections.abc import Sequence

import jax

from benchmarks import programs, step
from dipjax import features, recipe
from dipjax.methods import perceptual
from dipjax.networks import skip

# Layers and the factor by which the image is reduced before.
LOSSES = {
  'to relu2_2': (('relu1_2', 'relu2_2'), 1),
  'to relu2_2, half size': (('relu1_2', 'relu2_2'), 2),
  'to relu3_3': (('relu1_2', 'relu2_2', 'relu3_3'), 1),
  'to relu5_3': (features.LPIPS_LAYERS, 1),
  'to relu5_3, half size': (features.LPIPS_LAYERS, 2),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Prints one line for each size and loss."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--sizes', type=int, nargs='+', default=[128, 256])
  add('--lanes', type=int, default=1)
  known = list(recipe.PRECISIONS)
  add('--precision', choices=known, default='float32')
  add('--channels', type=int, default=128, help='of each level')
  add('--losses', nargs='+', choices=list(LOSSES), default=list(LOSSES))
  add('--rounds', type=int, default=5)
  arguments = parser.parse_args(argv)
  channels = (arguments.channels,) * 5
  network = skip.Skip(down=channels, up=channels)
  one = programs.make_fit(network, arguments.precision)
  params = jax.jit(features.draw_params)(jax.random.key(0))
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  for size in arguments.sizes:
    problems = {'plain': programs.make_problem(size)}
    for name in arguments.losses:
      vgg16 = features.Features(params, *LOSSES[name])
      problems[name] = perceptual.add_features(problems['plain'], vgg16, 0.1)
    calls = {
      name: programs.scan_problem(one, problem, arguments.lanes).call
      for name, problem in problems.items()
    }
    medians = step.time_medians(calls, arguments.rounds)
    for name, median in medians.items():
      print(
        f'{size}x{size}  {arguments.precision}  {name:22s} '
        f'{1e3 * median:8.1f} ms a step and lane, '
        f'{median / medians["plain"]:.2f} of plain',
        flush=True,
      )


if __name__ == '__main__':
  main()
