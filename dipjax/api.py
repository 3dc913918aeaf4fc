"""`restore` checks its arguments, then hands them to the engine, which fits."""

import contextlib
import functools
import operator as operator_lib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipjax import monitors, settings, units
from dipjax import noise as noise_lib
from dipjax.engine import lanes, loop, tiled, tiles
from dipjax.engine.fit import make_fit
from dipjax.engine.problem import Problem, find_output
from dipjax.methods import perceptual as perceptual_lib
from dipjax.networks import skip
from dipjax.recipe import Recipe

Array = jax.Array

DEFAULT = Recipe()
_NEAR = 1e-3  # Rounding of an operator's values of black and white.


@settings.pin()
def restore(
  measurement: Any,
  operator: Callable[[Array], Array] | None = None,
  recipe: Recipe = DEFAULT,
  *,
  size: Sequence[int] | None = None,
  seeds: Sequence[int] = (0,),
  clean: Any = None,
  sigma: float | None = None,
  noise: noise_lib.Model | None = None,
  reference: Any = None,
  perceptual: lanes.Perceptual | None = None,
  memory: int | None = None,
  chunk: int = 10,
  watch: loop.Watch | None = None,
  store: loop.Store | None = None,
  tell: Callable[[tiled.Plan], None] | None = None,
) -> loop.Restoration:
  """Returns the image behind one measurement, without any training data.

  The function fits a randomly initialised network to the measurement, once for
  each seed, all seeds at once. It stops each fit where the recipe's rule says.
  The clean image never steers: with the clean image and without it the restored
  image is the same. Arrays are float32 whatever the settings of JAX are, of
  which none changes the result, see `settings.pin`.

  Args:
    measurement: what `operator` gave for the unknown image, finite floats; for
      denoising the noisy image itself, [H, W, C] in [0, 1]. Noise may take it
      out of [0, 1], another unit (0 to 255, counts) is refused, as is one of
      an operator that keeps the unit: where white gives 1 and black gives 0.
    operator: a function of an image [H, W, C] in [0, 1], differentiable: one of
      `dipjax.operators` or any other function. An operator that is a pytree is
      compiled once for all values of its arrays. Another function is compiled
      once for itself: make it once for many pictures, since a new lambda for
      each compiles for each, and only the last few programs are kept. None is
      the identity.
    recipe: how to fit, see `dipjax.Recipe`; the default is the paper's skip
      network, stopped by the variance of the average.
    size: (H, W, C) of the image; None is the shape of the measurement.
    seeds: the random seed of each lane, whole numbers in [0, 2**32), no two of
      them equal.
    clean: the true image, [H, W, C], if known. The function then adds the
      monitors `oracle` and `oracle_output`, which only report; not with windows
      or tiles, where no step has the whole image.
    sigma: standard deviation of the measurement's noise, if known, for methods
      and monitors that need the deviation, see `noise.estimate_sigma`; in the
      unit of the measurement: 25 / 255, say, for one in [0, 1].
    noise: all that is known of the noise, in place of sigma: its variance by
      brightness, its correlation, its clipping, see `noise.estimate_noise`.
      With sigma alone the noise is white, and clipped if the measurement lies
      in [0, 1].
    reference: a second measurement with independent noise, for the monitor
      `PseudoReference`; see `noise.split_measurement`.
    perceptual: a pair (function of a measurement -> its features, weight >= 0):
      weight * mean((features(operator(image)) - features(measurement))^2) is
      added to the loss; for instance (features.Features(params), 0.1). The
      features of the measurement are computed once, and all lanes share the
      function.
    memory: bytes that the fit may take; None is what the device says it has.
      Where the device says nothing, as a CPU does, any size is tried.
    chunk: steps between two calls of `watch`; never changes a result.
    watch: called with the states and the traces [lanes, chunk] of each chunk;
      where it returns True the fit ends with the best images so far. Of a fit
      in tiles the states are those of one tile, and the trace has a lane for
      each seed, whose steps count on from tile to tile.
    store: loads the progress of a fit that was interrupted, and saves it; the
      arguments must be those of the interrupted fit. See `loop.Store`.
    tell: called with the plan before a picture is fitted in tiles, of which
      `describe` is a line for people; None warns where nobody asked for tiles.

  Raises:
    ValueError: arguments that do not fit each other, named with their values.
    DivergedError: every lane diverged for good; the error, a ValueError, has
      the last good images.

  Examples:
    Here `photo` is an image, NumPy floats [H, W, 3] in [0, 1], from which each
    example makes a measurement; where you have a measurement, begin there.

    >>> import dipjax, jax.numpy as jnp, numpy as np
    >>> from dipjax import Recipe, blurring, corruptions, methods, operators
    >>> from dipjax.networks import pixels
    >>> height, width, _ = photo.shape

    Denoising, and the removal of artefacts: the mean over four seeds, where the
    seeds disagree, and the steps at which their images were selected.

    >>> noisy = corruptions.add_gaussian_noise(photo, 25 / 255, seed=0)
    >>> result = dipjax.restore(noisy, seeds=(0, 1, 2, 3))
    >>> image, disagreement = result.image, result.deviation
    >>> steps = result.selected

    Denoising with a sigma that is estimated from the measurement: better, and
    faster, where the noise is Gaussian.

    >>> from dipjax import noise
    >>> sigma = noise.estimate_sigma(noisy)
    >>> recorrupted = Recipe(method=methods.Recorrupted())
    >>> image = dipjax.restore(noisy, recipe=recorrupted, sigma=sigma).image

    A photograph of any size at a cost that hardly grows with it: the network
    sees a window of it in each step.

    >>> from dipjax import monitors, networks, optimizers
    >>> cosine = optimizers.make_optimizer('adam', 0.002, schedule='cosine')
    >>> windows = Recipe(
    ...   network=networks.PlainUNet(residual=True),
    ...   method=methods.Recorrupted(ratio=1.0),
    ...   monitors={'last': monitors.Last()},
    ...   optimizer=cosine,
    ...   window=128,
    ... )
    >>> image = dipjax.restore(noisy, recipe=windows, sigma=sigma).image

    Inpainting: 1 is a pixel that was seen, 0 is a pixel that is missing.

    >>> seen = corruptions.draw_mask((height, width), 0.5, seed=0)
    >>> mask = operators.make_mask(seen)
    >>> image = dipjax.restore(mask(photo), mask, Recipe(jitter=0.03)).image

    Super-resolution; then with total variation as well, and with total
    variation alone, in place of a network.

    >>> reduce = operators.Downsample(4)
    >>> small = reduce(photo)
    >>> image = dipjax.restore(small, reduce, size=photo.shape).image
    >>> smooth = Recipe(penalties=[(methods.total_variation, 1e-7)])
    >>> image = dipjax.restore(small, reduce, smooth, size=photo.shape).image
    >>> alone = smooth.replace(network=pixels.Pixels())
    >>> image = dipjax.restore(small, reduce, alone, size=photo.shape).image

    A perceptual loss, which compares features of a pretrained network besides
    the pixels; `params` are the parameters of VGG16, as
    `experiments.lib.weights.load_vgg16()` reads them. The loss costs less with
    fewer layers, and with factor=2, on images of half the size.

    >>> from dipjax import features
    >>> vgg = features.Features(params, ('relu1_2', 'relu2_2'))
    >>> image = dipjax.restore(noisy, perceptual=(vgg, 0.1)).image

    Deblurring, here of a blurred image of which only every second pixel in each
    direction was kept: operators in order of application.

    >>> blur = operators.make_blur(blurring.make_motion_kernel(5, 30))
    >>> image = dipjax.restore(blur(photo), blur).image
    >>> camera = operators.compose(blur, lambda image: image[::2, ::2])
    >>> image = dipjax.restore(camera(photo), camera, size=photo.shape).image

    An operator of your own: a camera that sees a tenth of the pixels, as a list
    of colours.

    >>> where = np.random.RandomState(0).permutation(height * width)
    >>> rows, columns = np.divmod(where[: height * width // 10], width)
    >>> camera = lambda image: image[rows, columns]
    >>> image = dipjax.restore(camera(photo), camera, size=photo.shape).image

    Another operator: magnetic resonance imaging, which sees some rows of the
    Fourier transform of a grey image, the lowest frequencies and every third of
    the others, as real and imaginary parts.

    >>> lines = np.append(np.arange(4), np.arange(4, height, 3))
    >>> def scan(image):
    ...   spectrum = jnp.fft.fft2(image[..., 0], norm='ortho')[lines]
    ...   return jnp.stack([spectrum.real, spectrum.imag])
    >>> grey = photo.mean(axis=2, keepdims=True)
    >>> image = dipjax.restore(scan(grey), scan, size=grey.shape).image
  """
  seeds = find_seeds(seeds)
  check_chunk(chunk)
  ready = prepare(
    measurement,
    operator,
    recipe,
    size=size,
    clean=clean,
    sigma=sigma,
    noise=noise,
    reference=reference,
    perceptual=perceptual,
  )
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  plan = plan_tiles(ready, seeds=len(seeds), memory=memory)
  if plan:
    (tell or _warn)(plan)
  return fit_ready(ready, plan, keys, chunk=chunk, watch=watch, store=store)


