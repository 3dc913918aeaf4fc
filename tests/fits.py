"""Calls of `dipjax.restore` that name fields of the recipe like any other."""

import dataclasses

import dipjax

_FIELDS = {field.name for field in dataclasses.fields(dipjax.Recipe)}


def restore(measurement, operator=None, **arguments):
  """Returns dipjax.restore(...) with the recipe of all fields among them."""
  given = {name: arguments.pop(name) for name in _FIELDS & arguments.keys()}
  recipe = dipjax.Recipe(**given)
  return dipjax.restore(measurement, operator, recipe, **arguments)
