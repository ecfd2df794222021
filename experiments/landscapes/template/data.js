// What the page holds: a description in JSON, and numbers as packed.py packs them.

const data = JSON.parse(document.getElementById('data').textContent);

// Base64 → zlib → differences of 16-bit numbers, low bytes first → the numbers, whose
// rows of `length` each begin anew.
async function unpack(text, length) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream('deflate'));
  const bytes = new Uint8Array(await new Response(inflated).arrayBuffer());
  const count = bytes.length / 2;
  const numbers = new Int16Array(count);
  for (let i = 0; i < count; i++) {
    const difference = bytes[i] | (bytes[count + i] << 8);
    numbers[i] = i % length ? numbers[i - 1] + difference : difference;
  }
  return numbers;
}

const unpacked = new Map();

// The numbers of a function, unpacked when it is first chosen.
async function load(name) {
  if (!unpacked.has(name)) {
    const { heights, paths } = data.functions[name];
    unpacked.set(name, {
      heights: await unpack(heights, data.grid),
      paths: await unpack(paths, data.steps.length),
    });
  }
  return { ...data.functions[name], ...unpacked.get(name) };
}

// One run: x and y as parts of the box, and the decimal logarithm of the loss, which is
// null from where the run has diverged.
function runOf(landscape, optimizer, rate, start) {
  const frames = data.steps.length;
  const place = (data.optimizers.indexOf(optimizer) * data.rates.length + rate)
    * data.starts + start;
  const row = (i) => Array.from(
    landscape.paths.subarray((place * 3 + i) * frames, (place * 3 + i + 1) * frames));
  const [x, y, loss] = [row(0), row(1), row(2)];
  return {
    x: x.map((code) => code / data.box),
    y: y.map((code) => code / data.box),
    loss: loss.map((code) => (code === data.diverged ? null : code / data.decade)),
  };
}

function lossText(exponent) {
  if (exponent === null) return 'diverged';
  if (exponent <= data.least) return `below 1e${data.least}`;
  if (exponent >= -data.least) return `above 1e${-data.least}`;
  return (10 ** exponent).toExponential(2);
}
