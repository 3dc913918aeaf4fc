"""Deblurring with a known kernel, Gaussian or of a motion.

    python -m experiments.deblur --config=configs/deblur.py

A blurred picture of one's own is sharpened with --config.data.blur=False.

On one core of an AMD EPYC, jax 0.10.2, 2026-11-22, `:quick` took 4.4 minutes:
26.63 dB to 27.97 dB.
"""

import ml_collections

from configs import common, req2


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config; variants: motion, quick, smoke."""
  config = common.get_base()
  data = config.data
  data.blur = True  # The image is the sharp one; False: the blurred one.
  common.add_noise(data, sigma=2.0)  # After the blur.
  data.kernel = kernel = ml_collections.ConfigDict()
  kernel.name = 'gaussian'  # Or, by the word `motion`, another.
  kernel.width = 1.6  # Standard deviation, in pixels.
  words = {
    'motion': _set_motion,
    'quick': common.make_quick,
    'smoke': req2.make_smoke,
  }
  return common.apply_variant(config, variant, words)


def _set_motion(config):
  config.data.kernel = kernel = ml_collections.ConfigDict()
  kernel.name = 'motion'
  kernel.length = 9.0  # In pixels.
  kernel.angle = 30.0  # Counter-clockwise from the horizontal.
