"""No network: the image itself as what is fitted, for comparison."""

import jax
from flax import linen as nn

Array = jax.Array


class Pixels(nn.Module):
  """The pixels of the image as the only parameter: no prior at all.

  In the place of a network it shows what the network adds. Begins as
  0.1 * U(0, 1), the code of the paper; the values are not confined to [0, 1].

  Attributes:
    outputs: channels of the image.
  """

  outputs: int = 3

  def code_size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the size itself: any will do."""
    return height, width

  @nn.compact
  def __call__(self, code: Array) -> Array:
    """[H, W, C] -> [H, W, outputs]; of the code only the size matters."""
    init = nn.initializers.uniform(0.1)
    return self.param('image', init, (*code.shape[:2], self.outputs))
