// Libraries that read DICOM and deep PNG, bundled into vendor/ by `npm run build`.

import createCharls from "@cornerstonejs/codec-charls/decodewasmjs";
import createJpeg from "@cornerstonejs/codec-libjpeg-turbo-8bit/decodewasmjs";
import createOpenJpeg from "@cornerstonejs/codec-openjpeg/decodewasmjs";
import dicomParser from "dicom-parser";
import { decode } from "fast-png";
import { inflateSync } from "fflate";
import { Decoder as LosslessJpeg } from "jpeg-lossless-decoder-js";

import { FilmError } from "./errors.js";

const TAGS = {
  Modality: "x00080060", SeriesDescription: "x0008103e", ViewPosition: "x00185101",
  ViewCodeSequence: "x00540220", CodeMeaning: "x00080104", PatientOrientation: "x00200020",
  NumberOfFrames: "x00280008", PixelRepresentation: "x00280103", PixelPaddingValue: "x00280120",
  RescaleSlope: "x00281053", RescaleIntercept: "x00281052", ModalityLUTSequence: "x00283000",
  VOILUTSequence: "x00283010", WindowCenter: "x00281050", WindowWidth: "x00281051",
  VOILUTFunction: "x00281056", PixelSpacing: "x00280030", ImagerPixelSpacing: "x00181164",
  PixelSpacingCalibrationType: "x00280a02", EncryptedAttributesSequence: "x04000500",
  EstimatedRadiographicMagnificationFactor: "x00181114",
};
// Their values are numbers of 16 bits, not text.
const BINARY = new Set(["PixelRepresentation", "PixelPaddingValue"]);
const IMPLICIT = "1.2.840.10008.1.2", EXPLICIT = "1.2.840.10008.1.2.1";
const BIG_ENDIAN = "1.2.840.10008.1.2.2", DEFLATED = "1.2.840.10008.1.2.1.99";
const RLE = "1.2.840.10008.1.2.5";
const JPEG = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"];
const LOSSLESS = ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];
const JPEG_LS = ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"];
const JPEG_2000 = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"];
const MOST_INFLATED = 300_000_000;

export const decodePng = bytes => decode(bytes, { checkCrc: true });

/** Elements of a data set by their keywords; the patient's are not among them. */
class Dataset {
  constructor(elements, syntax) {
    this.elements = elements;
    this.syntax = syntax;
    const number = tag => elements.uint16(tag);
    this.rows = number("x00280010");
    this.columns = number("x00280011");
    this.samples = number("x00280002");
    this.bits = number("x00280100");
    this.stored = number("x00280101");
    this.photometric = elements.string("x00280004") ?? "";
    this.hasPixels = "x7fe00010" in elements.elements;
  }

  has(keyword) { return TAGS[keyword] in this.elements.elements; }

  text(keyword) { return this.elements.string(TAGS[keyword]); }

  texts(keyword) { return (this.text(keyword) ?? "").split("\\").map(one => one.trim()).filter(Boolean); }

  number(keyword) { return this.numbers(keyword)[0]; }

  /** The finite numbers of an element; none where one is no number. */
  numbers(keyword) {
    if (!this.has(keyword)) return [];
    if (BINARY.has(keyword)) {
      const signed = keyword === "PixelPaddingValue" && this.number("PixelRepresentation") === 1;
      const value = signed ? this.elements.int16(TAGS[keyword]) : this.elements.uint16(TAGS[keyword]);
      return value === undefined ? [] : [value];
    }
    const values = this.texts(keyword).map(Number);
    return values.every(Number.isFinite) ? values : [];
  }

  items(keyword) {
    const element = this.elements.elements[TAGS[keyword]];
    return (element?.items ?? []).map(item => new Dataset(item.dataSet, this.syntax));
  }

