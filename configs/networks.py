"""The networks: `network=NAME` behind the colon of any config.

    --config=configs/req2.py:quick,network=unet

A network comes with the settings that its authors published, its learning rate
and the size of its code among them, and makes config.network anew: a field of
another network is an error.
"""

from collections.abc import Callable

import ml_collections


def _make_skip(network: ml_collections.ConfigDict) -> None:
  """The skip network of the deep image prior, the default."""
  network.down = (128,) * 5
  network.up = (128,) * 5
  network.skip = (4,) * 5
  network.down_size = 3
  network.up_size = 3
  network.upsampling = 'bilinear'
  network.downsampling = 'stride'
  network.padding = 'reflect'
  network.activation = 'leaky_relu'
  network.point = True
  network.sigmoid = True


def _make_unet(network: ml_collections.ConfigDict) -> None:
  """The U-Net of the deep image prior, with convolutions for upsampling."""
  network.channels = (16, 32, 64, 128, 256)
  network.upsampling = 'bilinear'  # Or 'nearest', 'transposed'.
  network.padding = 'reflect'
  network.sigmoid = True


def _make_dncnn(network: ml_collections.ConfigDict) -> None:
  """DnCNN, which gives the image and not the noise: see `residual`."""
  network.depth = 17
  network.channels = 64
  network.padding = 'zero'
  network.residual = False  # True wants a code with the image's channels.
  network.sigmoid = True  # Where it is not residual.


def _make_resnet(network: ml_collections.ConfigDict) -> None:
  """The ResNet of the deep image prior."""
  network.blocks = 10
  network.channels = 16
  network.padding = 'reflect'
  network.activation = 'leaky_relu'
  network.sigmoid = True


def _make_decoder(network: ml_collections.ConfigDict) -> None:
  """The deep decoder."""
  network.width = 128  # Or 64, 32: with as many channels of the code.
  network.doublings = 5
  network.sigmoid = True
  network.code_channels = 128


def _make_pixels(network: ml_collections.ConfigDict) -> None:
  """No network: the image itself is fitted, for comparison."""
  del network


NETWORKS: dict[str, Callable[[ml_collections.ConfigDict], None]] = {
  'skip': _make_skip,
  'unet': _make_unet,
  'dncnn': _make_dncnn,
  'resnet': _make_resnet,
  'decoder': _make_decoder,
  'pixels': _make_pixels,
}

# How they are fitted, where that is not as the skip network. DnCNN was never
# published as a prior: it is fitted as the ResNet.
FITS = {
  'unet': {'learning_rate': 0.001},
  'dncnn': {'learning_rate': 0.001},
  'resnet': {'learning_rate': 0.001},
  'decoder': {'jitter': 0.0},
  'pixels': {'jitter': 0.0},
}

# How long a rule waits where steps are ten times smaller: there the usual 300
# steps can end in an early valley.
STOPS: dict[str, dict[str, int]] = {
  name: {'patience': 1000} for name in ('unet', 'dncnn', 'resnet')
}

# What the small variants change.
SIZES = {
  'quick': {
    'skip': {'down': (64,) * 5, 'up': (64,) * 5},
    'unet': {'channels': (8, 16, 32, 64, 128)},
    'dncnn': {'depth': 9, 'channels': 32},
    'resnet': {'blocks': 5},
    'decoder': {'width': 64, 'code_channels': 64},
    'pixels': {},
  },
  'smoke': {
    'skip': {'down': (8, 8), 'up': (8, 8), 'skip': (4, 4), 'code_channels': 4},
    'unet': {'channels': (8, 8, 8), 'code_channels': 4},
    'dncnn': {'depth': 4, 'channels': 8, 'code_channels': 4},
    'resnet': {'blocks': 2, 'channels': 8, 'code_channels': 4},
    'decoder': {'width': 8, 'doublings': 3, 'code_channels': 8},
    'pixels': {'code_channels': 1},
  },
}


def make_network(name: str) -> ml_collections.ConfigDict:
  """Returns the fields of a network as published; ValueError for no such."""
  if name not in NETWORKS:
    raise ValueError(
      f'unknown network {name!r}; known are {", ".join(NETWORKS)}'
    )
  network = ml_collections.ConfigDict()
  network.name = name
  network.code = 'noise'  # Or 'meshgrid'.
  network.code_channels = 32  # Of the noise.
  NETWORKS[name](network)
  return network


def shrink(network: ml_collections.ConfigDict, size: str) -> None:
  """Makes a network small in place, `size` of SIZES."""
  network.update(SIZES[size][network.name])


def set_network(config: ml_collections.ConfigDict, name: str) -> None:
  """Gives a config another network and the fit that goes with it, in place."""
  code = config.network.code  # That of the task.
  config.network = make_network(name)
  config.network.code = code
  config.fit.update({'learning_rate': 0.01} | FITS.get(name, {}))
  config.stop.update(STOPS.get(name, {}))
