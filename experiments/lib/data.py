"""What is to be restored: a measurement, and what it may be compared with."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from dipjax import corruptions, operators
from experiments.lib import fields, images

_DENOISING = ('image', 'crop', 'sigma', 'noise_seed', 'clip', 'clean')


class Data(NamedTuple):
  """What is to be restored, and what it may be compared with."""

  measurement: np.ndarray  # What the operator gave, of any shape.
  clean: np.ndarray | None  # [H, W, C]
  operator: operators.Operator | None = None  # None: the identity.
  size: tuple[int, int, int] | None = None  # None: the measurement's.
  shown: np.ndarray | None = None  # [H, W, C], where that is of another.
  baselines: Mapping[str, np.ndarray] = {}  # Simpler restorations, by name.
  shave: int | None = None  # Edge that the PSNR of Y, if wanted, leaves out.
  caption: str = 'measurement'  # What `picture` is.

  @property
  def picture(self) -> np.ndarray:
    """The measurement as an image of the size of the restored one."""
    return self.measurement if self.shown is None else self.shown


def load_denoising(data: ml_collections.ConfigDict) -> Data:
  """Returns the noisy image, and the clean one if it is known.

  With data.sigma > 0 the image is the clean one and noise is added; with 0 it
  is the measurement, and data.clean, if given, what it is compared with.

  Raises:
    ValueError: files, sizes or numbers that do not fit, in one line.
  """
  fields.refuse_unread(data, _DENOISING, 'data')
  fields.check_sigma(data.sigma)
  if data.sigma and data.clean:
    raise ValueError(
      'with data.sigma > 0 data.image is the clean image itself: leave out '
      f'data.clean={data.clean!r}, or set data.sigma=0'
    )
  whole = images.read_image(data.image)
  image = images.crop_image(whole, tuple(data.crop))
  if data.sigma:
    noisy = corruptions.add_gaussian_noise(
      image, data.sigma / 255, seed=data.noise_seed, clip=data.clip
    )
    return Data(noisy, image)
  return Data(image, _read_clean(data, whole) if data.clean else None)


def read(source: str, crop: Sequence[int]) -> np.ndarray:
  """Returns the box of an image that `crop` names, see `images`."""
  return images.crop_image(images.read_image(source), tuple(crop))


def _read_clean(data, whole):
  clean = images.read_image(data.clean)
  if clean.shape != whole.shape:
    raise ValueError(
      f'data.clean is {_describe(clean)}, data.image is {_describe(whole)}: '
      'they must be two versions of one picture'
    )
  return images.crop_image(clean, tuple(data.crop))


def _describe(image):
  height, width, channels = image.shape
  return f'{width}x{height} with {channels} channel{"s" * (channels > 1)}'