  lutDescriptor() {
    const at = index => this.elements.uint16("x00283002", index);
    const signed = this.elements.elements.x00283002?.vr === "SS";
    return [at(0), signed ? this.elements.int16("x00283002", 1) : at(1), at(2)];
  }

  lutData(entries) {
    const element = this.elements.elements.x00283006;
    const { byteArray } = this.elements, end = element.dataOffset + element.length;
    const bytes = byteArray.slice(element.dataOffset, end);
    const little = this.syntax !== BIG_ENDIAN;
    return bytes.length === entries ? bytes : words(bytes, little);
  }
}

/** Read the elements of a file, with or without the usual preamble. */
export function parse(bytes) {
  const marked = String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
  const letters = bytes[4] >= 65 && bytes[4] <= 90 && bytes[5] >= 65 && bytes[5] <= 90;
  const options = { inflater };
  if (!marked) options.TransferSyntaxUID = letters ? EXPLICIT : IMPLICIT;
  const elements = dicomParser.parseDicom(bytes, options);
  const syntax = elements.string("x00020010") ?? options.TransferSyntaxUID;
  return new Dataset(elements, syntax);
}

function inflater(bytes, position) {
  const inflated = inflateSync(bytes.subarray(position));
  if (inflated.length > MOST_INFLATED) throw new Error("it unpacks to more than any film has");
  const whole = new Uint8Array(position + inflated.length);
  whole.set(bytes.subarray(0, position));
  whole.set(inflated, position);
  return whole;
}

/**
 * The stored values of the one frame.
 *
 * @returns {Promise<Uint8Array|Uint16Array|{colours: Uint8ClampedArray}>} Grey as unsigned numbers
 *     of the bits allocated, or RGBA.
 */
export async function decodeFrame(dataset, name) {
  const { elements, syntax, rows, columns, bits, samples } = dataset;
  const element = elements.elements.x7fe00010, count = rows * columns * samples;
  let bytes;
  if (element.encapsulatedPixelData) {
    const frame = wholeFrame(elements, element);
    bytes = await unpack(syntax, frame, dataset, name);
  } else {
    bytes = elements.byteArray.slice(element.dataOffset, element.dataOffset + element.length);
  }
  if (bytes.length < count * bits / 8) throw new Error("it ends before its picture, or in it");
  const little = syntax !== BIG_ENDIAN || element.encapsulatedPixelData;
  const values = bits === 8 ? bytes.subarray(0, count) : words(bytes, little).subarray(0, count);
  if (samples === 3) return { colours: colours(dataset, values) };
  if (dataset.photometric === "PALETTE COLOR") {
    throw new FilmError("A film is grey, or in three colours.", `${name}: a palette`,
      "Export it as PNG.");
  }
  return values;
}

function wholeFrame(elements, element) {
  if (element.basicOffsetTable.length) {
    return dicomParser.readEncapsulatedImageFrame(elements, element, 0);
  }
  const count = element.fragments.length;
  return dicomParser.readEncapsulatedPixelDataFromFragments(elements, element, 0, count);
}

async function unpack(syntax, frame, dataset, name) {
  const { rows, columns, bits, samples } = dataset;
  if (syntax === RLE) return unpackRle(frame, rows * columns, bits / 8, samples);
  const end = frame.subarray(-32).join(" ");
  if (!end.includes("255 217")) throw new Error("its picture has no end");
  if (LOSSLESS.includes(syntax)) {
    const whole = frame.buffer.slice(frame.byteOffset, frame.byteOffset + frame.byteLength);
    return bytesOf(new LosslessJpeg().decode(whole, 0, whole.byteLength, bits / 8));
  }
  const codec = JPEG.includes(syntax) ? ["JPEGDecoder", jpeg]
    : JPEG_LS.includes(syntax) ? ["JpegLSDecoder", charls]
      : JPEG_2000.includes(syntax) ? ["J2KDecoder", openJpeg] : null;
  if (!codec) throw undecodable(name, syntax);
  const [kind, load] = codec, module = await load(), decoder = new module[kind]();
  try {
    decoder.getEncodedBuffer(frame.length).set(frame);
    decoder.decode();
    const { width, height, componentCount } = decoder.getFrameInfo();
    if (width !== columns || height !== rows || componentCount !== samples) {
      throw new FilmError("A film is of the size that its header says.",
        `${name}: ${columns} × ${rows}, and in its picture ${width} × ${height}`,
        "Choose a frontal chest film, one to a file.");
    }
    return decoder.getDecodedBuffer().slice();
  } catch (error) {
    throw error instanceof FilmError ? error : undecodable(name, syntax);
  } finally {
    decoder.delete();
  }
}

