"""What was published in place of a fit that is stopped, beside such a fit.

    python -m benchmarks.alternatives --damages gaussian \
      --methods plain autoencoding "autoencoding, 1e-3" self-guided
    python -m benchmarks.alternatives --images astronaut coffee \
      --damages impulse --methods plain absolute double

All with the small skip network of `configs/req2.py:fast`, one seed, stopped
blind by `emv`; the oracle has the best average of the same run. Each fit is a
line of the file; those that are there are not run again, so that the same
command goes on where it was. docs/measured/methods.md has the table.
Of dipjax:

plain, absolute: its errors `squared` and `absolute`.
double: double over-parameterisation, its error `outliers`.

Of this file, because they lose to the error `recorrupted`:

autoencoding: the code z begins as the picture y; two steps on
  |f(z) - y|^2 + |f(z) - z|^2, then z becomes f(z), and so on; Adam at 1e-4, or
  at the rate in the name (sjames40/Aseq_DIP).
self-guided: z begins as y and is fitted together with the network, on
  |f(z + eta) - y|^2 + |f(z + eta) - z|^2; Adam at 0.01 (Liang et al. 2025).
"""

import argparse
import functools
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import dipjax
from benchmarks import stopping
from dipjax import codes, metrics, monitors, operators
from dipjax import fit as fit_lib
from dipjax.engine import lanes
from dipjax.restore import ADAM, JITTER, make_problem, run_lanes

Array = jax.Array


class Method(NamedTuple):
  """How a picture is fitted whose code, at first the picture, changes."""

  make_objective: Callable[[nn.Module], objectives.Objective]
  optimizer: optax.GradientTransformation
  jitter: float


class WithCode(nn.Module):
  """A network whose code is fitted together with it, or renewed."""

  network: nn.Module

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs], of the network."""
    self.param('code', lambda key: code)
    return self.network(code)


def autoencode(network: nn.Module) -> objectives.Objective:
  """Returns the objective of a code that the network is to leave as it is.

  The code is a parameter; its gradient is what is to be taken from it
  so that it becomes the image.
  """

  def objective(params, problem, key):
    del key  # No jitter.
    own = params['code']
    code = jax.lax.stop_gradient(own)
    image, loss = _autoencode(network, params, problem, code, code)
    difference = jnp.sum(jnp.square(own - jax.lax.stop_gradient(image))) / 2
    return loss + difference - jax.lax.stop_gradient(difference), image

  return objective


def guide(network: nn.Module) -> objectives.Objective:
  """Returns the same where the code, too, is fitted, with jitter."""

  def objective(params, problem, key):
    own = params['code']
    code = codes.jitter_code(key, own, problem.jitter)
    image, loss = _autoencode(network, params, problem, code, own)
    return loss, image

  return objective


def _autoencode(network, params, problem, code, aim):
  image: Any = network.apply({'params': params['network']}, code)
  error = jnp.mean(jnp.square(image - problem.measurement))
  return image, error + jnp.mean(jnp.square(image - aim))


def _make_autoencoding(rate):
  # Every second step the code becomes the image of that step.
  renew = optax.scale_by_schedule(lambda count: -(count % 2))
  parts = {'network': optax.adam(rate), 'code': renew}
  optimizer = optax.multi_transform(parts, {name: name for name in parts})
  return Method(autoencode, optimizer, jitter=0.0)


# Errors of dipjax, and what is done here.
ERRORS = {'plain': 'squared', 'absolute': 'absolute', 'double': 'outliers'}
METHODS = {
  'autoencoding': _make_autoencoding(1e-4),
  'autoencoding, 1e-3': _make_autoencoding(1e-3),
  'self-guided': Method(guide, ADAM, JITTER),
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
  known = [*ERRORS, *METHODS]
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
  damaged = stopping.damage_image(clean, cell)
  network = stopping.make_network(
    cell['channels'], cell['levels'], clean.shape[2]
  )
  if network.code_size(*clean.shape[:2]) != clean.shape[:2]:
    raise ValueError(
      f'--crop {cell["crop"]} is no multiple of {2 ** cell["levels"]}'
    )
  if cell['method'] in ERRORS:
    watched, steps = _restore(cell, network, damaged, clean)
  else:
    watched, steps = _fit_code(cell, network, damaged, clean)
  stopped, best = watched['emv'], watched['oracle']
  return {
    'before': float(metrics.psnr(damaged, clean)),
    'psnr': float(metrics.psnr(np.asarray(stopped.image[0]), clean)),
    'step': int(stopped.step[0]),
    'best': float(best.best[0]),
    'best_step': int(best.step[0]),
    'steps_taken': int(steps[0]),
  }


def _restore(cell, network, damaged, clean):
  result = dipjax.restore(
    damaged,
    network=network,
    error=ERRORS[cell['method']],
    steps=cell['steps'],
    monitors={'emv': monitors.EMV(patience=cell['patience'])},
    clean=clean,
    seeds=[cell['seed']],
    chunk=min(50, cell['steps']),
  )
  return result.monitors, result.stopped


def _fit_code(cell, network, damaged, clean):
  fit = _make_fit(cell['method'], cell['patience'], network)
  key = jax.random.key(cell['seed'])
  problem = make_problem(
    key,
    jnp.asarray(damaged),
    operators.as_operator(None),
    network,
    clean.shape,
    code=codes.use_image(damaged),
    jitter=METHODS[cell['method']].jitter,
    steps=cell['steps'],
  )
  states, _ = run_lanes(
    fit,
    key[None],
    lanes.stack_lanes([problem]),
    jnp.asarray(clean)[None],
    chunk=min(50, cell['steps']),
  )
  return states.monitors, states.step


@functools.cache
def _make_fit(name, patience, network):
  method = METHODS[name]
  watchers = {
    'emv': monitors.EMV(patience=patience),
    'oracle': monitors.Oracle(),
  }
  return fit_lib.make_fit(
    WithCode(network),
    method.make_objective(network),
    method.optimizer,
    watchers,
  )


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
