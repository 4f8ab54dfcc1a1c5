// The network: from grey levels of any size to a probability, as the Python package makes it.

import { roundEven } from "./film.js";
import { cleanMask, toMask } from "./lungs.js";
import { doubt } from "./quality.js";

/** Turn an image as films are hung: the patient's left on the right, the feet below. */
export function turnUpright({ values, width, height }, orientation) {
  let [rows, columns] = orientation ?? ["L", "F"];
  let image = { values, width, height };
  if ("HF".includes(rows)) [image, rows, columns] = [transposed(image), columns, rows];
  return mirrored(image, rows === "R", columns === "H");
}

/** Undo `turnUpright`. */
export function turnBack(image, orientation) {
  let [rows, columns] = orientation ?? ["L", "F"];
  const lying = "HF".includes(rows);
  if (lying) [rows, columns] = [columns, rows];
  const turned = mirrored(image, rows === "R", columns === "H");
  return lying ? transposed(turned) : turned;
}

function transposed({ values, width, height }) {
  const turned = new values.constructor(values.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) turned[x * height + y] = values[y * width + x];
  }
  return { values: turned, width: height, height: width };
}

export function mirrored({ values, width, height }, across, along = false) {
  if (!across && !along) return { values, width, height };
  const turned = new values.constructor(values.length);
  for (let y = 0; y < height; y++) {
    const from = (along ? height - 1 - y : y) * width;
    for (let x = 0; x < width; x++) turned[y * width + x] = values[from + (across ? width - 1 - x : x)];
  }
  return { values: turned, width, height };
}

/** Resize grey levels: averaging areas along axes that shrink, linearly where they grow. */
export function resizeImage({ values, width, height }, newWidth, newHeight) {
  const shrunkWidth = Math.min(width, newWidth), shrunkHeight = Math.min(height, newHeight);
  let image = { values, width, height };
  if (shrunkWidth !== width || shrunkHeight !== height) {
    image = resampled(image, areas(width, shrunkWidth), areas(height, shrunkHeight));
  }
  if (shrunkWidth !== newWidth || shrunkHeight !== newHeight) {
    image = resampled(image, lines(shrunkWidth, newWidth), lines(shrunkHeight, newHeight));
  }
  return { ...image, values: image.values instanceof Uint8Array ? image.values
    : Uint8Array.from(image.values, value => Math.min(Math.max(roundEven(value), 0), 255)) };
}

/** Resize a probability bilinearly. */
export function resizeProbability(image, width, height) {
  if (image.width === width && image.height === height) return image;
  return resampled(image, lines(image.width, width), lines(image.height, height));
}

/** For each new pixel along an axis the old ones that it is made of, and their weights. */
function areas(count, wanted) {
  const step = count / wanted;
  return Array.from({ length: wanted }, (_, at) => {
    const start = at * step, stop = Math.min(start + step, count), parts = [];
    for (let one = Math.floor(start); one < stop; one++) {
      const weight = (Math.min(one + 1, stop) - Math.max(one, start)) / (stop - start);
      if (weight > 1e-9) parts.push([one, weight]);
    }
    return parts;
  });
}

function lines(count, wanted) {
  return Array.from({ length: wanted }, (_, at) => {
    const place = (at + 0.5) * count / wanted - 0.5, first = Math.floor(place);
    const inside = one => Math.min(Math.max(one, 0), count - 1), rest = place - first;
    return rest ? [[inside(first), 1 - rest], [inside(first + 1), rest]] : [[inside(first), 1]];
  });
}

function resampled({ values, width, height }, across, along) {
  const wide = new Float32Array(across.length * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < across.length; x++) {
      let sum = 0;
      for (const [from, weight] of across[x]) sum += weight * values[y * width + from];
      wide[y * across.length + x] = sum;
    }
  }
  const found = new Float32Array(across.length * along.length);
  for (let y = 0; y < along.length; y++) {
    for (const [from, weight] of along[y]) {
      for (let x = 0; x < across.length; x++) {
        found[y * across.length + x] += weight * wide[from * across.length + x];
      }
    }
  }
  return { values: found, width: across.length, height: along.length };
}

/** Whether the lungs are brighter than what lies around them, as only on an inverted film. */
export function lungsAreBright(levels, probability, size) {
  const lungs = toMask(probability), reach = (Math.round(size / 16) | 1) >> 1;
  const wide = dilated(lungs, size, reach);
  let inside = 0, insideCount = 0, around = 0, aroundCount = 0;
  for (let at = 0; at < lungs.length; at++) {
    if (lungs[at]) { inside += levels[at]; insideCount++; }
    else if (wide[at]) { around += levels[at]; aroundCount++; }
  }
  return Boolean(insideCount && aroundCount) && inside / insideCount > around / aroundCount;
}

function dilated(mask, size, reach) {
  const pass = (values, step, line) => {
    const found = new Uint8Array(values.length);
    for (let row = 0; row < size; row++) {
      let last = -Infinity, next = 0;
      for (let at = 0; at < size; at++) {
        const place = one => row * line + one * step;
        while (next < size && next <= at + reach) {
          if (values[place(next)]) last = next;
          next++;
        }
        found[place(at)] = last >= at - reach ? 1 : 0;
      }
    }
    return found;
  };
  return pass(pass(mask, 1, size), size, 1);
}

/**
 * Find the lungs in a film.
 *
 * @param {{grey: Uint8Array, width: number, height: number, header: object}} film
 * @param {(levels: Uint8Array) => Promise<Float32Array>} predict From grey levels (size, size) to
 *     a probability of the same size.
 * @param {number} size Of the network.
 * @returns {Promise<object>} `mask` and `probability` at the film's own size and orientation;
 *     `coarse`, the network's answer on the upright film, `small`, what it saw, and `inverted`.
 */
export async function segment(film, predict, size) {
  const upright = turnUpright({ values: film.grey, ...film }, film.header.orientation);
  let small = resizeImage(upright, size, size).values;
  let coarse = await predict(small), inverted = false;
  if (lungsAreBright(small, coarse, size)) {
    const inverse = small.map(level => 255 - level), found = await predict(inverse);
    if (doubt(found) < doubt(coarse)) [small, coarse, inverted] = [inverse, found, true];
  }
  const whole = resizeProbability({ values: coarse, width: size, height: size }, upright.width,
    upright.height);
  const mask = cleanMask(toMask(whole.values), upright.width);
  const back = values => turnBack({ values, width: upright.width, height: upright.height },
    film.header.orientation).values;
  return { mask: back(mask), probability: back(whole.values), coarse, small, inverted };
}
