"""The skip network of the deep image prior (Ulyanov et al., models/skip.py).

The network is an hourglass of levels, numbered from the outside in. Level i
halves the image, hands it to level i + 1, doubles the image that comes back,
and joins it with a few channels of the level's own input (the skip).
"""

import functools
from typing import Any

import jax
from flax import linen as nn

from dipjax import conv
from dipjax.conv import choose
from dipjax.networks import layers

Array = jax.Array


class Skip(nn.Module):
  """The skip network: code [H, W, C] -> image [H, W, outputs].

  The default is the paper's for denoising and super-resolution: 2,217,831
  parameters with a code of 32 channels. The image has exactly the size of the
  code where that is a `code_size`.

  Attributes:
    outputs: channels of the image.
    down: channels of each level on the way in.
    up: channels of each level on the way out; as many as `down`.
    skip: channels of each level in the skip, 0 for no skip; as many as `down`.
    down_size: sides of the kernels on the way in, one for all levels or a
      tuple.
    up_size: the same on the way out; skips and the last layer are 1x1.
    upsampling: 'nearest' or 'bilinear', one for all levels or a tuple.
    downsampling: 'stride', 'average', 'max' or 'lanczos2'.
    padding: 'reflect' or 'zero'.
    activation: 'leaky_relu', 'swish', 'elu' or 'none'.
    point: whether each level ends in a 1x1 convolution.
    sigmoid: whether the image is squeezed into (0, 1).
    remat: whether the gradient computes each level's activations again instead
      of keeping them: less memory, more time, the same result.

  The network computes in the precision of the code; the image is float32.

  Raises:
    ValueError: an unknown name, tuples of different lengths, channels below
      their least, or kernels with an even side.
  """

  outputs: int = 3
  down: tuple[int, ...] = (128,) * 5
  up: tuple[int, ...] = (128,) * 5
  skip: tuple[int, ...] = (4,) * 5
  down_size: int | tuple[int, ...] = 3
  up_size: int | tuple[int, ...] = 3
  upsampling: str | tuple[str, ...] = 'bilinear'
  downsampling: str = 'stride'
  padding: str = 'reflect'
  activation: str = 'leaky_relu'
  point: bool = True
  sigmoid: bool = True
  remat: bool = False

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of a code that covers an image of this size.

    Its sides halve exactly at each level and stay large enough at all of them
    to be reflected by every kernel.
    """
    count = len(self.down)
    sizes = _spread(self.down_size, count) + _spread(self.up_size, count)
    halvings, least = 2**count, max(sizes) // 2 + 1
    return layers.round_up(height, width, halvings, least)

  def __post_init__(self):
    _check_fields(self)
    super().__post_init__()

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]."""
    levels = [self._make_level(i) for i in range(len(self.down))]
    out_conv = layers.Conv(self.outputs, 1, name='out_conv')
    call = functools.partial(layers.call, again=self.remat)
    x, skips = code, []
    for level in levels:
      skip, x = call(level.descend, x)
      skips.append(skip)
    for level, skip in zip(reversed(levels[1:]), reversed(skips[1:])):
      x = conv.join_blocks(call(level.ascend, skip, x))
    x = layers.apply_to_pixels(out_conv, call(levels[0].ascend, skips[0], x))
    return layers.make_image(conv.join_blocks(x), self.sigmoid)

  def _make_level(self, i: int) -> '_Level':
    count = len(self.down)
    return _Level(
      down=self.down[i],
      up=self.up[i],
      skip=self.skip[i],
      down_size=_spread(self.down_size, count)[i],
      up_size=_spread(self.up_size, count)[i],
      upsampling=_spread(self.upsampling, count)[i],
      downsampling=self.downsampling,
      padding=self.padding,
      activation=self.activation,
      point=self.point,
      remat=self.remat,
      name=f'level{i}',
    )


