"""PBM, PGM, PPM and PAM with the maxval of the input, and PFM."""

import numpy as np

from experiments.lib.writing.levels import Content

_TYPES = {1: 'GRAYSCALE', 3: 'RGB'}


def encode_netpbm(content: Content) -> bytes:
  """Returns raw samples between 0 and the maxval."""
  values = content.join()
  values = values[..., None] if values.ndim == 2 else values
  height, width, depth = values.shape
  plan = content.plan
  white = int(plan.full or 0)
  if plan.alpha or plan.ending == '.pam':
    kind = _TYPES[plan.channels] + '_ALPHA' * plan.alpha
    head = (
      f'P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {depth}\nMAXVAL {white}\n'
      f'TUPLTYPE {kind}\nENDHDR\n'
    )
  elif white == 1 and depth == 1 and plan.ending != '.pgm':
    # In a bitmap, a one is black.
    bits = np.packbits(1 - values[..., 0], axis=1)
    return f'P4\n{width} {height}\n'.encode() + bits.tobytes()
  else:
    head = f'P{6 if depth == 3 else 5}\n{width} {height}\n{white}\n'
  return head.encode() + values.astype('u1' if white < 256 else '>u2').tobytes()


def encode_pfm(content: Content) -> bytes:
  """Returns floats, the lowest row first."""
  height, width, channels = content.values.shape
  head = f'{"PF" if channels == 3 else "Pf"}\n{width} {height}\n-1.0\n'
  return head.encode() + content.values[::-1].astype('<f4').tobytes()
