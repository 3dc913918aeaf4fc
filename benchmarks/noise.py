"""Measures how well the noise of a picture is known.

    python -m benchmarks.noise

Noise of many kinds is made and added to pictures, each result is written as 8
bits, and what `dipjax.noise.estimate_noise` finds is compared with what was
made. For each kind the benchmark prints the median and the worst of the ratios
of what was found to what is true; then gain and read noise of each picture
beside the least error that they can have; then all results, the worst first;
then the seconds that estimates of some sizes take.

What is true: the deviation of the noise before it was clipped to black and
white. JPEG is not linear; there it is the deviation between pictures that
differ in their noise alone. The pictures have noise of their own, which the
truth leaves out: it matters below a sigma of 3.
"""

import argparse
import dataclasses
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from dipjax import noise
from experiments.lib import images

# The estimator was made on the middles of TUNED. docs/measured/noise.md says
# which others were looked at, and when.
FLAT = ['flat', 'ramp']
PHOTOGRAPHS = ['astronaut', 'chelsea', 'coffee', 'camera', 'rocket']
TEXTURES = ['brick', 'grass', 'gravel']
TUNED = [*FLAT, *PHOTOGRAPHS, *TEXTURES]
READ = 4.0  # The read noise beside photons, of 255.
DRAWS = 4  # Pictures of different noise, for the deviation of JPEG's.

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Made:
  """A picture with noise.

  Attributes:
    image: [H, W, C] in [0, 1], in steps of 1 / 255.
    truth: of some of 'sigma' (of 255), 'gain', 'read' (of 255), 'neighbours',
      'impulses' (a share), 'rows' (of 255).
  """

  image: Array
  truth: Mapping[str, float]


# --- What cameras and programs do to noise.


def demosaic_bilinear(image: Array) -> Array:
  """Returns what bilinear interpolation makes of a camera's colours."""
  mosaic = image * _find_colours(image.shape)
  red = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
  green = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
  planes = [_filter(mosaic[..., c], green if c == 1 else red) for c in range(3)]
  return np.stack(planes, -1)


def demosaic_malvar(image: Array) -> Array:
  """Returns what Malvar, He and Cutler (2004) make of a camera's colours."""
  colours = _find_colours(image.shape)
  mosaic = np.sum(image * colours, -1)
  red, green, blue = np.moveaxis(colours > 0, -1, 0)
  rows = (np.arange(len(mosaic)) % 2 == 0)[:, None]  # Of red, not of blue.
  beside, opposite = _filter(mosaic, _BESIDE), _filter(mosaic, _OPPOSITE)
  above = _filter(mosaic, _BESIDE.T)
  planes = [
    np.where(
      red, mosaic, np.where(blue, opposite, np.where(rows, beside, above))
    ),
    np.where(green, mosaic, _filter(mosaic, _GREEN)),
    np.where(
      blue, mosaic, np.where(red, opposite, np.where(rows, above, beside))
    ),
  ]
  return np.stack(planes, -1)


# Filters of Malvar, He and Cutler: green at red and blue; red at green, from
# its left and right; red at blue.
_GREEN = (
  np.array(
    [
      [0, 0, -1, 0, 0],
      [0, 0, 2, 0, 0],
      [-1, 2, 4, 2, -1],
      [0, 0, 2, 0, 0],
      [0, 0, -1, 0, 0],
    ]
  )
  / 8
)
_BESIDE = (
  np.array(
    [
      [0, 0, 0.5, 0, 0],
      [0, -1, 0, -1, 0],
      [-1, 4, 5, 4, -1],
      [0, -1, 0, -1, 0],
      [0, 0, 0.5, 0, 0],
    ]
  )
  / 8
)
_OPPOSITE = (
  np.array(
    [
      [0, 0, -1.5, 0, 0],
      [0, 2, 0, 2, 0],
      [-1.5, 0, 6, 0, -1.5],
      [0, 2, 0, 2, 0],
      [0, 0, -1.5, 0, 0],
    ]
  )
  / 8
)


def _find_colours(shape):
  """Returns 1 where a camera sees a colour: red, green; green, blue."""
  colours = np.zeros(shape)
  for channel, y, x in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
    colours[y::2, x::2, channel] = 1
  return colours


