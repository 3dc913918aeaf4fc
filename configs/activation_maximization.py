"""Activation maximisation: the paper's network, fitted to excite a channel.

    python -m experiments.activation_maximization \
      --config=configs/activation_maximization.py

Needs the extra dipjax[perceptual], or data.weights=FILE. The config follows the
notebook of the paper's authors (activation_maximization.ipynb) but for the
pretrained network: theirs are AlexNet and VGG16 to their last layer, here it is
VGG16 to relu5_3.
"""

import ml_collections

from configs import feature_inversion


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: quick, smoke."""
  config = feature_inversion.get_config(variant)
  data = config.data
  data.layer = data.layers[-1]
  del data.layers
  data.channel = 0
  data.level = 5.0  # Target; 1 is the layer's largest activation in data.image.
  config.fit.jitter = 0.03
  return config
