"""The command line: signals, folders, exit codes, what is printed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments.lib import cli, stopping, task

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _start(workdir, *flags):
  config = '--config=configs/req2.py:smoke,network=pixels'
  command = [sys.executable, '-m', 'experiments.denoise', config, *flags]
  return subprocess.Popen(
    [*command, *workdir],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope='module')
def photograph(write_photograph) -> str:
  return write_photograph(24, 32, (5, 4, 3))


def test_ctrl_c_leaves_a_picture_and_the_command_to_go_on(photograph, tmp_path):
  flags = [f'--config.data.image={photograph}', '--config.data.crop=()']
  flags += ['--config.fit.steps=100000', '--config.stop.patience=100000']
  workdir = [f'--workdir={tmp_path}/a run']
  process = _start(workdir, *flags)
  metrics = tmp_path / 'a run' / 'metrics.jsonl'
  for _ in range(1200):
    if metrics.exists() and metrics.stat().st_size:
      break
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  out, said = process.communicate(timeout=120)
  assert process.returncode == 130, said
  assert 'Traceback' not in said and 'dB after; pictures in' in out
  assert 'stopping after these steps' in said
  last = said.splitlines()[-1]
  assert last.startswith('to go on: python -m experiments.denoise --config')
  assert f"'--workdir={tmp_path}/a run'" in last
  result = json.loads((tmp_path / 'a run' / 'result.json').read_text())
  assert result['stopped'] is True
  assert (tmp_path / 'a run' / 'restored.png').exists()


@pytest.mark.parametrize('after', [0.15, 0.5])
def test_ctrl_c_during_imports_has_no_traceback(tmp_path, after):
  process = _start([f'--workdir={tmp_path}/run'])
  time.sleep(after)
  process.send_signal(signal.SIGINT)
  _, said = process.communicate(timeout=120)
  # Before the first line of ours Python itself reports the signal.
  if 'experiments' in said or not said:
    assert process.returncode in (-signal.SIGINT, 130)
    assert 'Traceback' not in said
  assert not os.listdir(tmp_path)


def test_two_runs_in_one_second_have_two_folders(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli.time, 'strftime', lambda form: 'now')
  monkeypatch.setattr(sys, 'argv', ['/x/experiments/denoise.py'])
  made = [cli.make_workdir() for _ in range(3)]
  assert made == [f'runs/denoise-now{end}' for end in ('', '-2', '-3')]
  assert sorted(os.listdir('runs')) == [os.path.basename(m) for m in made]


@pytest.mark.parametrize('error', [ValueError('no'), KeyboardInterrupt()])
def test_a_refused_start_leaves_no_folder(tmp_path, monkeypatch, capsys, error):
  monkeypatch.chdir(tmp_path)

  def refuse(config, workdir):
    assert os.path.isdir(workdir)
    raise error

  with pytest.raises(SystemExit) as ended:
    cli.perform(refuse, None, None, overwrite=False)
  assert ended.value.code in (2, 130)
  assert capsys.readouterr().err.count('\n') <= 2
  assert os.listdir('runs') == []


def test_a_stopped_run_exits_with_its_signal(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', ['/x/experiments/denoise.py', '--config=c'])
  stopped = lambda config, workdir: task.Result({}, {}, None, signal.SIGTERM)
  with pytest.raises(SystemExit) as ended:
    cli.perform(stopped, None, None, overwrite=False)
  assert ended.value.code == 143
  said = capsys.readouterr().err
  assert 'python -m experiments.denoise --config=c --workdir=runs/de' in said


def test_an_error_of_a_file_names_the_file(capsys):
  def fail(config, workdir):
    raise OSError(28, 'No space left on device', 'a\x1bb.png')

  with pytest.raises(SystemExit):
    cli.perform(fail, None, 'anywhere', overwrite=False)
  said = capsys.readouterr().err
  assert said == "error: 'a\\x1bb.png': No space left on device\n"


def test_an_interrupt_that_a_callback_swallowed_comes_again():
  class Swallowing:
    def __del__(self):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(0.01)  # The handler raises here, where nobody can catch it.

  hook = sys.unraisablehook
  sys.unraisablehook = stopping.repeat_swallowed
  # A shell's job in the background begins with the signal ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt):
      del_me = Swallowing()
      del del_me
      time.sleep(5)
  finally:
    sys.unraisablehook = hook
    signal.signal(signal.SIGINT, before)


def test_a_picture_is_named_where_it_cannot_stand_alone(
  run_experiment, photograph
):
  status, said = run_experiment(
    'sweep', '--config=configs/sweep.py:smoke', photograph
  )
  assert status == 2
  assert said.endswith(f'is named as --config.data.image={photograph}\n')
