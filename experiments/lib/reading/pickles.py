"""The dicts and arrays of a pickle, read by a machine that can call nothing.

A pickle is a program. This module reads its instructions one by one, knows
those that dicts of arrays need, and makes the arrays itself: no name in a
pickle is looked up and nothing is imported. The instructions:
https://docs.python.org/3/library/pickletools.html
"""

import pickletools
import re
from typing import Any

import numpy as np

_MAX_CODES = 100_000
_PUSHED = {
  *('BININT', 'BININT1', 'BININT2', 'BINUNICODE', 'SHORT_BINUNICODE'),
  *('BINBYTES', 'SHORT_BINBYTES'),
}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_KNOWN = {
  'numpy.core.multiarray _reconstruct',
  'numpy._core.multiarray _reconstruct',
  'numpy ndarray',
  'numpy dtype',
}
_MARK = object()


class _Name(str):
  """A function or class that a pickle names."""


class _Made:
  """What a pickle says that a call has made: an array or its type."""

  def __init__(self, name, arguments):
    self.name, self.arguments = name, arguments
    self.state: Any = ()


def read_pickle(data: bytes) -> Any:
  """Returns the dicts and NumPy arrays of a pickle, and runs nothing in it.

  Raises:
    ValueError: a pickle that names or holds anything but dicts, text, numbers
      and arrays of numbers; or data that is no pickle. One line says which.
  """
  try:
    return _run(data)
  # Damaged instructions raise nearly anything.
  except Exception as error:
    text = ' '.join(str(error).split())[:200]
    text = ''.join(c if c.isprintable() else '?' for c in text)
    raise ValueError(f'not a pickle of arrays: {text}') from None


def _run(data):
  stack, memo = [], {}
  for count, (code, argument, _) in enumerate(pickletools.genops(data)):
    name = code.name
    if count > _MAX_CODES:
      raise ValueError(f'more than {_MAX_CODES} instructions: refused')
    if name in _PUSHED:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name == 'GLOBAL':
      stack.append(_find(argument))
    elif name == 'STACK_GLOBAL':
      module, attribute = _take(stack, 2)
      stack.append(_find(f'{module} {attribute}'))
    elif name == 'MARK':
      stack.append(_MARK)
    elif name in ('BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
      memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in ('BINGET', 'LONG_BINGET'):
      stack.append(memo[argument])
    elif name in _TUPLES:
      stack.append(tuple(_take(stack, _TUPLES[name])))
    elif name == 'TUPLE':
      stack.append(tuple(_take_marked(stack)))
    elif name == 'EMPTY_TUPLE':
      stack.append(())
    elif name == 'EMPTY_DICT':
      stack.append({})
    elif name in ('SETITEM', 'SETITEMS'):
      one = name == 'SETITEM'
      _set(stack, _take(stack, 2) if one else _take_marked(stack))
    elif name == 'REDUCE':
      function, arguments = _take(stack, 2)
      if not isinstance(function, _Name):
        raise ValueError('it calls what is no function: refused')
      stack.append(_Made(function, arguments))
    elif name == 'BUILD':
      _build(stack)
    elif name == 'STOP':
      (result,) = stack
      return _resolve(result)
    elif name not in ('PROTO', 'FRAME'):
      raise ValueError(f'the instruction {name}: refused')
  raise ValueError('it does not end')


def _find(name):
  if name not in _KNOWN:
    raise ValueError(f'it calls {name}: refused')
  return _Name(name)


def _take(stack, count):
  if len(stack) < count:
    raise ValueError('it takes more than there is')
  taken = stack[-count:]
  del stack[-count:]
  return taken


def _take_marked(stack):
  for i in range(len(stack) - 1, -1, -1):
    if stack[i] is _MARK:
      taken = stack[i + 1 :]
      del stack[i:]
      return taken
  raise ValueError('it takes more than there is')


def _set(stack, items):
  target = stack[-1]
  if type(target) is not dict or not all(
    type(key) is str for key in items[::2]
  ):
    raise ValueError('a dict whose keys are no text: refused')
  target.update(zip(items[::2], items[1::2], strict=True))


def _build(stack):
  """Tells an array or a type its state."""
  made, state = _take(stack, 2)
  if not isinstance(made, _Made) or type(state) is not tuple:
    raise ValueError('it changes what is no array: refused')
  made.state = state
  stack.append(made)


def _resolve(result):
  """Puts arrays in the places of what stands for them, at any depth."""
  top = {'': result}
  found, seen = [top], set()
  while found:
    tree = found.pop()
    if id(tree) in seen:
      continue
    seen.add(id(tree))
    for key, value in tree.items():
      if type(value) is dict:
        found.append(value)
      elif isinstance(value, _Made):
        tree[key] = _make_array(value)
      elif type(value) not in (str, int, bool, type(None)):
        raise ValueError(f'it holds a {type(value).__name__}: refused')
  return top['']


def _make_array(made):
  if not made.name.endswith('_reconstruct'):
    raise ValueError(f'it holds a {made.name}: refused')
  _, shape, kind, fortran, data = made.state
  if not isinstance(kind, _Made) or kind.name != 'numpy dtype':
    raise ValueError('an array without a type: refused')
  letters, order = kind.arguments[0], kind.state[1]
  if not re.fullmatch('[biuf][1248]', letters) or order not in '<>|=':
    raise ValueError(f'an array of {letters!r:.20}: refused')
  values = np.frombuffer(data, np.dtype(letters).newbyteorder(order))
  return values.reshape(shape, order='F' if fortran else 'C')
