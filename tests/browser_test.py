"""The page of a run in a browser: what moves, and that nothing leaves it.

Needs Debian's chromium and chromium-driver, and selenium of dipjax[test].
"""

import json
import os
import shutil

import numpy as np
import pytest

from experiments.lib import frames, page

webdriver = pytest.importorskip('selenium.webdriver')

# ruff: noqa: E402  Without selenium there is nothing to import.
from selenium.webdriver.chrome import service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

_FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--hide-scrollbars',
  '--window-size=1000,900',
)
_NAME = '"><script>hacked=1</script><img src=x onerror=hacked=1>.png'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  """A browser of its own profile, which writes down what it asks for."""
  programs = [shutil.which(name) for name in ('chromium', 'chromedriver')]
  if None in programs:
    pytest.skip('no chromium: apt-get install chromium chromium-driver')
  options = webdriver.ChromeOptions()
  options.binary_location = programs[0]
  profile = tmp_path_factory.mktemp('profile')
  for flag in (*_FLAGS, f'--user-data-dir={profile}'):
    options.add_argument(flag)
  logs = {'browser': 'ALL', 'performance': 'ALL'}
  options.set_capability('goog:loggingPrefs', logs)
  driver = webdriver.Chrome(options, service.Service(programs[1]))
  driver.get('about:blank')
  driver.get_log('performance')  # Of the browser's own first page.
  yield driver
  driver.quit()


def _make_content():
  image = np.random.default_rng(0).random((60, 80, 3))
  kept = frames.Frames(8)
  for number in range(5):
    kept.add(10 * (number + 1), image * number / 5)
  records = [
    {'step': s, 'lane': lane, 'loss': 1 / (s + 1 + lane), 'psnr': 20 + s / 9}
    for s in range(9, 50, 10)
    for lane in range(2)
  ]
  line = dict.fromkeys(('arm', 'network', 'perceptual', 'reference', 'note'))
  line |= {'schedule': 'linear', 'beta_max': 0.02, 'spent': 9.0, 'ssim': 0.5}
  rows = [('b', 9.5), ('a', 25.0), ('d', None), ('c', -3.0)]
  summary = {
    'experiment': 'ablation',
    'lanes': [{'seed': 0, 'selected_step': 29, 'psnr': 22.0}],
    'table': [
      {**line, 'method': name, 'psnr': psnr, 'best': psnr, 'gap': 0.0}
      for name, psnr in rows
    ],
  }
  shots = [
    page.Shot(title, pixels, '', True, True)
    for title, pixels in (
      (_NAME, image),
      ('restored', image**2),
      ('clean', image),
    )
  ]
  return page.Content(
    summary,
    {'data': {'image': f'/pictures/{_NAME}'}, _NAME: _NAME},
    shots,
    records,
    kept.kept,
    maps={_NAME: image},
    command=f'python -m experiments.denoise {_NAME}',
  )


@pytest.fixture(scope='module')
def opened(browser, tmp_path_factory):
  path = tmp_path_factory.mktemp('page') / 'report.html'
  page.write(path, _make_content())
  browser.get(path.as_uri())
  return browser, path


def _find(driver, selector):
  return driver.find_element(By.CSS_SELECTOR, selector)


def _list(driver, selector):
  return driver.find_elements(By.CSS_SELECTOR, selector)


def test_everything_moves_and_nothing_leaves_the_page(opened):
  driver, path = opened
  _check_slider(driver)
  _check_pictures_of_the_fit(driver)
  _check_curves(driver)
  _check_table(driver)
  _find(driver, '.copy').click()
  assert driver.get_log('browser') == []
  requests = _list_requests(driver)
  assert {r for r in requests if not r.startswith('data:')} == {path.as_uri()}


