"""Reads what a compiled program runs: its kernels, their bytes and FLOPs.

The text is HLO: that of `compiled.as_text()`, or of `lowered.as_text('hlo')`,
whose FLOPs can be counted though it is not compiled. A kernel is an
instruction that the device is asked for: not one that gives an array another
name, and not one of single numbers. The body of a loop counts as often as it
runs, and of branches the one with the most kernels counts. A loop that asks a
flag alone is a branch of at most one turn (`dipjax/device/in_place.py`), and
counts once.

Bytes are what a kernel must read and write at least: each operand and result
once, of an operand that is sliced the slice alone, of a result that is written
in place the part alone, and nothing of what a TPU holds on its chip. FLOPs are
two for each multiply-add of convolutions and products; others are not counted.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# What gives an array another name, or waits for what was begun before.
_NAMES = re.compile(
  r'parameter|constant|tuple|get-tuple-element|bitcast|after-all|'
  r'opt-barrier|partition-id|replica-id|.*-(done|update)'
)
# What devices tell each other.
_COLLECTIVES = re.compile(
  r'(all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|'
  r'collective-(permute|broadcast)|send|recv)(-start)?'
)
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?')
_NAME = re.compile(r'([\w.\-]+)')
_ON_CHIP = 'S('  # In a layout of a TPU, whose other arrays are outside.
_OPEN, _CLOSE = '([{', ')]}'


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  result: str  # The type, of one array or of a tuple.
  opcode: str
  operands: tuple[str, ...]  # Names; of a parameter its number.
  rest: str  # Attributes.
  root: bool


class Kernel(NamedTuple):
  """What one kernel takes in one run of it."""

  name: str
  opcode: str  # Of a custom call its target.
  source: str  # Where it was traced, of the operation it is named after.
  count: int  # How often it runs.
  bytes: int
  flops: int
  cycles: int  # XLA's own estimate, 0 where there is none.


Computations = Mapping[str, Mapping[str, Instruction]]


def find_kernels(text: str) -> list[Kernel]:
  """Returns all kernels of a compiled program, in the order of the text.

  Raises:
    ValueError: no computation is the entry.
  """
  computations, entry = _parse(text)
  return list(_walk(computations, entry, 1))


def find_collectives(text: str) -> list[str]:
  """Returns the instructions by which devices tell each other anything."""
  computations, _ = _parse(text)
  return [
    one.opcode
    for block in computations.values()
    for one in block.values()
    if _COLLECTIVES.fullmatch(one.opcode)
  ]


def _parse(text) -> tuple[Computations, str]:
  computations: dict[str, dict[str, Instruction]] = {}
  current, entry = None, None
  for line in text.splitlines():
    header = re.match(r'(ENTRY )?%?([\w.\-]+) (\(.*)?\{$', line)
    if header:
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None and ' = ' in line:
      instruction = _parse_line(line)
      current[instruction.name] = instruction
  if entry is None:
    raise ValueError('no computation is the entry: this is no HLO')
  return computations, entry


def _parse_line(line):
  left, _, right = line.strip().partition(' = ')
  end = _find_end(right, ' ')
  result, right = right[:end], right[end + 1 :]
  opcode, _, right = right.partition('(')
  end = _find_end(right, ')')
  listed = re.sub(r'/\*.*?\*/', '', right[:end])
  operands = tuple(one.strip().lstrip('%') for one in listed.split(','))
  return Instruction(
    left.removeprefix('ROOT ').lstrip('%'),
    result,
    opcode,
    operands,
    right[end + 1 :],
    left.startswith('ROOT'),
  )


def _find_end(text, stop):
  """Where `stop` is outside of all brackets."""
  depth = 0
  for i, letter in enumerate(text):
    if letter == stop and not depth:
      return i
    depth += (letter in _OPEN) - (letter in _CLOSE)
  return len(text)


def _walk(computations, name, count) -> Iterator[Kernel]:
  block = computations[name]
  for one in block.values():
    if _NAMES.fullmatch(one.opcode):
      continue
    if one.opcode == 'while':
      times = count * _count_turns(computations, one)
      yield from _walk(computations, _find_called(one, 'body'), times)
    elif one.opcode == 'conditional':
      branches = [
        list(_walk(computations, branch, count))
        for branch in _find_branches(one)
      ]
      yield from max(branches, key=len)
    elif one.opcode == 'call':
      yield from _walk(computations, _find_called(one, 'to_apply'), count)
    elif one.opcode == 'async-start':
      yield from _walk(computations, _find_called(one, 'calls'), count)
    elif not _is_scalar(one, block):
      yield _make_kernel(computations, block, one, count)


def _count_turns(computations, one):
  """How often a loop runs: XLA says it, or the loop's condition tells it."""
  told = re.search(r'known_trip_count":\{"n":"(\d+)"', one.rest)
  if told:
    return int(told[1])
  condition = computations[_find_called(one, 'condition')].values()
  if any(i.root and i.opcode == 'get-tuple-element' for i in condition):
    return 1
  limits = [i.operands[0] for i in condition if i.opcode == 'constant']
  if len(limits) != 1:
    raise ValueError(f'{one.name}: how often does this loop run?')
  return int(limits[0])


def _find_called(one, attribute):
  found = re.search(attribute + r'=%?([\w.\-]+)', one.rest)
  if not found:
    raise ValueError(f'{one.name}: no {attribute} in {one.rest}')
  return found[1]


def _find_branches(one):
  listed = re.search(r'branch_computations=\{([^}]*)\}', one.rest)
  if listed:
    return _NAME.findall(listed[1])
  return re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', one.rest)