class Ready(NamedTuple):
  """A picture whose arguments are checked, before any code is drawn."""

  task: tiled.Task
  recipe: Recipe  # Prepared for the whole picture.
  pose: Callable[..., Problem]  # (key, measurement) -> the problem of a lane.
  shapes: Problem  # Of one lane; shapes alone.
  clean: np.ndarray | None  # [H, W, C]
  sigma: float | None  # As it was given.


def prepare(
  measurement: Any,
  operator: Any,
  recipe: Recipe,
  *,
  size: Sequence[int] | None = None,
  clean: Any = None,
  sigma: float | None = None,
  noise: noise_lib.Model | None = None,
  reference: Any = None,
  perceptual: lanes.Perceptual | None = None,
) -> Ready:
  """Returns a picture that can be fitted, or refuses it; see `restore`.

  Raises:
    ValueError: arguments that do not fit each other, named with their values.
  """
  measurement = check_array(measurement, 'the measurement')
  size = _find_size(measurement, size)
  if clean is not None:
    clean = check_array(clean, 'the clean image', size)
    units.check_image(clean, 'the clean image')
  sigma = None if sigma is None else units.check_sigma(sigma, of_image=False)
  _check_penalties(recipe, size)
  _check_perceptual(recipe, perceptual)
  if reference is not None:
    reference = check_array(reference, 'the reference', measurement.shape)
  if recipe.network is None:
    recipe = recipe.replace(network=skip.Skip(outputs=size[-1]))
  noise = _find_noise(measurement, sigma, noise)
  # Features, which all lanes share, go to the device once.
  if perceptual:
    perceptual = perceptual_lib.share_features(perceptual[0]), perceptual[1]
  task = tiled.Task(
    recipe, measurement, operator, size, noise, reference, perceptual
  )
  recipe, operator = recipe.prepare(measurement, operator, noise=noise)
  if recipe.window:
    _check_windows(measurement, size, reference, perceptual)
  pose = lambda key, measurement: lanes.pose_problem(
    recipe,
    key,
    measurement,
    operator,
    size,
    sigma=None if noise is None else noise.sigma,
    reference=reference,
    perceptual=perceptual,
  )
  # Shapes alone come first, so that a picture that does not fit is refused
  # before any code is drawn.
  with _explain_traces('the code, or the features,'):
    shapes = jax.eval_shape(pose, jax.random.key(0), measurement)
  seen = shapes.measurement.shape if recipe.window else size
  _check_prediction(recipe.network, shapes, seen)
  return Ready(task, recipe, pose, shapes, clean, sigma)