const codecs = new Map();
const loaded = (create, file) => () => {
  if (!codecs.has(file)) {
    const locateFile = () => new URL(file, import.meta.url).href;
    codecs.set(file, create({ locateFile, print: () => {}, printErr: () => {} }));
  }
  return codecs.get(file);
};
const charls = loaded(createCharls, "charlswasm_decode.wasm");
const jpeg = loaded(createJpeg, "libjpegturbowasm_decode.wasm");
const openJpeg = loaded(createOpenJpeg, "openjpegwasm_decode.wasm");

function unpackRle(frame, pixels, depth, samples) {
  const header = new DataView(frame.buffer, frame.byteOffset, 64);
  const segments = header.getUint32(0, true), bytes = new Uint8Array(pixels * depth * samples);
  if (segments !== depth * samples) throw new Error(`${segments} segments of RLE`);
  for (let segment = 0; segment < segments; segment++) {
    const start = header.getUint32(4 + 4 * segment, true);
    const stop = segment + 1 < segments ? header.getUint32(8 + 4 * segment, true) : frame.length;
    const sample = Math.floor(segment / depth), high = depth - 1 - segment % depth;
    let at = start, pixel = 0;
    const put = value => {
      if (pixel < pixels) bytes[(pixel++ * samples + sample) * depth + high] = value;
    };
    while (at < stop && pixel < pixels) {
      const length = frame[at++];
      if (length < 128) {
        for (let one = 0; one <= length; one++) put(frame[at++]);
      } else if (length > 128) {
        const value = frame[at++];
        for (let one = 0; one < 257 - length; one++) put(value);
      }
    }
    if (pixel < pixels) throw new Error("its picture ends too early");
  }
  return bytes;
}

function colours({ photometric, bits, stored, elements, rows, columns }, values) {
  const planar = elements.uint16("x00280006") === 1, pixels = rows * columns;
  const rgba = new Uint8ClampedArray(4 * pixels), white = bits === 8 ? 255 : 2 ** stored - 1;
  // A decoder of JPEG gives RGB, whatever was stored.
  const bright = photometric.startsWith("YBR") && !elements.elements.x7fe00010.encapsulatedPixelData;
  for (let at = 0; at < pixels; at++) {
    const [a, b, c] = [0, 1, 2].map(one =>
      values[planar ? one * pixels + at : 3 * at + one] * 255 / white);
    const [red, green, blue] = bright
      ? [a + 1.402 * (c - 128), a - 0.344136 * (b - 128) - 0.714136 * (c - 128),
        a + 1.772 * (b - 128)]
      : [a, b, c];
    rgba.set([red, green, blue, 255], 4 * at);
  }
  return rgba;
}

function words(bytes, little) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Uint16Array.from({ length: bytes.length >> 1 }, (_, at) => view.getUint16(2 * at, little));
}

function bytesOf(result) {
  return result instanceof ArrayBuffer ? new Uint8Array(result)
    : new Uint8Array(result.buffer, result.byteOffset, result.byteLength);
}

function undecodable(name, syntax) {
  return new FilmError("A DICOM film is of a compression that can be decoded.",
    `${name}: ${syntax}`, "Save it without compression, or export it as PNG.");
}