def _filter(plane, kernel):
  padded = np.pad(plane, len(kernel) // 2, mode='reflect')
  windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
  return np.einsum('hwij,ij->hw', windows, kernel)


def enlarge(image: Array) -> Array:
  """Returns the picture at twice its size, bicubic."""
  size = 2 * image.shape[1], 2 * image.shape[0]
  planes = [
    Image.fromarray(np.float32(image[..., c])).resize(
      size, Image.Resampling.BICUBIC
    )
    for c in range(image.shape[2])
  ]
  return np.stack([np.asarray(plane, float) for plane in planes], -1)


def compress(image: Array, quality: int) -> Array:
  """Returns the picture as JPEG."""
  levels = np.uint8(255 * _write(image) + 0.5)
  file = io.BytesIO()
  picture = Image.fromarray(levels.squeeze())
  picture.save(file, 'JPEG', quality=quality)
  return (np.asarray(Image.open(file)) / 255).reshape(image.shape)


def _write(image):
  """Returns what is left of a picture in 8 bits."""
  return np.rint(255 * np.clip(image, 0, 1)) / 255


# --- Kinds of noise: (clean picture, level, generator) -> Made.


def make_white(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """White Gaussian noise."""
  noisy = clean + sigma / 255 * rng.normal(size=clean.shape)
  return Made(_write(noisy), {'sigma': sigma})


def make_poisson(
  clean: Array, photons: float, rng: np.random.RandomState
) -> Made:
  """Photons at white, and a read noise of 4 of 255."""
  counted = rng.poisson(clean * photons) / photons
  noisy = counted + READ / 255 * rng.normal(size=clean.shape)
  sigma = math.sqrt(np.mean(clean) / photons + (READ / 255) ** 2)
  truth = {'sigma': 255 * sigma}
  if np.std(clean):  # One brightness does not tell a gain.
    truth |= {'gain': 1 / photons, 'read': READ}
  return Made(_write(noisy), truth)


def _make_processed(process, clean, sigma, rng):
  """Noise, then a linear process, then black and white."""
  noisy = process(clean + sigma / 255 * rng.normal(size=clean.shape))
  return Made(_write(noisy), _measure(noisy - process(clean)))


def make_bilinear(
  clean: Array, sigma: float, rng: np.random.RandomState
) -> Made:
  """Noise of a camera, whose colours were interpolated."""
  return _make_processed(demosaic_bilinear, clean, sigma, rng)


def make_malvar(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """The same, interpolated better."""
  return _make_processed(demosaic_malvar, clean, sigma, rng)


def make_enlarged(
  clean: Array, sigma: float, rng: np.random.RandomState
) -> Made:
  """A picture at half the size, enlarged."""
  return _make_processed(enlarge, clean, sigma, rng)


def make_jpeg75(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """JPEG of quality 75, after the noise."""
  return _make_jpeg(clean, sigma, rng, 75)


def make_jpeg85(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """JPEG of quality 85, after the noise."""
  return _make_jpeg(clean, sigma, rng, 85)


def make_jpeg90(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """JPEG of quality 90, after the noise."""
  return _make_jpeg(clean, sigma, rng, 90)


def make_camera(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """A camera's JPEG of quality 90: its colours were interpolated before."""
  return _make_jpeg(clean, sigma, rng, 90, demosaic_bilinear)


def _make_jpeg(clean, sigma, rng, quality, process=lambda noisy: noisy):
  noisy = lambda: clean + sigma / 255 * rng.normal(size=clean.shape)
  draws = [compress(process(noisy()), quality) for _ in range(DRAWS)]
  own = (draws[0] - np.mean(draws, 0)) * math.sqrt(DRAWS / (DRAWS - 1))
  return Made(draws[0], _measure(own))


def _measure(own):
  """Returns the deviation and the correlation of noise."""
  beside = np.mean(own[:, 1:] * own[:, :-1])
  below = np.mean(own[1:] * own[:-1])
  square = np.mean(np.square(own))
  return {
    'sigma': 255 * math.sqrt(square),
    'neighbours': (beside + below) / 2 / square,
  }


def make_rows(clean: Array, sigma: float, rng: np.random.RandomState) -> Made:
  """Noise of rows, and as much white noise."""
  rows = sigma / 255 * rng.normal(size=(len(clean), 1, 1))
  noisy = clean + rows + sigma / 255 * rng.normal(size=clean.shape)
  return Made(_write(noisy), {'sigma': sigma, 'rows': sigma})


def make_salt(clean: Array, share: float, rng: np.random.RandomState) -> Made:
  """Salt and pepper, and white noise of 10 of 255."""
  noisy = _write(clean + 10 / 255 * rng.normal(size=clean.shape))
  hit = rng.uniform(size=clean.shape) < share
  noisy[hit] = rng.randint(0, 2, size=hit.sum())
  return Made(noisy, {'sigma': 10.0, 'impulses': share})


def make_hot(clean: Array, share: float, rng: np.random.RandomState) -> Made:
  """Hot pixels, and white noise of 5 of 255."""
  noisy = _write(clean + 5 / 255 * rng.normal(size=clean.shape))
  hit = rng.uniform(size=clean.shape[:2]) < share
  noisy[hit] = 1
  return Made(noisy, {'sigma': 5.0, 'impulses': share})


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of noise.

  Attributes:
    make: (clean picture, level, generator) -> Made.
    levels: to be measured.
    tolerances: how far what is found may be from what is true, by quantity.
    needs_colour: whether a picture needs three channels.
  """

  make: Callable[[Array, float, np.random.RandomState], Made]
  levels: Sequence[float]
  tolerances: Mapping[str, float]
  needs_colour: bool = False


_SHARED = {'sigma': 0.25, 'neighbours': 0.25}
_HIT = {'sigma': 0.1, 'impulses': 0.2}
KINDS = {
  'white': Kind(make_white, (1, 3, 5, 15, 25, 50, 75), {'sigma': 0.05}),
  'poisson': Kind(
    make_poisson,
    (30, 100, 500),
    {'sigma': 0.05, 'gain': 0.15, 'read': 0.15},
  ),
  'bilinear': Kind(make_bilinear, (10, 25), _SHARED, needs_colour=True),
  'malvar': Kind(make_malvar, (10, 25), _SHARED, needs_colour=True),
  'enlarged': Kind(make_enlarged, (10, 25), _SHARED),
  'jpeg75': Kind(make_jpeg75, (10, 20, 25), {'sigma': 0.25}),
  'jpeg85': Kind(make_jpeg85, (5, 10, 25), {'sigma': 0.25}),
  'jpeg90': Kind(make_jpeg90, (5, 10, 25), {'sigma': 0.25}),
  'camera': Kind(make_camera, (10, 25), {'sigma': 0.25}, needs_colour=True),
  'rows': Kind(make_rows, (5, 15), {'sigma': 0.05, 'rows': 0.15}),
  'salt': Kind(make_salt, (0.05, 0.1, 0.3), _HIT),
  'hot': Kind(make_hot, (0.001, 0.003, 0.01), _HIT),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One quantity of one picture: what is true and what was found."""

  kind: str
  level: float
  picture: str
  quantity: str
  true: float
  found: float
  confidence: float

  @property
  def ratio(self) -> float:
    """Found over true."""
    return self.found / self.true

  @property
  def is_reached(self) -> bool:
    """Whether the ratio is within the tolerance of the kind."""
    return abs(self.ratio - 1) <= KINDS[self.kind].tolerances[self.quantity]


def run_cell(kind: str, level: float, picture: str, crop: int) -> list[Row]:
  """Returns what was found of noise of a kind in a picture."""
  clean = read_clean(picture, crop)
  if KINDS[kind].needs_colour and clean.shape[2] != 3:
    return []
  made = KINDS[kind].make(clean, level, np.random.RandomState(0))
  model = noise.estimate_noise(made.image)
  return [
    Row(kind, level, picture, name, true, found, model.confidence)
    for name, true in made.truth.items()
    if name in KINDS[kind].tolerances
    for found in [_read_found(model, name)]
  ]


def _read_found(model, name):
  value = float(getattr(model, name))
  return 255 * value if name in ('sigma', 'read', 'rows') else value


def read_clean(name: str, crop: int) -> Array:
  """Returns the middle of a picture; 'flat' and 'ramp' are made here."""
  if name == 'flat':
    return np.full((crop, crop, 3), 0.5)
  if name == 'ramp':
    y, x = np.mgrid[:crop, :crop] / crop
    return 0.1 + 0.8 * np.stack([x, y, (x + y) / 2], -1)
  picture = images.read_image(name)
  height, width = (min(side, crop) for side in picture.shape[:2])
  top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
  crop_of = (top, left, height, width)
  return images.crop_image(picture, crop_of).astype(float)


def add_noise(
  clean: Array, kind: str, level: float, seed: int
) -> tuple[Array, Array, float]:
  """Returns a noisy picture, the picture without noise, and its sigma.

  The pictures are float32; the one without noise is the clean one, or that
  enlarged. Sigma is that of white 1, and 0 where no sigma tells the noise.

  Args:
    clean: [H, W, C] in [0, 1].
    kind: of KINDS.
    level: of the kind.
    seed: draws the noise.
  """
  clean = np.asarray(clean, float)
  made = KINDS[kind].make(clean, level, np.random.RandomState(seed))
  truth = clean if made.image.shape == clean.shape else enlarge(clean)
  sigma = made.truth.get('sigma', 0.0) / 255
  noisy, truth = (np.asarray(each, np.float32) for each in (made.image, truth))
  return noisy, truth, sigma


# --- The tables.


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and prints the tables."""
  parser = _make_parser()
  arguments = parser.parse_args(argv)
  try:
    rows = [
      row
      for kind in arguments.kinds
      for level in KINDS[kind].levels
      for picture in arguments.pictures
      for row in run_cell(kind, level, picture, arguments.crop)
    ]
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print_summary(rows)
  print()
  if 'poisson' in arguments.kinds:
    print_bounds(rows, arguments.crop)
    print()
  print_worst(rows, arguments.rows)
  for size in arguments.sizes:
    print(f'{size}x{size}: {time_estimate(size):.2f} s')


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--pictures', nargs='+', default=TUNED, help='made, samples or files')
  add('--kinds', nargs='+', choices=list(KINDS), default=list(KINDS))
  add('--crop', type=int, default=256, help='the square in the middle')
  add('--sizes', type=int, nargs='*', default=[], help='that are timed')
  add('--rows', type=int, default=1000, help='of the second table')
  return parser


def time_estimate(size: int) -> float:
  """Returns the seconds of a processor that an estimate takes."""
  drawn = np.random.RandomState(0).normal(0.5, 0.1, (size, size, 3))
  noisy = _write(drawn).astype(np.float32)
  start = time.process_time()
  noise.estimate_noise(noisy)
  return time.process_time() - start


def print_summary(rows: Sequence[Row]) -> None:
  """Prints a line for each kind, level and quantity."""
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    groups.setdefault((row.kind, row.level, row.quantity), []).append(row)
  print('| noise | level | quantity | tolerance | reached | median | worst |')
  print('|---|---|---|---|---|---|---|')
  for (kind, level, quantity), group in groups.items():
    reached = sum(row.is_reached for row in group)
    middle = np.median([row.ratio for row in group])
    worst = max(group, key=_find_distance)
    print(
      f'| {kind} | {level:g} | {quantity} '
      f'| {KINDS[kind].tolerances[quantity]:.0%} '
      f'| {reached} of {len(group)} | {middle:.2f} '
      f'| {worst.ratio:.2f} ({worst.picture}, {worst.confidence:.2f}) |'
    )


def find_bounds(clean: Array, gain: float, read: float) -> tuple[float, float]:
  """Returns the least relative errors that gain and read noise can have.

  No unbiased estimate has a smaller standard error, not even one that is told
  the clean picture (Cramer and Rao). The noise of a value x is Gaussian, of
  variance read^2 + gain x, neither clipped nor rounded.

  Args:
    clean: with two brightnesses at least, any shape.
    gain: 1 / photons at white.
    read: the deviation of the read noise.
  """
  # The information of one value about its variance v is 1 / (2 v^2).
  x = np.ravel(clean)
  columns = np.stack([np.ones_like(x), x]) / (read**2 + gain * x)
  constant, slope = np.diag(np.linalg.inv(columns @ columns.T / 2))
  # A deviation has half of the relative error of its variance.
  return math.sqrt(slope) / gain, math.sqrt(constant) / read**2 / 2


def print_bounds(rows: Sequence[Row], crop: int) -> None:
  """Prints gain and read noise of each picture, found over true (bound)."""
  cells: dict[str, dict[tuple, str]] = {}
  for row in rows:
    if row.kind == 'poisson' and row.quantity != 'sigma':
      bounds = find_bounds(
        read_clean(row.picture, crop), 1 / row.level, READ / 255
      )
      bound = bounds[row.quantity == 'read']
      cell = f'{row.ratio:.2f} ({bound:.1%})'
      cells.setdefault(row.picture, {})[row.quantity, row.level] = cell
  columns = [
    (quantity, level)
    for quantity in ('gain', 'read')
    for level in KINDS['poisson'].levels
  ]
  names = ' | '.join(f'{name} {level:g}' for name, level in columns)
  print(f'| picture | {names} |')
  print('|---' * (len(columns) + 1) + '|')
  for picture, own in cells.items():
    print(f'| {picture} | {" | ".join(own[each] for each in columns)} |')


def print_worst(rows: Sequence[Row], count: int) -> None:
  """Prints the results, the worst first."""
  print('| noise | level | picture | quantity | true | found | ratio | sure |')
  print('|---|---|---|---|---|---|---|---|')
  for row in sorted(rows, key=_find_distance, reverse=True)[:count]:
    print(
      f'| {row.kind} | {row.level:g} | {row.picture} | {row.quantity} '
      f'| {row.true:.4g} | {row.found:.4g} | {row.ratio:.2f} '
      f'| {row.confidence:.2f} |'
    )


def _find_distance(row):
  return abs(math.log(max(row.ratio, 1e-3)))


if __name__ == '__main__':
  main()
