"""Choices by name: `network=`, `method=` and `stop=` behind any colon.

    --config=configs/req2.py:quick,network=unet,stop=wmv

A choice makes its subtree of the config anew, with the fields of its class and
their defaults: the field of another choice is an error. `drop_unread` takes
away the other fields of the config that the method or the rule does not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from dipjax.methods import METHODS
from dipjax.monitors import MONITORS
from dipjax.networks import NETWORKS

SIZES = ('quick', 'smoke')

# Fields of a linen module that no config decides.
_MODULE = ('outputs', 'remat', 'parent', 'name')
# Fields of a network's subtree that make its code.
CODE = ('code', 'code_channels')
# Fields of config.fit that add terms to the loss.
TERMS = (
  'tv',
  'perceptual',
  'perceptual_layers',
  'perceptual_factor',
  'perceptual_weights',
)


def make_method(name: str) -> ml_collections.ConfigDict:
  """Returns the fields of a method; ValueError for an unknown name."""
  return _make_fields('method', name, METHODS)


def make_stop(name: str) -> ml_collections.ConfigDict:
  """Returns the fields of a stopping rule; ValueError for an unknown name."""
  return _make_fields('stop', name, MONITORS)


def make_network(name: str) -> ml_collections.ConfigDict:
  """Returns a network's fields as published; ValueError for an unknown name."""
  modules = {name: row.module for name, row in NETWORKS.items()}
  network = _make_fields('network', name, modules)
  network.code = 'noise'  # Or 'meshgrid'.
  network.code_channels = NETWORKS[name].code_channels  # For the code 'noise'.
  return network


def _make_fields(kind: str, name: str, table: Mapping[str, Any]):
  if name not in table:
    raise ValueError(
      f'unknown {kind} {name!r}; known are {", ".join(table)}: choose one as '
      f'{kind}=NAME behind the colon of the config'
    )
  fields = ml_collections.ConfigDict({'name': name})
  for field in dataclasses.fields(table[name]):
    if field.name in _MODULE:
      continue
    if field.default is dataclasses.MISSING:
      raise ValueError(
        f'the field {field.name} of {kind} {name} has no default'
      )
    if field.default is not None:  # Another module decides what is None.
      fields[field.name] = field.default
  return fields


def set_method(config: ml_collections.ConfigDict, name: str) -> None:
  """Gives a config another method, in place."""
  config.method = make_method(name)


def set_stop(config: ml_collections.ConfigDict, name: str) -> None:
  """Gives a config another stopping rule, in place.

  Fields that both rules have keep their values: the patience of a network or of
  a size stays.
  """
  stop = make_stop(name)
  kept = {key: config.stop[key] for key in stop if key in config.stop}
  stop.update(kept | {'name': name})
  config.stop = stop


def set_network(config: ml_collections.ConfigDict, name: str) -> None:
  """Gives a config another network and the fit that goes with it, in place."""
  code = config.network.code  # The task chose the code, not the network.
  config.network = make_network(name)
  config.network.code = code
  row = NETWORKS[name]
  config.fit.learning_rate = row.learning_rate
  if row.jitter is not None:
    config.fit.jitter = row.jitter
  if row.patience is not None and 'patience' in config.stop:
    config.stop.patience = row.patience


def shrink(network: ml_collections.ConfigDict, size: str) -> None:
  """Makes a network small, in place; `size` is one of SIZES."""
  network.update(getattr(NETWORKS[network.name], size))


CHOICES = {'method': set_method, 'stop': set_stop, 'network': set_network}


def drop_unread(config: ml_collections.ConfigDict) -> None:
  """Takes away, in place, the fields that the method and the rule do not read.

  A method that makes its own code reads neither code nor jitter; no other
  method sees a picture in windows and rehearses on it. A method that takes no
  terms reads no field of TERMS. Only a method or a rule that needs the noise's
  sigma reads fit.sigma. To set a field that was taken away is an error.
  """
  method, rule = METHODS[config.method.name], MONITORS[config.stop.name]
  if method.makes_code:
    drop(config.fit, 'jitter')
    drop(config.network, *CODE)
  else:
    drop(config.fit, 'window', 'rehearsal')
  if not method.takes_terms:
    drop(config.fit, *TERMS)
  if not reads_sigma(method, rule):
    drop(config.fit, 'sigma', 'finish')


def drop(fields: ml_collections.ConfigDict, *names: str) -> None:
  """Takes the named fields away, in place; missing fields are no error."""
  for name in names:
    if name in fields:
      del fields[name]


def reads_sigma(method: Any, rule: Any) -> bool:
  """Returns whether the noise's sigma must be known or estimated."""
  return bool({'sigma', 'reference'} & (method.needs | rule.needs))
