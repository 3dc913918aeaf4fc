"""The benchmark of estimates, as small as it runs."""

import json

import numpy as np
import pytest

from benchmarks import estimates
from dipjax import noise

SMOKE = ['--images', 'camera', '--crop', '24', '--variants', 'smoke']


def test_a_row_is_run_once_and_every_method_has_its_line(
  tmp_path, capsys, monkeypatch
):
  pytest.importorskip('skimage')
  path = tmp_path / 'rows.jsonl'
  arguments = [*SMOKE, '--peers', 'nlm', '--lanes', '2', '--json', str(path)]
  arguments += ['--steps', '40', '--beside', 'nlm']
  estimates.main(arguments)
  peer, ours = map(json.loads, path.read_text().splitlines())
  assert peer['method'] == 'nlm' and ours['method'] == 'smoke'
  assert peer['psnr'] > peer['before'] == ours['before']
  assert ours['stopped'] == [40, 40] and 0 < ours['ssim'] < peer['ssim'] < 1
  assert len(ours['seeds']) == 2 and ours['means'][0] == ours['seeds'][0]
  assert ours['means'][1] == pytest.approx(ours['psnr'])
  for seed, oracle in zip(ours['seeds'], ours['oracles'], strict=True):
    assert seed <= oracle + 1e-4
  monkeypatch.setattr(estimates, 'run_cell', None)
  shown = capsys.readouterr().out
  estimates.main(arguments)
  again = capsys.readouterr().out
  assert again in shown and len(path.read_text().splitlines()) == 2
  assert f'; 2 seeds {ours["means"][1]:.2f}; correlation' in again
  squares = f'{ours["correlation_of_squares"]:.2f} of squares'
  most = f'of {ours["most_correlation"]:.2f}'
  assert f'{most}, {squares}, their ratio' in again
  assert ours['error_ratio'] > 0
  worse = ours['psnr'] - peer['psnr']
  assert f'smoke less nlm: {worse:+.2f} dB, worst {worse:+.2f}' in again
  assert again.splitlines()[-1].endswith(f'| {worse:+.2f} |')


def test_a_variant_that_is_not_known_is_one_line(tmp_path, capsys):
  pytest.importorskip('skimage')
  path = tmp_path / 'rows.jsonl'
  arguments = ['--images', 'camera', '--variants', 'best', '--json', str(path)]
  with pytest.raises(SystemExit) as exit_:
    estimates.main(arguments)
  assert exit_.value.code == 2 and not path.exists()
  assert "unknown variant 'best'" in capsys.readouterr().err


def test_the_bias_of_clipped_noise_is_taken_out_of_a_peer(monkeypatch):
  clean, sigma = np.random.RandomState(0).uniform(size=(8, 9, 3)), 0.1
  seen = lambda noisy, sigma: np.asarray(noise.expect_clipped(clean, sigma))
  monkeypatch.setattr(estimates.baselines, 'denoise_bm3d', seen)
  restored = estimates.denoise_unclipped(clean, sigma)
  np.testing.assert_allclose(restored, clean, atol=1e-3)


def test_other_noise_is_a_row_of_its_own():
  clean = np.full((24, 24, 3), 0.5)
  parser = estimates._make_parser()
  cells = [
    estimates.make_cells(parser.parse_args([*SMOKE, *more]))[0]
    for more in ([], ['--kind', 'bilinear'], ['--unclipped'])
  ]
  assert cells[1] == cells[0] | {'kind': 'bilinear'}
  assert cells[2] == cells[0] | {'unclipped': True}
  white, _, sigma = estimates._add_noise(clean, cells[0])
  shared, truth, less = estimates._add_noise(clean, cells[1])
  # Colours that were interpolated have less noise, which neighbours share.
  assert np.std(shared) < 0.9 * np.std(white) and less < 0.9 * sigma
  np.testing.assert_array_equal(truth, clean)


def test_draws_and_clipping_are_rows_of_their_own():
  parser = estimates._make_parser()
  arguments = parser.parse_args([*SMOKE, '--draws', '2'])
  first, second = estimates.make_cells(arguments)
  assert second == first | {'draw': 1}
  white = np.ones((24, 24, 3), np.float32)
  seen, again = (
    estimates._add_noise(white, cell)[0] for cell in (first, second)
  )
  assert seen.max() == 1 and np.any(seen != again)
  whole, *_ = estimates._add_noise(white, first | {'unclipped': True})
  assert whole.max() > 1
  np.testing.assert_array_equal(seen, np.minimum(whole, 1))
