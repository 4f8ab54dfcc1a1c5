// The page: films in, outlines shown and corrected, results out. The work is the worker's.

import { Viewer } from "./viewer.js";

const MOST_SHOWN = 2048; // pixels of a film's longer side on the screen
const AT_ONCE = 2; // films that are read or segmented at a time
const find = selector => document.querySelector(selector);
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
const films = [];
let asked = 0, chosen = -1, ready = null;

/** Ask the worker; rejects with the rule, what arrived and what to do. */
function ask(call, given = {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ call, id: asked, ...given });
  });
}

worker.onmessage = ({ data: { id, answer, error, loaded } }) => {
  if (loaded !== undefined) {
    find("#loaded").value = loaded;
    return;
  }
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(error);
  else resolve(answer);
};

const viewer = new Viewer(find("#canvas"), {
  stroke: stroke => {
    const film = films[chosen];
    film.strokes.push(stroke);
    corrected(film);
  },
});

async function start() {
  if ("serviceWorker" in navigator) await keepOffline();
  ready = ask("load");
  try {
    const { threads, bytes } = await ready;
    find("#loaded").hidden = true;
    find("#state").textContent = "Ready";
    find("#which").textContent = `U-Net, ${(bytes / 1e6).toFixed(1)} MB, by ONNX Runtime on `
      + `${threads} thread${threads > 1 ? "s" : ""}`;
  } catch (error) {
    find("#loading").replaceChildren(alertOf(error));
  }
}

/** Keep all of the page for the next visit, and isolate it, so that it may use threads. */
async function keepOffline() {
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // the page works without, by the network and on one thread
  }
  if (!self.crossOriginIsolated && !sessionStorage.reloaded) {
    sessionStorage.reloaded = "once";
    location.reload();
    await new Promise(() => {});
  }
}

function add(files) {
  const first = films.length;
  for (const file of files) {
    films.push({ file, name: file.name, state: "waiting", strokes: [] });
  }
  list();
  if (chosen < 0 && films.length) select(first);
  next();
}

let working = 0;
function next() {
  while (working < AT_ONCE) {
    const film = films[chosen]?.state === "waiting" ? films[chosen]
      : films.find(one => one.state === "waiting");
    if (!film) return;
    film.state = "working";
    working++;
    list();
    segment(film).finally(() => {
      working--;
      list();
      next();
    });
  }
}

async function segment(film) {
  try {
    await ready;
    film.result = await ask("segment", { file: film.file });
    film.shown = film.result;
    film.state = "done";
  } catch (error) {
    film.error = error;
    film.state = "failed";
  }
  if (film === films[chosen]) show(film);
  find("#table").disabled = !films.some(one => one.result);
}

function list() {
  const items = films.map((film, at) => {
    const item = document.createElement("li"), note = document.createElement("small");
    item.id = `film-${at}`;
    item.role = "option";
    item.ariaSelected = String(at === chosen);
    item.append(film.name, note);
    note.textContent = { waiting: "waiting", working: "at work …", failed: film.error?.rule,
      done: film.shown?.look ? `look: ${film.shown.look}` : "done" }[film.state];
    note.classList.toggle("alert", film.state === "failed" || Boolean(film.shown?.look));
    item.onclick = () => select(at);
    return item;
  });
  find("#list").replaceChildren(...items);
  if (chosen >= 0) find("#list").setAttribute("aria-activedescendant", `film-${chosen}`);
}

function select(at) {
  if (at < 0 || at >= films.length) return;
  chosen = at;
  list();
  find(`#film-${at}`).scrollIntoView({ block: "nearest" });
  show(films[at]);
}

async function show(film) {
  tell(film);
  find("#undo").disabled = !film.strokes.length;
  if (!film.result) {
    viewer.clear();
    return;
  }
  const { labels, coarse, size, width, header } = film.result;
  const shown = await ask("film", { file: film.file, labels, most: MOST_SHOWN });
  if (film !== films[chosen]) return;
  const spoken = film.shown.look || "nothing unusual";
  find("#canvas").ariaLabel = `${film.name} with the outlines of its lungs; ${spoken}`;
  viewer.show({ ...shown, scale: shown.width / width, coarse, size,
    orientation: header.orientation }, film.strokes);
}

/** After a stroke or its undoing: draw at once, count anew in the worker. */
async function corrected(film) {
  viewer.correct(film.strokes);
  find("#undo").disabled = !film.strokes.length;
  const { labels, width, height, header } = film.result, { strokes } = film;
  const { figures, look } = await ask("count", { labels, strokes, width, height, header });
  film.shown = { ...film.result, figures, look: strokes.length ? look : film.result.look,
    expected: strokes.length ? null : film.result.expected };
  list();
  if (film === films[chosen]) tell(film);
}

function undo() {
  const film = films[chosen];
  if (film?.strokes.pop()) corrected(film);
}

function alertOf({ rule, received, advice }) {
  const box = document.createElement("div"), first = document.createElement("strong");
  box.className = "alert";
  box.role = "alert";
  first.textContent = rule;
  box.append(first, ` ${received}. ${advice}`);
  return box;
}

function tell(film) {
  const heading = document.createElement("h2");
  heading.textContent = film.name;
  const parts = [heading];
  if (film.error) parts.push(alertOf(film.error));
  if (film.shown) parts.push(...described(film));
  if (!film.error && !film.shown) parts.push(film.state === "working" ? "At work …" : "Waiting …");
  find("#told").replaceChildren(...parts);
}

