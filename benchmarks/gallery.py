"""Makes the gallery: docs/gallery.md, with the worst pictures beside the best.

    python -m benchmarks.gallery --note 'one core of an Intel Xeon'

Each section restores the middle of every picture that it names, with the
experiment and the config that a user would take. The page has a table of all of
them, and shows the one that gained most and the one that gained least. What is
gained is counted from BM3D (rows of benchmarks/estimates.jsonl), from another
simple restoration, or from the picture before, as the section says.

Each restoration is a run in a folder of its own below --runs, and a run that is
finished is only read: the same command goes on where it was. The page is
written after each section.
"""

import argparse
import dataclasses
import importlib
import io
import pathlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from PIL import Image

from benchmarks import noise as kinds
from benchmarks import stopping
from dipjax import metrics
from experiments import deblur, denoise, inpaint, super_resolution
from experiments.lib import data as data_lib
from experiments.lib import fields, folders, images, pictures, records

ROOT = pathlib.Path(__file__).resolve().parents[1]
ESTIMATES = ROOT / 'benchmarks' / 'estimates.jsonl'
COLOUR = ('astronaut', 'chelsea', 'coffee', 'rocket')
ALL = (*COLOUR, 'camera', 'brick', 'grass', 'gravel')
SOME = ('coffee', 'camera', 'grass')
SMALL: Mapping[str, Any] = {
  'network.down': (32,) * 5,
  'network.up': (32,) * 5,
}
QUALITY = 80  # Of the pictures that the page shows, as WebP.
_SAME = 0.01  # dB between two pictures of one damage: as they are rounded.

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """Pictures with one damage, and how they are restored.

  Attributes:
    title: of the section.
    text: what the damage is, and who is told what of it.
    experiment: the module.
    load: the fields `data` of its config -> what it restores.
    config: the name of the config, and its words.
    names: of the pictures, samples of scikit-image.
    given: fields of the config.
    damage: the clean picture -> a file for the experiment; None: the experiment
      makes the damage.
    crop: side of the square in the middle.
    rival: what the result is compared with: 'BM3D', with `row`; 'biharmonic';
      a baseline of the experiment; or 'before'.
    row: of BM3D in benchmarks/estimates.jsonl: (method, sigma, kind).
  """

  title: str
  text: str
  experiment: Any
  load: Callable[[ml_collections.ConfigDict], data_lib.Data]
  config: str
  names: Sequence[str] = SOME
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  damage: Callable[[Array], Array] | None = None
  crop: int = 128
  rival: str = 'before'
  row: tuple[str, float, str | None] | None = None


class Row(NamedTuple):
  """One restoration of a section."""

  picture: str
  before: float  # dB, as the next two.
  rival: float
  restored: float
  steps: int
  day: str
  panels: Mapping[str, Array]  # By caption.

  @property
  def gain(self) -> float:
    """What the restoration has more than its rival, dB."""
    return self.restored - self.rival


def _make_white(sigma):
  return Section(
    title=f'White noise, sigma {sigma:g}',
    text=(
      f'Gaussian noise of standard deviation {sigma:g} of 255, clipped to '
      'black and white. dipjax is told nothing. BM3D is told the deviation and '
      'the clipping.'
    ),
    experiment=denoise,
    load=data_lib.load_denoising,
    config='req2:fast',
    names=ALL,
    given={'data.sigma': sigma},
    rival='BM3D',
    row=('bm3d_unclipped', sigma, None),
  )


