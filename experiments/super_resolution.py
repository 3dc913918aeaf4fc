"""Enlarges a picture: requirement 3, or a small picture of your own.

python -m experiments.super_resolution --config=configs/req3.py --workdir=DIR
"""

import ml_collections
import numpy as np
from PIL import Image, ImageFilter

from dipjax import operators
from experiments.lib import cli, fields, images, schema, task
from experiments.lib.data import IMAGE, Data, read

# The fields of config.data that this experiment reads.
_READ = (
  *IMAGE,
  'reduce',
  'factor',
  'filter',
  'multiple',
)

_SHAVE = 4  # Pixels at each edge that the paper's PSNR of Y leaves out.


def run(config: ml_collections.ConfigDict, workdir: str) -> task.Result:
  """Enlarges one picture; returns the numbers and the arrays.

  Args:
    config: as configs/req3.py.
    workdir: the folder for all files of the run.

  Raises:
    ValueError: bad input, in one line; no file is left behind.
  """
  schema.check_config(config)
  data = load(config.data)
  return task.run('super_resolution', data, config, workdir)


def load(data: ml_collections.ConfigDict) -> Data:
  """Returns the small picture, and the large one if it is known.

  With data.reduce the image is the large picture. It is cut to multiples of
  data.multiple and reduced with Pillow's Lanczos filter to 8 bits, as the
  paper's authors do. Without data.reduce the image is the small picture.
  """
  fields.refuse_unread(data, _READ, 'data')
  operator = operators.Downsample(data.factor, data.filter)
  picture = read(data)
  if not data.reduce:
    small, clean = picture.pixels, None
  else:
    clean = _cut(picture.pixels, data.multiple)
    small = _reduce(clean, data.factor)
  height, width, channels = small.shape
  if height * width * data.factor**2 > images.MAX_PIXELS:
    raise ValueError(
      f'data.factor={data.factor} makes over {images.MAX_PIXELS} pixels of '
      f'{width}x{height}'
    )
  baselines = _enlarge(small, data.factor)
  return Data(
    measurement=small,
    clean=clean,
    operator=operator,
    size=(height * data.factor, width * data.factor, channels),
    shown=baselines['nearest'],
    baselines=baselines,
    shave=_SHAVE,
    file=None if data.reduce else picture,
  )


def _cut(image, multiple):
  """Returns the largest centred window whose sides are multiples."""
  height, width = (side - side % multiple for side in image.shape[:2])
  if multiple < 1 or not height or not width:
    raise ValueError(
      f'data.multiple={multiple} does not fit {image.shape[1]}x{image.shape[0]}'
    )
  top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
  return images.crop_image(image, (top, left, height, width))


def _reduce(image, factor):
  height, width, _ = image.shape
  if factor < 1 or height % factor or width % factor:
    raise ValueError(
      f'data.factor={factor} does not divide {width}x{height}: see '
      'data.multiple'
    )
  size = (width // factor, height // factor)
  return _from_pillow(_to_pillow(image).resize(size, Image.Resampling.LANCZOS))


def _enlarge(image, factor) -> dict[str, np.ndarray]:
  """Returns the enlarged images of the authors' baselines, by name."""
  small = _to_pillow(image)
  size = (image.shape[1] * factor, image.shape[0] * factor)
  bicubic = small.resize(size, Image.Resampling.BICUBIC)
  return {
    'bicubic': _from_pillow(bicubic),
    'sharpened': _from_pillow(bicubic.filter(ImageFilter.UnsharpMask())),
    'nearest': _from_pillow(small.resize(size, Image.Resampling.NEAREST)),
  }


def _to_pillow(image):
  levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
  return Image.fromarray(levels[..., 0] if image.shape[2] == 1 else levels)


def _from_pillow(image):
  levels = np.asarray(image, np.float32) / 255
  return levels if levels.ndim == 3 else levels[..., None]


PICTURES = cli.Pictures(
  'req3:quick',
  fields={'data.reduce': False},
  examples=('small.png', 'small.png --config.data.factor=2'),
)

if __name__ == '__main__':
  cli.launch(run, PICTURES)
