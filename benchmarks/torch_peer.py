"""The skip network and its step in PyTorch, to measure ours against.

The module was written from the description of Ulyanov et al., and
tests/torch_peer_test.py holds it to the authors' numbers. It needs the extra
`bench`; import it only where it is asked for.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from flax import traverse_util
from torch import nn  # pyright: ignore[reportMissingImports]

# Memory format and mode of torch.compile, None without.
VARIANTS = {
  'eager': (torch.contiguous_format, None),
  'channels-last': (torch.channels_last, None),
  'compiled': (torch.contiguous_format, 'default'),
  'compiled, channels-last': (torch.channels_last, 'default'),
  'compiled, CUDA graph': (torch.channels_last, 'reduce-overhead'),
}

Padding = Literal['reflect', 'zeros']
Step = Callable[[int], float]


class Skip(nn.Module):
  """The skip network: code [1, C, H, W] -> image [1, outputs, H, W].

  Args:
    inputs, outputs: channels of the code and of the image.
    down, up, skip: channels of each level, three tuples of one length; a skip
      of 0 is none.
    upsampling: 'bilinear' or 'nearest'.
    padding: of the 3x3 convolutions.

  H and W halve exactly at each level.
  """

  def __init__(
    self,
    inputs: int = 32,
    outputs: int = 3,
    down: Sequence[int] = (128,) * 5,
    up: Sequence[int] = (128,) * 5,
    skip: Sequence[int] = (4,) * 5,
    upsampling: str = 'bilinear',
    padding: Padding = 'reflect',
  ):
    super().__init__()
    self.depth = len(down)
    sources = (inputs, *down[:-1])
    inner = (*up[1:], down[-1])
    for i, sizes in enumerate(zip(sources, down, inner, up, skip)):
      self.add_module(f'level{i}', Level(*sizes, upsampling, padding))
    self.out_conv = nn.Conv2d(up[0], outputs, 1)

  def forward(self, x):
    levels: list[Any] = [
      self.get_submodule(f'level{i}') for i in range(self.depth)
    ]
    skips = []
    for level in levels:
      skip, x = level.descend(x)
      skips.append(skip)
    for level, skip in zip(reversed(levels), reversed(skips)):
      x = level.ascend(skip, x)
    return torch.sigmoid(self.out_conv(x))


class Level(nn.Module):
  """One level: the way in (`descend`) and the way out (`ascend`)."""

  def __init__(
    self,
    source: int,
    down: int,
    inner: int,
    up: int,
    skip: int,
    upsampling: str,
    padding: Padding,
  ):
    super().__init__()
    self.upsampling = upsampling
    self.has_skip = skip > 0
    if self.has_skip:
      self.skip_conv, self.skip_norm = nn.Conv2d(source, skip, 1), _norm(skip)
    conv = lambda *sizes: nn.Conv2d(*sizes, padding=1, padding_mode=padding)
    self.down_conv, self.down_norm = conv(source, down, 3, 2), _norm(down)
    self.mid_conv, self.mid_norm = conv(down, down, 3), _norm(down)
    self.merge_norm = _norm(skip + inner)
    self.up_conv, self.up_norm = conv(skip + inner, up, 3), _norm(up)
    self.point_conv, self.point_norm = nn.Conv2d(up, up, 1), _norm(up)

  def descend(self, x):
    skip = None
    if self.has_skip:
      skip = _activate(self.skip_norm(self.skip_conv(x)))
    x = _activate(self.down_norm(self.down_conv(x)))
    return skip, _activate(self.mid_norm(self.mid_conv(x)))

  def ascend(self, skip, x):
    x = nn.functional.interpolate(x, scale_factor=2, mode=self.upsampling)
    x = self.merge_norm(x if skip is None else torch.cat([skip, x], 1))
    x = _activate(self.up_norm(self.up_conv(x)))
    return _activate(self.point_norm(self.point_conv(x)))


def _norm(channels: int) -> nn.BatchNorm2d:
  # The network only trains: statistics are always those of the one image.
  return nn.BatchNorm2d(channels, track_running_stats=False)


def _activate(x):
  return nn.functional.leaky_relu(x, 0.2)


def convert_params(params: Mapping[str, Any]) -> dict[str, torch.Tensor]:
  """Returns the parameters of our network as a state_dict of the peer's."""
  state = {}
  for (*modules, name), leaf in traverse_util.flatten_dict(params).items():
    tensor = torch.from_numpy(np.array(leaf))
    if name == 'kernel':  # [h, w, in, out] -> [out, in, h, w].
      tensor = tensor.permute(3, 2, 0, 1)
    kind = 'bias' if name == 'bias' else 'weight'
    state['.'.join([*modules, kind])] = tensor.contiguous()
  return state


