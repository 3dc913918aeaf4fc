"""No network: the fit changes the image itself, for comparison."""

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array


class Pixels(nn.Module):
  """The pixels of the image as the only parameter, without any prior.

  Pixels in the place of a network show what the network adds. The pixels begin
  as 0.1 * U(0, 1), the code of the paper, and may leave [0, 1].

  Attributes:
    outputs: channels of the image.
  """

  outputs: int = 3

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size of the image; a code may have any size."""
    return height, width

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]; only the size of the code matters."""
    init = nn.initializers.uniform(0.1)
    shape = (*code.shape[:2], self.outputs)
    return self.param('image', init, shape, jnp.float32)
