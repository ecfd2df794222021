// The page: what is chosen, and what happens when that changes.

const MOST_PANELS = 4, MILLISECONDS_A_FRAME = 110;
const element = (id) => document.getElementById(id);
const lastFrame = data.steps.length - 1;
const panels = []; // { root, optimizer, rate }
const chosen = { function: Object.keys(data.functions)[0], start: 0, frame: lastFrame };
let landscape = await load(chosen.function);
let timer = null;

const tunedRate = (optimizer) => landscape.tuned[data.optimizers.indexOf(optimizer)];
const rateText = (optimizer, rate) =>
  `${data.rates[rate]}${data.halved.includes(optimizer) ? ' / 2' : ''}`;

function fill(select, values, names = values) {
  select.append(...values.map((value, i) => new Option(names[i], value)));
}

function addPanel(optimizer) {
  const root = element('panel').content.cloneNode(true).firstElementChild;
  const panel = { root, optimizer, rate: tunedRate(optimizer) };
  const part = (name) => root.querySelector(`.${name}`);
  fill(part('optimizer'), data.optimizers);
  part('optimizer').value = optimizer;
  part('optimizer').onchange = (event) => {
    panel.optimizer = event.target.value;
    panel.rate = tunedRate(panel.optimizer);
    draw();
  };
  part('rate').max = data.rates.length - 1;
  part('rate').oninput = (event) => { panel.rate = event.target.valueAsNumber; draw(); };
  part('tuned').onclick = () => { panel.rate = tunedRate(panel.optimizer); draw(); };
  part('remove').onclick = () => {
    panels.splice(panels.indexOf(panel), 1);
    root.remove();
    draw();
    element('add').focus();
  };
  makeDraggable(part('landscape'));
  panels.push(panel);
  element('panels').append(root);
  resized.observe(part('landscape'));
}

function nearestStart(distance) {
  const distances = landscape.starts.map(distance);
  return distances.indexOf(Math.min(...distances));
}

function choose(start) {
  chosen.start = start;
  draw();
}

function makeDraggable(canvas) {
  const pointed = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.x) / box.width, 1 - (event.clientY - box.y) / box.height];
  };
  const follow = (event) => {
    const [x, y] = pointed(event);
    choose(nearestStart(([u, v]) => Math.hypot(u - x, v - y)));
  };
  const drag = (dragging) => canvas.classList.toggle('dragging', dragging);
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag(true);
    follow(event);
  };
  canvas.onpointermove = (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) follow(event);
  };
  canvas.onlostpointercapture = () => drag(false);
  // A finger on the start drags it; anywhere else it scrolls the page.
  canvas.addEventListener('touchstart', (event) => {
    const [x, y] = pointed(event.touches[0]), [u, v] = landscape.starts[chosen.start];
    if (Math.hypot(u - x, v - y) < 0.1) event.preventDefault();
  }, { passive: false });
  const directions = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
  };
  canvas.onkeydown = (event) => {
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    const [x, y] = landscape.starts[chosen.start], [a, b] = direction;
    const next = nearestStart(([u, v]) => {
      const along = a * (u - x) + b * (v - y), across = b * (u - x) - a * (v - y);
      return along > 0 ? along + 2 * Math.abs(across) : Infinity;
    });
    const [u, v] = landscape.starts[next];
    if (a * (u - x) + b * (v - y) > 0) choose(next);
  };
}

function drawPanel({ root, optimizer, rate }, series, run) {
  const part = (name) => root.querySelector(`.${name}`);
  const start = landscape.starts[chosen.start], tuned = tunedRate(optimizer);
  const now = lossText(run.loss[chosen.frame]), final = lossText(run.loss[lastFrame]);
  part('swatch').style.background = `var(--series-${series})`;
  part('rate').value = rate;
  part('rate').ariaValueText = part('shown-rate').value = rateText(optimizer, rate);
  part('tuned').textContent = `Tuned: ${data.rates[tuned]}`;
  part('tuned').disabled = rate === tuned;
  part('now').textContent = now;
  part('final').textContent = final;
  part('remove').hidden = panels.length === 1;
  part('landscape').ariaLabel = `${optimizer} at rate ${rateText(optimizer, rate)} on `
    + `${landscape.title} from start ${chosen.start + 1} of ${data.starts}: loss ${now} `
    + `at step ${data.steps[chosen.frame]}. Arrow keys choose another start.`;
  drawLandscape(part('landscape'), chosen.function, landscape, run, start, chosen.frame,
    series);
}

function drawLegend() {
  element('legend').replaceChildren(...panels.map(({ optimizer, rate }, series) => {
    const item = document.createElement('span'), swatch = document.createElement('i');
    swatch.className = 'swatch';
    swatch.style.background = `var(--series-${series})`;
    item.append(swatch, `${optimizer}, ${rateText(optimizer, rate)}`);
    return item;
  }));
}

function draw() {
  const runs = panels.map((p) => runOf(landscape, p.optimizer, p.rate, chosen.start));
  panels.forEach((panel, series) => drawPanel(panel, series, runs[series]));
  drawLosses(element('losses'), runs, chosen.frame);
  drawLegend();
  element('add').disabled = panels.length === MOST_PANELS;
  element('time').value = chosen.frame;
  element('step').value = `step ${data.steps[chosen.frame]} of ${data.steps[lastFrame]}`;
  element('time').ariaValueText = element('step').value;
}

function stop() {
  clearInterval(timer);
  timer = null;
  element('play').textContent = 'Play';
}

element('play').onclick = () => {
  if (timer) return stop();
  if (chosen.frame === lastFrame) chosen.frame = 0;
  element('play').textContent = 'Pause';
  timer = setInterval(() => {
    if (++chosen.frame === lastFrame) stop();
    draw();
  }, MILLISECONDS_A_FRAME);
  draw();
};
element('time').oninput = (event) => {
  stop();
  chosen.frame = event.target.valueAsNumber;
  draw();
};
element('function').onchange = async (event) => {
  const name = event.target.value, loaded = await load(name);
  if (event.target.value !== name) return; // another was chosen meanwhile
  chosen.function = name;
  landscape = loaded;
  panels.forEach((panel) => { panel.rate = tunedRate(panel.optimizer); });
  draw();
};
element('add').onclick = () => {
  const shown = panels.map((panel) => panel.optimizer);
  addPanel(data.optimizers.find((name) => !shown.includes(name)) ?? data.optimizers[0]);
};

const resized = new ResizeObserver(draw);
matchMedia('(prefers-color-scheme: dark)').onchange = draw;
fill(element('function'), Object.keys(data.functions),
  Object.values(data.functions).map((f) => f.title));
element('time').max = lastFrame;
data.first.slice(innerWidth < 700 ? 1 : 0).forEach(addPanel);
resized.observe(element('losses'));
