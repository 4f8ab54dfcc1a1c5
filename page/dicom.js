// DICOM films: what is refused, the header, and grey levels; as the Python package reads them.

import { FilmError } from "./errors.js";
import { roundEven } from "./film.js";

const MODALITIES = ["CR", "DX", "DR", "RG", "OT", "SC", ""];
const LATERAL = /^(LL|RL)$|\bLAT(ERAL)?\b/i;
const FRONTAL = /\b(PA|AP|FRONTAL|POSTERO-?\s?ANTERIOR|ANTERO-?\s?POSTERIOR)\b|DECUB/i;
const SPACING_LIMITS = [0.01, 5], EXTENT_LIMITS = [40, 1000];
// Grey levels of the films that the network was trained on: benchmarks/film_levels.py.
const PERCENTS = [5, 25, 50, 75, 95];
const FILM_LEVELS = [18.6, 105.3, 162.5, 205.8, 231.2];
const FILM_DEVIATIONS = [18.1, 39.8, 30.5, 14.0, 8.7];
const MOST_PIXELS = 40_000_000;

/** Refuse what is no single frontal radiograph. */
export function refuse(dataset, name) {
  const no = (rule, what) => {
    throw new FilmError(rule, `${name}: ${what}`, "Choose a frontal chest film, one to a file.");
  };
  const modality = (dataset.text("Modality") ?? "").toUpperCase();
  if (!MODALITIES.includes(modality)) {
    no("A chest film is a radiograph (modality CR or DX).", `modality ${modality.slice(0, 16)}`);
  }
  if (!dataset.hasPixels) {
    const encrypted = dataset.has("EncryptedAttributesSequence");
    no("A DICOM film holds pixel data.",
      encrypted ? "its content is encrypted" : "no pixel data in it");
  }
  const frames = dataset.number("NumberOfFrames") ?? 1;
  if (frames > 1) no("A film is one picture.", `a series of ${frames} frames`);
  const view = lateralView(dataset);
  if (view) no("The network knows frontal views only.", `a lateral view (${view})`);
  const { rows, columns, bits, stored, samples } = dataset;
  if (!(stored >= 1 && stored <= bits) || ![8, 16].includes(bits) || ![1, 3].includes(samples)) {
    no("A film has 8 to 16 bits, in grey or in three colours.",
      `${stored} of ${bits} bits, ${samples} samples a pixel`);
  }
  if (!(rows * columns > 0 && rows * columns <= MOST_PIXELS)) {
    no(`A film has at most ${MOST_PIXELS.toLocaleString("en")} pixels.`,
      `it claims ${(rows * columns).toLocaleString("en")}`);
  }
}

function views(dataset) {
  return [dataset.text("ViewPosition") ?? "",
    ...dataset.items("ViewCodeSequence").map(item => item.text("CodeMeaning") ?? "")];
}

function lateralView(dataset) {
  for (const view of [...views(dataset), dataset.text("SeriesDescription") ?? ""]) {
    if (FRONTAL.test(view)) return "";
    const found = view.match(LATERAL);
    if (found) return found[0];
  }
  const directions = dataset.texts("PatientOrientation").map(one => one.slice(0, 1)).join("");
  return /[AP]/.test(directions) ? `rows and columns run to ${directions}` : "";
}

/** What a header says about the film, and nothing about the patient. */
export function readHeader(dataset, greys) {
  const [spacing, spacingSource] = readSpacing(dataset);
  let projection = "";
  for (const view of views(dataset)) {
    const found = view.toUpperCase().match(/\b(PA|AP)\b|(POSTERO|ANTERO)/);
    if (found) {
      projection = found[1] ?? { POSTERO: "PA", ANTERO: "AP" }[found[2]];
      break;
    }
  }
  return { photometric: dataset.photometric, greys, projection, spacing, spacingSource,
    orientation: readOrientation(dataset) };
}

function readOrientation(dataset) {
  const found = dataset.texts("PatientOrientation").map(one => one.slice(0, 1).toUpperCase());
  const axes = { L: "across", R: "across", H: "along", F: "along" };
  const kinds = found.map(one => axes[one]).sort().join(" ");
  return kinds === "across along" ? found : null;
}

function readSpacing(dataset) {
  const shape = [dataset.rows, dataset.columns];
  const pair = keyword => saneSpacing(dataset.numbers(keyword), shape);
  const atDetector = pair("ImagerPixelSpacing");
  let spacing = pair("PixelSpacing"), source = "PixelSpacing, calibrated";
  if (spacing && atDetector && spacing.every((value, at) => value === atDetector[at])) {
    spacing = null; // the same again, and not calibrated
  } else if (spacing && !atDetector && !dataset.has("PixelSpacingCalibrationType")) {
    source = "PixelSpacing, not said to be calibrated";
  }
  if (!spacing && atDetector) {
    [spacing, source] = [atDetector, "ImagerPixelSpacing, at the detector"];
    const factor = dataset.numbers("EstimatedRadiographicMagnificationFactor")[0] ?? 0;
    if (factor >= 1 && factor <= 3) {
      spacing = spacing.map(value => value / factor);
      source = `ImagerPixelSpacing / magnification ${factor}, estimated in the patient`;
    }
  }
  return spacing ? [spacing, source] : [null, ""];
}

function saneSpacing(values, shape) {
  if (values.length !== 2) return null;
  const within = (value, [low, high]) => value >= low && value <= high;
  const sound = values.every((value, at) =>
    within(value, SPACING_LIMITS) && within(value * shape[at], EXTENT_LIMITS));
  return sound && within(values[0] / values[1], [0.5, 2]) ? values : null;
}

