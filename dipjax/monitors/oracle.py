"""The oracle, the only monitor that sees the clean image."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dipjax import metrics
from dipjax.monitors import base

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oracle(base.Monitor):
  """The image of the highest PSNR against the clean image.

  The oracle knows the ground truth: it is for comparison with the other
  monitors, never to stop or select. The oracle is always done, so that it never
  asks for a step.

  Attributes:
    of: which image is judged and kept, 'estimate' or 'output'.
  """

  needs: ClassVar[frozenset[str]] = frozenset({'clean'})

  of: str = 'estimate'

  def __post_init__(self):
    base.check_watched(self.of)

  def init(self, image: Array, clean: Array | None) -> base.MonitorState:
    """See `base.Monitor.init`."""
    if clean is None:
      raise ValueError('the oracle needs the clean image')
    return base.start(image, done=True, best=-jnp.inf, memory=clean)

  def update(
    self, state: base.MonitorState, seen: base.Observation
  ) -> base.MonitorState:
    """See `base.Monitor.update`."""
    score = metrics.psnr(getattr(seen, self.of), state.memory)
    # The first image is kept whatever its score; one without any error, whose
    # score is infinite, is never replaced.
    better = (score > state.best) | (state.best == -jnp.inf)
    return base.keep_best(state, seen, score, better, self.of)


# A fit with a known clean image has the oracles beside its own monitors.
ORACLES = {'oracle': Oracle(), 'oracle_output': Oracle(of='output')}
