"""report.html: a run as one file to look at, made with jinja2, of [plots].

The page needs no network and asks for none. It holds what there is of a run:
`blocks` and `charts` decide what that is, the template draws it.
"""

import base64
import functools
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lib import folders
from experiments.lib.page import blocks, charts, pixels

_FOLDER = pathlib.Path(__file__).parent


class Shot(NamedTuple):
  """A picture of the page.

  Attributes:
    title: below the picture.
    pixels: float [H, W, 1 or 3], as it is to be drawn.
    note: what is known of it, as its score.
    compared: whether it may stand on a side of the slider.
    close: whether the crops show it.
  """

  title: str
  pixels: np.ndarray
  note: str = ''
  compared: bool = False
  close: bool = False


class Content(NamedTuple):
  """What a page is made of.

  Attributes:
    summary: the content of result.json, or what is known of it.
    config: the content of config.json.
    shots: the pictures; the slider begins with the first two that may be
      compared, or with those of `sides`.
    records: lines of metrics.jsonl.
    frames: (steps, JPEG) of pictures of the fit.
    maps: where to look closely, see `pixels.find_places`.
    command: what runs it again, '' where that is not known.
    refresh: seconds until a browser reads the page again; 0 for a page that
      does not change.
    sides: the titles of what the slider begins with.
  """

  summary: Mapping[str, Any]
  config: Mapping[str, Any]
  shots: Sequence[Shot] = ()
  records: Sequence[Mapping[str, Any]] = ()
  frames: Sequence[tuple[int, bytes]] = ()
  maps: Mapping[str, np.ndarray] = {}
  command: str = ''
  refresh: float = 0.0
  sides: tuple[str, str] | None = None


def write(path: str | os.PathLike, content: Content) -> bool:
  """Writes the page, the whole file or nothing.

  Returns:
    True; or False, with nothing written, where jinja2 is not installed.
  """
  page = render(content)
  if page is None:
    return False
  # A name of a file may have bytes that are no text.
  folders.write_atomic(path, page.encode('utf-8', 'backslashreplace'))
  return True


def render(content: Content) -> str | None:
  """Returns the page as HTML; None where jinja2 is not installed."""
  template = _load_template()
  if template is None:
    return None
  summary, config = content.summary, content.config
  shots = [
    {
      'title': shot.title,
      'note': shot.note,
      'uri': pixels.make_uri(shot.pixels),
      'width': shot.pixels.shape[1],
      'height': shot.pixels.shape[0],
      'compared': shot.compared,
    }
    for shot in content.shots
  ]
  style = _read('style.css') + _describe_ratio(shots)
  script = _read('script.js')
  # The curves of tiles follow each other, each with a chosen step of its own.
  lanes = [] if summary.get('tiles') else summary.get('lanes')
  html = template.render(
    style=style,
    style_hash=_digest(style),
    script=script,
    script_hash=_digest(script),
    refresh=max(1, round(content.refresh)) if content.refresh else 0,
    experiment=str(summary.get('experiment', 'run')).replace('_', ' '),
    subject=_name_subject(config),
    state=blocks.describe_state(summary, running=content.refresh > 0),
    outcome=blocks.list_outcome(summary, config),
    shots=shots,
    sides=_find_sides(content),
    places=_list_places(content),
    frames=[
      {'step': step, 'uri': pixels.make_jpeg_uri(jpeg)}
      for step, jpeg in content.frames
    ],
    charts=charts.draw(
      content.records,
      lanes if isinstance(lanes, Sequence) else [],
      rule=str((summary.get('stop') or {}).get('rule', 'the rule')),
    ),
    size=charts,
    noise=blocks.list_noise(summary, config),
    tables=blocks.list_tables(summary),
    notes=blocks.list_notes(summary),
    machine=blocks.list_run(summary, time.strftime('%Y-%m-%d %H:%M:%S')),
    command=content.command,
    fields=list(blocks.list_fields(config)),
  )
  return html.strip() + '\n'


@functools.cache
def _load_template():
  try:
    import jinja2
  except ImportError:
    return None
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_show,
  )
  environment.filters['json'] = lambda value: json.dumps(
    value, separators=(',', ':')
  )
  return environment.from_string(_read('page.html'))


def _show(value):
  """Escapes the control characters of what others named."""
  return folders.show(value) if type(value) is str else value


@functools.cache
def _read(name: str) -> str:
  return (_FOLDER / name).read_text()


def _digest(text: str) -> str:
  """Returns what the policy of the page names a text of its own by."""
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _describe_ratio(shots) -> str:
  compared = [shot for shot in shots if shot['compared']] or shots
  if not compared:
    return ''
  return f':root{{--ratio:{compared[0]["width"] / compared[0]["height"]:.4f}}}'


def _name_subject(config) -> str:
  data = config.get('data') or {}
  name = str(data.get('image') or data.get('images') or '')
  return os.path.basename(name.rstrip('/')) or name


def _find_sides(content) -> tuple[int, int] | None:
  """Returns which pictures the slider begins with."""
  titles = {
    shot.title: index
    for index, shot in enumerate(content.shots)
    if shot.compared
  }
  if len(titles) < 2:
    return None
  first, second = content.sides or list(titles)[:2]
  return titles[first], titles[second]


def _list_places(content):
  """Returns the crops: each place with every picture that is shown closely."""
  sides = _find_sides(content)
  if not content.maps or not sides:
    return []
  restored = content.shots[sides[1]].pixels
  shape = restored.shape[:2]
  close = [shot for shot in content.shots if shot.close]
  close = [shot for shot in close if shot.pixels.shape[:2] == shape]
  return [
    {
      'title': place.title,
      'where': f'{place.side}x{place.side} at {place.left}, {place.top}',
      'cells': [
        {
          'title': shot.title,
          'uri': pixels.make_uri(place.crop(shot.pixels)),
        }
        for shot in close
      ],
    }
    for place in pixels.find_places(restored, content.maps)
  ]
