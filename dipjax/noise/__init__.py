"""The noise of a measurement: what it is, its clipping, and its splitting."""

from dipjax.noise.channels import share_channels
from dipjax.noise.clipped import (
  expect_clipped,
  expect_square,
  expect_variance,
  is_clipped,
)
from dipjax.noise.estimate import estimate_noise, estimate_sigma
from dipjax.noise.model import Model
from dipjax.noise.splitting import choose_tau, split_measurement
from dipjax.noise.wavelets import estimate_by_wavelets

__all__ = [
  'Model',
  'choose_tau',
  'estimate_by_wavelets',
  'estimate_noise',
  'estimate_sigma',
  'expect_clipped',
  'expect_square',
  'expect_variance',
  'is_clipped',
  'share_channels',
  'split_measurement',
]
