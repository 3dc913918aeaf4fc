"""Compares a fit that is stopped with methods published in place of stopping.

    python -m benchmarks.alternatives --damages gaussian \
      --methods plain autoencoding "autoencoding, 1e-3" self-guided
    python -m benchmarks.alternatives --images astronaut coffee \
      --damages impulse --methods plain absolute double

All fits have the small skip network of `configs/req2.py:fast` and one seed, and
`emv` stops them blind; the oracle has the best average of the same run. Each
fit is a line of the file. Fits that are in the file are not run again, so that
the same command goes on where it was. docs/measured/methods.md has the table.

These methods are in dipjax:

plain, absolute: the methods `squared` and `absolute`.
double: double over-parameterisation, the method `outliers`.

These methods are in this file only, because they lose to `recorrupted`:

autoencoding: the code z begins as the picture y; two steps on
  |f(z) - y|^2 + |f(z) - z|^2, then z becomes f(z), and so on; Adam at 1e-4, or
  at the rate in the name (sjames40/Aseq_DIP).
self-guided: z begins as y and is fitted together with the network, on
  |f(z + eta) - y|^2 + |f(z + eta) - z|^2; Adam at 0.01 (Liang et al. 2025).
"""

import argparse
import dataclasses
import functools
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import dipjax
from benchmarks import stopping
from dipjax import Recipe, codes, methods, metrics, monitors

Array = jax.Array


class WithCode(nn.Module):
  """A network whose code is fitted together with it, or renewed."""

  network: nn.Module

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the network's code for an image of this size."""
    network: Any = self.network
    return network.code_size(height, width)

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs], of the network."""
    self.param('code', lambda key: code)
    return self.network(code)


@dataclasses.dataclass(frozen=True)
class _OwnCode(methods.Method):
  """A method whose code, at first the measurement, changes during the fit."""

  makes_code: ClassVar[bool] = True
  takes_terms: ClassVar[bool] = False

  def prepare(self, parts: methods.Parts) -> methods.Parts:
    """Returns the parts with the measurement as code, beside the network."""
    parts = super().prepare(parts)
    return parts._replace(
      network=WithCode(parts.network), code=codes.use_image(parts.measurement)
    )


@dataclasses.dataclass(frozen=True)
class Autoencoding(_OwnCode):
  """The error of the picture, with a code that the network is to leave alone.

  The code is a parameter; its gradient is what is to be taken from it so that
  it becomes the image.

  Attributes:
    rate: of Adam.
  """

  rate: float = 1e-4

  def prepare(self, parts: methods.Parts) -> methods.Parts:
    """Returns the parts without jitter, with an optimiser for both."""
    parts = super().prepare(parts)
    return parts._replace(jitter=0.0, optimizer=_renew_code(self.rate))

  def make_objective(
    self, network: nn.Module, penalties: tuple[methods.Penalty, ...] = ()
  ) -> methods.Objective:
    """See `methods.Method.make_objective`; it takes no penalties."""
    del penalties

    def objective(params, problem, key):
      del key  # No jitter.
      own = params['code']
      code = jax.lax.stop_gradient(own)
      image, loss = _autoencode(network, params, problem, code, code)
      difference = jnp.sum(jnp.square(own - jax.lax.stop_gradient(image))) / 2
      return loss + difference - jax.lax.stop_gradient(difference), image

    return objective


@dataclasses.dataclass(frozen=True)
class SelfGuided(_OwnCode):
  """The same where the code, too, is fitted, with jitter."""

  def make_objective(
    self, network: nn.Module, penalties: tuple[methods.Penalty, ...] = ()
  ) -> methods.Objective:
    """See `methods.Method.make_objective`; it takes no penalties."""
    del penalties

    def objective(params, problem, key):
      own = params['code']
      code = codes.jitter_code(key, own, problem.jitter)
      image, loss = _autoencode(network, params, problem, code, own)
      return loss, image

    return objective


def _autoencode(network, params, problem, code, aim):
  # The network is a `WithCode`; all that is applied lies in it.
  image: Any = network.network.apply({'params': params['network']}, code)
  error = jnp.mean(jnp.square(image - problem.measurement))
  return image, error + jnp.mean(jnp.square(image - aim))


@functools.cache
def _renew_code(rate):
  """Adam for the network; the code becomes the image in every second step."""
  renew = optax.scale_by_schedule(lambda count: -(count % 2))
  parts = {'network': optax.adam(rate), 'code': renew}
  return optax.multi_transform(parts, {name: name for name in parts})


METHODS: dict[str, methods.Method] = {
  'plain': methods.Squared(),
  'absolute': methods.Absolute(),
  'double': methods.Outliers(),
  'autoencoding': Autoencoding(1e-4),
  'autoencoding, 1e-3': Autoencoding(1e-3),
  'self-guided': SelfGuided(),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is not in the file yet and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--images', nargs='+', default=stopping.SAMPLES, help='samples or files')
  damages = ['gaussian', *stopping.DAMAGES]
  add('--damages', nargs='+', choices=damages, default=['gaussian'])
  known = list(METHODS)
  add('--methods', nargs='+', choices=known, default=known)
  add('--crop', type=int, default=128, help='the square in the middle')
  add('--channels', type=int, default=32)
  add('--levels', type=int, default=5)
  add('--steps', type=int, default=4000, help='at most')
  add('--patience', type=int, default=300, help='of `emv`')
  path = pathlib.Path('alternatives.jsonl')
  add('--json', type=pathlib.Path, metavar='FILE', default=path)
  arguments = parser.parse_args(argv)
  try:
    rows = stopping.run_missing(
      arguments.json, make_cells(arguments), run_cell, _print_row
    )
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print_table(rows)


def make_cells(arguments: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns what describes each fit, in the order of the runs."""
  fixed = ('crop', 'channels', 'levels', 'steps', 'patience')
  return [
    {'image': image, 'damage': damage, 'method': method, 'seed': 0}
    | {'sigma': 25.0 if damage == 'gaussian' else None}
    | {name: getattr(arguments, name) for name in fixed}
    for damage in arguments.damages
    for method in arguments.methods
    for image in arguments.images
  ]


