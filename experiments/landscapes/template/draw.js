// Pictures on canvases, in the colours of the style sheet.

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];

function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

const probe = document.body.appendChild(document.createElement('i'));
probe.hidden = true;

// A context in CSS pixels of a canvas with as many pixels as the screen has there.
function fitted(canvas) {
  const ratio = devicePixelRatio;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  return { context, width, height };
}

const backgrounds = new Map();

// The shaded landscape as an image of `size` pixels square, kept for all panels.
function background(name, landscape, size) {
  const ends = [colour('low'), colour('high')].map((c) => c.match(/[\d.]+/g).map(Number));
  const key = [name, size, ...ends].join();
  if (!backgrounds.has(key)) backgrounds.set(key, shade(landscape.heights, size, ends));
  return backgrounds.get(key);
}

function shade(heights, size, [low, high]) {
  const bands = 14, grid = data.grid;
  let least = Infinity, most = -Infinity;
  for (const h of heights) { least = Math.min(least, h); most = Math.max(most, h); }
  const image = new ImageData(size, size);
  const at = (position) => Math.min(grid - 2, Math.floor(position));
  for (let row = 0; row < size; row++) {
    const v = (1 - (row + 0.5) / size) * (grid - 1), j = at(v), q = v - j;
    for (let column = 0; column < size; column++) {
      const u = (column + 0.5) / size * (grid - 1), i = at(u), p = u - i, k = j * grid + i;
      const height = (1 - q) * ((1 - p) * heights[k] + p * heights[k + 1])
        + q * ((1 - p) * heights[k + grid] + p * heights[k + grid + 1]);
      const band = Math.floor((height - least) / (most - least) * bands);
      const part = Math.min(band / (bands - 1), 1);
      const pixel = 4 * (row * size + column);
      for (let c = 0; c < 3; c++) image.data[pixel + c] = low[c] + part * (high[c] - low[c]);
      image.data[pixel + 3] = 255;
    }
  }
  const canvas = new OffscreenCanvas(size, size);
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

function disc(context, x, y, radius, fill, edge) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  if (fill) { context.fillStyle = fill; context.fill(); }
  if (edge) { context.strokeStyle = edge; context.stroke(); }
}

function drawLandscape(canvas, name, landscape, run, start, frame, series) {
  const { context, width } = fitted(canvas);
  if (!width) return; // no layout yet
  context.drawImage(background(name, landscape, canvas.width), 0, 0, width, width);
  const px = (x) => x * width, py = (y) => (1 - y) * width;
  const paper = colour('card'), ink = colour('ink'), own = colour(`series-${series}`);
  context.lineWidth = 1.5;
  context.strokeStyle = ink;
  for (const [x, y] of landscape.minima) {
    context.beginPath();
    for (const side of [-5, 5]) {
      context.moveTo(px(x) - 5, py(y) - side);
      context.lineTo(px(x) + 5, py(y) + side);
    }
    context.stroke();
  }
  for (const [x, y] of landscape.starts) disc(context, px(x), py(y), 2, colour('faint'));
  const drawn = run.loss.slice(0, frame + 1).filter((loss) => loss !== null).length;
  context.lineJoin = 'round';
  for (const [line, stroke] of [[4.5, paper], [2, own]]) {
    context.beginPath();
    for (let i = 0; i < drawn; i++) context.lineTo(px(run.x[i]), py(run.y[i]));
    context.lineWidth = line;
    context.strokeStyle = stroke;
    context.stroke();
  }
  for (let i = 1; i < drawn; i++) disc(context, px(run.x[i]), py(run.y[i]), 2, own);
  context.lineWidth = 2.5;
  disc(context, px(start[0]), py(start[1]), 7, paper, own);
  context.lineWidth = 2;
  disc(context, px(run.x[drawn - 1]), py(run.y[drawn - 1]), 5.5, own, paper);
}

function drawLosses(canvas, runs, frame) {
  const { context, width, height } = fitted(canvas);
  const left = 44, right = width - 10, top = 10, bottom = height - 34;
  const all = runs.flatMap((run) => run.loss).filter((loss) => loss !== null);
  const high = Math.ceil(Math.max(...all) + 0.05);
  const low = Math.min(high - 2, Math.max(-12, Math.floor(Math.min(...all))));
  const last = data.steps.at(-1);
  const px = (step) => left + step / last * (right - left);
  const py = (loss) => bottom - (loss - low) / (high - low) * (bottom - top);
  context.font = '12px system-ui, sans-serif';
  context.fillStyle = colour('faint');
  context.strokeStyle = colour('line');
  context.textBaseline = 'middle';
  context.textAlign = 'right';
  for (let decade = low; decade <= high; decade += Math.ceil((high - low) / 8)) {
    context.fillText(`1e${decade}`, left - 8, py(decade));
    context.beginPath();
    context.moveTo(left, py(decade));
    context.lineTo(right, py(decade));
    context.stroke();
  }
  context.textBaseline = 'top';
  for (let i = 0; i <= 4; i++) {
    context.textAlign = i === 4 ? 'right' : 'center';
    const step = Math.round(last * i / 4);
    context.fillText(i === 2 ? `step ${step}` : step, px(step), bottom + 10);
  }
  context.save();
  context.beginPath();
  context.rect(left, 0, width - left, bottom + 1);
  context.clip();
  context.lineJoin = 'round';
  runs.forEach((run, series) => {
    const own = colour(`series-${series}`);
    context.beginPath();
    run.loss.forEach((loss, i) => {
      if (loss !== null) context.lineTo(px(data.steps[i]), py(loss));
    });
    context.lineWidth = 2;
    context.strokeStyle = own;
    context.setLineDash(DASHES[series]);
    context.stroke();
    context.setLineDash([]);
    if (run.loss[frame] !== null) {
      disc(context, px(data.steps[frame]), py(run.loss[frame]), 4.5, own, colour('paper'));
    }
  });
  context.restore();
  context.lineWidth = 1;
  context.strokeStyle = colour('faint');
  context.beginPath();
  context.moveTo(px(data.steps[frame]), top);
  context.lineTo(px(data.steps[frame]), bottom);
  context.stroke();
}
