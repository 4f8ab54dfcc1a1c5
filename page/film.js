// A film from a file: PNG, JPEG or DICOM to grey levels, as the Python package reads it.

import { greyTable, readHeader, refuse } from "./dicom.js";
import { FilmError } from "./errors.js";

export const MOST_PIXELS = 40_000_000;
const LEAST_SIDE = 32;
const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/**
 * Read a film.
 *
 * @param {ArrayBuffer} content The file's bytes.
 * @param {string} name For messages.
 * @param {object} decoders `{ dicom, codecs, png }`, loaded when they are needed.
 * @returns {Promise<{grey: Uint8Array, width: number, height: number, header: object}>} Grey
 *     levels row by row, in the file's own orientation, and what the file says about the film.
 */
export async function readFilm(content, name, decoders) {
  const bytes = new Uint8Array(content);
  const film = isDicom(bytes)
    ? await readDicom(bytes, name, decoders)
    : await readPicture(bytes, name, decoders);
  const { grey, width, height } = film;
  if (Math.min(width, height) < LEAST_SIDE) {
    throw new FilmError(`An X-ray has at least ${LEAST_SIDE} pixels a side.`,
      `${name}: ${width} × ${height} pixels`, "Choose the X-ray at its own size.");
  }
  const first = grey[0];
  if (grey.every(level => level === first)) {
    throw new FilmError("An X-ray has more than one grey level.",
      `${name}: every pixel is ${first}`, "Export it again.");
  }
  return film;
}

/** Whether bytes begin as a DICOM file does, be it without the usual preamble. */
export function isDicom(bytes) {
  const mark = String.fromCharCode(...bytes.subarray(128, 132));
  const bare = (bytes[0] === 2 || bytes[0] === 8) && bytes[1] === 0 && bytes[3] === 0;
  return mark === "DICM" || (bare && bytes.length > 132);
}

async function readPicture(bytes, name, decoders) {
  if (PNG.every((value, at) => bytes[at] === value)) {
    checkPixels(new DataView(bytes.buffer, bytes.byteOffset).getUint32(16, false)
      * new DataView(bytes.buffer, bytes.byteOffset).getUint32(20, false), name);
    if (bytes[24] === 16) return deepPicture(await decoders.png(), bytes, name);
  }
  let bitmap;
  try {
    // As stored: no colour profile, no premultiplication; turned as EXIF says.
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(new Blob([bytes]), options);
  } catch {
    throw new FilmError("A film is a PNG, a JPEG or a DICOM file.",
      `${name}: it is damaged, or something else`, "Export it again, as PNG or DICOM.");
  }
  const { width, height } = bitmap;
  checkPixels(width * height, name);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { grey: toGrey(context.getImageData(0, 0, width, height).data), width, height,
    header: {} };
}

/** Grey of RGBA on black, with the weights and the rounding of Rec. 601 as Pillow has them. */
export function toGrey(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let at = 0, to = 0; at < rgba.length; at += 4, to++) {
    const alpha = rgba[at + 3];
    const [red, green, blue] = alpha === 255
      ? [rgba[at], rgba[at + 1], rgba[at + 2]]
      : [0, 1, 2].map(one => Math.round(rgba[at + one] * alpha / 255));
    grey[to] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return grey;
}

function deepPicture(decode, bytes, name) {
  let picture;
  try {
    picture = decode(bytes);
  } catch (error) {
    throw new FilmError("A PNG file must be whole.", `${name}: it is damaged: ${error.message}`,
      "Fetch or export it again.");
  }
  const { data, width, height, channels } = picture;
  const values = new Float32Array(width * height);
  for (let at = 0; at < values.length; at++) {
    const from = at * channels;
    const level = channels < 3 ? data[from]
      : 0.299 * data[from] + 0.587 * data[from + 1] + 0.114 * data[from + 2];
    values[at] = channels % 2 ? level : level * (data[from + channels - 1] / 65535);
  }
  return { grey: spread(values), width, height, header: {} };
}

/** Spread the range of values over 0..255; a constant image becomes black. */
export function spread(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const scale = high > low ? 255 / (high - low) : 0;
  return Uint8Array.from(values, value => roundEven((value - low) * scale));
}

/** Round half to even, as NumPy does. */
export function roundEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 ? floor + 1 : floor;
}

function checkPixels(count, name) {
  if (count > MOST_PIXELS) {
    throw new FilmError(`An image has at most ${MOST_PIXELS.toLocaleString("en")} pixels.`,
      `${name}: it claims more`, "Check the file; if it is sound, shrink it first.");
  }
}

async function readDicom(bytes, name, decoders) {
  const { parse, decodeFrame } = await decoders.dicom();
  let dataset;
  try {
    dataset = parse(bytes);
  } catch (error) {
    throw damaged(name, error);
  }
  refuse(dataset, name);
  let values;
  try {
    values = await decodeFrame(dataset, name);
  } catch (error) {
    throw error.rule ? error : damaged(name, error);
  }
  const { rows, columns } = dataset;
  checkPixels(rows * columns, name);
  if (values.colours) {
    return { grey: toGrey(values.colours), width: columns, height: rows,
      header: readHeader(dataset, "colours") };
  }
  const [table, greys] = greyTable(dataset, values);
  const grey = new Uint8Array(values.length);
  for (let at = 0; at < values.length; at++) grey[at] = table[values[at]];
  return { grey, width: columns, height: rows, header: readHeader(dataset, greys) };
}

function damaged(name, error) {
  return new FilmError("A DICOM file must be whole.",
    `${name}: it is damaged: ${String(error?.message ?? error).slice(0, 200)}`, "Fetch it again.");
}