def plan_tiles(
  ready: Ready, *, seeds: int, memory: int | None
) -> tiled.Plan | None:
  """Returns the tiles of a picture, see `tiled.plan_fit`; None for the whole.

  Raises:
    ValueError: a picture that does not fit into memory, or another unit than
      that of images.
  """
  task = ready.task
  plan = tiled.plan_fit(
    task,
    ready.shapes,
    ready.recipe,
    seeds=seeds,
    memory=memory,
    check=functools.partial(_check_prediction, ready.recipe.network),
  )
  check_units(ready)
  if plan:
    tiled.check_cut(task, plan)
  return plan


def fit_ready(
  ready: Ready,
  plan: tiled.Plan | None,
  keys: Array,
  *,
  chunk: int,
  watch: loop.Watch | None,
  store: loop.Store | None,
) -> loop.Restoration:
  """Returns the restoration of a picture, with a lane for each key.

  Args:
    ready, plan: of the picture.
    keys: [lanes].
    chunk, watch, store: see `restore`.

  Raises:
    DivergedError: see `restore`.
  """
  recipe, measurement = ready.recipe, ready.task.measurement
  if plan:
    states, trace = tiled.run(
      ready.task, plan, keys, chunk=chunk, watch=watch, store=store
    )
    return loop.collect(states, trace, recipe.rule)
  if recipe.window:
    # All lanes share the picture, which goes to the device once.
    measurement = jnp.asarray(measurement)
  problems = lanes.stack_lanes([ready.pose(key, measurement) for key in keys])
  recipe, clean = watch_clean(ready)
  cleans = None if clean is None else jnp.stack([clean] * len(keys))
  states, trace = loop.run_lanes(
    make_fit(recipe),
    keys,
    problems,
    cleans,
    chunk=chunk,
    watch=watch,
    store=store,
  )
  if recipe.window:
    states = tiles.finish_lanes(recipe, states, problems)
  return loop.collect(states, trace, recipe.rule)


