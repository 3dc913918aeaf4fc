"""For which device a program is made, and what is fast on that device.

This module holds every threshold, and no other module of dipjax asks which
device there is. A `Target` is asked while a program is traced. By default the
target is the device that JAX would use; inside of `aim` it is the one that was
told, so that a CPU can make the program of a GPU, and a test can force a way.

`jax.jit` keeps a program for each target that `aim` told: a function that was
compiled outside of `aim` is traced again inside. Only caches that are not JAX's
(a `functools.cache`, a program that was lowered and kept) must have the target
as a part of their key.
"""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PLATFORMS = ('cpu', 'gpu', 'tpu')
WAYS = ('windows', 'tiles', 'products', 'library', 'columns', 'slices')
LANES = ('in_turn', 'at_once')

# Windows and products are calls of a library, for which nothing is compiled.
# They take more operations than other ways, so that they pay for few pixels.
_MOST_WINDOW_ENTRIES = 150_000  # In the matrix that gathers windows on a CPU.
_MOST_WINDOWS = 4096  # On a GPU, which lanes fill with one product.
_MOST_PRODUCT_PIXELS = 1024  # In an image whose pixels a product moves.
_MOST_DOUBLED_PIXELS = 8192  # In one that a product doubles on a TPU.

# Tiles save three quarters of the products and cost additions and copies. A
# small image or few channels do not have the products to save.
_LEAST_TILES_PIXELS = 1024
_LEAST_TILES_CHANNELS = 16  # In x and in y, whichever has fewer.
# All tiles at once take several times the memory of an image.
_MOST_TILES = 1024

# Columns take more kernels than one convolution, with less to do. On a TPU:
_LEAST_COLUMNS_PIXELS = 1024

# Composing the kernel for blocks takes as long for any image; a GPU needs some
# forty small kernels for it. In the image that is not yet doubled:
_LEAST_BLOCKS_PIXELS = {'cpu': 4096, 'gpu': 65536, 'tpu': 65536}

# A product with few columns reads or writes little but its image. As a sum it
# is joined to what makes the image, and to what reads its gradient; for fewer
# pixels that is worth less than the further kernels. On a GPU:
_MOST_SUMMED_OUTPUTS = 4
_LEAST_SUMMED_INPUTS = 64
_LEAST_SUMMED_PIXELS = 131072

# The CPU's threads share out whole groups of channels: with a few channels more
# one thread works while the others wait.
_GROUP = 128

# The CPU's matrix product takes a slow path for fewer columns.
_LEAST_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Target:
  """What a program is made for; hashable.

  Attributes:
    platform: of PLATFORMS.
    way: of WAYS, by which every convolution goes whose shapes allow it. The
      others go by 'slices', the way without a condition. None chooses for each
      convolution.
    doubled: whether every convolution of a doubled image whose shapes allow it
      is computed in blocks, before doubling. None chooses by the image's size.
    lanes: of LANES, one lane after the other or all of them mapped. None
      chooses by the platform.
    devices: which share the lanes; this machine needs not have them. None is
      all devices of this process.

  Raises:
    ValueError: an unknown platform, way or rule for lanes.
  """

  platform: str
  way: str | None = None
  doubled: bool | None = None
  lanes: str | None = None
  devices: tuple[Any, ...] | None = None

  def __post_init__(self):
    _check_known('platform', self.platform, PLATFORMS)
    _check_known('way', self.way, (None, *WAYS))
    _check_known('doubled', self.doubled, (None, True, False))
    _check_known('lanes', self.lanes, (None, *LANES))


def _check_known(field, value, known):
  if value not in known:
    names = ', '.join(map(str, known))
    raise ValueError(f'{field} {value!r} is not one of {names}')


# What is traced in the least time. Shapes are the same for every target.
SHAPES = Target('gpu', way='slices', doubled=False)


# JAX's own context: a context variable would leave jit's cache in the dark.
_aimed: Any = jax.make_user_context(None)


def find_target() -> Target:
  """Returns the target that `aim` told, else the device that JAX would use."""
  if _aimed.value is not None:
    return _aimed.value
  platform = jax.default_backend()
  # A device of another kind is programmed as a GPU is.
  return Target(platform if platform in PLATFORMS else 'gpu')


def find_devices() -> tuple[Any, ...]:
  """Returns the devices that share the lanes of a program."""
  devices = find_target().devices
  return tuple(jax.local_devices()) if devices is None else devices


def aim(target: Target) -> contextlib.AbstractContextManager[None]:
  """Makes the programs that are traced inside of the context for a target.

  Contexts nest. The target before is back after the context, an exception
  included. Each thread has a target of its own.

  Args:
    target: the kind of device that programs are traced for; the machine needs
      no such device.
  """
  return _aimed(target)


# Which way a convolution goes. `x` is an image [H, W, C], kernels are
# [h, w, I, O].


