"""Networks: the image is the output of a network.

`NETWORKS` has each network by the name that a config uses, with the settings
that its authors published: another network is a file here and a row of this
table.

A network is a linen module over one code [H, W, C] with the fields `outputs`,
the channels of its image, and `remat`; all its fields have defaults. Its method
`code_size(height, width)` returns the size of a code for an image of this
height and width, large enough for every padding by reflection.

The first parameters depend on the key and the shape of the code, never on its
values: the engine draws them from zeros.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from dipjax.networks.decoder import Decoder
from dipjax.networks.dncnn import DnCNN
from dipjax.networks.pixels import Pixels
from dipjax.networks.plain_unet import PlainUNet
from dipjax.networks.resnet import ResNet
from dipjax.networks.skip import Skip
from dipjax.networks.unet import UNet


class Row(NamedTuple):
  """A network, the settings of its fit, and its smaller sizes."""

  module: type[nn.Module]
  quick: Mapping[str, Any] = {}  # Fields for minutes on a laptop.
  smoke: Mapping[str, Any] = {}  # Fields for seconds, code_channels too.
  code_channels: int = 32  # Channels of the noise that is the network's code.
  learning_rate: float = 0.01
  jitter: float | None = None  # None: the jitter of the task.
  # Steps that a rule waits; None: the rule's own patience. Where steps are ten
  # times smaller, the usual 300 steps can end in an early valley.
  patience: int | None = None


NETWORKS = {
  'skip': Row(
    Skip,
    quick={'down': (64,) * 5, 'up': (64,) * 5},
    smoke={'down': (8,), 'up': (8,), 'skip': (4,), 'code_channels': 4},
  ),
  'unet': Row(
    UNet,
    quick={'channels': (8, 16, 32, 64, 128)},
    smoke={'channels': (8, 8), 'code_channels': 4},
    learning_rate=0.001,
    patience=1000,
  ),
  # Nobody published DnCNN as a prior: it has the settings of the ResNet.
  'dncnn': Row(
    DnCNN,
    quick={'depth': 9, 'channels': 32},
    smoke={'depth': 3, 'channels': 8, 'code_channels': 4},
    learning_rate=0.001,
    patience=1000,
  ),
  'resnet': Row(
    ResNet,
    quick={'blocks': 5},
    smoke={'blocks': 1, 'channels': 8, 'code_channels': 4},
    learning_rate=0.001,
    patience=1000,
  ),
  'decoder': Row(
    Decoder,
    quick={'width': 64, 'code_channels': 64},
    smoke={'width': 8, 'doublings': 2, 'code_channels': 8},
    code_channels=128,
    jitter=0.0,
  ),
  # Not published as a prior either: for windows, see `Recipe.window`.
  'plain_unet': Row(
    PlainUNet,
    quick={'channels': (16, 16, 16, 16, 16)},
    smoke={'channels': (8, 8), 'code_channels': 4},
    learning_rate=0.002,
    patience=1000,
  ),
  # No network: the image itself is fitted, for comparison.
  'pixels': Row(Pixels, smoke={'code_channels': 1}, jitter=0.0),
}