def find_device() -> torch.device:
  """Returns the first GPU, or the CPU where there is none."""
  return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def make_step(
  network: nn.Module,
  code: torch.Tensor,
  target: torch.Tensor,
  *,
  variant: str,
  precision: str = 'float32',
  jitter: float = 1 / 30,
) -> Step:
  """Returns `step(count)`, which fits the network and returns the last loss.

  Each step is the authors': fresh jitter on the code, the squared error, Adam
  at 0.01, and the output in an exponential average of 0.99. When `step` returns
  the device is done.

  Args:
    network: fitted in place.
    code, target: [1, C, H, W], on the network's device.
    variant: of VARIANTS.
    precision: 'float32', 'tensorfloat32' or 'bfloat16' (autocast). It holds for
      the whole process: the last one made.
    jitter: standard deviation.
  """
  layout, mode = VARIANTS[variant]
  device = code.device.type
  torch.backends.cudnn.allow_tf32 = precision == 'tensorfloat32'
  torch.backends.cuda.matmul.allow_tf32 = precision == 'tensorfloat32'
  torch.backends.cudnn.benchmark = True
  forward: Any = network
  forward.to(memory_format=layout)
  code = code.to(memory_format=layout)
  target = target.to(memory_format=layout)
  average = torch.zeros_like(target)
  optimizer = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
  if mode:
    forward = torch.compile(network, mode=mode, dynamic=False)

  def step(count):
    loss = torch.zeros(())
    for _ in range(count):
      # What the CUDA graph of the step before wrote may be overwritten.
      torch.compiler.cudagraph_mark_step_begin()
      optimizer.zero_grad()
      noisy = code + jitter * torch.randn_like(code)
      with torch.autocast(
        device, torch.bfloat16, enabled=precision == 'bfloat16'
      ):
        output = forward(noisy).float()
      loss = nn.functional.mse_loss(output, target)
      loss.backward()
      optimizer.step()
      average.mul_(0.99).add_(output.detach(), alpha=0.01)
    return loss.item()  # Waits for the device.

  return step


def make_fastest_step(
  network: Callable[[], nn.Module], size: int, inputs: int, precision: str
) -> tuple[str, Step]:
  """Returns the fastest variant's name and its step for an image [size, size].

  Each variant is warmed up and timed for a moment; one that does not work here
  is left out and said so.

  Args:
    network: makes one, for each variant its own.
    size: side of the image in pixels.
    inputs: channels of the code.
    precision: as in `make_step`.

  Raises:
    RuntimeError: no variant works here.
  """
  torch.compiler.reset()  # It gives up after a few programs in one process.
  device = find_device()
  code = 0.1 * torch.rand(1, inputs, size, size, device=device)
  target = torch.rand(1, 3, size, size, device=device)
  steps, seconds = {}, {}
  for name, (layout, mode) in VARIANTS.items():
    if mode == 'reduce-overhead' and device.type == 'cpu':
      continue
    # The matrix units of a GPU want channels last; to compile takes a minute.
    planes = mode and layout == torch.contiguous_format
    if planes and device.type == 'cuda' and precision != 'float32':
      continue
    try:
      step = make_step(
        network().to(device), code, target, variant=name, precision=precision
      )
      seconds[name] = _time_briefly(step, 1 if device.type == 'cpu' else 10)
    except Exception as error:  # What torch.compile raises has no one type.
      reason = str(error).strip().split('\n')[0]
      print(f'  torch, {name}: does not work here ({reason})')
      continue
    steps[name] = step
  if not seconds:
    raise RuntimeError('torch: no variant works here')
  best = min(seconds, key=lambda name: seconds[name])
  return best, steps[best]


def _time_briefly(step: Step, count: int) -> float:
  """The seconds of a step, of `count` after which the device is waited for."""
  # A CUDA graph is recorded in the third step.
  step(2 if count == 1 else 4)
  times = []
  for _ in range(3):
    begin = time.perf_counter()
    step(count)
    times.append((time.perf_counter() - begin) / count)
  return min(times)