def prefers_windows(x: Any, kernel: Any, stride: int) -> bool:
  """Returns whether a convolution should be one product with all windows.

  That is for the smallest images on a CPU, and for small ones on a GPU, where
  lanes then share the product. All shapes allow it.

  Args:
    x: [H, W, I].
    kernel: [h, w, I, O].
    stride: of the convolution.
  """
  target = find_target()
  if target.way:
    return target.way == 'windows'
  pixels = x.shape[0] * x.shape[1]
  if target.platform == 'gpu':
    return pixels // stride**2 <= _MOST_WINDOWS
  entries = pixels * pixels * kernel.shape[0] * kernel.shape[1] // stride**2
  return target.platform == 'cpu' and entries <= _MOST_WINDOW_ENTRIES


def prefers_products(x: Any) -> bool:
  """Returns whether products should pad and double x, in place of slices.

  That is for small images on a CPU: slices would join the program of all that
  comes before them, once for each of their parts, which takes seconds to
  compile. All shapes allow it.

  Args:
    x: [H, W, C].
  """
  target = find_target()
  if target.way:
    return target.way == 'products'
  few = x.shape[0] * x.shape[1] <= _MOST_PRODUCT_PIXELS
  return target.platform == 'cpu' and few


def doubles_by_product(x: Any) -> bool:
  """Returns whether a product should double an axis of x, in place of slices.

  That is where `prefers_products` says so, and for images that are not large on
  a TPU, which would change the order of an image to put pixels between others.
  All shapes allow it.

  Args:
    x: [H, W, C].
  """
  target = find_target()
  few = x.shape[0] * x.shape[1] <= _MOST_DOUBLED_PIXELS
  return prefers_products(x) or (
    target.platform == 'tpu' and not target.way and few
  )


def multiplies_lines_at_once() -> bool:
  """Returns whether one product has all lines of an image and a matrix.

  That is on a TPU. On other devices the image would be transposed for it.
  """
  return find_target().platform == 'tpu'


def gathers_by_product() -> bool:
  """Returns whether a product gathers windows, in place of slices.

  That is on a CPU, see `prefers_products`.
  """
  return find_target().platform == 'cpu'


def prefers_tiles(x: Any, kernel: Any) -> bool:
  """Returns whether a convolution of stride 1 should be computed in tiles.

  That is for many pixels and channels on a CPU. Kernels of 3x3 in float32 allow
  it.

  Args:
    x: [H, W, I].
    kernel: [h, w, I, O].
  """
  if tuple(kernel.shape[:2]) != (3, 3) or x.dtype != np.float32:
    return False
  target = find_target()
  if target.way:
    return target.way == 'tiles'
  return (
    target.platform == 'cpu'
    and x.shape[0] * x.shape[1] >= _LEAST_TILES_PIXELS
    and min(kernel.shape[2:]) >= _LEAST_TILES_CHANNELS
  )


def count_bands(rows: int, columns: int) -> int:
  """Returns in how many bands, one after the other, tiles are computed.

  All bands have as many rows of tiles. A band has at most _MOST_TILES tiles, or
  a single row.

  Args:
    rows, columns: how many tiles there are.
  """
  return next(
    bands
    for bands in range(1, rows + 1)
    if rows % bands == 0
    and rows * columns <= bands * _MOST_TILES
    or bands == rows
  )


def prefers_blocks(x: Any, skip: Any, side: int, padding: str) -> bool:
  """Returns whether to convolve in blocks, before x would be doubled.

  That is for large images on every device, on a GPU for still larger ones. A
  kernel of 3x3 and padding by reflection allow it, where the skip is exactly as
  large as the doubled image.

  Args:
    x: [h, w, C], which is to be doubled.
    skip: [H, W, S], which is joined with the doubled x; or None.
    side: of the kernel.
    padding: 'reflect' or 'zero'.
  """
  height, width, _ = x.shape
  fits = skip is None or skip.shape[:2] == (2 * height, 2 * width)
  if not (fits and side == 3 and padding == 'reflect' and min(x.shape[:2]) > 1):
    return False
  target = find_target()
  if target.doubled is not None:
    return target.doubled
  return height * width >= _LEAST_BLOCKS_PIXELS[target.platform]


def prefers_columns(x: Any, kernel: Any) -> bool:
  """Returns whether a convolution is one for each column of the kernel.

  That is on a TPU, but for the smallest images. Kernels of 3x3 allow it.

  Args:
    x: [H, W, I].
    kernel: [h, w, I, O].
  """
  if tuple(kernel.shape[:2]) != (3, 3):
    return False
  target = find_target()
  if target.way:
    return target.way == 'columns'
  pixels = x.shape[0] * x.shape[1]
  return target.platform == 'tpu' and pixels >= _LEAST_COLUMNS_PIXELS


def prefers_library() -> bool:
  """Returns whether to call XLA's convolution with JAX's gradients.

  That is on a GPU, whose library has kernels for all of them, and on a TPU for
  small images. On a CPU the gradients are slow within a loop. All shapes allow
  it.
  """
  target = find_target()
  return target.way == 'library' if target.way else target.platform != 'cpu'


