"""Rules that know the noise: its level, or a second measurement."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipjax import noise
from dipjax.monitors import base

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discrepancy(base.Rule):
  """The estimate where the residual has come down to the noise.

  The rule is done at the first step whose mean((operator(image) -
  measurement)^2) is at most factor * problem.sigma^2 (Morozov's principle). A
  measurement that lies in [0, 1] was clipped, and clipping removes part of the
  noise: the expected square of the clipped noise around the prediction then
  takes the place of sigma^2.

  Attributes:
    of: the image whose residual is watched, 'estimate' or 'output'.
    factor: multiplies the level; a factor above 1 stops sooner.

  Raises:
    ValueError: factor not above 0, or an unknown `of`; in the first step, a
      problem without sigma.
  """

  needs: ClassVar[frozenset[str]] = frozenset({'sigma'})

  of: str = 'estimate'
  factor: float = 1.0

  def __post_init__(self):
    base.check_watched(self.of)
    if not self.factor > 0:
      raise ValueError(f'factor must be > 0, got {self.factor}')

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    sigma = base.get_known(seen, 'sigma', 'discrepancy')
    measurement = seen.problem.measurement
    prediction = base.predict(seen, self.of)
    # The expected square of clipped noise differs between dark and bright
    # pixels: the prediction, the best guess at the truth, tells them apart.
    error = jnp.mean(jnp.square(prediction - measurement))
    square = noise.expect_square(prediction, sigma)
    level = self.factor * jnp.where(
      noise.is_clipped(measurement), square, jnp.square(sigma)
    )
    return base.move(state, seen, error, error <= level)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SURE(base.Rule):
  """The estimate where the loss, an estimated risk, falls to zero.

  The rule is for the method `methods.Stein`. The loss of `methods.Stein` is an
  unbiased estimate of the squared error of a network that is not fitted to the
  noise: a loss below 0 shows that the network is fitted to the noise. Source:
  the zero crossing of Jo et al., Rethinking Deep Image Prior for Denoising,
  ICCV 2021 (gistvision/DIP-denosing).
  """

  needs: ClassVar[frozenset[str]] = frozenset({'risk'})

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    return base.move(state, seen, seen.loss, seen.loss <= 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Referenced(base.Rule):
  """A rule that knows problem.reference: the estimate with the least score."""

  name: ClassVar[str]
  needs: ClassVar[frozenset[str]] = frozenset({'reference'})
  waits: ClassVar[bool] = True

  patience: int = 300
  warmup: int = 0

  def __post_init__(self):
    if self.patience < 1 or self.warmup < 0:
      raise ValueError(
        f'{self.name} needs patience >= 1 and warmup >= 0, got '
        f'{self.patience}, {self.warmup}'
      )

  def score(self, seen: base.Observation, reference: Array) -> Array:
    """Returns what is least at the best step."""
    raise NotImplementedError

  def start(self, image: Array) -> base.MonitorState:
    """See `base.Rule.start`."""
    return base.start(image, best=jnp.inf)

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    reference = base.get_known(seen, 'reference', self.name)
    score = self.score(seen, reference)
    counts = seen.step + 1 >= self.warmup
    return base.keep_least(state, seen, score, counts, self.patience)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoReference(_Referenced):
  """The estimate closest to problem.reference, a second measurement.

  The noise of the reference must be independent of the noise of the fitted
  measurement: the reference is another exposure, or `noise.split_measurement`
  splits one exposure in two. The squared error against the reference is then on
  average the squared error against the truth plus a constant, whatever the
  noise is: white or shared by neighbours.

  Attributes:
    patience: steps to wait for a smaller error.
    warmup: steps at the beginning that do not count.

  Raises:
    ValueError: patience below 1 or warmup below 0; in the first step, a problem
      without a reference.
  """

  name: ClassVar[str] = 'pseudo_reference'

  def score(self, seen: base.Observation, reference: Array) -> Array:
    """Returns the squared error against the reference."""
    return base.measure_error(seen, 'estimate', reference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossValidation(_Referenced):
  """The estimate whose residual is most like noise, on a known noise.

  The known noise is the difference between the measurement and
  problem.reference, as `noise.split_measurement` makes them. Of the residual
  ||r||^2 and the share h of noise that the fit has learned, generalized
  cross-validation makes the score ||r||^2 / (1 - h)^2. The known noise tells h:
  the residual still has 1 - h of it. So the least score is the largest
  correlation between the residual and the known noise; the rule watches 1 - the
  correlation.

  The known noise must be like that of the measurement, but neither its level
  nor that of the measurement matters. G. Golub, M. Heath, G. Wahba, Generalized
  cross-validation, Technometrics 1979; the share by a random noise: D. Girard,
  Numerische Mathematik 1989.

  Attributes:
    patience: steps to wait for a larger correlation.
    warmup: steps at the beginning that do not count.

  Raises:
    ValueError: patience below 1 or warmup below 0; in the first step, a problem
      without a reference.
  """

  name: ClassVar[str] = 'cross_validation'

  def score(self, seen: base.Observation, reference: Array) -> Array:
    """Returns 1 less the correlation."""
    measurement = seen.problem.measurement
    known = measurement - reference
    residual = measurement - base.predict(seen, 'estimate')
    size = jnp.sqrt(jnp.sum(known**2) * jnp.sum(residual**2))
    # A fit without any residual has learned all of the noise.
    return 1 - jnp.sum(known * residual) / jnp.maximum(size, 1e-30)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReachNoise(base.Monitor):
  """The estimate at the first step whose squared error is the known noise.

  The monitor is done at the first step whose output has a mean squared error to
  the measurement of at most problem.sigma^2. Where sigma is 0, which stands for
  not known, the monitor does what `otherwise` does. The level is a part of the
  problem, so that all stages of a fit have one program.

  Attributes:
    otherwise: the monitor where sigma is 0.
  """

  otherwise: base.Monitor

  def list_needs(self) -> frozenset[str]:
    """See `base.Monitor.list_needs`."""
    return frozenset({'sigma'}) | self.otherwise.list_needs()

  def init(self, image: Array, clean: Array | None) -> base.MonitorState:
    """See `base.Monitor.init`."""
    return self.otherwise.init(image, clean)

  def update(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Monitor.update`."""
    watch = lambda state: self._watch(state, seen)
    return jax.lax.cond(state.done, lambda state: state, watch, state)

  def _watch(self, state, seen):
    """The state after a step, of a monitor that is not done."""
    # Both cases are computed and one is chosen: sigma is an array, and the
    # program is the same for stages with known and with unknown noise.
    ruled = self.otherwise.update(state, seen)
    level = jnp.square(seen.problem.sigma)
    error = base.measure_error(seen, 'output', seen.problem.measurement)
    choose = lambda known, unknown: jnp.where(level > 0, known, unknown)
    return ruled.replace(
      done=choose(error <= level, ruled.done),
      step=choose(seen.step, ruled.step),
      image=choose(seen.estimate, ruled.image),
      score=choose(error, ruled.score),
    )
