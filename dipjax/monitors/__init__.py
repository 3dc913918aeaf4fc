"""Monitors: when to stop, and which image to return.

`MONITORS` has each rule by the name that a config uses: another rule is a class
in a file here and a row of this table.
"""

from dipjax.monitors.base import (
  Monitor,
  MonitorState,
  Observation,
  Rule,
  unbias_average,
  update_average,
)
from dipjax.monitors.noise import (
  SURE,
  CrossValidation,
  Discrepancy,
  PseudoReference,
  ReachNoise,
)
from dipjax.monitors.oracle import ORACLES, Oracle
from dipjax.monitors.other import AtHorizon, Last, Mean
from dipjax.monitors.variance import EMV, WMV

MONITORS: dict[str, type[Monitor]] = {
  'emv': EMV,
  'wmv': WMV,
  'discrepancy': Discrepancy,
  'pseudo_reference': PseudoReference,
  'cross_validation': CrossValidation,
  'sure': SURE,
  'last': Last,
  'mean': Mean,
}

__all__ = [
  'EMV',
  'MONITORS',
  'ORACLES',
  'SURE',
  'WMV',
  'AtHorizon',
  'CrossValidation',
  'Discrepancy',
  'Last',
  'Mean',
  'Monitor',
  'MonitorState',
  'Observation',
  'Oracle',
  'PseudoReference',
  'ReachNoise',
  'Rule',
  'unbias_average',
  'update_average',
]
