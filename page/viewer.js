// The film on the screen: pan, zoom, layers, and a brush.

import { apply, colour, COLOURS, nearestLabel } from "./labels.js";
import { resizeProbability, turnBack } from "./network.js";

export class Viewer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{stroke: function}} tell Called with each finished stroke, in pixels of the film.
   */
  constructor(canvas, tell) {
    Object.assign(this, { canvas, tell, film: null, kind: "outline", share: 0.5, mode: "move",
      reach: 0.02, pointers: new Map(), stroke: null });
    this.context = canvas.getContext("2d");
    canvas.onpointerdown = event => this.#down(event);
    canvas.onpointermove = event => this.#move(event);
    canvas.onpointerup = canvas.onpointercancel = event => this.#up(event);
    canvas.onwheel = event => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, [event.offsetX, event.offsetY]);
    };
    new ResizeObserver(() => this.#fitCanvas()).observe(canvas);
  }

  clear() {
    this.film = null;
    this.#draw();
  }

  /** Show a film: its bitmap and labels at the screen's size, `scale` of the film's own. */
  show(film, strokes) {
    this.film = film;
    this.correct(strokes);
    this.fit();
  }

  /** Draw the labels anew after these strokes. */
  correct(strokes) {
    const { labels, width, scale } = this.film;
    this.film.corrected = apply(labels.slice(), strokes, width, scale);
    this.#layer();
  }

  layer(kind) { this.kind = kind; this.#layer(); }

  opacity(share) { this.share = share; this.#layer(); }

  brush(reach) { this.reach = reach; }

  dragging(mode) {
    this.mode = mode;
    this.canvas.classList.toggle("brush", mode !== "move");
  }

  fit() {
    if (!this.film) return;
    const { width, height } = this.film, { clientWidth, clientHeight } = this.canvas;
    this.size = Math.min(clientWidth / width, clientHeight / height);
    this.left = (clientWidth - width * this.size) / 2;
    this.top = (clientHeight - height * this.size) / 2;
    this.#draw();
  }

  zoom(factor, [x, y] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    if (!this.film) return;
    const least = Math.min(this.canvas.clientWidth / this.film.width, 1) / 4;
    const size = Math.min(Math.max(this.size * factor, least), 16);
    this.left = x - (x - this.left) * size / this.size;
    this.top = y - (y - this.top) * size / this.size;
    this.size = size;
    this.#draw();
  }

  #fitCanvas() {
    const { clientWidth, clientHeight } = this.canvas, ratio = window.devicePixelRatio;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.fit();
    this.#draw();
  }

  #layer() {
    if (!this.film) return;
    const { width, height } = this.film;
    const layer = new OffscreenCanvas(width, height), context = layer.getContext("2d");
    const image = context.createImageData(width, height);
    if (this.kind === "probability") this.#probability(image.data);
    else if (this.kind !== "none") this.#labels(image.data);
    context.putImageData(image, 0, 0);
    this.drawn = layer;
    this.#draw();
  }

  #labels(data) {
    const { width, height, corrected } = this.film;
    const thickness = Math.max(1, Math.round(Math.max(width, height) / 400));
    const fill = this.kind === "mask" ? this.share : 0;
    colour(data, corrected, width, thickness, null, fill);
    if (this.kind === "outline") {
      for (let at = 3; at < data.length; at += 4) data[at] *= 0.4 + 0.6 * this.share;
    }
  }

  #probability(data) {
    const { width, height, coarse, size, orientation } = this.film;
    const lying = "HF".includes(orientation?.[0] ?? "L");
    const [wide, high] = lying ? [height, width] : [width, height];
    const upright = resizeProbability({ values: coarse, width: size, height: size }, wide, high);
    const { values } = turnBack(upright, orientation), [red, green, blue] = COLOURS[2];
    for (let at = 0; at < values.length; at++) {
      data.set([red, green, blue, values[at] * this.share], 4 * at);
    }
  }

  #draw() {
    const { context, canvas, film } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!film) return;
    const ratio = window.devicePixelRatio;
    context.setTransform(ratio * this.size, 0, 0, ratio * this.size, ratio * this.left,
      ratio * this.top);
    context.drawImage(film.bitmap, 0, 0);
    if (this.drawn) context.drawImage(this.drawn, 0, 0);
    if (this.stroke) this.#drawStroke();
  }

  #drawStroke() {
    const { context, film, stroke } = this;
    const points = stroke.points.map(point => point.map(one => one * film.scale));
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * stroke.radius * film.scale;
    context.strokeStyle = stroke.label ? `rgb(${COLOURS[stroke.label].join(" ")} / 0.6)`
      : "rgb(0 0 0 / 0.6)";
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }

  /** Where on the film, in its own pixels. */
  #place({ offsetX, offsetY }) {
    return [(offsetX - this.left) / this.size / this.film.scale,
      (offsetY - this.top) / this.size / this.film.scale];
  }

  #down(event) {
    if (!this.film) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    if (this.mode === "move" || this.pointers.size > 1) {
      this.stroke = null; // a second finger moves and zooms
      return;
    }
    const { width, height, scale, corrected } = this.film, point = this.#place(event);
    const label = this.mode === "erase" ? 0
      : nearestLabel(corrected, width, point[0] * scale, point[1] * scale);
    const radius = this.reach * Math.max(width, height) / scale;
    this.stroke = { points: [point], radius, label };
    this.#draw();
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.film) return;
    const now = [event.offsetX, event.offsetY];
    if (this.stroke) {
      this.stroke.points.push(this.#place(event));
    } else if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
      this.zoom(apart(now) / Math.max(apart(before), 1), other);
    } else {
      this.left += now[0] - before[0];
      this.top += now[1] - before[1];
    }
    this.pointers.set(event.pointerId, now);
    this.#draw();
  }

  #up(event) {
    this.pointers.delete(event.pointerId);
    const { stroke } = this;
    this.stroke = null;
    if (stroke) this.tell.stroke(stroke);
  }
}