def _check_slider(driver):
  cut = (
    'return document.querySelector(".stage").style.getPropertyValue("--cut")'
  )
  stage, slider = _find(driver, '.stage'), _find(driver, '.stage input')
  assert driver.execute_script(cut) == '50%'
  slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
  assert driver.execute_script(cut) == '53%'
  slider.send_keys(Keys.HOME)
  assert driver.execute_script(cut) == '0%'
  quarter = stage.size['width'] // 4
  move = ActionChains(driver, duration=10)
  move.move_to_element_with_offset(stage, -quarter, 0).click_and_hold()
  move.move_by_offset(2 * quarter, 0).release().perform()
  assert 70 <= int(driver.execute_script(cut).rstrip('%')) <= 80
  # The left picture covers the right one as far as the handle.
  before, after = _list(driver, '.stage img')[::-1]
  assert before.rect == after.rect and before.size['width'] > 100
  shown = before.get_attribute('src')
  _find(driver, '.choose-before option:last-child').click()
  changed = _find(driver, '.stage .before')
  assert changed.get_attribute('alt') == 'clean'
  assert changed.get_attribute('src') == shown  # It is the same picture.
  assert after.get_attribute('src') != shown


def _check_pictures_of_the_fit(driver):
  slider, shown = _find(driver, '.frames input'), _find(driver, '.frame')
  said, last = _find(driver, '.frames output'), shown.get_attribute('src')
  assert said.text == 'after 50 steps'
  slider.send_keys(Keys.ARROW_LEFT)
  assert said.text == 'after 40 steps' and shown.get_attribute('src') != last
  cursor = _find(driver, '.chart .cursor')
  assert cursor.get_attribute('visibility') == 'visible'
  assert _find(driver, '.legend output').text == '0.0247'  # At step 39.


def _check_curves(driver):
  curves = _list(driver, '.chart')
  assert len(curves) == 2
  for curve in curves:
    box = curve.rect
    for line in _list(curve, 'polyline'):
      assert line.rect['width'] > box['width'] / 2
      assert line.rect['height'] > 30
  drawing = _find(driver, '.chart svg')
  drawing.send_keys(Keys.HOME)
  assert _find(driver, '.frames output').text == 'after 10 steps'
  assert _find(driver, '.legend output').text == '0.09545'  # At step 9.


def _check_table(driver):
  table = _find(driver, '.sortable')
  names = lambda: ''.join(
    row.text.split()[0] for row in _list(table, 'tbody tr')
  )
  assert names() == 'badc'
  heads = {head.text.split()[0]: head for head in _list(table, 'th')}
  button = _find(heads['PSNR,'], 'button')
  button.click()
  assert names() == 'cbad'  # Numbers, and what is missing comes last.
  button.send_keys(Keys.ENTER)
  assert names() == 'abcd'
  assert heads['PSNR,'].get_attribute('aria-sort') == 'descending'
  _find(heads['method'], 'button').click()
  assert names() == 'abcd'


def _list_requests(driver):
  events = [
    json.loads(e['message'])['message'] for e in driver.get_log('performance')
  ]
  return [
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  ]


def test_a_hostile_name_is_shown_and_does_nothing(opened):
  driver, path = opened
  driver.get(path.as_uri())
  assert _find(driver, 'h1').text == os.path.basename(f'/pictures/{_NAME}')
  assert driver.execute_script('return typeof hacked') == 'undefined'
  assert len(_list(driver, 'script')) == 1
  assert _find(driver, '.gallery figcaption').text == _NAME
  # Where an escape were missing, the policy of the page would still hold.
  injected = (
    "const s = document.createElement('script'); s.textContent = 'hacked = 1';"
    'document.body.append(s); return typeof hacked'
  )
  assert driver.execute_script(injected) == 'undefined'
  assert 'Content Security Policy' in driver.get_log('browser')[0]['message']


@pytest.mark.parametrize('width', [390, 820, 1400])
def test_nothing_is_wider_than_the_screen(opened, width):
  driver, path = opened
  metrics = {'width': width, 'height': 900, 'deviceScaleFactor': 1}
  driver.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride', {**metrics, 'mobile': False}
  )
  driver.get(path.as_uri())
  size = 'return document.documentElement.scrollWidth'
  assert driver.execute_script(size) == width
  assert _find(driver, '.stage').size['width'] > 0.5 * min(width, 900)
  driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