def _is_scalar(one, block):
  """Whether it computes one number from one number: no work for a device."""
  types = [one.result, *(block[o].result for o in one.operands if o in block)]
  arrays = [array for kind in types for array in _ARRAY.findall(kind)]
  simple = one.opcode not in ('fusion', 'custom-call', 'copy')
  return simple and all(math.prod(_dims(shape)) == 1 for _, shape, _ in arrays)


def _make_kernel(computations, block, one, count):
  source = re.search(r'op_name="([^"]*)"', one.rest)
  target = re.search(r'custom_call_target="([^"]*)"', one.rest)
  cycles = re.search(r'"estimated_cycles":"?(\d+)', one.rest)
  inner = {}
  if one.opcode == 'fusion':
    inner = computations[_find_called(one, 'calls')]
  return Kernel(
    name=one.name,
    opcode=target[1] if target else one.opcode,
    source=source[1] if source else '',
    count=count,
    bytes=_count_bytes(block, one, inner),
    flops=_count_flops(computations, block, one),
    cycles=int(cycles[1]) if cycles else 0,
  )


# Bytes.


def _size(kind: str) -> int:
  """The bytes of a type in the device's memory."""
  return sum(_sizes(kind))


def _sizes(kind: str) -> list[int]:
  """The same of each array of a type."""
  return [
    math.prod(_dims(shape)) * _bits(dtype) // 8 * (_ON_CHIP not in layout)
    for dtype, shape, layout in _ARRAY.findall(kind)
  ]


def _dims(shape):
  return [int(side) for side in shape.split(',') if side]


def _bits(dtype):
  if dtype in ('pred', 'token', 'opaque'):
    return 8 * (dtype == 'pred')
  digits = re.search(r'\d+', dtype)
  if not digits:
    raise ValueError(f'the bytes of {dtype} are not known')
  return int(digits[0])


def _count_bytes(block, one, inner):
  if one.opcode == 'copy-start':
    # The result is the copy, the operand again, and a mark.
    return sum(_sizes(one.result)[:2])
  if one.opcode in ('slice', 'dynamic-slice'):
    return 2 * _size(one.result)
  if one.opcode == 'dynamic-update-slice':
    return 2 * _size(block[one.operands[1]].result)
  operands = [block[name].result for name in one.operands if name in block]
  if not inner:
    return _size(one.result) + sum(map(_size, operands))
  total = _size(one.result)
  updates = list(_find_updates(inner))
  for update in updates:
    total -= _size(update.result)
    total += _size(inner[update.operands[1]].result)
  shares = _find_shares(inner, {update.name for update in updates})
  for parameter in inner.values():
    if parameter.opcode == 'parameter':
      outer = operands[int(parameter.operands[0])]
      total += round(shares[parameter.name] * _size(outer))
  return max(total, 0)


def _find_updates(inner):
  """What a fusion writes in place."""
  root = next(one for one in inner.values() if one.root)
  for name in root.operands if root.opcode == 'tuple' else (root.name,):
    while inner[name].opcode == 'bitcast':
      name = inner[name].operands[0]
    if inner[name].opcode == 'dynamic-update-slice':
      yield inner[name]


def _find_shares(inner, updates):
  """Which part of each instruction of a fusion is needed, from 0 to 1."""
  shares = {one.name: float(one.root) for one in inner.values()}
  # Who uses an instruction comes after it.
  for one in reversed(inner.values()):
    for place, name in enumerate(one.operands):
      if name not in inner or (one.name in updates and place == 0):
        continue
      needed = shares[one.name]
      if one.opcode in ('slice', 'dynamic-slice') and place == 0:
        whole = math.prod(_shape(inner[name].result))
        needed *= math.prod(_shape(one.result)) / whole
      shares[name] = min(1.0, shares[name] + needed)
  return shares


# FLOPs.


def _count_flops(computations, block, one):
  if one.opcode == 'fusion':
    inner = computations[_find_called(one, 'calls')]
    return sum(_count_flops(computations, inner, i) for i in inner.values())
  if one.opcode == 'convolution' or '__cudnn$conv' in one.rest:
    return _count_convolution(block, one)
  if one.opcode == 'dot' or '__cublas$' in one.rest:
    return _count_product(block, one)
  return 0


def _count_convolution(block, one):
  """Two for each entry of the kernel and each pixel of the result.

  A kernel that is longer than the image meets no more than the image's pixels:
  XLA for a TPU makes products of it.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->', one.rest)
  if not labels:
    raise ValueError(f'{one.name}: a convolution without dim_labels')
  first, second = (_shape(block[name].result) for name in one.operands[:2])
  result = _shape(one.result)
  # A gradient of cuDNN has the labels of the convolution that it belongs to.
  if 'convBackwardInput' in one.rest:
    kernel, y = second, first
  elif 'convBackwardFilter' in one.rest:
    kernel, y = result, second
  else:
    kernel, y = second, result
    for axis in filter(str.isdecimal, labels[2]):
      place = labels[2].index(axis)
      kernel[place] = min(kernel[place], first[labels[1].index(axis)])
  outputs = kernel[labels[2].index('o')]
  return 2 * math.prod(kernel) * math.prod(y) // outputs


def _count_product(block, one):
  rest = one.rest
  if one.opcode == 'custom-call':
    config = re.search(r'backend_config=(\{.*\})', rest)
    dims = json.loads(config[1])['gemm_backend_config'] if config else {}
    contracted = dims['dot_dimension_numbers']['lhs_contracting_dimensions']
  else:
    listed = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', rest)
    contracted = _dims(listed[1]) if listed else []
  x = _shape(block[one.operands[0]].result)
  depth = math.prod(x[int(axis)] for axis in contracted)
  return 2 * depth * math.prod(_shape(one.result))


def _shape(kind):
  """The first array of a type."""
  found = _ARRAY.search(kind)
  return _dims(found[2]) if found else []
