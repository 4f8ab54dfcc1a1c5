// From probability to mask, to two whole lungs, and to their figures; as the Python package does.

export const THRESHOLD = 0.5;
export const SMALLEST_LUNG = 0.01;
export const RIGHT = 1, LEFT = 2;
const SMALL_SIDE = 512;
const USUAL_SHARE = [0.08, 0.41], USUAL_RATIO = [0.3, 2.2], USUAL_CONTACT = 0.05;

/** 1 where a probability is above the threshold. */
export function toMask(probability) {
  return Uint8Array.from(probability, value => value > THRESHOLD ? 1 : 0);
}

/**
 * Label the parts of a mask.
 *
 * @param {Uint8Array} mask 0 or 1, row by row.
 * @param {number} width
 * @param {boolean} corners Whether pixels that touch at corners are one part.
 * @returns {{labels: Int32Array, parts: {area: number, x: number, y: number}[]}} Labels from 1 in
 *     the order of their first pixels; areas and centroids.
 */
export function label(mask, width, corners = true) {
  const height = mask.length / width, labels = new Int32Array(mask.length), parts = [];
  const stack = new Int32Array(mask.length);
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    const number = parts.length + 1;
    let top = 0, area = 0, sumX = 0, sumY = 0;
    stack[top++] = start;
    labels[start] = number;
    while (top) {
      const at = stack[--top], x = at % width, y = (at - x) / width;
      area++; sumX += x; sumY += y;
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          if (!corners && dx && dy) continue;
          const nx = x + dx, ny = y + dy;
          if (nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
          const next = ny * width + nx;
          if (mask[next] && !labels[next]) {
            labels[next] = number;
            stack[top++] = next;
          }
        }
      }
    }
    parts.push({ area, x: sumX / area, y: sumY / area });
  }
  return { labels, parts };
}

/** Keep the largest part, and the second from 1 % of the image on; fill their holes. */
export function cleanMask(mask, width) {
  const { labels, parts } = label(mask, width);
  const order = parts.map((part, at) => at).sort((a, b) => parts[b].area - parts[a].area || a - b);
  const kept = new Set(order.slice(0, 2)
    .filter((one, rank) => rank === 0 || parts[one].area >= SMALLEST_LUNG * mask.length)
    .map(one => one + 1));
  const keep = Uint8Array.from(labels, number => kept.has(number) ? 1 : 0);
  return fillHoles(keep, width);
}

function fillHoles(mask, width) {
  // A hole is background that reaches the edge by no path of 4-neighbours.
  const height = mask.length / width;
  const { labels } = label(mask.map(value => 1 - value), width, false);
  const outside = new Set();
  for (let x = 0; x < width; x++) outside.add(labels[x]).add(labels[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) outside.add(labels[y * width]).add(labels[(y + 1) * width - 1]);
  return mask.map((value, at) => value || !outside.has(labels[at]) ? 1 : 0);
}

/** Labels of every pixel: 1 the patient's right lung, 2 the left, of a film hung as usual. */
export function labelLungs(mask, width) {
  const { labels, parts } = label(mask, width);
  if (!parts.length) return new Uint8Array(mask.length);
  const sides = besideEachOther(parts);
  if (sides) return Uint8Array.from(labels, number => sides[number]);
  const cores = wornApart(mask, width, SMALLEST_LUNG * mask.length / 4);
  if (cores) return mask.map((value, at) => value * cores[at]);
  let sum = 0, count = 0;
  for (let at = 0; at < mask.length; at++) {
    if (mask[at]) { sum += at % width; count++; }
  }
  const side = sum / count < (width - 1) / 2 ? RIGHT : LEFT;
  return mask.map(value => value * side);
}

/** The side of each label, where there are two parts that lie side by side. */
function besideEachOther(parts) {
  if (parts.length !== 2) return null;
  const [first, second] = parts;
  if (Math.abs(first.x - second.x) <= Math.abs(first.y - second.y)) return null;
  return first.x < second.x ? [0, RIGHT, LEFT] : [0, LEFT, RIGHT];
}

/** Side of every pixel by the nearer of two cores; null where no depth leaves two of them. */
function wornApart(mask, width, smallest) {
  const height = mask.length / width;
  const scale = Math.min(1, SMALL_SIDE / Math.max(width, height));
  const w = Math.max(1, Math.round(width * scale)), h = Math.max(1, Math.round(height * scale));
  const small = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      small[y * w + x] = mask[Math.floor(y * height / h) * width + Math.floor(x * width / w)];
    }
  }
  const depth = distanceTo(small, w, 0, true);
  const deepest = depth.reduce((most, value) => Math.max(most, value), 0);
  for (let level = 1; level < deepest; level++) {
    const { labels, parts } = label(Uint8Array.from(depth, d => d > level ? 1 : 0), w);
    const large = parts.map((part, at) => at).filter(at => parts[at].area >= smallest * scale ** 2);
    if (!large.length) return null;
    if (large.length === 2) {
      const sides = besideEachOther(large.map(at => parts[at]));
      if (!sides) return null;
      const side = new Map(large.map((at, rank) => [at + 1, sides[rank + 1]]));
      return grown(Uint8Array.from(labels, number => side.get(number) ?? 0), w, width, height);
    }
  }
  return null;
}