class _Level(nn.Module):
  """One level: the way in (`descend`) and the way out (`ascend`)."""

  down: int
  up: int
  skip: int
  down_size: int
  up_size: int
  upsampling: str
  downsampling: str
  padding: str
  activation: str
  point: bool
  remat: bool

  def setup(self):
    strided = self.downsampling == 'stride'
    make_conv = lambda *args: layers.Conv(
      *args, padding=self.padding, add_bias=False
    )
    make_norm = lambda: layers.Norm(self.activation)
    if self.skip:
      self.skip_conv, self.skip_norm = make_conv(self.skip, 1), make_norm()
    self.down_conv = make_conv(self.down, self.down_size, 2 if strided else 1)
    self.down_norm = make_norm()
    self.mid_conv = make_conv(self.down, self.down_size)
    self.mid_norm = make_norm()
    self.merge_norm = layers.Norm()
    self.up_conv, self.up_norm = make_conv(self.up, self.up_size), make_norm()
    if self.point:
      self.point_conv, self.point_norm = make_conv(self.up, 1), make_norm()

  def descend(self, x: Array) -> tuple[Array | None, Array]:
    """[H, W, C] -> the skip [H, W, skip] and [H/2, W/2, down], H and W even.

    The skip may be in blocks of pixels, as `layers.merge_doubled` takes it.
    """
    skip = self._make_skip(x) if self.skip else None
    x = self.down_conv(x)
    if self.downsampling != 'stride':
      x = layers.downsample(x, self.downsampling)
    return skip, self.mid_norm(self.mid_conv(self.down_norm(x)))

  def _make_skip(self, x):
    half = jax.ShapeDtypeStruct((x.shape[0] // 2, x.shape[1] // 2, 1), x.dtype)
    if choose.keeps_blocks() and choose.prefers_blocks(
      half, x, self.up_size, self.padding
    ):
      blocks = self.skip_conv.make_blocks(x)
      return layers.apply_to_pixels(self.skip_norm, blocks)
    return self.skip_norm(self.skip_conv(x))

  def ascend(self, skip: Array | None, x: Array) -> Array:
    """The skip and [h, w, C] -> [2h, 2w, up], cropped to the skip's size.

    The result is in blocks of pixels, see `conv.join_blocks`.
    """
    blocks = layers.merge_doubled(
      self.merge_norm, self.up_conv, skip, x, self.upsampling
    )
    return layers.apply_to_pixels(self._finish, blocks)

  def _finish(self, x, count):
    if not self.point:
      return self.up_norm(x, count)
    mixed = layers.call(self.mix, x, again=self.remat)
    return self.point_norm(mixed, count)

  def mix(self, x: Array) -> Array:
    """[H, W, up] -> [H, W, up], the last convolution but its normalisation.

    Several images may lie side by side in the channels.
    """
    count = x.shape[-1] // self.up
    return self.point_conv(self.up_norm(x, count), count)


def _spread(value: Any, count: int) -> tuple:
  return tuple(value) if isinstance(value, (tuple, list)) else (value,) * count


def _check_fields(net: Skip):
  count = len(net.down)
  for name in ('up', 'skip', 'down_size', 'up_size', 'upsampling'):
    given = _spread(getattr(net, name), count)
    if len(given) != count or not count:
      raise ValueError(
        f'{name} has {len(given)} levels, down has {count}: they must agree'
      )
  if min(net.down) < 1 or min(net.up) < 1 or min(net.skip) < 0:
    raise ValueError(
      f'channels must be positive: {net.down=}, {net.up=}, {net.skip=}'
    )
  sides = _spread(net.down_size, 1) + _spread(net.up_size, 1)
  if any(side < 1 or side % 2 == 0 for side in sides):
    raise ValueError(
      f'kernels have odd sides >= 1: {net.down_size=}, {net.up_size=}'
    )
  choices = [
    (_spread(net.upsampling, count), layers.UPSAMPLINGS),
    ((net.downsampling,), layers.DOWNSAMPLINGS),
    ((net.padding,), layers.PADDINGS),
    ((net.activation,), layers.ACTIVATIONS),
  ]
  for given, known in choices:
    for name in given:
      layers.check_choice(name, known)
