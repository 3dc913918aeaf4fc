"""Where the real images and golden numbers are, and how strict JAX is."""

import os
import pathlib

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of $DIPJAX_DATA, else ../shared/data; skips without either."""
  given = os.environ.get('DIPJAX_DATA')
  folder = pathlib.Path(given) if given else _ROOT.parent / 'shared' / 'data'
  if not folder.is_dir():
    pytest.skip(
      f'no real images: set DIPJAX_DATA to the data folder ({folder})'
    )
  return folder
