"""Rules that watch how much the images move; they need no level of noise.

The variance of the last images falls while the network learns the picture and
rises when it learns the noise. H. Wang et al., Early Stopping for Deep Image
Prior, 2021 (sun-umn/Early_Stopping_for_DIP).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipjax.monitors import base

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class WMV(base.Rule):
  """The estimate where the windowed variance was smallest.

  The rule is done once `patience` steps have not beaten the minimum. Wang et
  al. watch the outputs, of='output', with a window of 100 and a patience of
  1000. The average lags behind the outputs, so that the valley of the outputs
  comes too early for the average.

  The variance is taken anew in each step, not from running sums: where an
  average hardly moves any more, its variance is smaller than what running sums
  round off.

  Attributes:
    of: which images are watched, 'estimate' or 'output'.
    window: number of images in the variance.
    patience: steps to wait for a smaller variance.
    warmup: steps whose minimum does not count: early valleys are false.
    pixels: how many values of the image, a fixed random choice, the rule looks
      at; the state holds window * pixels numbers.

  Raises:
    ValueError: window below 2, patience or pixels below 1, warmup below 0, or
      an unknown `of`.
  """

  waits: ClassVar[bool] = True

  of: str = 'estimate'
  window: int = 50
  patience: int = 300
  warmup: int = 0
  pixels: int = 16384

  def __post_init__(self):
    base.check_watched(self.of)
    least = self.window >= 2 and self.patience >= 1 and self.pixels >= 1
    if not (least and self.warmup >= 0):
      raise ValueError(
        'wmv needs window >= 2, patience >= 1, warmup >= 0, pixels >= 1, got '
        f'{self.window}, {self.patience}, {self.warmup}, {self.pixels}'
      )

  def start(self, image: Array) -> base.MonitorState:
    """See `base.Rule.start`."""
    # All fits look at the same values, so that the choice takes nothing from
    # the lane's own randomness. The ring holds the last `window` images there.
    count = min(self.pixels, image.size)
    chosen = jax.random.choice(
      jax.random.key(0), image.size, (count,), replace=False
    )
    ring = jnp.zeros((self.window, count), image.dtype)
    return base.start(image, best=jnp.inf, memory=(chosen, ring))

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    chosen, ring = state.memory
    # The newest image takes the place of the oldest; a variance does not depend
    # on the order.
    ring = ring.at[seen.step % self.window].set(
      getattr(seen, self.of).reshape(-1)[chosen]
    )
    variance = jnp.mean(jnp.var(ring, axis=0))
    # Before `window` steps the ring still holds the zeros that it began with.
    counts = seen.step + 1 >= max(self.window, self.warmup)
    state = base.keep_least(state, seen, variance, counts, self.patience)
    return state.replace(memory=(chosen, ring))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EMV(base.Rule):
  """The estimate where the exponential variance was smallest.

  EMV keeps one image where `WMV` keeps a window of images: d = x - m, m <- m +
  alpha d, v <- (1 - alpha) (v + alpha ||d||^2 / n) for images x of n values,
  where m begins as the first image and v as 0. Wang et al. watch the outputs,
  of='output', with an alpha of 0.1 and a patience of 1000. Among the rules that
  watch the averages, EMV was the best one of `python -m benchmarks.stopping`.

  Attributes:
    of: which images are watched, 'estimate' or 'output'.
    alpha: share of the newest image, in (0, 1).
    patience: steps to wait for a smaller variance.
    warmup: steps whose minimum does not count; 10 / alpha at the least, until
      v, which rises from 0, has forgotten where it began.

  Raises:
    ValueError: alpha outside (0, 1), patience below 1, warmup below 0, or an
      unknown `of`.
  """

  waits: ClassVar[bool] = True

  of: str = 'estimate'
  alpha: float = 0.2
  patience: int = 300
  warmup: int = 0

  def __post_init__(self):
    base.check_watched(self.of)
    if not 0 < self.alpha < 1 or self.patience < 1 or self.warmup < 0:
      raise ValueError(
        'emv needs 0 < alpha < 1, patience >= 1, warmup >= 0, got '
        f'{self.alpha}, {self.patience}, {self.warmup}'
      )

  def start(self, image: Array) -> base.MonitorState:
    """See `base.Rule.start`."""
    variance = jnp.zeros((), image.dtype)
    memory = (jnp.zeros_like(image), variance)
    return base.start(image, best=jnp.inf, memory=memory)

  def watch(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Rule.watch`."""
    mean, variance = state.memory
    image = getattr(seen, self.of)
    # From the first image on: a mean that began at zero would make v large for
    # many steps.
    mean = jnp.where(seen.step == 0, image, mean)
    difference = image - mean
    mean += self.alpha * difference
    square = jnp.mean(jnp.square(difference))
    variance = (1 - self.alpha) * (variance + self.alpha * square)
    # v rises from 0, so that its smallest values are at first the false ones.
    counts = seen.step + 1 >= max(self.warmup, 10 / self.alpha)
    state = base.keep_least(state, seen, variance, counts, self.patience)
    return state.replace(memory=(mean, variance))
