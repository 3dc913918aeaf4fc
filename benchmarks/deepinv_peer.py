"""deepinv's deep image prior, with the settings that its users get.

Import this module only where it is asked for. deepinv brings torchvision, which
must be of the same build as torch: with another build the import fails.
"""

from collections.abc import Callable

import deepinv  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]

CHANNELS, SIDE = 64, 2  # The example in deepinv's documentation has these.


def make_fit(size: int) -> Callable[[int], None]:
  """Returns `fit(steps)`, a whole reconstruction of a noisy image [size, size].

  The network of the example in deepinv's documentation, a ConvDecoder of 64
  channels from 2x2 pixels, learned at 0.01 in float32: not the paper's network,
  and neither jitter nor an average. After the steps the fit computes its image
  once more; that time is in it.
  """
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  noise = deepinv.physics.GaussianNoise(sigma=25 / 255)
  physics = deepinv.physics.Denoising(noise)
  measurement = torch.rand(1, 3, size, size, device=device)
  decoder = deepinv.models.ConvDecoder(
    img_size=(3, size, size), in_size=(SIDE, SIDE), channels=CHANNELS
  ).to(device)

  def fit(steps):
    prior = deepinv.models.DeepImagePrior(
      decoder,
      img_size=(CHANNELS, SIDE, SIDE),
      iterations=steps,
      learning_rate=0.01,
    ).to(device)
    prior(measurement, physics).sum().item()  # Waits for the device.

  return fit
