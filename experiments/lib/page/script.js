'use strict';
const root = document.documentElement;
const find = (selector, inside = document) => inside.querySelector(selector);
const list = (selector, inside = document) =>
  [...inside.querySelectorAll(selector)];
root.classList.add('scripted');

// The slider: a range that lies over two pictures.
const stage = find('.stage');
if (stage) {
  const shots = list('.gallery img');
  const range = find('input', stage);
  const cut = () => stage.style.setProperty('--cut', `${range.value}%`);
  const name = (side) => find(`.choose-${side}`).selectedOptions[0].text;
  const show = () => {
    for (const side of ['before', 'after']) {
      const shot = shots[find(`.choose-${side}`).value];
      const image = find(`.${side}`, stage);
      image.src = shot.src;
      image.alt = shot.alt;
      image.classList.toggle('small', shot.classList.contains('small'));
    }
    tell();
  };
  const tell = () => range.setAttribute('aria-valuetext',
    `${range.value} % ${name('before')}, the rest ${name('after')}`);
  range.addEventListener('input', () => { cut(); tell(); });
  list('.sides select').forEach((s) => s.addEventListener('change', show));
  cut();
  show();
}

// Curves: a cursor at one step, in all of them.
const charts = list('.chart').map((figure) => ({
  figure,
  svg: find('svg', figure),
  cursor: find('.cursor', figure),
  values: JSON.parse(figure.dataset.values),
}));
const nearest = (numbers, wanted) => numbers.reduce((best, number, index) =>
  Math.abs(number - wanted) < Math.abs(numbers[best] - wanted) ? index : best,
0);
const point = (step) => charts.forEach((chart) => {
  const index = nearest(chart.values.steps, step);
  const x = chart.values.xs[index];
  chart.cursor.setAttribute('transform', `translate(${x} 0)`);
  chart.cursor.setAttribute('visibility', 'visible');
  list('.legend li', chart.figure).forEach((item, number) => {
    const value = Object.values(chart.values.series)[number][index];
    find('output', item).textContent = value === null ? '–' : value;
  });
  chart.at = index;
});

// Pictures of the fit, by step.
const frames = find('.frames');
let seek = point;
if (frames) {
  const stored = list('data', frames);
  const steps = stored.map((frame) => Number(frame.value));
  const range = find('input', frames);
  const play = find('.play', frames);
  let playing = 0;
  const show = (index) => {
    range.value = index;
    find('.frame', frames).src = stored[index].dataset.uri;
    find('output', frames).textContent = `after ${steps[index]} steps`;
  };
  const stop = () => {
    clearInterval(playing);
    playing = 0;
    play.textContent = 'Play';
  };
  // A record of a step is written after it: steps count from 0.
  const move = (index) => { show(index); point(steps[index] - 1); };
  range.addEventListener('input', () => { stop(); move(Number(range.value)); });
  play.addEventListener('click', () => {
    if (playing) { stop(); return; }
    let index = Number(range.value) + 1 < steps.length ? Number(range.value) : -1;
    play.textContent = 'Stop';
    playing = setInterval(() => {
      index += 1;
      move(index);
      if (index + 1 >= steps.length) stop();
    }, 120);
  });
  seek = (step) => { stop(); point(step); show(nearest(steps, step + 1)); };
}

charts.forEach((chart) => {
  const over = (event) => {
    const box = chart.svg.getBoundingClientRect();
    const scale = chart.svg.viewBox.baseVal.width / box.width;
    const index = nearest(chart.values.xs, (event.clientX - box.left) * scale);
    seek(chart.values.steps[index]);
  };
  chart.svg.addEventListener('pointermove', over);
  chart.svg.addEventListener('pointerdown', over);
  chart.svg.addEventListener('keydown', (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const last = chart.values.steps.length - 1;
    const index = (chart.at ?? last) + moves[event.key];
    seek(chart.values.steps[Math.min(Math.max(index, 0), last)]);
  });
});

// Tables: a click on a column's name sorts by it.
list('table.sortable').forEach((table) => {
  const heads = list('th', table);
  heads.forEach((head, column) => {
    find('button', head).addEventListener('click', () => {
      const falls = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', falls ? 'descending' : 'ascending');
      const key = (row) => row.cells[column].dataset.key;
      const compare = (a, b) => (Number.isNaN(Number(a) + Number(b))
        ? a.localeCompare(b) : Number(a) - Number(b));
      const body = table.tBodies[0];
      // What has no value comes last, either way.
      [...body.rows].sort((a, b) => {
        if (key(a) === undefined || key(b) === undefined) {
          return (key(a) === undefined) - (key(b) === undefined);
        }
        return compare(key(a), key(b)) * (falls ? -1 : 1);
      }).forEach((row) => body.append(row));
    });
  });
});

// The command, to take away.
list('.copy').forEach((button) => button.addEventListener('click', async () => {
  const code = find('code', button.parentElement);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = 'Selected';
  }
}));

// On paper nothing is folded.
addEventListener('beforeprint', () =>
  list('details').forEach((details) => { details.open = true; }));