def watch_clean(ready: Ready) -> tuple[Recipe, np.ndarray | None]:
  """Returns the recipe, with oracles where there is a clean image to watch.

  No step with windows has the whole image, so that it cannot be watched.
  """
  if ready.clean is None or ready.recipe.window:
    return ready.recipe, None
  return ready.recipe.watch(**monitors.ORACLES), ready.clean


def _warn(plan):
  """Warns of tiles that nobody asked for."""
  if plan.reason:
    warnings.warn(plan.describe(), stacklevel=4)


def check_array(
  array: Any, name: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
  """Returns a float32 array of finite values, or raises a ValueError.

  An array that is float32 already is not copied.

  Args:
    array: anything NumPy reads as an array of floats.
    name: the array's name in the error.
    shape: the shape that the array must have; None is any.
  """
  try:
    array = array if np.ma.isMaskedArray(array) else np.asarray(array)
  except jax.errors.TracerArrayConversionError as error:
    raise ValueError(
      f'{name} is traced: call restore outside of jax.jit, vmap and grad'
    ) from error
  units.check_floats(array, name)
  if array.size == 0:
    raise ValueError(f'{name} is empty: shape {array.shape}')
  with np.errstate(over='ignore'):
    array = np.asarray(array, np.float32)
  if not np.all(np.isfinite(array)):
    raise ValueError(f'{name} holds NaN or infinite values')
  if shape is not None and array.shape != tuple(shape):
    raise ValueError(f'{name} must be {tuple(shape)}, got {array.shape}')
  return array


def _find_size(measurement, size):
  """Returns (H, W, C) as integers."""
  given = measurement.shape if size is None else size
  try:
    found = tuple(operator_lib.index(side) for side in given)
  except TypeError as error:
    raise ValueError(f'size is (H, W, C), got {size!r}') from error
  if len(found) == 3 and found[-1] in (1, 3, 4) and min(found) > 0:
    return found
  if size is None and len(found) == 2:
    advice = 'give a grey image as image[..., None], or '
  elif size is None and len(found) == 3 and found[0] in (1, 3, 4):
    advice = 'put channels last, as image.transpose(1, 2, 0), or '
  elif size is None and len(found) == 4:
    advice = 'give one image of a batch, as images[0], or '
  else:
    advice = ''
  raise ValueError(
    f'an image is [H, W, C] with C of 1, 3 or 4, got {found}: '
    f'{advice}give size=(H, W, C) where the measurement is no image'
  )


def find_seeds(seeds: Sequence[int]) -> list[int]:
  """Returns the seeds as integers; ValueError for what are no seeds."""
  try:
    given = list(seeds)
  except TypeError as error:
    raise ValueError(
      f'seeds are a sequence, such as (0, 1), got {seeds!r}'
    ) from error
  found = [_find_seed(seed) for seed in given]
  if not found:
    raise ValueError('the number of seeds must be at least 1, got 0')
  # A larger seed, or one below 0, gives the numbers of one that is in range.
  for seed in found:
    if not 0 <= seed < 2**32:
      raise ValueError(f'seeds must be in [0, 2**32), got {seed}')
  twice = [seed for place, seed in enumerate(found) if seed in found[:place]]
  if twice:
    raise ValueError(f'seeds must differ, got {twice[0]} twice')
  return found


def _find_seed(seed):
  try:
    if isinstance(seed, bool):
      raise TypeError
    return operator_lib.index(seed)
  except TypeError as error:
    raise ValueError(
      f'a seed is a whole number in [0, 2**32), got {seed!r}'
    ) from error


def check_chunk(chunk: Any) -> None:
  """Raises a ValueError for a chunk that is no number of steps."""
  if not isinstance(chunk, int | np.integer) or chunk < 1:
    raise ValueError(f'chunk must be a whole number, at least 1, got {chunk!r}')


def _find_noise(measurement, sigma, noise):
  if sigma is None:
    return noise
  if noise is not None:
    raise ValueError('give sigma or noise, which has a sigma of its own')
  clipped = bool(noise_lib.is_clipped(measurement))
  return noise_lib.Model.make_white(sigma, clipped=clipped)


def check_units(ready: Ready) -> None:
  """Refuses another unit than that of images, where the operator keeps it."""
  seen = _find_image_values(ready.task.operator, ready.task.size)
  units.check_image(ready.task.measurement, 'the measurement', seen)
  if ready.sigma is not None:
    units.check_sigma(ready.sigma, of_image=bool(np.any(seen)))


def _find_image_values(operator, size):
  """Returns which values of a measurement have the unit of the image.

  They are those where a white image gives 1 and a black image gives 0, if no
  value is farther off: samples and averages of the image, as the pixels that a
  mask keeps. Sums or a Fourier transform may have any range: none of theirs.
  """
  if operator is None:
    return np.True_
  give = lambda value: np.asarray(operator(jnp.full(size, value, jnp.float32)))
  black, white = give(0), give(1)
  kept = (np.abs(black) < _NEAR) & (white > -_NEAR) & (white < 1 + _NEAR)
  return (white > 1 - _NEAR) & kept.all()


@contextlib.contextmanager
def _explain_traces(what):
  """Turns the errors of a function that JAX cannot trace into one line."""
  try:
    yield
  except jax.errors.TracerArrayConversionError as error:
    raise ValueError(
      f'{what} calls NumPy, or what builds on it, with an array that JAX '
      'traces: use jax.numpy'
    ) from error
  except jax.errors.ConcretizationTypeError as error:
    raise ValueError(
      f'{what} asks for the values of an array that JAX traces: use jnp.where '
      'in place of if, and no float(), int() or bool()'
    ) from error


def _check_penalties(recipe, size):
  for penalty, _ in recipe.penalties:
    with _explain_traces('a penalty'):
      value = jax.eval_shape(penalty, jax.ShapeDtypeStruct(size, jnp.float32))
    if value.shape:
      raise ValueError(
        f'a penalty returns one number, {penalty} gives {value.shape}'
      )


def _check_perceptual(recipe, perceptual):
  if perceptual and not recipe.method.takes_terms:
    raise ValueError(f'the method {recipe.method.name!r} takes no features')


def _check_windows(measurement, size, reference, perceptual):
  if size != measurement.shape:
    raise ValueError(
      f'windows are for denoising: the image {size} must be as large as the '
      f'measurement {measurement.shape}'
    )
  if reference is not None or perceptual:
    raise ValueError('a fit with windows takes no reference and no features')


def _check_prediction(network, problem, size):
  """Refuses a network or an operator of other shapes; shapes are enough."""
  output = find_output(network, problem.code.shape)
  output = jax.ShapeDtypeStruct(output, jnp.float32)
  image = jax.eval_shape(problem.crop, output)
  if image.shape != size:
    raise ValueError(f'the network gives {image.shape}, not {size}')
  prediction = _predict(problem, image)
  if prediction.shape != problem.measurement.shape:
    raise ValueError(
      f'the operator turns an image {image.shape} into {prediction.shape}, but '
      f'the measurement is {problem.measurement.shape}'
    )


def _predict(problem, image):
  """Returns the shape of what the operator gives, which must be floats."""
  with _explain_traces('the operator'):
    try:
      prediction = jax.eval_shape(
        lambda problem, image: problem.operator(image), problem, image
      )
    except jax.errors.JAXTypeError:
      raise
    except TypeError as error:
      first, *_ = str(error).splitlines()
      raise ValueError(
        f'the operator fails for an image {image.shape}: {first}'
      ) from error
  if not isinstance(prediction, jax.ShapeDtypeStruct):
    raise ValueError(
      f'the operator must return one array, got {type(prediction).__name__}'
    )
  if jnp.issubdtype(prediction.dtype, jnp.complexfloating):
    raise ValueError(
      f'the operator gives {prediction.dtype}: let it give real and imaginary '
      'parts, as jnp.stack([y.real, y.imag])'
    )
  if not jnp.issubdtype(prediction.dtype, jnp.floating):
    raise ValueError(
      f'the operator gives {prediction.dtype}, which has no gradient: let it '
      'give floats'
    )
  return prediction
