"""The convolution of one image, fast on each device, alone and in lanes.

`choose` holds the thresholds and knows the device. `ways` has `convolve`, which
goes by `library`, `direct`, `windows` or `winograd`. `doubled` has the
convolution of an image that is doubled first, `lanes` has the rule for lanes,
and `grid` has padding, doubling and blocks.
"""

from dipjax.conv.columns import multiply_into_blocks
from dipjax.conv.doubled import convolve_doubled
from dipjax.conv.grid import (
  PADDINGS,
  compute_doubled_variance,
  compute_moments,
  join_blocks,
  split_blocks,
  sum_products,
  upsample,
  widen,
)
from dipjax.conv.ways import convolve

__all__ = [
  'PADDINGS',
  'compute_doubled_variance',
  'compute_moments',
  'convolve',
  'convolve_doubled',
  'join_blocks',
  'multiply_into_blocks',
  'split_blocks',
  'sum_products',
  'upsample',
  'widen',
]
