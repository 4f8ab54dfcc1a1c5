// Labels of a film: packed for many films, corrected by strokes of a brush, drawn as outlines.

// Okabe and Ito's sky blue and orange, told apart by colour-blind readers: right and left lung.
export const COLOURS = { 1: [86, 180, 233], 2: [230, 159, 0] };

/** Labels as runs: label, length, label, length. */
export function packed(labels) {
  const runs = [];
  for (let at = 0; at < labels.length;) {
    let stop = at + 1;
    while (stop < labels.length && labels[stop] === labels[at]) stop++;
    runs.push(labels[at], stop - at);
    at = stop;
  }
  return Uint32Array.from(runs);
}

export function unpacked(runs, count) {
  const labels = new Uint8Array(count);
  let at = 0;
  for (let run = 0; run < runs.length; run += 2) {
    labels.fill(runs[run], at, at + runs[run + 1]);
    at += runs[run + 1];
  }
  return labels;
}

/** Labels at another size: of each new pixel those of the old one at its middle. */
export function scaled(labels, width, height, newWidth, newHeight) {
  const found = new Uint8Array(newWidth * newHeight);
  for (let y = 0; y < newHeight; y++) {
    const row = Math.floor((y + 0.5) * height / newHeight) * width;
    for (let x = 0; x < newWidth; x++) {
      found[y * newWidth + x] = labels[row + Math.floor((x + 0.5) * width / newWidth)];
    }
  }
  return found;
}

/**
 * Apply strokes of the brush.
 *
 * @param {Uint8Array} labels Changed in place, and returned.
 * @param {{points: number[][], radius: number, label: number}[]} strokes In pixels of the film.
 * @param {number} scale Of these labels against the film.
 */
export function apply(labels, strokes, width, scale = 1) {
  const height = labels.length / width;
  for (const { points, radius, label } of strokes) {
    points.forEach((point, at) => {
      const [x0, y0] = (points[at - 1] ?? point).map(one => one * scale);
      const [x1, y1] = point.map(one => one * scale), reach = Math.max(radius * scale, 0.5);
      const [left, right] = [Math.min(x0, x1) - reach, Math.max(x0, x1) + reach];
      const [top, low] = [Math.min(y0, y1) - reach, Math.max(y0, y1) + reach];
      const [dx, dy] = [x1 - x0, y1 - y0], squared = dx * dx + dy * dy;
      for (let y = Math.max(0, Math.floor(top)); y < Math.min(height, low); y++) {
        for (let x = Math.max(0, Math.floor(left)); x < Math.min(width, right); x++) {
          const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
          const along = squared ? Math.min(Math.max((px * dx + py * dy) / squared, 0), 1) : 0;
          if ((px - along * dx) ** 2 + (py - along * dy) ** 2 <= reach * reach) {
            labels[y * width + x] = label;
          }
        }
      }
    });
  }
  return labels;
}

/** The label nearest to a point, for a stroke that begins there; by the film's half where none. */
export function nearestLabel(labels, width, x, y) {
  const height = labels.length / width;
  let best = Infinity, found = x < width / 2 ? 1 : 2;
  for (let row = 0; row < height; row += 4) {
    for (let column = 0; column < width; column += 4) {
      const label = labels[row * width + column];
      const distance = (column - x) ** 2 + (row - y) ** 2;
      if (label && distance < best) [best, found] = [distance, label];
    }
  }
  return found;
}

/**
 * Draw outlines, and fill where asked, into RGBA.
 *
 * @param {Uint8ClampedArray} data RGBA, changed in place.
 * @param {Uint8Array|null} grey The film below; null for a transparent layer.
 * @param {number} fill Opacity of the inside, 0 to 1.
 */
export function colour(data, labels, width, thickness, grey = null, fill = 0) {
  const height = labels.length / width;
  const isEdge = at => {
    const x = at % width, y = (at - x) / width, own = labels[at];
    for (let step = 1; step <= thickness; step++) {
      if (x < step || y < step || x >= width - step || y >= height - step) return step === 1;
      if (labels[at - step] !== own || labels[at + step] !== own
        || labels[at - step * width] !== own || labels[at + step * width] !== own) return true;
    }
    return false;
  };
  for (let at = 0; at < labels.length; at++) {
    const own = COLOURS[labels[at]], level = grey?.[at] ?? 0;
    const share = own ? (isEdge(at) ? 1 : fill) : 0;
    const below = grey ? level : 0;
    for (let one = 0; one < 3; one++) {
      data[4 * at + one] = grey ? below + share * ((own?.[one] ?? 0) - below) : own?.[one] ?? 0;
    }
    data[4 * at + 3] = grey ? 255 : 255 * share;
  }
}
