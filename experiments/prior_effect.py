"""Enlarges a picture with no prior, with total variation, with the network.

python -m experiments.prior_effect --config=configs/prior_effect.py
"""

import copy
import os
from typing import Any

import ml_collections

from experiments import super_resolution
from experiments.lib import (
  build,
  cli,
  command,
  folders,
  images,
  page,
  pictures,
  report,
  schema,
  task,
)
from experiments.lib import data as data_lib
from experiments.lib import workdir as workdirs


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Enlarges one picture three times; returns the numbers and the arrays.

  Each of the three is a run of its own in a folder of its own: `none` and `tv`
  fit the pixels themselves, `network` is the deep image prior.

  Args:
    config: as configs/prior_effect.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = super_resolution.load(config.data)
  channels = data.measurement.shape[-1]
  recipe = build.make_recipe(config, channels)
  recipe.method.check_task(operator=data.operator)
  arms = make_arms(config)
  for arm in arms.values():  # Errors come before the first file is written.
    build.make_recipe(arm, channels)
  with workdirs.open_workdir(
    workdir, config, data=data_lib.digest(data)
  ) as folder:
    if folder.finished:
      return task.recall(folder)
    results = {}
    for name, arm in arms.items():
      print(f'{name}:')
      results[name] = task.run('prior_effect', data, arm, folder.find(name))
      if results[name].signal:
        break
    signal = results[name].signal
    summary: dict[str, Any] = {
      'experiment': 'prior_effect',
      'arms': {name: result.summary for name, result in results.items()},
      **({'stopped': True} if signal else {}),
    }
    content = page.Content(
      summary,
      folder.config,
      _list_shots(data, results),
      command=command.find(workdir),
      sides=('measurement', _make_caption(name, results[name].summary)),
    )
    summary = folder.write(
      summary,
      lambda path: [
        *_write(path, data, results),
        *report.save_page(path, content),
      ],
    )
    print(f'side by side in {folders.show(os.path.abspath(workdir))}')
  restored = {name: one.images['restored'] for name, one in results.items()}
  return task.Result(
    summary, {'measurement': data.picture, **restored}, signal=signal
  )


def _write(path, data, results) -> list[str]:
  panels = {'measurement': data.picture}
  for name, result in results.items():
    caption = _make_caption(name, result.summary)
    panels[caption] = result.images['restored']
  if data.clean is not None:
    panels['clean'] = data.clean
  picture = pictures.draw_comparison(panels)
  images.write_image(os.path.join(path, 'comparison.png'), picture)
  # The folders of the arms were written before.
  return ['comparison.png', *results]


def _list_shots(data, results) -> list[page.Shot]:
  photos = {'measurement': data.picture}
  for name, image in data.baselines.items():
    if image is not data.picture:
      photos[name] = image
  for name, result in results.items():
    caption = _make_caption(name, result.summary)
    photos[caption] = result.images['restored']
  if data.clean is not None:
    photos['clean'] = data.clean
  return [page.Shot(title, photos[title], compared=True) for title in photos]


def make_arms(
  config: ml_collections.ConfigDict,
) -> dict[str, ml_collections.ConfigDict]:
  """Returns the configs of the arms `none`, `tv` and `network`."""
  none, tv, network = (copy.deepcopy(config) for _ in range(3))
  for arm in (none, tv):
    code = {name: arm.network[name] for name in ('code', 'code_channels')}
    arm.network = ml_collections.ConfigDict({'name': 'pixels', **code})
    arm.fit.jitter = 0.0
  none.fit.tv = network.fit.tv = 0.0
  return {'none': none, 'tv': tv, 'network': network}


def _make_caption(name, summary):
  known = {'none': 'no prior', 'tv': 'total variation', 'network': 'network'}
  psnr = summary['restored'].get('psnr')
  return f'{known[name]} {psnr:.2f} dB' if psnr else known[name]


if __name__ == '__main__':
  cli.launch(run)
