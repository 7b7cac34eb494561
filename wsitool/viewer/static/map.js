// The features as points, drawn by WebGL; a lasso chooses some, and they are shown as patches.
import { choosable } from "./selection.js";
import { PALETTE, columns, count, make } from "./tools.js";

const SHOWN = 60;
const MOVING = 100_000; // points drawn while the map moves: a fair part of any number, and fluid without a graphics card
const STILL = 200; // milliseconds after a move, then all are drawn
const VERTEX = `attribute vec2 place; attribute vec3 color; uniform vec4 view; uniform float size; varying vec3 shade;
void main() { gl_Position = vec4(place * view.xy + view.zw, 0.0, 1.0); gl_PointSize = size; shade = color; }`;
const FRAGMENT = `precision mediump float; varying vec3 shade;
void main() { if (length(gl_PointCoord - 0.5) > 0.5) discard; gl_FragColor = vec4(shade, 1.0); }`;
const GREY = "#a0a0a8";

export async function showMap(page, { id, say }) {
  const cloud = await columns(`/api/features/${id}`);
  say(cloud.name ?? "map");
  const view = new MapPage(cloud);
  page.replaceChildren(view.element);
  view.start();
  return () => view.close();
}

class MapPage {
  constructor(cloud) {
    this.cloud = cloud;
    this.by = this.known("label") ? "label" : "slide";
    this.canvas = make("canvas", { role: "img", "aria-label": "Map of the features" });
    this.loop = make("canvas");
    this.loop.style.pointerEvents = "none";
    this.legend = make("div");
    this.sheet = make("div");
    this.told = make("p", { className: "soft" }, "Drag to move, wheel to zoom, drag with Shift to choose patches.");
    const choices = [["label", "label"], ["slide", "slide"], ["group", "patient"], ["predicted", "prediction"], ["error", "right or wrong"]]
      .filter(([by]) => this.known(by));
    const choice = make("select", { "aria-label": "Colour", onchange: (event) => { this.by = event.target.value; this.paint(); } },
      ...choices.map(([value, text]) => make("option", { value }, `colour: ${text}`)));
    this.element = make("div", { className: "slide" }, make("div", { className: "stage" }, this.canvas, this.loop),
      make("aside", {}, make("h1", {}, `${count(cloud.columns.x.length)} patches`), choice, this.legend, make("h2", {}, "Chosen"), this.told, this.sheet));
  }

  start() {
    this.gl = this.canvas.getContext("webgl", { antialias: false, preserveDrawingBuffer: true });
    if (!this.gl) throw new Error("This browser has no WebGL, which the map is drawn with.");
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.program = program;
    const { x, y } = this.cloud.columns;
    this.order = shuffled(x.length); // so that the first points are a fair part of all
    const places = new Float32Array(2 * x.length);
    this.order.forEach((i, at) => {
      places[2 * at] = x[i];
      places[2 * at + 1] = y[i];
    });
    this.attribute("place", places, 2, gl.FLOAT, false);
    this.box = bounds(x, y);
    this.view = null;
    this.paint();
    this.watch = new ResizeObserver(() => this.resized());
    this.watch.observe(this.canvas);
    this.listen();
  }

  close() {
    clearTimeout(this.moving);
    this.watch?.disconnect();
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }

  attribute(name, values, size, kind, normalized) {
    const { gl } = this;
    const at = gl.getAttribLocation(this.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, kind, normalized, 0, 0);
  }

  known(by) {
    const { label, predicted } = this.cloud.columns;
    if (by === "label") return label.some((number) => number >= 0);
    if (by === "predicted") return predicted.some((number) => number >= 0);
    return by !== "error" || label.some((number, i) => number >= 0 && predicted[i] >= 0);
  }

  // Names of what points are coloured by, and which each point is: -1 is grey.
  kinds() {
    const { cloud } = this;
    const { file, label } = cloud.columns;
    const { predicted } = cloud.columns;
    if (this.by === "label") return [cloud.classes, label];
    if (this.by === "predicted") return [cloud.classes, predicted];
    if (this.by === "error") return [["right", "wrong"], Array.from(label, (number, i) => (number < 0 || predicted[i] < 0 ? -1 : Number(number !== predicted[i])))];
    const key = this.by === "slide" ? "name" : "group";
    const names = [...new Set(cloud.files.map((one) => one[key]))];
    const numbers = cloud.files.map((one) => names.indexOf(one[key]));
    return [names, Array.from(file, (number) => numbers[number])];
  }

  paint() {
    const [names, which] = this.kinds();
    const shades = [...names.map((_, i) => PALETTE[i % PALETTE.length]), GREY].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    const colors = new Uint8Array(3 * which.length);
    this.order.forEach((i, at) => colors.set(shades[which[i] < 0 ? names.length : which[i]], 3 * at));
    this.attribute("color", colors, 3, this.gl.UNSIGNED_BYTE, true);
    this.legend.replaceChildren(...names.slice(0, 14).map((name, i) => {
      const swatch = make("i", { className: "swatch" });
      swatch.style.borderColor = swatch.style.background = PALETTE[i % PALETTE.length];
      return make("label", {}, swatch, name);
    }), names.length > 14 ? make("p", { className: "soft" }, `and ${names.length - 14} more; colours repeat after ${PALETTE.length}`) : "");
    this.draw();
  }

