"""A whole folder of pictures, through a few lanes at once.

    python -m experiments.folder --config=configs/folder.py \
      --config.data.images=FOLDER --config.lanes=4 --workdir=DIR
    python -m experiments.folder --config=configs/folder.py:windows \
      --config.data.images=FOLDER --config.folder.share=True --workdir=DIR

A word names the task: denoise (without any word), jpeg, super_resolution or
inpaint. The other words are those of the task's own config; without them the
task takes `auto` (denoise) or `quick`, of whole pictures.
"""

from types import ModuleType
from typing import Any

import ml_collections

from configs import choices, inpaint, jpeg, req2, req3

# By name: the task's own config, its words where none are given, and what tells
# it that the pictures are what is restored.
TASKS: dict[str, tuple[ModuleType, str, dict[str, Any]]] = {
  'denoise': (req2, 'auto', {'sigma': 0.0}),
  'jpeg': (jpeg, 'quick', {'sigma': 0.0}),
  'super_resolution': (req3, 'quick', {'reduce': False}),
  'inpaint': (inpaint, 'quick', {'missing': 0.0, 'mask': '*_mask.png'}),
}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: a task, and the words of its own config."""
  given = list(filter(None, (variant or '').split(',')))
  named = [word for word in given if word in TASKS] or ['denoise']
  if len(named) > 1:
    raise ValueError(f'a folder has one task, not {" and ".join(named)}')
  (task,) = named
  own, usual, preset = TASKS[task]
  words = [word for word in given if word not in TASKS]
  try:
    config = own.get_config(','.join(words) or usual)
  except ValueError as error:
    if 'unknown variant' not in str(error):
      raise
    raise ValueError(f'{error}, {", ".join(TASKS)}') from None
  config.task = task
  # Pictures that are fitted at once; each has the seed `seed`.
  config.lanes = 4
  # Whether all pictures of one camera and setting, of equal channels and noise,
  # share one network; for `windows`.
  config.folder = ml_collections.ConfigDict({'share': False})
  data = config.data
  # A folder; a pattern, as '**/*.tif'; a file with a picture in each line, as
  # list.txt; or a picture.
  data.images = '.'
  # A folder of clean pictures to compare with, of the same names; '': none.
  data.clean = ''
  # `*` in data.mask is the name of the picture, beside which the mask lies.
  data.update(preset, crop=())
  data.page = -1  # Of each TIFF, from 0; -1: every page is a picture.
  del data.image, config.output, config.record.preview
  # A picture among many gets no steps of its own after its fit.
  choices.drop(config.fit, 'rehearsal')
  return config