def prefers_sums(x: Any, matrix: Any) -> bool:
  """Returns whether sums over channels should multiply pixels with a matrix.

  That is for large images and few outputs on a GPU. All shapes allow it.

  Args:
    x: [H, W, I].
    matrix: [I, O].
  """
  inputs, outputs = matrix.shape
  return (
    find_target().platform == 'gpu'
    and outputs <= _MOST_SUMMED_OUTPUTS
    and inputs >= _LEAST_SUMMED_INPUTS
    and x.shape[0] * x.shape[1] >= _LEAST_SUMMED_PIXELS
  )


def unrolls_products() -> bool:
  """Returns whether the products of lanes are one call for each lane.

  That is on a CPU, where a product of many matrices is slow.
  """
  return find_target().platform == 'cpu'


def count_grouped(channels: int) -> int:
  """Returns how many of the channels fill whole groups; all if none does."""
  whole = channels - channels % _GROUP
  return whole or channels


def count_columns(outputs: int) -> int:
  """Returns how many columns make a product fast, at least the outputs."""
  if find_target().platform != 'cpu':
    return outputs
  return max(outputs, _LEAST_COLUMNS)


# How a program is run.


def sums_once() -> bool:
  """Returns whether mean and variance come from one reading of an image.

  That is on a GPU, where each reading is a kernel or two of its own.
  """
  return find_target().platform == 'gpu'


def computes_slopes() -> bool:
  """Returns whether a slope is computed from a sign, in place of chosen by it.

  That is on a GPU, where XLA would make an image of the choices, and read it
  again.
  """
  return find_target().platform == 'gpu'


def sums_squares(x: Any) -> bool:
  """Returns whether a variance is a mean square less a squared mean.

  That is on a TPU, where XLA sums both in the convolution that makes the image.
  What rounds in bfloat16 loses no digits by it.

  Args:
    x: the image whose variance is computed.
  """
  return find_target().platform == 'tpu' and x.dtype == jnp.bfloat16


def keeps_blocks() -> bool:
  """Returns whether the pixels of a block stay side by side in its channels.

  That is on a TPU, where another order costs a copy of the image.
  """
  return find_target().platform == 'tpu'


def keeps_lines() -> bool:
  """Returns whether a line that is cut off an image keeps the image's order.

  That is on a TPU, see `device.layout`.
  """
  return find_target().platform == 'tpu'


def splits_channels() -> bool:
  """Returns whether channels beyond a multiple of 128 are convolved apart.

  That is on a TPU, where they take as much memory and time as 128 more.
  """
  return find_target().platform == 'tpu'


def changes_layouts() -> bool:
  """Returns whether XLA changes the order of arrays that a fit keeps.

  That is on a GPU, see `device.layout`.
  """
  return find_target().platform == 'gpu'


def runs_in_turn() -> bool:
  """Returns whether lanes run one after the other, each with all cores.

  That is on a CPU and on a TPU. On a GPU one lane leaves most of the device
  idle.
  """
  target = find_target()
  if target.lanes:
    return target.lanes == 'in_turn'
  return target.platform != 'gpu'


def prefers_threads() -> bool:
  """Returns whether small fits run side by side in threads, not in lanes.

  That is on a CPU, whose lanes run in turn: a small fit leaves most of the
  cores idle. On other devices threads would wait for each other.
  """
  return find_target().platform == 'cpu'


def shares_memory() -> bool:
  """Returns whether all devices of a process have one memory.

  The devices of a CPU do: they are one machine.
  """
  return find_target().platform == 'cpu'


def loops_in_place() -> bool:
  """Returns whether a loop of one turn is the branch that copies nothing.

  That is on a CPU and on a TPU. On a GPU a loop asks the host before each turn.
  """
  return find_target().platform != 'gpu'


def merges_computations() -> bool:
  """Returns whether XLA computes once what a gradient should compute again.

  That is on a CPU, for which XLA takes optimisation barriers away first.
  """
  return find_target().platform == 'cpu'


def prefers_bfloat16() -> bool:
  """Returns whether bfloat16 is faster than float32 and good for a fit.

  That is on a TPU, and on a GPU but NVIDIA's before compute capability 8. For
  a target that is not the device at hand, a GPU is taken for a newer one.
  """
  platform = find_target().platform
  if platform != 'gpu' or jax.default_backend() != 'gpu':
    return platform != 'cpu'
  major = str(jax.devices()[0].compute_capability).partition('.')[0]
  return not major.isdecimal() or int(major) >= 8


def count_working(again: bool) -> int:
  """Returns how many arrays are alive while the outermost gradient is computed.

  They are counted beside what the gradient keeps, in units of the largest array
  that it keeps, for each pass of the network. What is known of them is what XLA
  plans; on a CPU little is alive of what nothing computes again.

  Args:
    again: whether activations are computed again in place of being kept.
  """
  if find_target().platform != 'cpu':
    return 7
  return 5 if again else 3


def halves_memory() -> bool:
  """Returns whether bfloat16 takes less memory than float32.

  It does not on a CPU, where XLA computes in float32.
  """
  return find_target().platform != 'cpu'
