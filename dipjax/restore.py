"""The one host loop, and the library call on top of it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from dipjax import codes, lanes, noise, objectives, operators
from dipjax import fit as fit_lib
from dipjax import memory as memory_lib
from dipjax import monitors as monitors_lib
from dipjax.device import packing
from dipjax.networks import outliers, skip

Array = jax.Array
Code = Callable[[Array, tuple[int, int]], Array]
Watch = Callable[[fit_lib.FitState, fit_lib.Trace], None]

# Made once: an optimiser is part of the compiled step.
ADAM = optax.adam(0.01)
NOISE_CODE = functools.partial(codes.draw_uniform_noise, channels=32)
JITTER = 1 / 30
RECORRUPTION = 1.5  # The jitter of a measurement as the code, over its noise.


class Restoration(NamedTuple):
  """What a restoration gives; lanes are in the order of the seeds."""

  image: np.ndarray  # [H, W, C] in [0, 1], the mean of `images`.
  deviation: np.ndarray  # [H, W, C], their standard deviation; 0 for one lane.
  images: np.ndarray  # [lanes, H, W, C], selected by `rule` without the truth.
  selected: np.ndarray  # [lanes], the step of each of these.
  stopped: np.ndarray  # [lanes], after how many steps; see Trace.returned.
  rule: str  # The monitor that selected.
  monitors: dict[str, monitors_lib.MonitorState]  # Arrays [lanes, ...].
  trace: fit_lib.Trace  # Arrays [lanes, steps]; see Trace.active.
  params: Any  # Arrays [lanes, ...]; beside outliers, 'network' has its own.


def restore(
  measurement: Any,
  operator: Callable[[Array], Array] | None = None,
  *,
  size: tuple[int, int, int] | None = None,
  network: nn.Module | None = None,
  code: Code | None = None,
  jitter: float | None = None,
  optimizer: optax.GradientTransformation = ADAM,
  steps: int = 5000,
  decay: float = 0.99,
  precision: str = 'float32',
  error: str = 'squared',
  penalties: Sequence[tuple[objectives.Penalty, float]] = (),
  perceptual: tuple[Callable[[Array], Array], float] | None = None,
  monitors: Mapping[str, monitors_lib.Monitor] | None = None,
  rule: str = 'emv',
  sigma: float | None = None,
  reference: Any = None,
  clean: Any = None,
  seeds: Sequence[int] = (0,),
  memory: int | None = None,
  chunk: int = 10,
  watch: Watch | None = None,
) -> Restoration:
  """Returns the image behind one measurement, without any training data.

  Fits a randomly initialised network to the measurement, once for each seed,
  all seeds at once, and stops each where `rule` says. The clean image never
  steers: with it and without it the restored image is the same.

  Args:
    measurement: what `operator` gave for the unknown image, finite floats; for
      denoising the noisy image itself, [H, W, C] in [0, 1].
    operator: a function of an image [H, W, C] in [0, 1], differentiable: one of
      `dipjax.operators` or any other. One that is a pytree is compiled once for
      all values of its arrays. None is the identity.
    size: (H, W, C) of the image; None is the shape of the measurement.
    network: a module of `dipjax.networks` with C outputs; None is the paper's
      skip network.
    code: (key, (height, width)) -> the network's input [height, width, I], of
      the size that the network wants; None is noise, NOISE_CODE.
    jitter: standard deviation of the noise on the code, fresh in each step;
      None is 1/30.
    optimizer: of the network's parameters, see `fit.make_fit`.
    steps: at most so many for each lane.
    decay: of the average over the outputs, in [0, 1).
    precision: 'float32', 'tensorfloat32' or 'bfloat16', see `fit.make_fit`.
    error: 'squared'; 'absolute' where some values are wrong altogether, as by
      impulse noise, or 'outliers', which fits these beside the image, see
      `networks.outliers`; 'recorrupted' for Gaussian noise of a known sigma,
      which the network then learns later and less: its code is the measurement,
      and the jitter, where it is None, RECORRUPTION * sigma; so too 'stein',
      with two passes of the network. See `objectives.measurement_error`,
      `stein_risk`. A measurement in [0, 1] counts as clipped, see
      `operators.Clipped`.
    penalties: pairs (function of an image -> a number, weight >= 0), added to
      the mean error; for instance (objectives.total_variation, 1e-7).
    perceptual: a pair (function of a measurement -> its features, weight >= 0):
      weight * mean((features(operator(image)) - features(measurement))^2) is
      added too; for instance (features.Features(params), 0.1). The features of
      the measurement are computed once, and all lanes share the function.
    monitors: by name; None is EMV with its defaults, named 'emv'.
    rule: the name of the monitor whose image is returned.
    sigma: standard deviation of the measurement's noise, if known: for monitors
      and errors that need it, see `noise.estimate_sigma`.
    reference: a second measurement with independent noise, for the monitor
      `pseudo_reference`; see `noise.split_measurement`.
    clean: the true image, [H, W, C], if known: adds the monitors `oracle` and
      `oracle_output`, which only report.
    seeds: one lane for each.
    memory: bytes that may be taken; None is what the device says it has. Where
      it says nothing, as a CPU, any size is tried.
    chunk: steps between two calls of `watch`; never changes a result.
    watch: called with the states and the traces [lanes, chunk] of each chunk.

  Raises:
    ValueError: arguments that do not fit each other, named with their values.

  Examples:
    Here `photo` is an image, NumPy floats [H, W, 3] in [0, 1], from which each
    example makes a measurement; where you have one, begin there.

    >>> import dipjax, jax.numpy as jnp, numpy as np
    >>> from dipjax import blurring, corruptions, objectives, operators
    >>> from dipjax.networks import pixels
    >>> height, width, _ = photo.shape

    Denoising, and the removal of artefacts: the mean over four seeds, where
    they disagree, and the steps at which they were selected.

    >>> noisy = corruptions.add_gaussian_noise(photo, 25 / 255, seed=0)
    >>> result = dipjax.restore(noisy, seeds=(0, 1, 2, 3))
    >>> image, disagreement = result.image, result.deviation
    >>> steps = result.selected

    The same with a sigma that is estimated from the measurement: better, and
    faster, where the noise is Gaussian.

    >>> from dipjax import noise
    >>> sigma = noise.estimate_sigma(noisy)
    >>> image = dipjax.restore(noisy, error='recorrupted', sigma=sigma).image

    Inpainting: 1 is a pixel that was seen, 0 one that is missing.

    >>> seen = corruptions.draw_mask((height, width), 0.5, seed=0)
    >>> mask = operators.make_mask(seen)
    >>> image = dipjax.restore(mask(photo), mask, jitter=0.03).image

    Super-resolution; then with total variation as well, and with that alone, in
    place of a network.

    >>> reduce = operators.Downsample(4)
    >>> small = reduce(photo)
    >>> image = dipjax.restore(small, reduce, size=photo.shape).image
    >>> smooth = [(objectives.total_variation, 1e-7)]
    >>> image = dipjax.restore(
    ...   small, reduce, size=photo.shape, penalties=smooth
    ... ).image
    >>> image = dipjax.restore(
    ...   small,
    ...   reduce,
    ...   size=photo.shape,
    ...   penalties=smooth,
    ...   network=pixels.Pixels(),
    ... ).image

    A perceptual loss, in which features of a pretrained network are compared
    besides the pixels; `params` are those of VGG16, as
    `experiments.weights.load_vgg16()` reads them. The loss costs less with
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

    Another: magnetic resonance imaging, which sees some rows of the Fourier
    transform of a grey image, the lowest frequencies and every third of the
    others, as real and imaginary parts.

    >>> lines = np.append(np.arange(4), np.arange(4, height, 3))
    >>> def scan(image):
    ...   spectrum = jnp.fft.fft2(image[..., 0], norm='ortho')[lines]
    ...   return jnp.stack([spectrum.real, spectrum.imag])
    >>> grey = photo.mean(axis=2, keepdims=True)
    >>> image = dipjax.restore(scan(grey), scan, size=grey.shape).image
  """
  measurement = check_array(measurement, 'the measurement')
  shape = measurement.shape if size is None else size
  network = network or skip.Skip(outputs=shape[-1])
  if error in objectives.OF_KNOWN_NOISE:
    sigma = _check_known_noise(error, operator, code, sigma, jitter)
    operator = _expect_clipping(measurement, sigma)
    code = codes.use_image(measurement)
    jitter = RECORRUPTION * sigma if jitter is None else jitter
  operator = operators.as_operator(operator)
  watchers = dict(monitors or {'emv': monitors_lib.emv()})
  _check_arguments(shape, steps, seeds, chunk, rule, watchers)
  _check_penalties(penalties, shape)
  _check_sigma(sigma)
  if reference is not None:
    reference = check_array(reference, 'the reference', measurement.shape)
  if clean is not None:
    clean = check_array(clean, 'the clean image', shape)
    watchers |= {
      'oracle': monitors_lib.oracle(),
      'oracle_output': monitors_lib.oracle(of='output'),
    }
  fitted = network
  if error == 'outliers':
    fitted = outliers.BesideOutliers(network, measurement.shape)
    optimizer = outliers.optimize_beside(optimizer, measurement.size)
  fit = make_fit(
    fitted,
    tuple(penalty for penalty, _ in penalties),
    optimizer,
    tuple(watchers.items()),
    decay,
    precision,
    error,
  )
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  if perceptual:
    perceptual = objectives.share_features(perceptual[0]), perceptual[1]
  make = lambda key: make_problem(
    key,
    measurement,
    operator,
    network,
    shape,
    code=code or NOISE_CODE,
    weights=[weight for _, weight in penalties],
    jitter=JITTER if jitter is None else jitter,
    steps=steps,
    perceptual=perceptual,
    sigma=sigma,
    reference=reference,
  )
  problems = lanes.stack_lanes([make(key) for key in keys])
  _check_prediction(network, problems, shape)
  available = memory or _find_memory()
  if available:
    problem = lanes.take_lane(problems, 0)
    memory_lib.check_memory(
      network, problem, available, lanes=len(seeds), precision=precision
    )
  cleans = None if clean is None else jnp.stack([clean] * len(seeds))
  states, trace = run_lanes(
    fit, keys, problems, cleans, chunk=chunk, watch=watch
  )
  return collect(states, trace, rule)


def make_problem(
  key: Array,
  measurement: Array,
  operator: operators.Operator,
  network: nn.Module,
  size: tuple[int, ...],
  *,
  code: Code,
  jitter: float,
  steps: int,
  weights: Sequence[float] = (),
  perceptual: tuple[Callable[[Array], Array], float] | None = None,
  sigma: float | None = None,
  reference: Array | None = None,
) -> objectives.Problem:
  """Returns the problem of one lane, its code as large as the network needs.

  Args:
    key: of the lane; the code is drawn from a stream of its own.
    measurement, operator, network, code, jitter, steps, perceptual, sigma,
      reference: as of `restore`.
    size: (H, W, ...) of the image.
    weights: of the penalties.
  """
  height, width = size[:2]
  # A stream of its own: the fit draws from the key itself.
  drawn = code(jax.random.fold_in(key, 1), network.code_size(height, width))
  image_size = _find_output(network, drawn.shape)[:2]
  problem = objectives.Problem(
    measurement=measurement,
    operator=operator,
    crop=operators.crop_center(image_size, (height, width)),
    code=drawn,
    weights=jnp.array(weights, jnp.float32),
    jitter=jnp.array(jitter, jnp.float32),
    steps=jnp.array(steps),
    sigma=None if sigma is None else jnp.array(sigma, jnp.float32),
    reference=reference,
  )
  return (
    objectives.add_features(problem, *perceptual) if perceptual else problem
  )


@functools.cache
def _find_output(network, code_shape):
  code = jax.ShapeDtypeStruct(code_shape, jnp.float32)
  draw = lambda key, code: network.init_with_output(key, code)[0]
  return jax.eval_shape(draw, jax.random.key(0), code).shape


def run_lanes(
  fit: fit_lib.Fit,
  keys: Array,
  problems: objectives.Problem,
  cleans: Array | None = None,
  *,
  start: Callable[[fit_lib.FitState], fit_lib.FitState] | None = None,
  chunk: int = 10,
  watch: Watch | None = None,
) -> tuple[fit_lib.FitState, fit_lib.Trace]:
  """Steps all lanes, chunk after chunk, until every one is finished.

  The host loop of everything: nothing else calls `lanes.advance`.

  Args:
    fit: of one lane.
    keys: [lanes].
    problems: arrays with a first axis of lanes, as `lanes.stack_lanes` makes.
    cleans: [lanes, H, W, C] or None.
    start: makes of the fresh states those to start from, see `staged.inherit`;
      None leaves them.
    chunk: steps in one call of the device.
    watch: called after each chunk with the states, which are only borrowed, and
      its trace.

  Returns:
    The states, and the trace of all steps, [lanes, steps], as NumPy arrays.
  """
  states = lanes.init(fit, keys, problems, cleans)
  states = start(states) if start else states
  traces = []
  while not np.all(lanes.find_finished(states, problems)):
    states, trace = lanes.advance(fit, chunk, states, problems)
    traces.append(jax.device_get(trace))
    if watch:
      watch(states, traces[-1])
  return states, jax.tree.map(lambda *t: np.concatenate(t, axis=1), *traces)


def check_array(
  array: Any, name: str, shape: tuple[int, ...] | None = None
) -> Array:
  """Returns a float32 array of finite values, or raises a ValueError.

  Args:
    array: anything NumPy reads as an array of floats.
    name: what to call it in the error.
    shape: what it must have; None is any.
  """
  array = np.asarray(array)
  if not np.issubdtype(array.dtype, np.floating):
    raise ValueError(
      f'{name} must hold floats in [0, 1], got {array.dtype}: divide integers '
      'by their white level first'
    )
  if array.size == 0:
    raise ValueError(f'{name} is empty: shape {array.shape}')
  if not np.all(np.isfinite(array)):
    raise ValueError(f'{name} holds NaN or infinite values')
  if shape is not None and array.shape != tuple(shape):
    raise ValueError(f'{name} must be {tuple(shape)}, got {array.shape}')
  return jnp.asarray(array, jnp.float32)


def _check_arguments(shape, steps, seeds, chunk, rule, watchers):
  if len(shape) != 3 or shape[-1] not in (1, 3, 4):
    raise ValueError(
      f'an image is [H, W, C] with C of 1, 3 or 4, got {tuple(shape)}: give '
      'size=(H, W, C) where the measurement is no image'
    )
  if steps < 1 or chunk < 1 or not len(seeds):
    raise ValueError(
      'steps, chunk and the number of seeds must be at least 1, got '
      f'{steps}, {chunk}, {len(seeds)}'
    )
  if rule not in watchers:
    raise ValueError(f'rule {rule!r} is none of the monitors {list(watchers)}')


def _check_sigma(sigma):
  if sigma is not None and not (np.isfinite(sigma) and sigma >= 0):
    raise ValueError(f'sigma must be a number >= 0, got {sigma}')


def _check_known_noise(error, operator, code, sigma, jitter):
  if operator is not None or code is not None:
    raise ValueError(
      f'the error {error!r} is for denoising, where the measurement is the '
      'code: give neither an operator nor a code'
    )
  if not sigma or (jitter is not None and not jitter > 0):
    raise ValueError(
      f'the error {error!r} needs the sigma of the noise, above 0, and a '
      f'jitter above 0; got {sigma}, {jitter}'
    )
  return sigma


def _expect_clipping(measurement, sigma):
  """The operator of noise that was clipped, where nothing shows it was not."""
  if not noise.is_clipped(measurement):
    return None
  return operators.Clipped(jnp.float32(sigma))


def _check_penalties(penalties, shape):
  for penalty, weight in penalties:
    if not (np.isfinite(weight) and weight >= 0):
      raise ValueError(
        f'the weight of {penalty} must be a number >= 0, got {weight}'
      )
    value = jax.eval_shape(penalty, jax.ShapeDtypeStruct(shape, jnp.float32))
    if value.shape:
      raise ValueError(
        f'a penalty returns one number, {penalty} gives {value.shape}'
      )


@functools.cache
def make_fit(
  network: nn.Module,
  penalties: tuple[objectives.Penalty, ...],
  optimizer: optax.GradientTransformation,
  watchers: tuple[tuple[str, monitors_lib.Monitor], ...],
  decay: float,
  precision: str,
  error: str = 'squared',
) -> fit_lib.Fit:
  """Returns the fit to a measurement; equal arguments compile once."""
  return fit_lib.make_fit(
    network,
    objectives.make_objective(network, penalties, error),
    optimizer,
    dict(watchers),
    decay=decay,
    precision=precision,
  )


def _find_memory():
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')


def _check_prediction(network, problems, size):
  problem = lanes.take_lane(problems, 0)

  def predict(output):
    image = problem.crop(output)
    return image, problem.operator(image)

  output = _find_output(network, problem.code.shape)
  output = jax.ShapeDtypeStruct(output, jnp.float32)
  image, prediction = jax.eval_shape(predict, output)
  if image.shape != tuple(size):
    raise ValueError(f'the network gives {image.shape}, not {tuple(size)}')
  if prediction.shape != problem.measurement.shape:
    raise ValueError(
      f'the operator turns an image {image.shape} into {prediction.shape}, but '
      f'the measurement is {problem.measurement.shape}'
    )


def collect(
  states: fit_lib.FitState, trace: fit_lib.Trace, rule: str
) -> Restoration:
  """Returns what the monitor `rule` selected of the lanes of `run_lanes`."""
  states = jax.device_get(states.replace(opt_state=(), key=(), guard=None))
  images = np.clip(states.monitors[rule].image, 0, 1)
  return Restoration(
    image=images.mean(axis=0),
    deviation=images.std(axis=0),
    images=images,
    selected=np.asarray(states.monitors[rule].step),
    stopped=np.asarray(states.step),
    rule=rule,
    monitors=states.monitors,
    trace=trace,
    params=packing.unpack(states.params),
  )