/**
 * The grey level of every value that can be stored, and the range that it is of.
 *
 * @param {Uint8Array|Uint16Array} values Stored values, as unsigned numbers of their bits.
 * @returns {[Uint8Array, string]}
 */
export function greyTable(dataset, values) {
  const size = values.BYTES_PER_ELEMENT === 1 ? 2 ** 8 : 2 ** 16, { stored } = dataset;
  let counts = new Float64Array(size);
  for (const value of values) counts[value]++;
  const signed = dataset.number("PixelRepresentation") === 1;
  const plain = Float64Array.from(counts, (_, code) => {
    const level = code % 2 ** stored;
    return signed && level >= 2 ** (stored - 1) ? level - 2 ** stored : level;
  });
  const paddings = dataset.numbers("PixelPaddingValue");
  const isPadding = Array.from(plain, level => paddings.includes(level));
  // A film that is padding only is none.
  if (counts.some((count, code) => count && !isPadding[code])) {
    counts = counts.map((count, code) => isPadding[code] ? 0 : count);
  }
  const levels = applyModality(plain, dataset);
  const inverted = dataset.photometric === "MONOCHROME1";
  let best = Infinity, found = [new Uint8Array(size), "none"];
  for (const [greys, shares] of ranges(dataset, levels, counts, plain)) {
    const table = Uint8Array.from(shares, (share, code) => {
      if (isPadding[code]) return 0;
      const level = Math.min(Math.max(inverted ? 1 - share : share, 0), 1);
      return roundEven(255 * level);
    });
    const distance = distanceToFilms(table, counts);
    if (distance < best) [best, found] = [distance, [table, greys]];
  }
  return found;
}

function applyModality(levels, dataset) {
  const [lut] = dataset.items("ModalityLUTSequence");
  if (lut) return lookUp(lut, levels).levels;
  const slope = dataset.numbers("RescaleSlope"), intercept = dataset.numbers("RescaleIntercept");
  const sound = slope.length === 1 && intercept.length === 1 && slope[0];
  return sound ? levels.map(level => level * slope[0] + intercept[0]) : levels;
}

function* ranges(dataset, levels, counts, plain) {
  for (const [index, item] of dataset.items("VOILUTSequence").entries()) {
    let shown = null;
    try {
      shown = lookUp(item, levels);
    } catch {
      continue; // others remain where one is damaged
    }
    yield [`VOI LUT ${index + 1}`, shown.levels.map(level => level / shown.white)];
  }
  const centers = dataset.numbers("WindowCenter"), widths = dataset.numbers("WindowWidth");
  const kind = (dataset.text("VOILUTFunction") || "LINEAR").toUpperCase();
  for (let index = 0; index < Math.min(centers.length, widths.length); index++) {
    if (widths[index] > 0) {
      yield [`window ${index + 1}`, applyWindow(levels, centers[index], widths[index], kind)];
    }
  }
  if (dataset.stored === 8 && dataset.number("PixelRepresentation") !== 1) {
    yield ["as stored", plain.map(level => level / 255)];
  }
  const order = Array.from(levels.keys()).sort((a, b) => levels[a] - levels[b] || a - b);
  const total = counts.reduce((sum, count) => sum + count, 0);
  for (const percent of [0.5, 0]) {
    const low = levels[order[place(order, counts, total, percent / 100, true)]];
    const high = levels[order[place(order, counts, total, 1 - percent / 100, false)]];
    const width = Math.max(high - low, 1e-9);
    yield [percent ? "0.5th to 99.5th percentile" : "whole range",
      levels.map(level => Math.min(Math.max((level - low) / width, 0), 1))];
  }
}

/** Where a share would be put into the running shares, behind equals or before them. */
function place(order, counts, total, share, behind) {
  let sum = 0;
  for (let at = 0; at < order.length; at++) {
    sum += counts[order[at]];
    if (behind ? sum / total > share : sum / total >= share) return at;
  }
  return order.length - 1;
}

export function applyWindow(levels, center, width, kind = "LINEAR") {
  const clip = share => Math.min(Math.max(share, 0), 1);
  if (kind === "SIGMOID") {
    return levels.map(level =>
      1 / (1 + Math.exp(Math.min(Math.max(-4 * (level - center) / width, -50), 50))));
  }
  if (kind === "LINEAR_EXACT") return levels.map(level => clip((level - center) / width + 0.5));
  return levels.map(level => clip((level - (center - 0.5)) / Math.max(width - 1, 1e-9) + 0.5));
}

function lookUp(item, levels) {
  const [entries, first, bits] = item.lutDescriptor();
  const count = entries || 2 ** 16, table = item.lutData(count);
  if (!table.length) throw new Error("an empty LUT");
  const looked = levels.map(level => {
    const at = Math.min(Math.max(roundEven(level - first), 0), count - 1);
    if (at >= table.length) throw new Error("a LUT that ends too early");
    return table[at];
  });
  return { levels: looked, white: 2 ** bits - 1 };
}

function distanceToFilms(table, counts) {
  const greys = new Float64Array(256);
  for (let code = 0; code < table.length; code++) greys[table[code]] += counts[code];
  const total = greys.reduce((sum, count) => sum + count, 0), all = [...greys.keys()];
  const squares = PERCENTS.map((percent, at) => {
    // Beyond the last grey level where rounding leaves the sum below the share.
    const found = place(all, greys, total, percent / 100, false);
    return ((found - FILM_LEVELS[at]) / FILM_DEVIATIONS[at]) ** 2;
  });
  return Math.sqrt(squares.reduce((sum, one) => sum + one, 0) / squares.length);
}
