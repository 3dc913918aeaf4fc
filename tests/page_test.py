"""The page of a run: what it holds, what it escapes, what fits each run."""

import base64
import hashlib
import html.parser
import io
import json
import os
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from configs import req2
from dipjax.engine.fit import Trace
from experiments.lib import command, frames, page, recorder
from experiments.lib import workdir as workdirs
from experiments.lib.page import blocks, charts, pixels

pytest.importorskip('jinja2')

HOSTILE = (
  '"><script>hacked=1</script><img src=x onerror=hacked=1>\x1b[31m\u202e'
)
_ROOM = np.random.default_rng(0).random((64, 80, 3))
_LANES = [
  {
    'seed': seed,
    'stopped_at': 90,
    'selected_step': 50 + seed,
    'returned_to': [],
    'psnr': 27.5,
    'oracle': {'step': 70 + seed, 'psnr': 28.0},
  }
  for seed in range(2)
]
_SUMMARY = {
  'experiment': 'denoise',
  'steps': 90,
  'parameters': 4211,
  'seconds': {'compile': 2.0, 'fit': 130.0},
  'seconds_per_step': 1.5,
  'hardware': 'cpu (2 cores)',
  'versions': {'jax': '0.10.2'},
  'stop': {'rule': 'emv', 'gap_to_oracle_db': 0.5},
  'measurement': {'psnr': 20.0},
  'restored': {'psnr': 28.25},
  'unfinished': {'psnr': 27.5},
  'detail_returned': 0.012,
  'chosen': 'req2:fast, because 80x64 is small',
  'noise': {
    'text': 'noise: white, sigma 25.1 of 255',
    'sigma': 25.1,
    'impulses': 0.0,
    'clipped': {'black': True, 'white': False},
    'confidence': 0.79,
  },
  'lanes': _LANES,
}
_CONFIG = {'data': {'image': 'astronaut'}, 'fit': {'steps': 400}}


def _make_records(lanes=2, steps=(9, 19, 29, 89)):
  return [
    {
      'step': step,
      'lane': lane,
      'seed': lane,
      'loss': 1 / (1 + step),
      'psnr': 20 + step / 10 + lane,
      'emv': None if step < 20 else 1e-4 / step,
    }
    for step in steps
    for lane in range(lanes)
  ]


def _make_frames(count=3):
  kept = frames.Frames(48)
  for number in range(count):
    kept.add(10 * (number + 1), _ROOM * number / count)
  return kept.kept


def _make_content(**changes):
  photo = lambda title, pixels: page.Shot(title, pixels, '', True, True)
  content = page.Content(
    _SUMMARY,
    _CONFIG,
    [photo('measurement', _ROOM), photo('restored', _ROOM**2)],
    _make_records(),
    _make_frames(),
    maps={'largest error': _ROOM},
    command='python -m experiments.denoise --config=configs/req2.py:fast',
  )
  return content._replace(**changes)