function grown(cores, w, width, height) {
  const h = cores.length / w;
  const [right, left] = [RIGHT, LEFT]
    .map(side => distanceTo(cores.map(value => value === side ? 0 : 1), w, 0));
  const nearer = right.map((value, at) => left[at] - value);
  const side = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      side[y * width + x] = bilinear(nearer, w, h, (x + 0.5) * w / width - 0.5,
        (y + 0.5) * h / height - 0.5) >= 0 ? RIGHT : LEFT;
    }
  }
  return side;
}

function bilinear(values, w, h, x, y) {
  const x0 = Math.floor(x), y0 = Math.floor(y), fx = x - x0, fy = y - y0;
  const at = (column, row) => values[Math.min(Math.max(row, 0), h - 1) * w
    + Math.min(Math.max(column, 0), w - 1)];
  return (1 - fy) * ((1 - fx) * at(x0, y0) + fx * at(x0 + 1, y0))
    + fy * ((1 - fx) * at(x0, y0 + 1) + fx * at(x0 + 1, y0 + 1));
}

/**
 * Exact Euclidean distance of every pixel to the nearest one of a value (Felzenszwalb and
 * Huttenlocher 2012).
 *
 * @param {boolean} edge Whether all beyond the image's edge has that value too.
 */
export function distanceTo(mask, width, value, edge = false) {
  const height = mask.length / width, far = 1e20;
  const squared = Float64Array.from(mask, one => one === value ? 0 : far);
  const columns = index => ({ start: index, step: width, count: height });
  const rows = index => ({ start: index * width, step: 1, count: width });
  for (let x = 0; x < width; x++) lower(squared, columns(x), edge);
  for (let y = 0; y < height; y++) lower(squared, rows(y), edge);
  return Float32Array.from(squared, Math.sqrt);
}

function lower(values, { start, step, count }, edge) {
  const extra = edge ? 1 : 0, length = count + 2 * extra;
  const f = new Float64Array(length), sites = new Int32Array(length);
  const ends = new Float64Array(length + 1);
  for (let at = 0; at < count; at++) f[at + extra] = values[start + at * step];
  let last = 0;
  ends[0] = -Infinity; ends[1] = Infinity;
  for (let at = 1; at < length; at++) {
    let meets = -Infinity;
    for (; last >= 0; last--) {
      const site = sites[last];
      meets = ((f[at] + at * at) - (f[site] + site * site)) / (2 * (at - site));
      if (meets > ends[last]) break;
    }
    last++;
    sites[last] = at; ends[last] = meets; ends[last + 1] = Infinity;
  }
  last = 0;
  for (let at = 0; at < count; at++) {
    const place = at + extra;
    while (ends[last + 1] < place) last++;
    values[start + at * step] = (place - sites[last]) ** 2 + f[sites[last]];
  }
}

/**
 * Figures of each lung.
 *
 * @returns {object} `lungFraction`, `leftToRight`, and of `right` and `left` their `pixels`,
 *     `share`, `mm2` (null without a spacing), `x`, `y` and `box`.
 */
export function describe(labels, width, header) {
  const height = labels.length / width, sides = {};
  const area = header.spacing ? header.spacing[0] * header.spacing[1] : null;
  for (const [name, side] of [["right", RIGHT], ["left", LEFT]]) {
    let pixels = 0, sumX = 0, sumY = 0, x0 = width, x1 = -1, y0 = height, y1 = -1;
    for (let at = 0; at < labels.length; at++) {
      if (labels[at] !== side) continue;
      const x = at % width, y = (at - x) / width;
      pixels++; sumX += x; sumY += y;
      x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y);
    }
    sides[name] = { pixels, share: pixels / labels.length, mm2: area === null ? null : pixels * area,
      x: pixels ? sumX / pixels : null, y: pixels ? sumY / pixels : null,
      box: pixels ? [x0, y0, x1 - x0 + 1, y1 - y0 + 1] : null };
  }
  const { right, left } = sides;
  return { ...sides, lungFraction: right.share + left.share,
    leftToRight: right.pixels ? left.pixels / right.pixels : null };
}

/** Why somebody should look at a mask; empty where nothing is unusual. */
export function unusual(figures, labels, width) {
  const { lungFraction: share, leftToRight: ratio } = figures, height = labels.length / width;
  if (!share) return "no lung was found";
  if (!ratio) return "one lung missing";
  if (share < USUAL_SHARE[0] || share > USUAL_SHARE[1]) {
    return `lungs fill ${(100 * share).toFixed(1)}% of the film, which is unusual`;
  }
  if (ratio < USUAL_RATIO[0] || ratio > USUAL_RATIO[1]) {
    return `the left lung has ${ratio.toFixed(2)} times the right's area`;
  }
  const contact = (count, at) => {
    let touched = 0;
    for (let one = 0; one < count; one++) touched += labels[at(one)] ? 1 : 0;
    return touched / count;
  };
  const edges = [contact(width, x => x), contact(width, x => (height - 1) * width + x),
    contact(height, y => y * width), contact(height, y => (y + 1) * width - 1)];
  return Math.max(...edges) > USUAL_CONTACT ? "lungs touch the film's edge" : "";
}