SECTIONS = {
  'white15': _make_white(15.0),
  'white25': _make_white(25.0),
  'white50': _make_white(50.0),
  'camera': Section(
    title='Noise of a camera',
    text=(
      'Noise of standard deviation 25 of 255 on a sensor that sees one colour '
      'at each pixel. The other colours are interpolated, so that neighbours '
      'share their noise. dipjax is told nothing. BM3D is told the level.'
    ),
    experiment=denoise,
    load=data_lib.load_denoising,
    config='req2:fast',
    names=COLOUR,
    damage=lambda clean: kinds.add_noise(clean, 'bilinear', 25.0, seed=0)[0],
    rival='BM3D',
    row=('bm3d', 25.0, 'bilinear'),
  ),
  'jpeg': Section(
    title='JPEG artefacts',
    text='The picture as a JPEG of quality 10.',
    experiment=denoise,
    load=data_lib.load_denoising,
    config='jpeg:quick',
    crop=96,
    damage=lambda clean: stopping.damage_image(
      clean, {'damage': 'jpeg', 'sigma': None, 'seed': 0}
    )[0],
  ),
  'inpainting': Section(
    title='Inpainting',
    text=(
      'Half of the pixels are missing, at random. Biharmonic inpainting is '
      "scikit-image's."
    ),
    experiment=inpaint,
    load=inpaint.load,
    config='inpaint:quick',
    crop=96,
    given=SMALL,
    rival='biharmonic',
  ),
  'enlarging': Section(
    title='Enlarging four times',
    text='The picture was reduced to a quarter of its height and width.',
    experiment=super_resolution,
    load=super_resolution.load,
    config='req3:quick',
    crop=96,
    given=SMALL,
    rival='bicubic',
  ),
  'deblurring': Section(
    title='Deblurring',
    text=(
      'A Gaussian blur of 1.6 pixels, and noise of standard deviation 2 of '
      '255. dipjax is told the kernel.'
    ),
    experiment=deblur,
    load=deblur.load,
    config='deblur:quick',
    crop=96,
    given=SMALL,
  ),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs what is missing; writes the page after each section."""
  parser = _make_parser()
  arguments = parser.parse_args(argv)
  chapters = []
  try:
    for name in arguments.sections:
      section = SECTIONS[name]
      section = _make_tiny(section) if arguments.smoke else section
      rows = [
        restore(section, picture, arguments.runs / name / picture)
        for picture in arguments.pictures or section.names
      ]
      chapters.append((name, section, rows))
      write_page(chapters, arguments)
  except (ValueError, OSError) as error:
    parser.error(str(error))


def _make_parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  names, path = list(SECTIONS), pathlib.Path
  add('--sections', nargs='+', choices=names, default=names)
  add('--pictures', nargs='+', help='samples; default: those of each section')
  add('--note', required=True, help='for the page: what computes')
  add('--smoke', action='store_true', help='as small as in the tests')
  add('--runs', type=path, metavar='DIR', default=path('runs/gallery'))
  add('--out', type=path, metavar='DIR', default=ROOT / 'docs')
  return parser


def _make_tiny(section):
  words = f'{section.config.partition(":")[0]}:smoke'
  given = {field: v for field, v in section.given.items() if field not in SMALL}
  return dataclasses.replace(section, config=words, given=given, crop=32)


def restore(section: Section, picture: str, folder: pathlib.Path) -> Row:
  """Returns one restoration of a section, which a run in `folder` made."""
  config = make_config(section, picture, folder)
  data = section.load(config.data)
  assert data.clean is not None
  rival, image = find_rival(section, picture, data)
  result = section.experiment.run(config, str(folder))
  if result.signal:
    raise SystemExit(128 + result.signal)
  scores = [
    result.summary[name]['psnr'] for name in ('measurement', 'restored')
  ]
  before, after = scores
  panels = {f'before, {before:.2f} dB': data.picture}
  if image is not None:
    panels[f'{section.rival}, {rival:.2f} dB'] = image
  restored = result.images['restored']
  panels |= {f'restored, {after:.2f} dB': restored, 'clean': data.clean}
  ended = (folder / 'result.json').stat().st_mtime
  return Row(
    picture,
    before,
    rival,
    after,
    result.summary['steps'],
    time.strftime('%Y-%m-%d', time.gmtime(ended)),
    panels,
  )


def make_config(
  section: Section, picture: str, folder: pathlib.Path
) -> ml_collections.ConfigDict:
  """Returns the config of a run; damage that is a file lies beside the run."""
  name, words = section.config.split(':')
  config = importlib.import_module(f'configs.{name}').get_config(words)
  side = section.crop
  given = {'data.image': picture, 'data.crop': (side, side), 'output': ''}
  if section.damage:
    clean = stopping.read_middle(picture, side)
    files = {'data.image': section.damage(clean), 'data.clean': clean}
    folder.parent.mkdir(parents=True, exist_ok=True)
    for field, image in files.items():
      given[field] = f'{folder}_{field.removeprefix("data.")}.png'
      images.write_image(given[field], image)
    given |= {'data.crop': (), 'data.sigma': 0.0}
  for field, value in {**given, **section.given}.items():
    fields.set_field(config, field, value)
  return config


def find_rival(
  section: Section, picture: str, data: data_lib.Data
) -> tuple[float, Array | None]:
  """Returns the PSNR of what a result is compared with, and its image.

  The image is None where rows of another benchmark have the score alone.
  """
  assert data.clean is not None
  before = float(metrics.psnr(data.picture, data.clean))
  if section.rival == 'before':
    return before, None
  if section.row:
    return _find_row(section, picture, before)['psnr'], None
  if section.rival == 'biharmonic':
    image = _fill_smoothly(data)
  else:
    image = data.baselines[section.rival]
  return float(metrics.psnr(image, data.clean)), image


def _find_row(section, picture, before):
  """Returns BM3D's row for the same picture with the same noise."""
  method, sigma, kind = section.row
  sought = {'image': picture, 'method': method, 'sigma': sigma}
  sought |= {'crop': section.crop}
  for row in records.read_lines(str(ESTIMATES)):
    same = row.get('kind') == kind and 'unclipped' not in row
    same = same and sought.items() <= row.items()
    if same and abs(row['before'] - before) < _SAME:
      return row
  raise ValueError(f'{ESTIMATES} has no row {sought} of the same noise')


def _fill_smoothly(data):
  from skimage import restoration

  missing = ~data.seen[..., 0]
  return restoration.inpaint_biharmonic(
    data.measurement, missing, channel_axis=2
  )


# --- The page.


def write_page(
  chapters: Sequence[tuple[str, Section, Sequence[Row]]],
  arguments: argparse.Namespace,
) -> None:
  """Writes gallery.md and, in the folder gallery, the pictures that it shows.

  Args:
    chapters: (name, section, its rows).
    arguments: of the command.
  """
  out, note = arguments.out, arguments.note
  (out / 'gallery').mkdir(parents=True, exist_ok=True)
  days = sorted({row.day for _, _, rows in chapters for row in rows})
  names = [name for name, _, _ in chapters]
  words = [] if names == [*SECTIONS] else ['--sections', *names]
  words += ['--pictures', *arguments.pictures] if arguments.pictures else []
  shown = set()
  lines = [
    '# Gallery',
    '',
    'The middle of pictures that scikit-image brings. Each section lists all '
    'pictures that were tried, and shows the one that gained most and the one '
    'that gained least. One seed each; the fits end without the clean picture. '
    'PSNR in dB.',
    '',
    f'Made on {" and ".join([days[0], *days[1:][-1:]])}, {note}, by',
    '',
    f'    {shlex.join(["python", "-m", "benchmarks.gallery", *words])} \\',
    f'      --note {shlex.quote(note)}',
  ]
  for name, section, rows in chapters:
    ordered = sorted(rows, key=lambda row: -row.gain)
    lines += ['', f'## {section.title}', '', section.text, '']
    lines += [f'    {line}' for line in _list_command(section)]
    lines += ['', *_list_table(section, ordered)]
    for title, row in (('best', ordered[0]), ('worst', ordered[-1])):
      file = f'gallery/{name}_{row.picture}.webp'
      _write_webp(out / file, pictures.draw_comparison(row.panels))
      shown.add(out / file)
      caption = ', '.join(row.panels)
      lines += ['', f'The {title}, {row.picture}:', '', f'![{caption}]({file})']
  page = '\n'.join([*lines, '', *_LICENCES, ''])
  folders.write_atomic(out / 'gallery.md', page.encode())
  # Of a page before, whose best and worst were others.
  for file in {*(out / 'gallery').glob('*.webp')} - shown:
    file.unlink()


_LICENCES = (
  '## The pictures',
  '',
  'astronaut is a photograph of NASA, in the public domain. coffee (Rachel',
  'Michetti), chelsea (Stefan van der Walt), rocket (SpaceX), camera (Lav',
  'Varshney), brick, grass and gravel (CC0 Textures) were given to the public',
  'domain (CC0); scikit-image has their sources.',
)


def _list_command(section):
  """Returns the lines of the command that a user would type."""
  name, words = section.config.split(':')
  module = section.experiment.__name__
  side = section.crop
  given = {'data.image': 'PICTURE', 'data.crop': (side, side)}
  if section.damage:
    given = {'data.image': 'DAMAGED', 'data.clean': 'PICTURE', 'data.sigma': 0}
  given |= section.given
  lines = [f'python -m {module} --config=configs/{name}.py:{words}']
  lines += [
    f'  --config.{field}={shlex.quote(str(value).replace(" ", ""))}'
    for field, value in given.items()
  ]
  return [*(f'{line} \\' for line in lines[:-1]), lines[-1]]


def _list_table(section, rows):
  rival = [] if section.rival == 'before' else [section.rival]
  names = ['picture', 'before', *rival, 'restored', 'more', 'steps']
  lines = [names, ['---'] * len(names)]
  for row in rows:
    scores = [row.before, *([row.rival] if rival else []), row.restored]
    lines.append(
      [row.picture, *(f'{score:.2f}' for score in scores)]
      + [f'{row.gain:+.2f}', str(row.steps)]
    )
  return [f'| {" | ".join(line)} |' for line in lines]


def _write_webp(path, image):
  levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
  data = io.BytesIO()
  Image.fromarray(levels).save(data, 'WEBP', quality=QUALITY, method=6)
  folders.write_atomic(path, data.getvalue())


if __name__ == '__main__':
  main()