class _Reader(html.parser.HTMLParser):
  """The tags of a page with their attributes, and its text."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.text = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text.append(data)

  def find(self, tag, **wanted):
    return [
      attrs
      for name, attrs in self.tags
      if name == tag and all(attrs.get(k) == v for k, v in wanted.items())
    ]


def _render(**changes):
  text = page.render(_make_content(**changes))
  assert text is not None
  return text


def test_a_page_says_what_came_out_and_why():
  text = ' '.join(' '.join(_Reader(_render()).text).split())
  for said in (
    '20.00 → 28.25',
    'at steps 50 to 51',
    '2.2 min',
    'white, sigma 25.1 of 255',
    'req2:fast, because 80x64 is small',
    '27.50 dB before it, +0.75 dB by it',
    'python -m experiments.denoise --config=configs/req2.py:fast',
    'jax 0.10.2',
    'fit.steps 400',
    'largest error',
    'before the filter',
  ):
    assert said in text, said


def test_a_page_asks_for_nothing_beyond_itself():
  text = _render(refresh=60.0)
  reader = _Reader(text)
  addresses = [
    value
    for _, attrs in reader.tags
    for name, value in attrs.items()
    if name in ('src', 'href', 'data-uri', 'srcset', 'action')
  ]
  assert len(addresses) > 10
  assert all(address.startswith('data:') for address in addresses)
  own = re.sub(r'data:image/[^"]*', '', text)
  assert not re.search(r'https?:|url\(|@import|["(]//', own)
  policy = reader.find('meta', **{'http-equiv': 'Content-Security-Policy'})
  assert policy[0]['content'].startswith("default-src 'none'; img-src data:;")
  # The policy names the page's own style and script, and they alone may run.
  for tag in ('style', 'script'):
    (own,) = re.findall(f'<{tag}>(.*?)</{tag}>', text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in policy[0]['content']
  assert not any('style' in attrs for _, attrs in reader.tags)


def test_pictures_of_the_page_are_pictures():
  sources = [
    img['src'] for img in _Reader(_render()).find('img') if 'src' in img
  ]
  sizes = set()
  for source in sources:
    kind, data = source.removeprefix('data:image/').split(';base64,')
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper()
    sizes.add(image.size)
  assert sizes == {(80, 64), (24, 24)}


@pytest.mark.parametrize(
  'changes',
  [
    {'config': {'data': {'image': f'/home/{HOSTILE}'}, HOSTILE: HOSTILE}},
    {'command': HOSTILE},
    {'shots': [page.Shot(HOSTILE, _ROOM, HOSTILE, True, True)] * 2},
    {'maps': {HOSTILE: _ROOM}},
    {
      'summary': {
        **_SUMMARY,
        'experiment': HOSTILE,
        'hardware': HOSTILE,
        'versions': {HOSTILE: HOSTILE},
        'chosen': HOSTILE,
        'protocol': HOSTILE,
        'stop': {'rule': HOSTILE},
        'baselines': {HOSTILE: {'psnr': 21.0}},
        'claims': [{'text': HOSTILE}],
        'lanes': [{'seed': 0, 'target': HOSTILE, 'selected_step': 50}],
      }
    },
    {'records': [{'step': 1, 'lane': 0, HOSTILE: 1.0}]},
  ],
)
def test_hostile_names_are_text_alone(changes):
  text, plain = _render(**changes), _render()
  assert 'hacked=1' in text
  reader = _Reader(text)
  assert len(reader.find('script')) == len(_Reader(plain).find('script')) == 1
  assert not any('onerror' in attrs for _, attrs in reader.tags)
  assert '\x1b' not in text and '\u202e' not in text


def test_bytes_that_are_no_text_are_written(tmp_path):
  config = {'data': {'image': os.fsdecode(b'\xff.png'), 'other': '\ud800'}}
  assert page.write(tmp_path / 'report.html', _make_content(config=config))
  assert os.listdir(tmp_path) == ['report.html']
  assert '\\udcff.png' in (tmp_path / 'report.html').read_text()


def test_a_page_reads_itself_again_only_while_the_run_goes_on():
  again = {'http-equiv': 'refresh'}
  running = _Reader(_render(refresh=60.0))
  assert running.find('meta', **again)[0]['content'] == '60'
  assert running.find('p', **{'data-state': 'running'})
  finished = _Reader(_render())
  assert not finished.find('meta', **again)
  assert finished.find('p', **{'data-state': 'finished'})
  stopped = _Reader(_render(summary={**_SUMMARY, 'stopped': True}))
  assert stopped.find('p', **{'data-state': 'stopped before its end'})


@pytest.mark.parametrize(
  'changes',
  [
    {'records': []},
    {'records': [{'step': 0, 'lane': 0, 'loss': None, 'psnr': None}]},
    {'records': [{'step': 0, 'loss': float('nan'), 'psnr': float('inf')}]},
    {'records': [{'step': float('nan'), 'loss': 1.0}, {'loss': 1.0}]},
    {'frames': [], 'shots': [], 'maps': {}, 'records': []},
    {'summary': {}, 'config': {}, 'shots': [], 'frames': [], 'records': []},
    {
      'summary': {
        'measurement': {'psnr': float('nan')},
        'restored': {'psnr': float('inf'), 'ssim': None},
        'seconds': {'fit': float('nan')},
        'steps': None,
        'lanes': [{'seed': 0, 'psnr': None, 'oracle': None}],
      }
    },
  ],
)
def test_what_is_missing_or_not_finite_is_left_out(changes):
  text = _render(**changes)
  body = re.sub(r'<script>.*|<[^>]*>', ' ', text.split('<body>')[1], flags=re.S)
  assert not re.search(r'\b(nan|inf|none|undefined)\b', body, re.I)


def test_without_jinja2_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'jinja2', None)
  page._load_template.cache_clear()
  try:
    assert page.write(tmp_path / 'report.html', _make_content()) is False
  finally:
    page._load_template.cache_clear()
  assert not os.listdir(tmp_path)


# --- Pictures.


def test_a_large_picture_is_reduced_and_a_page_stays_small():
  large = np.random.default_rng(0).random((1050, 1400, 3), np.float32)
  shots = [page.Shot(f'{i}', large, '', True, True) for i in range(2)]
  text = _render(shots=shots, maps={})
  assert len(text) < 4e6
  image = Image.open(io.BytesIO(base64.b64decode(pixels.make_uri(large)[23:])))
  assert image.format == 'JPEG' and image.size == (1024, 768)


def test_a_small_picture_keeps_every_pixel():
  data = pixels.make_uri(_ROOM).removeprefix('data:image/png;base64,')
  shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
  np.testing.assert_array_equal(shown, np.rint(_ROOM * 255))


def test_crops_are_where_the_map_is_largest_and_lie_apart():
  image, wrong = np.full((100, 120, 1), 0.5), np.zeros((100, 120, 1))
  wrong[70:80, 30:40] = 1
  image[10:30, 80:110] = np.random.default_rng(0).random((20, 30, 1))
  error, detail, smooth = pixels.find_places(image, {'error': wrong})
  assert error.top <= 70 <= 80 <= error.top + error.side
  assert error.left <= 30 <= 40 <= error.left + error.side
  assert detail.title == 'most detail' and detail.crop(image).std() > 0.1
  assert smooth.crop(image).std() == 0
  boxes = np.zeros((100, 120))
  for place in (error, detail, smooth):
    place.crop(boxes[..., None])[:] += 1
  assert boxes.max() == 1
  assert not pixels.find_places(image[:40], {'error': wrong[:40]})


# --- Curves.


def _draw(records, lanes=()):
  return {
    chart.title: chart for chart in charts.draw(records, lanes, rule='emv')
  }


def test_each_quantity_has_a_drawing_and_each_lane_a_line():
  drawn = _draw(_make_records())
  assert list(drawn) == ['Loss', 'PSNR', 'Score of emv']
  (loss,) = drawn['Loss'].series
  assert len(loss.lines) == 2 and len(loss.lines[0].split()) == 4
  assert len(drawn['Score of emv'].series[0].lines[0].split()) == 2


def test_points_lie_where_their_values_are():
  records = [{'step': s, 'lane': 0, 'psnr': 10.0 * s} for s in (0, 1, 2)]
  chart = _draw(records)['PSNR']
  points = [p.split(',') for p in chart.series[0].lines[0].split()]
  x, y = np.array(points, float).T
  np.testing.assert_allclose(x, np.linspace(charts.LEFT, charts.RIGHT, 3))
  assert y[0] > y[1] > y[2] and abs(y[0] + y[2] - 2 * y[1]) < 0.2
  ticks = {float(text): place for place, text in chart.y_ticks}
  assert ticks[10.0] == y[1]
  assert chart.data['series']['against the clean picture, average'] == [
    0,
    10,
    20,
  ]


def test_a_value_that_is_not_finite_leaves_a_gap():
  values = [1.0, 2.0, None, 3.0, float('nan'), 1e300, 4.0, 5.0]
  records = [{'step': s, 'loss': v} for s, v in enumerate(values)]
  lines = _draw(records)['Loss'].series[0].lines
  assert [len(line.split()) for line in lines] == [2, 2, 2]


def test_the_curve_of_the_next_tile_is_another_line():
  records = [{'step': s, 'loss': 1.0 + s} for s in (0, 10, 20, 0, 10)]
  lines = _draw(records)['Loss'].series[0].lines
  assert [len(line.split()) for line in lines] == [3, 2]


@pytest.mark.parametrize('value', [0.0, 1e-30, 20.0, -5.0])
def test_a_curve_of_one_value_is_drawn(value):
  (chart,) = charts.draw([{'step': 7, 'loss': value}], [])
  assert len(chart.series[0].lines) == 1 and chart.y_ticks and chart.x_ticks


def test_what_the_rule_and_the_oracle_chose_is_marked():
  drawn = _draw(_make_records(), _LANES)
  kinds = [mark.kind for mark in drawn['PSNR'].marks]
  assert kinds.count('chosen') == kinds.count('oracle') == 2
  assert all(mark.y is not None for mark in drawn['PSNR'].marks)
  assert all(mark.y is None for mark in drawn['Loss'].marks)
  assert drawn['PSNR'].marks[0].text == 'seed 0: chosen by emv, step 50'


def test_stages_are_drawn_one_after_the_other():
  chained = [
    {'step': 10 * stage + s, 'stage_step': s, 'stage': stage, 'loss': 1.0 + s}
    for stage in range(3)
    for s in range(10)
  ]
  at_once = [{**record, 'step': record['stage_step']} for record in chained]
  lanes = [{'seed': 0, 'selected_step': 15}]
  (one,), (other,) = charts.draw(chained, lanes), charts.draw(at_once, lanes)
  assert one.series == other.series and len(one.bands) == len(other.bands) == 1
  # Stages at once have no steps that count on.
  assert len(one.marks) == 1 and not other.marks


def test_targets_have_a_colour_each():
  lanes = [{'target': 'image'}, {'target': 'noise'}]
  (loss, *_) = charts.draw(_make_records(), lanes)
  assert [series.name for series in loss.series] == ['image', 'noise']
  assert {series.colour for series in loss.series} == {0, 1}


def test_long_curves_of_many_lanes_stay_small():
  records = [
    {'step': step, 'lane': lane, 'loss': 1.0 + step}
    for step in range(2000)
    for lane in range(charts.MOST_LANES + 5)
  ]
  (chart,) = charts.draw(records, [])
  lines = chart.series[0].lines
  assert len(lines) == charts.MOST_LANES
  assert max(len(line.split()) for line in lines) <= 400


# --- What fits each run.


def test_an_ablation_has_its_table_and_its_claims():
  line = {
    **dict.fromkeys(('network', 'perceptual', 'reference', 'schedule'), 'x'),
    **{'arm': 'x', 'method': 'a', 'beta_max': 0.02, 'spent': 10.0},
    **{'psnr': 25.0, 'psnr_std': 0.5, 'ssim': 0.8, 'best': 26.0, 'gap': 1.0},
    'note': '',
  }
  lines = [line, {**line, 'method': 'b', 'psnr': None, 'best': None}]
  summary = {'table': lines, 'claims': [{'text': 'it holds'}], 'lanes': {}}
  (table,) = blocks.list_tables(summary)
  assert [row[0].text for row in table.rows] == ['a', 'b']
  score = table.rows[0][table.head.index('PSNR, dB')]
  assert score.text == '25.00 ± 0.50' and score.key == 25.0
  assert score.bar[0] < score.bar[1] < score.bar[2] <= 100
  assert table.rows[1][table.head.index('PSNR, dB')].text == '–'
  text = _render(summary=summary, records=[])
  assert 'it holds' in text and 'class="bar"' in text


def test_a_folder_lists_what_failed_then_the_worst():
  row = {'page': None, 'status': 'done', 'error': '', 'steps': 60, 'noise': 9.0}
  rows = [
    {**row, 'file': f'{psnr}.png', 'psnr': psnr, 'seconds': 2.5}
    for psnr in (30.5, 28.25, 33.0)
  ]
  rows.append({**row, 'file': 'many.tif', 'page': 3, 'psnr': None})
  bad = {'file': HOSTILE, 'page': None, 'status': 'failed', 'error': 'no image'}
  (table,) = blocks.list_tables({'index': [*rows, bad]})
  assert [line[0].text for line in table.rows] == [
    HOSTILE,
    '28.25.png',
    '30.5.png',
    '33.0.png',
    'many.tif, page 3',
  ]
  places = {name: place for place, name in enumerate(table.head)}
  assert table.rows[0][places['error']].text == 'no image'
  assert table.rows[1][places['PSNR, dB']].key == 28.25
  assert 'PSNR before, dB' not in places
  summary = {'index': [*rows, bad], 'pictures': 5, 'done': 4, 'failed': 1}
  html = page.render(page.Content(summary, {}))
  assert html is not None and '<script>hacked' not in html
  assert '4 of 5 restored' in html and '1 failed' in html


def test_a_folder_of_very_many_pictures_stays_a_page():
  rows = [
    {'file': f'{k}.png', 'page': None, 'status': 'done', 'psnr': 20 + k / 100}
    for k in range(3000)
  ]
  (table,) = blocks.list_tables({'index': rows})
  assert len(table.rows) == 1000 and table.rows[0][0].text == '0.png'
  assert table.note == 'Of 3000 pictures; index.csv has all.'


def test_noise_impedance_has_its_levels():
  levels = [{'loss': 0.01, 'steps': {'image': 30, 'noise': None}}]
  (table,) = blocks.list_tables({'levels': levels})
  assert table.head == ['loss', 'image', 'noise']
  assert [cell.text for cell in table.rows[0]] == ['0.01', '30', '–']


def test_stages_arms_and_baselines_have_tables():
  stage = {
    **{'level': 0.9, 'noise': 0.1, 'steps_planned': 20},
    'lanes': [{'seed': 0, 'steps': 10, 'psnr_target': 20.0, 'psnr': 21.0}],
  }
  summary = {
    'stages': [stage, stage],
    'arms': {'none': {'restored': {'psnr': 20.0}, 'steps': 10}},
    'baselines': {'bicubic': {'psnr': 23.0, 'psnr_y': 24.0}},
    'restored': {'psnr': 24.5, 'psnr_y': 25.5},
  }
  tables = {table.title: table for table in blocks.list_tables(summary)}
  assert len(tables['Each stage'].rows) == 2
  assert tables['Each arm'].rows[0][1].text == '20.00'
  scores = tables['Scores against the clean picture']
  assert [row[0].text for row in scores.rows] == ['bicubic', 'restored']
  assert scores.rows[0][2].text == '24.00'


# --- Pictures of the fit.


def test_pictures_of_a_fit_are_few_and_evenly_spaced():
  kept = frames.Frames(8)
  for steps in range(10, 1000, 10):
    if kept.is_due(steps):
      kept.add(steps, _ROOM)
  steps = [step for step, _ in kept.kept]
  assert 4 <= len(steps) <= 8
  assert len({*np.diff(steps)}) == 1 and steps[0] == 10
  assert not frames.Frames(0).is_due(10)


def test_pictures_of_a_fit_go_through_a_checkpoint():
  kept, again = frames.Frames(8), frames.Frames(8)
  for steps in (10, 20):
    kept.add(steps, _ROOM)
  again.load(json.loads(json.dumps(kept.save())))
  assert again.kept == kept.kept


def test_an_animation_shows_the_fit_and_ends_with_the_result(tmp_path):
  kept, path = frames.Frames(8), tmp_path / 'animation.webp'
  kept.add(10, np.zeros((400, 640, 1)))
  assert not kept.animate(str(path), _ROOM) and not path.exists()
  kept.add(20, np.full((400, 640, 1), 0.5))
  assert kept.animate(str(path), np.ones((400, 640, 1)))
  with Image.open(path) as shown:
    assert shown.n_frames == 3
    assert shown.size == (320, 200)
    assert np.asarray(shown.convert('L')).max() < 20
    shown.seek(2)
    assert np.asarray(shown.convert('L')).min() > 235


# --- While a run goes on.


def _record(tmp_path, about, **record):
  """Two lanes of a fit that took ten steps; returns their recorder."""
  config = req2.get_config('smoke')
  config.record.update(preview=1e-9, **record)
  workdir = workdirs.Workdir(str(tmp_path), config.to_dict(), '', None)
  made = recorder.Recorder(workdir, config, steps=60, seeds=[0, 1], about=about)
  decay = config.average.decay
  images = np.stack([_ROOM, _ROOM / 2]).astype(np.float32)
  states = types.SimpleNamespace(
    step=np.array([10, 10]), average=images * (1 - decay**10)
  )
  steps = np.tile(np.arange(10), (2, 1))
  losses = np.ones((2, 10), np.float32)
  made(states, Trace(steps, steps >= 0, losses, losses, -steps, {}))
  return made


def test_a_run_writes_its_page_while_it_goes_on(tmp_path):
  before = page.Shot('measurement', _ROOM, compared=True)
  made = _record(tmp_path, recorder.About({'experiment': 'denoise'}, [before]))
  text = (tmp_path / 'report.html').read_text()
  reader = _Reader(text)
  assert reader.find('p', **{'data-state': 'running'})
  chosen = [o for o in reader.find('option') if 'selected' in o]
  assert [option['value'] for option in chosen] == ['0', '1']
  assert reader.find('img', alt='the fit now') and 'after 10 steps' in text
  assert 'Time left' in text and 'at most' in text
  ((steps, data),) = made.frames.kept
  shown = np.asarray(Image.open(io.BytesIO(data))) / 255
  assert steps == 10
  np.testing.assert_allclose(shown.mean(), 0.75 * _ROOM.mean(), atol=0.01)


def test_lanes_that_fit_other_pictures_are_shown_side_by_side(tmp_path):
  made = _record(tmp_path, recorder.About({}, apart=True))
  ((_, data),) = made.frames.kept
  assert Image.open(io.BytesIO(data)).size == (160, 64)
  with Image.open(tmp_path / 'preview.png') as shown:
    assert shown.size == (160, 64)


def test_a_fit_among_others_has_no_page_of_its_own(tmp_path):
  made = _record(tmp_path, None)
  assert not made.frames.kept and not (tmp_path / 'report.html').exists()
  assert (tmp_path / 'preview.png').exists()
  assert not _record(tmp_path, recorder.About({}), frames=0).frames.kept


# --- The command.


@pytest.mark.parametrize(
  'argv,found',
  [
    (['experiments/denoise.py', 'a b.png'], "denoise 'a b.png' --workdir=w"),
    (['experiments/denoise.py', '--workdir', 'x'], 'denoise --workdir x'),
    (
      ['experiments/ablation/__main__.py', '--overwrite', '-workdir=x'],
      'ablation -workdir=x',
    ),
    (['/usr/bin/pytest'], None),
  ],
)
def test_the_command_is_what_the_user_typed(argv, found, monkeypatch):
  monkeypatch.chdir(os.path.dirname(os.path.dirname(__file__)))
  monkeypatch.setattr(sys, 'argv', argv)
  wanted = f'python -m experiments.{found}' if found else ''
  assert command.find('w') == wanted
