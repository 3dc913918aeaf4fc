"""Data of a restoration: a measurement, and images to compare results with."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from dipjax import corruptions, operators
from experiments.lib import fields, images, leaves
from experiments.lib.reading import Picture

IMAGE = ('image', 'crop', 'white', 'page')  # The fields that `read` reads.
# A picture whose brightest value is a smaller share of white is dim.
_DIM = 1 / 4
_DENOISING = (*IMAGE, 'sigma', 'noise_seed', 'clip', 'clean')


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
  file: Picture | None = None  # What was read, where it is what is restored.
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
  the clean image. Masked pixels of the measurement are filled with the nearest
  others. Where data.white is 0, the brightest value of a dim measurement of
  more than 8 bits becomes white, in the clean image too.

  Raises:
    ValueError: files, sizes or numbers that do not fit, in one line.
  """
  fields.refuse_unread(data, _DENOISING, 'data')
  if data.sigma and data.clean:
    raise ValueError(
      'with data.sigma > 0 data.image is the clean image itself: leave out '
      f'data.clean={data.clean!r}, or set data.sigma=0'
    )
  if data.sigma:
    image = read(data).pixels
    noisy = corruptions.add_gaussian_noise(
      image, data.sigma / 255, seed=data.noise_seed, clip=data.clip
    )
    return Data(noisy, image)
  picture = read(data, masked=True)
  clean = _read_clean(data, picture.pixels) if data.clean else None
  gain = 1.0 if data.white else _find_gain(picture)
  if gain > 1:
    picture = picture._replace(
      pixels=picture.pixels * np.float32(gain), white=picture.white / gain
    )
    clean = None if clean is None else clean * np.float32(gain)
  return Data(images.fill(picture.pixels, picture.mask), clean, file=picture)


def _find_gain(picture):
  """Returns what makes the brightest value of a dim scientific picture white.

  A camera of 16 bits may use a few hundred of its values, too dark for a
  network and for the eye. Pictures of 8 bits stay as people see them.
  """
  share = picture.high / picture.white
  return 1 / share if picture.white != 255 and 0 < share < _DIM else 1.0


def read(
  data: ml_collections.ConfigDict,
  source: str = '',
  *,
  masked: bool = False,
  whole: bool = False,
) -> Picture:
  """Returns the picture data.image, or the part of it that data.crop names.

  Args:
    data: a section with the fields of IMAGE.
    source: a file to read alike, in place of data.image.
    masked: whether some pixels may be masked.
    whole: whether to leave out the crop.

  Raises:
    ValueError: a file or a part that does not fit, in one line.
  """
  picture = images.read_picture(
    source or data.image,
    white=data.white or None,
    page=None if data.page < 0 else data.page,
    masked=masked,
  )
  return picture if whole else images.crop_picture(picture, tuple(data.crop))


def _read_clean(data, image):
  clean = read(data, data.clean).pixels
  if clean.shape != image.shape:
    raise ValueError(
      f'data.clean is {_describe(clean)}, data.image is {_describe(image)}: '
      'they must be two versions of one picture'
    )
  return clean


def _describe(image):
  height, width, channels = image.shape
  return f'{width}x{height} with {channels} channel{"s" * (channels > 1)}'
