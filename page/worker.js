// All the work, away from the page's own thread: the network, reading films, counting, drawing.

import * as ort from "./vendor/ort.wasm.min.mjs";

import { FilmError } from "./errors.js";
import { readFilm } from "./film.js";
import { cleanMask, describe, labelLungs, toMask, unusual } from "./lungs.js";
import { mirrored, segment, turnBack, turnUpright } from "./network.js";
import { expectedDice } from "./quality.js";
import { apply, colour, packed, scaled, unpacked } from "./labels.js";

const decoders = {
  dicom: () => import("./vendor/decoders.js"),
  png: async () => (await import("./vendor/decoders.js")).decodePng,
};
let network = null;

const answers = { load, segment: find, film: show, count, picture };

self.onmessage = async ({ data: { call, id, ...given } }) => {
  try {
    const [answer, moved] = await answers[call](given);
    self.postMessage({ id, answer }, moved ?? []);
  } catch (error) {
    // By its parts, as the bundle of decoders has a class of its own.
    const told = error.rule ? error : new FilmError(
      "An unexpected error.", String(error?.message ?? error), "Reload the page, or report it.");
    const { rule, received, advice } = told;
    self.postMessage({ id, error: { rule, received, advice } });
  }
};

/** Fetch the network, check that it is the one meant, and open it. */
async function load() {
  const { network: meant, quality } = await (await fetch("vendor/manifest.json")).json();
  const response = await fetch(meant.file);
  if (!response.ok) {
    throw new FilmError("The page needs its network.", `${meant.file}: ${response.status}`,
      "Check the connection, and reload.");
  }
  const bytes = new Uint8Array(meant.bytes), reader = response.body.getReader();
  let loaded = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (loaded + part.value.length > bytes.length) break;
    bytes.set(part.value, loaded);
    loaded += part.value.length;
    self.postMessage({ loaded: loaded / bytes.length });
  }
  const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))]
    .map(one => one.toString(16).padStart(2, "0")).join("");
  if (digest !== meant.sha256) {
    throw new FilmError("The network is the one that was published.",
      `SHA-256 ${digest.slice(0, 12)}…, not ${meant.sha256.slice(0, 12)}…`,
      "Reload the page; if that does not help, its copy is damaged.");
  }
  ort.env.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;
  // Threads need a page that is isolated from others: the service worker sees to that.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  network = { session, size: meant.size, quality, queue: Promise.resolve() };
  return [{ threads: ort.env.wasm.numThreads, size: meant.size, bytes: meant.bytes }];
}

async function predict(levels) {
  const { session, size } = network;
  const image = Float32Array.from(levels, level => level * Math.fround(1 / 255));
  const run = async () => (await session.run({ image: new ort.Tensor(image, [1, size, size, 1]) }))
    .probability.data;
  const found = network.queue.then(run);
  network.queue = found.catch(() => {});
  return found;
}

/** Find the lungs in a file. */
async function find({ file }) {
  const begun = performance.now(), { size, quality } = network;
  const film = await readFilm(await file.arrayBuffer(), file.name, decoders);
  const found = await segment(film, predict, size), { width, height, header } = film;
  const labels = hungLabels(found.mask, film);
  const figures = describe(labels, width, header);
  const expected = await judge(found, size, quality);
  const look = unusual(figures, labels, width) || expected.reason;
  const coarse = Uint8Array.from(found.coarse, value => Math.round(255 * value));
  const answer = { width, height, header, figures, look, expected: expected.dice, coarse, size,
    inverted: found.inverted, labels: packed(labels),
    seconds: (performance.now() - begun) / 1000 };
  return [answer, [coarse.buffer, answer.labels.buffer]];
}

async function judge({ small, coarse }, size, quality) {
  const image = { values: small, width: size, height: size };
  const other = { values: await predict(mirrored(image, true).values), width: size, height: size };
  const mask = cleanMask(toMask(coarse), size);
  const mirror = cleanMask(toMask(mirrored(other, true).values), size);
  return expectedDice(mask, mirror, coarse, quality);
}

/** Right and left are the patient's, as the file says how the film lies. */
function hungLabels(mask, { width, height, header }) {
  const upright = turnUpright({ values: mask, width, height }, header.orientation);
  const labels = labelLungs(upright.values, upright.width);
  return turnBack({ ...upright, values: labels }, header.orientation).values;
}

/** A film and its labels, at most so large on the screen. */
async function show({ file, labels, most }) {
  const { grey, width, height } = await readFilm(await file.arrayBuffer(), file.name, decoders);
  const scale = Math.min(1, most / Math.max(width, height));
  const rgba = new Uint8ClampedArray(4 * grey.length);
  for (let at = 0; at < grey.length; at++) {
    rgba[4 * at] = rgba[4 * at + 1] = rgba[4 * at + 2] = grey[at];
    rgba[4 * at + 3] = 255;
  }
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  const options = { resizeWidth: wide, resizeHeight: high, resizeQuality: "high" };
  const bitmap = await createImageBitmap(new ImageData(rgba, width, height), options);
  const small = scaled(unpacked(labels, width * height), width, height, wide, high);
  return [{ bitmap, labels: small, width: wide, height: high }, [bitmap, small.buffer]];
}

/** Figures of labels after strokes of the brush. */
async function count({ labels, strokes, width, height, header }) {
  const corrected = apply(unpacked(labels, width * height), strokes, width);
  const figures = describe(corrected, width, header);
  return [{ figures, look: unusual(figures, corrected, width) }];
}

/** A PNG of a film's own size: `mask`, `labels` or `overlay`. */
async function picture({ kind, file, labels, strokes, width, height }) {
  const corrected = apply(unpacked(labels, width * height), strokes, width);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const image = context.createImageData(width, height), { data } = image;
  if (kind === "overlay") {
    const { grey } = await readFilm(await file.arrayBuffer(), file.name, decoders);
    const thickness = Math.max(1, Math.round(Math.max(width, height) / 256));
    colour(data, corrected, width, thickness, grey);
  } else {
    for (let at = 0; at < corrected.length; at++) {
      const level = kind === "mask" ? (corrected[at] ? 255 : 0) : corrected[at];
      data[4 * at] = data[4 * at + 1] = data[4 * at + 2] = level;
      data[4 * at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return [{ blob: await canvas.convertToBlob({ type: "image/png" }) }];
}
