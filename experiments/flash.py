"""Flash and no flash: restores a dark, noisy picture from one with flash.

python -m experiments.flash --config=configs/flash.py \
  --config.data.image=FILE --config.data.flash=FILE --workdir=DIR
"""

import ml_collections

from dipjax import codes
from experiments.lib import cli, fields, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (*IMAGE, 'flash')


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Restores the picture without flash; returns the numbers and the arrays.

  Args:
    config: as configs/flash.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  fields.refuse_unread(config.data, _READ, 'data')
  if not config.data.flash:
    raise ValueError(
      'data.flash is empty: name two pictures of one scene, '
      '--config.data.image=DARK --config.data.flash=BRIGHT'
    )
  picture = read(config.data)
  image = picture.pixels
  flash = read(config.data, config.data.flash).pixels
  if image.shape[:2] != flash.shape[:2]:
    raise ValueError(
      f'data.flash is {flash.shape[1]}x{flash.shape[0]}, data.image is '
      f'{image.shape[1]}x{image.shape[0]}: they must be of one size'
    )
  data = Data(image, clean=None, file=picture)
  # A code may be larger than the picture: the picture with flash then lies in
  # its middle and is reflected beyond.
  code = codes.use_image(flash)
  return task.run('flash', data, config, workdir, code=code)


PICTURES = cli.Pictures(
  'flash:quick',
  files={'flash': 'data.flash'},
  examples=('dark.jpg --flash=bright.jpg',),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