def run_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the PSNR where `emv` stopped, the best of the run, and the steps.

  Args:
    cell: of `make_cells`.

  Raises:
    ValueError: no steps, or a picture that the network does not cover exactly.
  """
  if cell['steps'] < 1:
    raise ValueError(f'--steps must be at least 1, got {cell["steps"]}')
  clean = stopping.read_middle(cell['image'], cell['crop'])
  damaged, _ = stopping.damage_image(clean, cell)
  network = stopping.make_network(
    cell['channels'], cell['levels'], clean.shape[2]
  )
  if network.code_size(*clean.shape[:2]) != clean.shape[:2]:
    raise ValueError(
      f'--crop {cell["crop"]} is no multiple of {2 ** cell["levels"]}'
    )
  result = dipjax.restore(
    damaged,
    recipe=Recipe(
      network=network,
      method=METHODS[cell['method']],
      monitors={'emv': monitors.EMV(patience=cell['patience'])},
      steps=cell['steps'],
    ),
    clean=clean,
    seeds=[cell['seed']],
    chunk=min(50, cell['steps']),
  )
  stopped, best = result.monitors['emv'], result.monitors['oracle']
  return {
    'before': float(metrics.psnr(damaged, clean)),
    'psnr': float(metrics.psnr(np.asarray(stopped.image[0]), clean)),
    'step': int(stopped.step[0]),
    'best': float(best.best[0]),
    'best_step': int(best.step[0]),
    'steps_taken': int(result.stopped[0]),
  }


def _print_row(row: Mapping[str, Any]) -> None:
  print(
    f'{row["image"]}, {row["damage"]}, {row["method"]}: {row["before"]:.2f} dB '
    f'before, {row["psnr"]:.2f} at step {row["step"]}, best {row["best"]:.2f} '
    f'at step {row["best_step"]}, {row["steps_taken"]} steps',
    flush=True,
  )


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
  """Prints a line for each damage and method: means over pictures."""
  groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
  for row in rows:
    groups.setdefault((row['damage'], row['method']), []).append(row)
  for (damage, method), chosen in groups.items():
    psnr, best, steps = (
      statistics.fmean(row[name] for row in chosen)
      for name in ('psnr', 'best', 'steps_taken')
    )
    print(
      f'{damage}, {method}: {psnr:.2f} dB, best {best:.2f}, {steps:.0f} steps, '
      f'over {len(chosen)} pictures'
    )


if __name__ == '__main__':
  main()
