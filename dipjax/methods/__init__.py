"""Methods: what a fit minimises, and what a method changes before the fit.

A method is a frozen value. `METHODS` has each method by the name that a config
uses: another method is a file here and a row of this table.
"""

from dipjax.methods.base import (
  Method,
  Objective,
  Parts,
  Penalty,
  total_variation,
)
from dipjax.methods.outliers import Outliers
from dipjax.methods.plain import Absolute, Squared
from dipjax.methods.recorrupted import Recorrupted
from dipjax.methods.rehearsed import Rehearsed
from dipjax.methods.stein import Stein

METHODS: dict[str, type[Method]] = {
  'squared': Squared,
  'absolute': Absolute,
  'outliers': Outliers,
  'recorrupted': Recorrupted,
  'stein': Stein,
}

__all__ = [
  'METHODS',
  'Absolute',
  'Method',
  'Objective',
  'Outliers',
  'Parts',
  'Penalty',
  'Recorrupted',
  'Rehearsed',
  'Squared',
  'Stein',
  'total_variation',
]
