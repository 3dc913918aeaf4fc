"""Data of a restoration: a measurement, and images to compare results with."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from dipjax import corruptions, operators
from experiments.lib import fields, images, leaves

_DENOISING = ('image', 'crop', 'sigma', 'noise_seed', 'clip', 'clean')


class Data(NamedTuple):
  """A measurement to restore, and images to compare the result with."""

  measurement: np.ndarray  # What the operator gave, of any shape.
  clean: np.ndarray | None  # [H, W, C], None where it is not known.
  operator: operators.Operator | None = None  # None: the identity.
  size: tuple[int, int, int] | None = None  # (H, W, C); None: measurement's.
  # [H, W, C], the picture of a measurement that is no image of this size.
  shown: np.ndarray | None = None
  baselines: Mapping[str, np.ndarray] = {}  # Simpler restorations, by name.
  # Pixels at each edge that the PSNR of Y leaves out; None: no PSNR of Y.
  shave: int | None = None
  caption: str = 'measurement'  # What `picture` shows.
  # bool [H, W, 1], the pixels of `picture` that are as they should be; None:
  # none is.
  seen: np.ndarray | None = None

  @property
  def picture(self) -> np.ndarray:
    """The measurement as an image of the restored image's size."""
    return self.measurement if self.shown is None else self.shown


def digest(data: Data) -> str:
  """Returns a digest of all that a restoration and its scores depend on."""
  found = jax.tree.leaves((data.measurement, data.clean, data.operator))
  return leaves.digest_arrays(*(x for x in found if hasattr(x, 'dtype')))


def load_denoising(data: ml_collections.ConfigDict) -> Data:
  """Returns the noisy image, and the clean image if it is known.

  With data.sigma > 0, data.image is the clean image and noise is added. With
  data.sigma = 0, data.image is the measurement, and data.clean, if given, is
  the clean image.

  Raises:
    ValueError: files, sizes or numbers that do not fit, in one line.
  """
  fields.refuse_unread(data, _DENOISING, 'data')
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
  """Returns the part of an image that `crop` names, see `images.crop_image`."""
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
