// Regions drawn by hand over a slide: each is sent when it is closed, and is on the server's disk when it is shown.
import { PALETTE, count, json, make, send } from "./tools.js";

const CROSS = 9; // screen pixels
const CLOSE = 3; // screen pixels between the points of a line drawn in one go

export class Regions {
  // `classes` that the slide has already; `zoom()` the DeepZoom; `mpp` of the slide or null.
  constructor({ id, classes, mpp, zoom }) {
    Object.assign(this, { id, mpp, zoom, kept: [], ring: null, mayDraw: false, busy: false });
    this.known = classes;
    this.list = make("datalist", { id: "region-classes" });
    this.name = make("input", { maxLength: 100, placeholder: "class", "aria-label": "Class of the next region", oninput: () => this.say() });
    this.name.setAttribute("list", "region-classes");
    this.name.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      this.name.blur();
      if (event.key === "Enter" && this.ring) this.close();
    });
    this.told = make("p", { className: "soft" });
    // Over the slide, where the eyes are.
    this.status = make("div", { role: "status" });
    this.problem = make("div", { className: "problem", role: "alert" });
    this.hint = make("div", { className: "hint" }, this.status, this.problem);
    this.rows = make("div");
    this.element = make("div", { hidden: true }, make("h2", {}, "Regions"), make("div", { className: "tools" }, this.name, make("button", { onclick: ({ target }) => { target.blur(); this.begin(); } }, "Draw")), this.list, this.told, this.rows);
  }

  async load() {
    try {
      this.take(await json(`/api/slides/${this.id}/regions`));
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }

  take({ may_draw, regions }) {
    Object.assign(this, { kept: regions, mayDraw: may_draw });
    this.element.hidden = !may_draw;
    this.known = [...new Set([...this.known, ...regions.map((region) => region.name)])].filter(Boolean);
    this.name.value ||= this.known[0] ?? "";
    this.list.replaceChildren(...this.known.map((value) => make("option", { value })));
    this.rows.replaceChildren(...regions.map((region) => this.row(region)));
    this.say();
    this.zoom()?.redraw();
  }

  row(region) {
    const swatch = make("i", { className: "swatch" });
    swatch.style.borderColor = swatch.style.background = colorOf(region);
    return make("div", { className: "region" }, swatch, make("button", { className: "link", onclick: () => this.goTo(region) }, region.name || "no class"), make("span", { className: "soft" }, this.size(region)),
      region.own ? make("button", { "aria-label": `remove the region ${region.name}`, title: "remove", onclick: () => this.post({ remove: region.id }) }, "\u00d7") : "");
  }

  // The first ring of a feature is its outline; holes are few, and not worth a library here.
  size({ rings }) {
    let twice = 0;
    const ring = rings[0];
    ring.forEach(([x, y], i) => {
      const [nx, ny] = ring[(i + 1) % ring.length];
      twice += x * ny - nx * y;
    });
    const pixels = Math.abs(twice) / 2;
    const mm = this.mpp ? (pixels * this.mpp ** 2) / 1e6 : 0;
    return mm ? `${+mm.toPrecision(3)} mm\u00b2` : `${count(Math.round(pixels))} px\u00b2`;
  }

  goTo({ rings }) {
    const points = rings.flat();
    const [x0, y0, x1, y1] = [Math.min(...points.map(([x]) => x)), Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([x]) => x)), Math.max(...points.map(([, y]) => y))];
    const zoom = this.zoom();
    zoom.center((x0 + x1) / 2, (y0 + y1) / 2, Math.min(16, 0.7 * Math.min(zoom.canvas.width / (x1 - x0 || 1), zoom.canvas.height / (y1 - y0 || 1))));
  }

  say() {
    const { ring } = this;
    const name = this.name.value.trim();
    this.told.textContent = `${count(this.kept.length)} regions. Draw with d; 1 to 9 choose the class.`;
    this.status.textContent = ring ? `Drawing ${name || "(say of which class)"}, ${ring.length} points. Click, Space at the cross, or drag with Shift; Enter closes, Backspace takes a point back, Escape gives up.` : "";
    const zoom = this.zoom();
    if (zoom) zoom.traced = ring ? (x, y) => this.trace(x, y) : null;
  }

  begin() {
    if (!this.mayDraw || this.ring) return;
    this.ring = [];
    this.problem.textContent = "";
    this.changed();
  }

  add(x, y) {
    this.ring.push([Math.round(x), Math.round(y)]);
    this.changed();
  }

  // A line drawn in one go: a point where it has gone some way.
  trace(x, y) {
    const [lx, ly] = this.ring.at(-1) ?? [Infinity, Infinity];
    if (Math.hypot(x - lx, y - ly) * this.zoom().scale >= CLOSE) this.add(x, y);
  }

  changed() {
    this.say();
    this.zoom().redraw();
  }

  async close() {
    const name = this.name.value.trim();
    if (!name) return void this.name.focus();
    // What could not be kept stays in hand, and Enter tries again.
    if (await this.post({ name, ring: this.ring })) {
      this.ring = null;
      this.changed();
    }
  }

  async post(sent) {
    if (this.busy) return false;
    this.busy = true;
    this.problem.textContent = "";
    try {
      this.take(await send(`/api/slides/${this.id}/draw`, sent));
      return true;
    } catch (error) {
      this.problem.textContent = error.message;
      return false;
    } finally {
      this.busy = false;
    }
  }

  // Whether a key was for drawing.
  pressed({ key }) {
    if (!this.mayDraw) return false;
    if (key === "d") this.begin();
    else if (/^[1-9]$/.test(key) && this.known[key - 1]) {
      this.name.value = this.known[key - 1];
      this.say();
    } else if (!this.ring) return false;
    else if (key === "Enter") this.close();
    else if (key === "Escape") {
      this.ring = null;
      this.changed();
    } else if (key === "Backspace") {
      this.ring.pop();
      this.changed();
    } else if (key === " ") this.add(...this.zoom().middle());
    else return false;
    return true;
  }

  draw(context, view) {
    const at = ([x, y]) => [(x - view.x) * view.scale, (y - view.y) * view.scale];
    for (const region of this.kept) {
      context.beginPath();
      for (const ring of region.rings) ring.forEach((point, i) => context[i ? "lineTo" : "moveTo"](...at(point)));
      stroke(context, colorOf(region));
    }
    if (!this.ring) return;
    context.beginPath();
    this.ring.forEach((point) => context.lineTo(...at(point)));
    stroke(context, "#fff");
    if (this.ring.length > 1) {
      context.beginPath();
      context.moveTo(...at(this.ring.at(-1)));
      context.lineTo(...at(this.ring[0]));
      context.setLineDash([6, 6]);
      stroke(context, "#fff");
      context.setLineDash([]);
    }
    for (const point of this.ring.length < 200 ? this.ring : []) {
      const [x, y] = at(point);
      context.fillStyle = "#23202a";
      context.fillRect(x - 3, y - 3, 6, 6);
    }
    const [x, y] = [view.canvas.width / 2, view.canvas.height / 2];
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [0, 1]]) {
      context.moveTo(x - CROSS * dx, y - CROSS * dy);
      context.lineTo(x + CROSS * dx, y + CROSS * dy);
    }
    stroke(context, "#fff");
  }
}

// Dark beneath: seen on tissue and on glass.
function stroke(context, color) {
  for (const [width, style] of [[5, "#23202a"], [2.5, color]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.stroke();
  }
}

function colorOf({ color }) {
  return Array.isArray(color) ? `rgb(${color.slice(0, 3).map(Number).join(",")})` : PALETTE[0];
}