function described(film) {
  const { figures, look, expected, header, width, height, seconds, inverted } = film.shown;
  const percent = share => `${(100 * share).toFixed(1)} %`;
  const area = ({ share, mm2 }) => percent(share)
    + (mm2 === null ? "" : `, ${(mm2 / 100).toFixed(0)} cm²`);
  const rows = {
    "Right lung": area(figures.right),
    "Left lung": area(figures.left),
    "Left to right": figures.leftToRight?.toFixed(2) ?? "–",
    Lungs: `${percent(figures.lungFraction)} of the film`,
    "Expected Dice": expected === null ? "– (corrected by hand)" : `about ${expected.toFixed(2)}`,
    Film: `${width} × ${height}${inverted ? ", black and white exchanged" : ""}`,
    "mm² by": header.spacingSource || "– (no spacing in the file)",
    Sides: header.orientation ? "PatientOrientation" : "as displayed: nothing in the file tells",
    ...(header.greys ? { Greys: header.greys } : {}),
    Time: `${seconds.toFixed(1)} s`,
  };
  const table = document.createElement("dl");
  for (const [name, value] of Object.entries(rows)) {
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, said.textContent] = [name, value];
    table.append(term, said);
  }
  const parts = [];
  if (look) {
    const warning = document.createElement("p");
    warning.className = "look";
    warning.textContent = `Look at this one: ${look}.`;
    parts.push(warning);
  }
  const note = document.createElement("p");
  note.textContent = "Expected by one network and its answer to the mirrored film; the package "
    + "asks three networks, and completes a lung that is cut off.";
  const downloads = document.createElement("div");
  downloads.className = "downloads";
  for (const kind of ["mask", "labels", "overlay"]) {
    const button = document.createElement("button");
    button.textContent = `Download ${kind}`;
    button.onclick = () => downloadPicture(film, kind);
    downloads.append(button);
  }
  return [...parts, table, downloads, note];
}

async function downloadPicture(film, kind) {
  const { labels, width, height } = film.result, { file, strokes } = film;
  try {
    const { blob } = await ask("picture", { kind, file, labels, strokes, width, height });
    save(blob, `${film.name.replace(/\.[^.]*$/, "")}_${kind}.png`);
  } catch (error) {
    find("#told").append(alertOf(error));
  }
}

function downloadTable() {
  const quoted = value => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const sides = ["right", "left"];
  const names = ["file", "width", "height", "lung_fraction",
    ...sides.flatMap(side => ["pixels", "share", "mm2"].map(name => `${side}_${name}`)),
    "left_to_right", "spacing_source", "inverted", "expected_dice", "look", "reason",
    "corrected", "error"];
  const lines = films.filter(film => film.shown || film.error).map(film => {
    if (film.error) {
      const row = { file: film.name, error: `${film.error.rule} ${film.error.received}` };
      return names.map(name => quoted(String(row[name] ?? ""))).join(",");
    }
    const { figures, ...shown } = film.shown;
    const row = { file: film.name, width: shown.width, height: shown.height,
      lung_fraction: figures.lungFraction.toFixed(4), spacing_source: shown.header.spacingSource,
      left_to_right: figures.leftToRight?.toFixed(4), inverted: shown.inverted,
      expected_dice: shown.expected?.toFixed(4), look: Boolean(shown.look), reason: shown.look,
      corrected: film.strokes.length > 0 };
    for (const side of sides) {
      row[`${side}_pixels`] = figures[side].pixels;
      row[`${side}_share`] = figures[side].share.toFixed(4);
      row[`${side}_mm2`] = figures[side].mm2?.toFixed(1);
    }
    return names.map(name => quoted(String(row[name] ?? ""))).join(",");
  });
  save(new Blob([[names.join(","), ...lines, ""].join("\n")], { type: "text/csv" }), "lungs.csv");
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function addExamples() {
  const files = [1, 2, 3].map(async number => {
    const response = await fetch(`examples/drawn_${number}.png`);
    return new File([await response.blob()], `drawn_${number}.png`);
  });
  add(await Promise.all(files));
}

find("#choose").onchange = ({ target }) => {
  add(target.files);
  target.value = "";
};
find("#examples").onclick = addExamples;
find("#table").onclick = downloadTable;
find("#undo").onclick = undo;
document.ondragover = event => {
  event.preventDefault();
  find("#drop").classList.add("over");
};
document.ondragleave = () => find("#drop").classList.remove("over");
document.ondrop = event => {
  event.preventDefault();
  find("#drop").classList.remove("over");
  add(event.dataTransfer.files);
};
for (const radio of document.querySelectorAll("[name=layer]")) {
  radio.onchange = () => viewer.layer(radio.value);
}
for (const radio of document.querySelectorAll("[name=drag]")) {
  radio.onchange = () => viewer.dragging(radio.value);
}
find("#opacity").oninput = ({ target }) => viewer.opacity(+target.value);
find("#brush").oninput = ({ target }) => viewer.brush(+target.value);
find("#closer").onclick = () => viewer.zoom(1.25);
find("#farther").onclick = () => viewer.zoom(0.8);
find("#fit").onclick = () => viewer.fit();
document.onkeydown = event => {
  if (event.target.matches("input[type=range], input[type=radio]")) return;
  const keys = { ArrowDown: () => select(chosen + 1), ArrowUp: () => select(chosen - 1),
    "+": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8), 0: () => viewer.fit() };
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (keys[event.key] && !event.ctrlKey && !event.metaKey) keys[event.key]();
  else return;
  event.preventDefault();
};

start();
