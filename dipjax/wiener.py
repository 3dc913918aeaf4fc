"""A Wiener filter of similar patches, whose pilot is a restored image.

A fit has seen the noise of the measurement, and keeps little of the fine
texture. The filter goes back to the measurement: it takes groups of similar
patches, and keeps of the measurement's what varies among the pilot's, all
pixels and colours of a patch together. Groups and the pilot's part are those of
Dabov, Foi, Katkovnik and Egiazarian, Image denoising by sparse 3-D
transform-domain collaborative filtering, 2007; the covariance of a group in
place of a transform is that of Lebrun, Buades and Morel, A nonlocal Bayesian
image denoising algorithm, 2013.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jax.typing import ArrayLike

from dipjax import detail, noise, settings

Array = jax.Array

_SIDE = 8  # Of a patch; `_sum_side` doubles up to it.
_STEP = 4  # Pixels between two patches that look for their like.
REACH = 12  # How far they look, in pixels, along each axis.
_SIMILAR = 32  # Patches in a group, the one that looks among them.
# So few patches span few directions of all that a patch has. What they vary at
# each frequency by itself, times this, is allowed in the others.
_OTHER = 0.05
# Rows and columns of groups that are filtered at a time, so that what they
# need lies in a cache of a core, and all cores have some.
_ROWS, _COLUMNS = 16, 128
# Share of the noise's variance that is chance in a colour of a group's mean.
_CHANCE = 0.015
_TINY = 1e-20  # Of nothing and no noise, the measurement is kept.
_LEAST = 1e-12  # No weight is infinite where there is no noise.


def refine(
  measurement: ArrayLike,
  pilot: ArrayLike,
  sigma: ArrayLike,
  *,
  correlation: ArrayLike | None = None,
  channels: ArrayLike = 0.0,
  clipped: bool = False,
  part: ArrayLike = 0.7,
  reach: int = REACH,
) -> Array:
  """Returns the measurement filtered as the pilot says, float32 [H, W, C].

  A patch y of the measurement becomes m + S (S + part N)^-1 (y - m). The mean m
  and the covariance S are those of similar patches of the pilot, and N is the
  noise's variance, of correlated noise that of its strongest frequency, of
  which a fit learns most. Where the mean of the measurement's patches differs
  from m by more than noise, it takes m's place (James and Stein, 1961). Without
  noise the result is the measurement. The result is not clipped to [0, 1]. On a
  CPU the same arguments give the same bits; a GPU adds overlapping patches in
  an order of its own, which changes the last bits.

  Clipped noise has a mean of its own: 0.4 sigma above black, 0.4 sigma below
  white. With `clipped` that mean, as expected for the pilot, is taken off the
  measurement first, and the variance is that of clipped noise; without it what
  is kept of the measurement is grey by that much.

  The groups are found in the sum of the pilot's channels. A group has one
  noise, the mean of its patches'. Time and memory grow with the pixels; memory
  by about 40 bytes a channel of a pixel beside the arguments.

  Args:
    measurement: [H, W, C], of any number of channels, sides of at least 8
      pixels.
    pilot: [H, W, C], the image without most of the noise, such as a fit.
    sigma: standard deviation of the noise of each value, before it was clipped;
      a number, or an array that broadcasts to [H, W, C].
    correlation: [h, w], h and w odd; the correlation between the noise of two
      pixels so many rows and columns apart, 1 in the middle. None: white noise.
    channels: the correlation between the noise of two channels of a pixel, in
      [0, 1].
    clipped: whether the noisy measurement was clipped to [0, 1].
    part: of the noise's variance that stands against what varies in the pilot;
      0.7 for a fit, which is smoother than the image, 1 for an image that was
      filtered already.
    reach: how far a patch looks for its like along each axis, in pixels.

  Raises:
    ValueError: shapes that do not fit.
  """
  _check(measurement, sigma, correlation)
  if jnp.shape(pilot) != jnp.shape(measurement):
    raise ValueError(
      'the pilot must have the shape of the measurement, '
      f'{jnp.shape(measurement)}, got {jnp.shape(pilot)}'
    )
  noisy = sigma, correlation, channels
  return _refine(measurement, pilot, noisy, part, clipped=clipped, reach=reach)


def find_left(
  pilot: ArrayLike,
  sigma: ArrayLike,
  *,
  correlation: ArrayLike | None = None,
  channels: ArrayLike = 0.0,
  clipped: bool = False,
  part: ArrayLike = 0.7,
) -> Array:
  """Returns the variance of the error that `refine` leaves, float32 [H, W, C].

  It is what the filter itself expects. The covariance of a patch's error is
  N - N (S + N)^-1 N: all of N where the pilot's patches differ by more than
  noise, and little where they are alike. That the mean of a group may be wrong
  is not in it.

  Args:
    pilot: [H, W, C], best the restored image itself.
    sigma, correlation, channels, clipped, part: see `refine`.

  Raises:
    ValueError: shapes that do not fit.
  """
  _check(pilot, sigma, correlation)
  noisy = sigma, correlation, channels
  return _refine(pilot, pilot, noisy, part, clipped=clipped, left=True)


def _check(image, sigma, correlation):
  shape = jnp.shape(image)
  if len(shape) != 3 or min(shape[:2]) < _SIDE:
    raise ValueError(
      f'the filter takes an image [H, W, C] of at least {_SIDE} pixels a side, '
      f'got {shape}'
    )
  if not _is_broadcast(jnp.shape(sigma), shape):
    raise ValueError(
      f'sigma must be a number or broadcast to {shape}, got {jnp.shape(sigma)}'
    )
  if correlation is not None:
    table = jnp.shape(correlation)
    if len(table) != 2 or not all(side % 2 for side in table):
      raise ValueError(f'correlation must be [h, w], h and w odd, got {table}')


def _is_broadcast(shape, target):
  short = len(target) - len(shape)
  pairs = zip(shape, target[max(short, 0) :])
  return short >= 0 and all(own in (1, other) for own, other in pairs)


def _make_dct(size):
  """Returns the orthonormal DCT-II as a matrix, [frequencies, size]."""
  k, i = np.mgrid[:size, :size]
  matrix = np.cos(np.pi * k * (2 * i + 1) / (2 * size)) * (2 / size) ** 0.5
  matrix[0] /= 2**0.5
  return matrix.astype(np.float32)


_PATCH = np.kron(_make_dct(_SIDE), _make_dct(_SIDE))  # Of a patch's pixels.


def _find_strongest(correlation):
  """Returns the largest variance of a frequency of a patch of such noise."""
  # Pixels of a patch are less than a side apart; what is not given is 0.
  table = jnp.pad(correlation, _SIDE)
  middle = [s // 2 + _SIDE for s in correlation.shape]
  y, x = np.divmod(np.arange(_SIDE**2), _SIDE)
  down, right = y[:, None] - y, x[:, None] - x
  pixels = table[middle[0] + down, middle[1] + right]
  return jnp.max(_multiply('ap,pq,aq->a', _PATCH, pixels, _PATCH))


def _multiply(subscripts, *factors):
  # A GPU would round the factors to 10 bits.
  return jnp.einsum(subscripts, *factors, precision='highest')


def _refine(
  measurement, pilot, noisy, part, *, clipped, left=False, reach=REACH
):
  """Returns the filtered image, or with `left` the variance of its error.

  Args:
    measurement, pilot, part, clipped, reach: see `refine`.
    noisy: its (sigma, correlation, channels).
    left: see `find_left`.
  """
  size = np.shape(measurement)[:2]
  down, across = _divide(size[0], _ROWS), _divide(size[1], _COLUMNS)
  # No tile reaches beyond them.
  ends = tuple(
    int(places[-1, 0]) + _STEP * (places.shape[1] - 1) + _SIDE + 2 * reach
    for places, _ in (down, across)
  )
  prepared = _prepare(
    measurement, pilot, noisy, clipped=clipped, reach=reach, ends=ends
  )

  def add(tile):
    return _filter_tile(
      *prepared, part, *tile, size=size, left=left, reach=reach
    )

  tiles = [(*rows, *columns) for rows in zip(*down) for columns in zip(*across)]
  sums = jnp.zeros((len(prepared[1]) + 1, *prepared[0].shape[1:]), jnp.float32)
  if isinstance(prepared[0], core.Tracer):
    put, found = _add_tile, lax.map(add, tuple(map(np.stack, zip(*tiles))))
  else:
    put, found = _add_in_place, settings.map_in_threads(add, tiles)
  for (rows, _, columns, _), added in zip(tiles, found):
    sums = put(sums, added, rows[0], columns[0])
  return _weigh(sums, size=size, left=left, reach=reach)


@functools.partial(jax.jit, static_argnames=('clipped', 'reach', 'ends'))
def _prepare(measurement, pilot, noisy, *, clipped, reach, ends):
  """Returns planes of colours and the variance of their noise, both padded.

  The planes are those of the pilot, then those of the measurement.
  """
  sigma, correlation, channels = noisy
  count = measurement.shape[-1]
  # Whatever the defaults of the process are, all is float32.
  measurement, pilot, sigma = (
    jnp.asarray(x, jnp.float32) for x in (measurement, pilot, sigma)
  )
  sigma = jnp.broadcast_to(sigma, measurement.shape)
  variance = jnp.square(sigma)
  if clipped:
    image, sigma = jnp.clip(pilot, 0, 1), jnp.maximum(sigma, _LEAST)
    measurement -= noise.expect_clipped(image, sigma) - image
    variance = noise.expect_variance(image, sigma)
  if correlation is not None:
    variance *= _find_strongest(jnp.asarray(correlation, jnp.float32))
  # The first of the new colours is the sum of the channels, which has most of
  # the signal; the others are differences.
  colours = _make_dct(count)
  planes = jnp.concatenate(
    [
      _multiply('oc,hwc->ohw', colours, pilot),
      _multiply('oc,hwc->ohw', colours, measurement),
    ]
  )
  # The noise of a coefficient is about the mean over its patch.
  variance = _multiply('oc,hwc->ohw', np.square(colours), variance)
  # Of the noise that channels share, the sum has the more, and the others less.
  more = np.full((count, 1, 1), -1, np.float32)
  more[0] = count - 1
  variance *= 1 + jnp.asarray(channels, jnp.float32) * more
  variance = _sum_side(_sum_side(variance, 1), 2) / _SIDE**2

  def pad(x):
    # At least as far as the groups reach; the variance has fewer places.
    after = [
      max(end - reach - side, reach) for end, side in zip(ends, x.shape[1:])
    ]
    return jnp.pad(x, ((0, 0), *((reach, each) for each in after)))

  return pad(planes), pad(variance)


@functools.partial(jax.jit, static_argnames=('size', 'left', 'reach'))
def _filter_tile(
  planes,
  variance,
  part,
  rows,
  row_count,
  columns,
  column_count,
  *,
  size,
  left,
  reach,
):
  """Returns the weighted sums of a tile of groups, and of their weights.

  Args:
    planes, variance: see `_prepare`.
    part: see `refine`.
    rows, columns: where the groups' first patches begin, see `_divide`.
    row_count, column_count: how many of them there are.
    size: (height, width) of the picture.
    left, reach: see `_refine`.

  Returns:
    [C + 1, height, width] of what the tile reaches, padded as the planes are.
  """
  extent = 2 * reach + _SIDE  # Rows that the patches of one row may touch.
  tall, wide = (
    _STEP * (len(places) - 1) + extent for places in (rows, columns)
  )
  view = lambda x, *shape: lax.dynamic_slice(
    x, (np.int32(0), rows[0], columns[0]), (len(x), *shape)
  )
  planes = view(planes, tall, wide)
  variance = view(variance, tall - _SIDE + 1, wide - _SIDE + 1)

  def add_row(i, sums):
    """Filters the groups of one row of patches, in the strip around it."""
    begin = rows[i] - rows[0]
    strip = lax.dynamic_slice_in_dim(planes, begin, extent, 1)
    found, shifts = _find_similar(
      strip[0], rows[i], columns, column_count, size, reach
    )
    cut = _make_cut(found, shifts + (columns - columns[0])[:, None])
    levels = lax.dynamic_slice_in_dim(variance, begin, 2 * reach + 1, 1)
    patches, weights = _filter_groups(
      cut(strip, _SIDE), cut(levels, 1)[..., 0, 0], part, left
    )
    weights *= np.arange(len(columns), dtype=np.int32) < column_count
    # What takes patches out of a strip, transposed, adds patches to a strip.
    weights = weights[:, None, None, None, None]
    weights = jnp.broadcast_to(weights, patches[:, :, :1].shape)
    weighted = jnp.concatenate([patches * weights, weights], 2)
    put = jax.linear_transpose(
      lambda x: cut(x, _SIDE), jnp.zeros_like(strip[: weighted.shape[2]])
    )
    (added,) = put(weighted)
    old = lax.dynamic_slice_in_dim(sums, begin, extent, 1)
    return lax.dynamic_update_slice_in_dim(sums, old + added, begin, 1)

  part = jnp.asarray(part, jnp.float32)
  nothing = jnp.zeros((len(variance) + 1, tall, wide), jnp.float32)
  return lax.fori_loop(0, row_count, add_row, nothing)


def _add_tile(sums, tile, row, column):
  place = np.int32(0), row, column
  old = lax.dynamic_slice(sums, place, tile.shape)
  return lax.dynamic_update_slice(sums, old + tile, place)


_add_in_place = jax.jit(_add_tile, donate_argnums=0)


@functools.partial(jax.jit, static_argnames=('size', 'left', 'reach'))
def _weigh(sums, *, size, left, reach):
  """Returns the image of what all tiles added."""
  height, width = size
  sums = sums[:, reach : reach + height, reach : reach + width]
  found = sums[:-1] / sums[-1:]
  if left:
    return jnp.moveaxis(found, 0, -1)
  return _multiply('oc,ohw->hwc', _make_dct(len(found)), found)


def _sum_side(x, axis):
  """Returns the sums of all _SIDE neighbours along an axis, by doubling."""
  for step in (1, 2, 4):
    size = x.shape[axis] - step
    first = lax.slice_in_dim(x, 0, size, axis=axis)
    x = first + lax.slice_in_dim(x, step, None, axis=axis)
  return x


def _place(size):
  """Returns where the patches that look for their like begin, int32."""
  last = size - _SIDE
  return np.append(np.arange(0, last, _STEP), last).astype(np.int32)


def _divide(size, most):
  """Returns the places of `_place` in equal parts, and how many each has.

  Args:
    size: of the picture, in pixels.
    most: places in a part.

  Returns:
    [parts, places], int32, the last place repeated to fill the last part, and
    [parts], int32. All places but the last are `_STEP` apart.
  """
  places = _place(size)
  each = -(-len(places) // -(-len(places) // most))
  parts = -(-len(places) // each)
  padded = np.pad(places, (0, parts * each - len(places)), mode='edge')
  counts = np.minimum(len(places) - each * np.arange(parts), each)
  return padded.reshape(parts, each), counts.astype(np.int32)


def _find_similar(strip, row, columns, count, size, reach):
  """Returns where the most similar patches of each patch of a row begin.

  Args:
    strip: what to compare, [2 reach + _SIDE, the same as wide as the columns];
      the row is its middle.
    row: of the image, where the patches begin.
    columns: the same, one for each patch, see `_divide`.
    count: how many columns there are.
    size: (height, width) of the image.
    reach: see `refine`.

  Returns:
    Rows and columns, [patches, similar], from reach above and left of the
    patch. The patch itself is the first; of equal ones the nearer are chosen.
  """
  height, width = size
  wide, shifts = len(strip[0]) - 2 * reach, 2 * reach + 1
  # Columns first, so that what is summed lies side by side.
  strip = strip.T
  patch = strip[reach : reach + wide, reach : reach + _SIDE]

  def compare(strip, _):
    other = strip[:wide]
    sums = jnp.zeros((wide, shifts), jnp.float32)
    for i in range(_SIDE):
      sums += jnp.square(patch[:, i : i + 1] - other[:, i : i + shifts])
    # A slice whose place is known only as it runs would be read a value a time.
    strip = jnp.concatenate([strip[1:], strip[:1]])
    return strip, _sum_columns(sums, columns, count)

  _, distances = lax.scan(compare, strip, length=shifts)
  distances = jnp.moveaxis(distances, 0, 1).reshape(-1, shifts**2)
  cols, rows = np.divmod(np.arange(shifts**2, dtype=np.int32), shifts)
  order = np.argsort((rows - reach) ** 2 + (cols - reach) ** 2, kind='stable')
  rows, cols = rows[order], cols[order]
  # A patch lies in the image as a whole.
  top = (row + rows - reach)[None]
  left = columns[:, None] + (cols - reach)[None]
  inside = (top >= 0) & (top <= height - _SIDE)
  inside &= (left >= 0) & (left <= width - _SIDE)
  distances = jnp.where(inside, distances[:, order], jnp.inf)
  # A patch in a corner has the fewest to choose from.
  fewest = min(reach, height - _SIDE) + 1, min(reach, width - _SIDE) + 1
  _, chosen = lax.top_k(-distances, min(_SIMILAR, fewest[0] * fewest[1]))
  return jnp.asarray(rows)[chosen], jnp.asarray(cols)[chosen]


def _sum_columns(x, columns, count):
  """Returns the sums of the columns of each patch, [patches, ...].

  Args:
    x: [as wide as the columns, ...].
    columns, count: see `_find_similar`.
  """
  parts = x.reshape(-1, _STEP, x.shape[1]).sum(1)
  # A patch is two steps wide; the last may be nearer than a step.
  sums = parts[:-1] + parts[1:]
  last = lax.dynamic_slice_in_dim(
    x, columns[count - 1] - columns[0], _SIDE
  ).sum(0, keepdims=True)
  return lax.dynamic_update_slice_in_dim(sums, last, count - 1, 0)


def _make_cut(rows, columns):
  """Returns a function: planes [P, h, w], side -> [..., P, side, side]."""

  def cut(planes, side):
    take = lambda row, column: lax.dynamic_slice(
      planes, (np.int32(0), row, column), (len(planes), side, side)
    )
    return jax.vmap(jax.vmap(take))(rows, columns)

  return cut


def _filter_groups(patches, variance, part, left):
  """Returns the measurement's patches filtered, and their weights.

  With D = E + N, where N is the noise and E a part of the patches' variance at
  each frequency, and the pilot's centred patches as the rows of A, the inverse
  of A^T A + D is that of a matrix of the size of a group (Woodbury).

  Args:
    patches: [groups, similar, 2 C, side, side], the pilot's colours, then the
      measurement's.
    variance: [groups, similar, C], the mean over each patch.
    part: of it, see `refine`.
    left: whether to return the variance of the error in place of the patches.

  Returns:
    [groups, similar, C, side, side], and [groups]: one over the variance of the
    noise that is left.
  """
  groups, similar, planes = patches.shape[:3]
  found = patches.reshape(-1, _SIDE**2)
  found = _multiply('nb,ab->na', found, _PATCH)
  found = found.reshape(groups, similar, 2, -1)
  variance = jnp.repeat(jnp.mean(variance, 1)[:, None], _SIDE**2, 2)
  pilot, measurement = found[:, :, 0], found[:, :, 1]
  mean = jnp.mean(pilot, 1, keepdims=True)
  rows = (pilot - mean) / max(similar - 1, 1) ** 0.5
  against = part * variance
  other = _OTHER * jnp.sum(jnp.square(rows), 1, keepdims=True)
  total = other + against + _TINY
  scaled = rows / total
  inner = _multiply('gnf,gmf->gnm', scaled, rows)
  inner = _invert(inner + np.eye(similar, dtype=np.float32)[None])
  # The directions in which the patches differ by more than noise, and the mean.
  kept = 1 + similar - jnp.trace(inner, axis1=1, axis2=2)
  weights = 1 / (kept * jnp.mean(variance, (1, 2)) + _LEAST)
  shape = groups, similar, planes // 2, _SIDE, _SIDE
  if left:
    found = _find_left(
      variance * jnp.sqrt(part) * scaled, variance * other / total, inner
    )
    found = found.reshape(groups, 1, *shape[2:])
    return jnp.broadcast_to(found, shape), weights
  # What the measurement has and the mean has not, less what is kept of it.
  rest = measurement - mean
  rest = rest - _correct_mean(mean, rest, variance, part)
  among = _multiply('gnf,gmf->gnm', rest, scaled)
  among = _multiply('gnm,gmk->gnk', among, inner)
  rest = against / total * (rest - _multiply('gnm,gmf->gnf', among, rows))
  found = (measurement - rest).reshape(-1, _SIDE**2)
  found = _multiply('na,ab->nb', found, _PATCH)
  return found.reshape(shape), weights


def _invert(matrices):
  """Returns the inverses of positive definite matrices, [groups, n, n].

  Gauss and Jordan's elimination, which needs no exchange of rows here. The
  library's inverses go one by one, and it asks all cores for each.
  """

  def eliminate(rest, _):
    """The first row and column become those of the inverse, and the last."""
    pivot = 1 / rest[0, 0]
    row, column = pivot[None] * rest[0, 1:], rest[1:, 0]
    rest = rest[1:, 1:] - column[:, None] * row[None]
    rest = jnp.concatenate([rest, -(pivot[None] * column)[:, None]], 1)
    row = jnp.concatenate([row, pivot[None]])
    return jnp.concatenate([rest, row[None]]), None

  # Groups last, so that each step is one of long vectors.
  matrices = jnp.moveaxis(matrices, 0, -1)
  inverses, _ = lax.scan(eliminate, matrices, length=len(matrices), unroll=2)
  return jnp.moveaxis(inverses, -1, 0)


def _find_left(rows, other, inner):
  """Returns the diagonal of rows^T inner rows + other, by pixel and channel.

  Args:
    rows: [groups, similar, frequencies of all colours].
    other: [groups, 1, frequencies], a diagonal.
    inner: [groups, similar, similar].

  Returns:
    [groups, channels times pixels].
  """
  groups, similar, size = rows.shape
  colours = _make_dct(size // _SIDE**2)

  def turn(x, patch, colours):
    x = _multiply('nf,fp->np', x.reshape(-1, _SIDE**2), patch)
    x = x.reshape(-1, len(colours), _SIDE**2)
    return _multiply('nop,oc->ncp', x, colours).reshape(groups, -1, size)

  rows = turn(rows, _PATCH, colours)
  other = turn(other, np.square(_PATCH), np.square(colours))[:, 0]
  return other + jnp.sum(rows * _multiply('gnm,gmp->gnp', inner, rows), 1)


def _correct_mean(mean, rest, variance, part):
  """Returns what the pilot's mean lacks, 0 where that may be noise.

  Args:
    mean: of the pilot's patches, [groups, 1, frequencies of all colours].
    rest: of the measurement's beside it, [groups, similar, frequencies].
    variance: of the noise, [groups, 1, frequencies].
    part: of it, see `refine`.
  """
  signal = rest.shape[1] * jnp.square(mean) + _TINY
  lacks = jnp.mean(rest, 1, keepdims=True)
  lacks *= signal / (signal + part * variance)
  find_power = lambda x: jnp.mean(
    x.reshape(len(x), -1, _SIDE**2), 2, keepdims=True
  )
  share = detail.find_share(
    find_power(jnp.square(lacks)), _CHANCE * find_power(variance)
  )
  return lacks * jnp.repeat(share, _SIDE**2, 2).reshape(lacks.shape)
