"""The PyTorch network that ours is timed against, and its numbers."""

import numpy as np
import pytest

torch = pytest.importorskip(
  'torch', reason="no PyTorch: pip install -e '.[bench]'"
)
from benchmarks import torch_peer  # noqa: E402

NETWORKS = {
  'skip_bilinear_reflection': dict(
    inputs=4, down=(8, 12), up=(8, 12), skip=(0, 4)
  ),
  'skip_nearest_zero': dict(
    inputs=2,
    down=(8, 8, 8),
    up=(8, 8, 8),
    skip=(4, 4, 4),
    upsampling='nearest',
    padding='zeros',
  ),
}


def _make(golden, params, name):
  images = [_to_tensor(golden[key]) for key in ('code', 'target')]
  network = torch_peer.Skip(**NETWORKS[name])
  network.load_state_dict(torch_peer.convert_params(params))
  return network, *images


def _to_tensor(image):
  return torch.from_numpy(image.transpose(2, 0, 1)[None].copy())


@pytest.mark.parametrize('name', NETWORKS)
def test_output_and_gradients_equal_the_authors(load_golden, name):
  golden, params, gradients = load_golden(name)
  network, code, target = _make(golden, params, name)
  output = network(code)
  loss = torch.mean(torch.square(output - target))
  loss.backward()
  image = output.detach().numpy()[0].transpose(1, 2, 0)
  np.testing.assert_allclose(image, golden['output'], rtol=0, atol=1e-5)
  np.testing.assert_allclose(loss.item(), golden['loss'], rtol=1e-5)
  actual = {key: leaf.grad for key, leaf in network.named_parameters()}
  expected = torch_peer.convert_params(gradients)
  assert actual.keys() == expected.keys()
  # What only shifts the input of a normalisation has no gradient but rounding:
  # it is held to the size of all gradients together.
  total = np.sqrt(sum(torch.sum(g**2).item() for g in expected.values()))
  for key, value in expected.items():
    error = torch.linalg.norm(actual[key] - value)
    assert error <= 1e-4 * torch.linalg.norm(value) + 1e-6 * total, key


@pytest.mark.parametrize('variant', ['eager', 'channels-last'])
@pytest.mark.parametrize('name', NETWORKS)
def test_adam_descends_as_the_authors(load_golden, name, variant):
  golden, params, _ = load_golden(name)
  network, code, target = _make(golden, params, name)
  step = torch_peer.make_step(network, code, target, variant=variant, jitter=0)
  losses = [step(1) for _ in range(20)]
  np.testing.assert_allclose(losses, golden['adam_losses'], rtol=1e-3)


def test_default_is_the_network_of_requirement_2():
  network = torch_peer.Skip()
  assert sum(leaf.numel() for leaf in network.parameters()) == 2_217_831


def test_bfloat16_and_jitter_descend():
  torch.manual_seed(0)
  network = torch_peer.Skip(4, down=(8, 8), up=(8, 8), skip=(4, 4))
  code, target = torch.rand(1, 4, 16, 16), torch.rand(1, 3, 16, 16)
  step = torch_peer.make_step(
    network, code, target, variant='channels-last', precision='bfloat16'
  )
  first = step(1)
  assert step(30) < 0.9 * first
