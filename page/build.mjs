// Puts the page together in dist/: its own files, the libraries, the network, the drawn films.

import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";

import { build } from "esbuild";

const WEIGHTS = "../lungseg_utils/weights", OWN = ["index.html", "style.css", "icon.svg", "app.js",
  "viewer.js", "labels.js", "worker.js", "film.js", "dicom.js", "lungs.js", "network.js",
  "quality.js", "errors.js"];
const LIBRARIES = [
  "onnxruntime-web/dist/ort.wasm.min.mjs",
  "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
  "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
  "@cornerstonejs/codec-charls/dist/charlswasm_decode.wasm",
  "@cornerstonejs/codec-libjpeg-turbo-8bit/dist/libjpegturbowasm_decode.wasm",
  "@cornerstonejs/codec-openjpeg/dist/openjpegwasm_decode.wasm",
];
const examples = process.argv[2];
const sha256 = content => createHash("sha256").update(content).digest("hex");

await rm("dist", { recursive: true, force: true });
await mkdir("dist/vendor", { recursive: true });
await mkdir("dist/examples");
for (const file of OWN) await copyFile(file, `dist/${file}`);
for (const file of LIBRARIES) {
  await copyFile(`node_modules/${file}`, `dist/vendor/${path.basename(file)}`);
}
for (const file of await readdir(examples)) {
  await copyFile(path.join(examples, file), `dist/examples/${file}`);
}
await build({ entryPoints: ["decoders.js"], bundle: true, minify: true, format: "esm",
  platform: "browser", external: ["fs", "path"], outfile: "dist/vendor/decoders.js" });

const { unet } = JSON.parse(await readFile(`${WEIGHTS}/weights.json`, "utf8"));
const content = await readFile(`${WEIGHTS}/${unet.file}`);
if (sha256(content) !== unet.sha256) throw new Error(`${unet.file} is not that of weights.json`);
await writeFile(`dist/vendor/${unet.file}`, content);
const network = { file: `vendor/${unet.file}`, bytes: content.length, sha256: unet.sha256,
  size: unet.config.size };
const quality = JSON.parse(await readFile("quality.json", "utf8"));
await writeFile("dist/vendor/manifest.json", JSON.stringify({ network, quality }));

const files = (await readdir("dist", { recursive: true, withFileTypes: true }))
  .filter(entry => entry.isFile())
  .map(entry => path.posix.join(path.relative("dist", entry.parentPath), entry.name)).sort();
const contents = await Promise.all(files.map(file => readFile(`dist/${file}`)));
const version = sha256(contents.map(sha256).join("")).slice(0, 16);
const kept = JSON.stringify(["./", ...files]);
const worker = await readFile("service-worker.js", "utf8");
await writeFile("dist/service-worker.js",
  worker.replace("VERSION", version).replace('["FILES"]', kept));
console.log(`dist/: ${files.length} files, version ${version}`);