  resized() {
    const ratio = devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.loop]) {
      canvas.width = Math.round(this.canvas.clientWidth * ratio);
      canvas.height = Math.round(this.canvas.clientHeight * ratio);
    }
    if (!this.view && this.canvas.width) {
      const [x0, y0, x1, y1] = this.box;
      const scale = 0.92 * Math.min(this.canvas.width / (x1 - x0 || 1), this.canvas.height / (y1 - y0 || 1));
      this.view = { scale, x: (x0 + x1) / 2, y: (y0 + y1) / 2 };
    }
    this.draw();
  }

  draw() {
    if (!this.view || this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      const { gl, canvas, view } = this;
      const [sx, sy] = [(2 * view.scale) / canvas.width, (2 * view.scale) / canvas.height];
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0.98, 0.98, 0.97, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform4f(gl.getUniformLocation(this.program, "view"), sx, sy, -view.x * sx, -view.y * sy);
      const n = this.cloud.columns.x.length;
      gl.uniform1f(gl.getUniformLocation(this.program, "size"), n > 100000 ? 2 : n > 5000 ? 4 : 7);
      gl.drawArrays(gl.POINTS, 0, this.moving ? Math.min(n, MOVING) : n);
    });
  }

  // Part of the points now, and all when the map rests.
  move() {
    clearTimeout(this.moving);
    this.moving = setTimeout(() => {
      this.moving = 0;
      this.draw();
    }, STILL);
    this.draw();
  }

  // Pixels of the canvas to the plane.
  plane(px, py) {
    const { view, canvas } = this;
    return [view.x + (px - canvas.width / 2) / view.scale, view.y - (py - canvas.height / 2) / view.scale];
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * this.canvas.width) / box.width, ((event.clientY - box.top) * this.canvas.height) / box.height];
  }

  listen() {
    const { canvas } = this;
    let last = null;
    let lasso = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [px, py] = this.at(event);
      const [x, y] = this.plane(px, py);
      this.view.scale *= Math.exp(-event.deltaY * 0.0016);
      const [nx, ny] = this.plane(px, py);
      this.view.x += x - nx;
      this.view.y += y - ny;
      this.move();
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = this.at(event);
      lasso = event.shiftKey ? [last] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const now = this.at(event);
      if (lasso) this.outline(lasso.push(now) && lasso);
      else {
        this.view.x -= (now[0] - last[0]) / this.view.scale;
        this.view.y += (now[1] - last[1]) / this.view.scale;
        this.move();
      }
      last = now;
    });
    canvas.addEventListener("pointerup", () => {
      if (lasso?.length > 2) this.choose(lasso.map(([px, py]) => this.plane(px, py)));
      last = lasso = null;
    });
  }

  outline(points) {
    const context = this.loop.getContext("2d");
    context.clearRect(0, 0, this.loop.width, this.loop.height);
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x, y));
    context.strokeStyle = "#23202a";
    context.lineWidth = 2;
    context.stroke();
  }

  choose(polygon) {
    const { x, y, file, row } = this.cloud.columns;
    const inside = [];
    for (let i = 0; i < x.length; i++) if (contains(polygon, x[i], y[i])) inside.push(i);
    this.told.textContent = `${count(inside.length)} patches${inside.length > SHOWN ? `, ${SHOWN} of them shown` : ""}`;
    const step = Math.max(1, inside.length / SHOWN);
    const some = Array.from({ length: Math.min(SHOWN, inside.length) }, (_, i) => inside[Math.floor(i * step)]);
    const patch = (i) => ({ ...this.cloud.files[file[i]], row: row[i], text: this.cloud.files[file[i]].name });
    this.sheet.replaceChildren(inside.length ? choosable(some.map(patch), { total: inside.length, everything: () => inside.map(patch) }) : "");
  }
}

// 0 to n - 1 in an order that is the same each time.
function shuffled(n) {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  let state = 1;
  for (let i = n - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    const j = Math.floor((state / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

function bounds(xs, ys) {
  // Without the outermost thousandth on each side: one stray point would squeeze all others together.
  const ends = (values) => {
    const sorted = Float32Array.from(values).sort();
    const cut = Math.floor(sorted.length / 1000);
    return [sorted[cut], sorted[sorted.length - 1 - cut]];
  };
  const [x0, x1] = ends(xs);
  const [y0, y1] = ends(ys);
  return [x0, y0, x1, y1];
}

function contains(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ax, ay] = polygon[i];
    const [bx, by] = polygon[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}
