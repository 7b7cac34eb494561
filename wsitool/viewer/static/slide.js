// One slide: deep zoom, what tiling decided, labels and probabilities over it, and the patch under a click.
import { DeepZoom } from "./deepzoom.js";
import { Regions } from "./regions.js";
import { choosable } from "./selection.js";
import { PALETTE, ask, columns, count, json, make, opening, percent, probabilityColor, reasonColors } from "./tools.js";

const KEPT_EDGE = "#7fe0bd"; // of the tissue
const SMALLEST_FRAME = 5; // screen pixels: below, cells are drawn as areas
const PATCHES_FROM = 24; // screen pixels of a patch from which its own picture is fetched, where the slide is away

export async function showSlide(page, { id, rest, say }) {
  const slide = await json(`/api/slides/${id}`);
  say(slide.name);
  const problems = new Set(slide.why ? [slide.why] : []);
  const cells = slide.has_store ? await columns(`/api/slides/${id}/cells`).catch((error) => void problems.add(error.message)) : null;
  if (cells?.images) return showImages(page, id, slide, cells);
  const view = new SlidePage(id, slide, cells ?? null, problems);
  page.replaceChildren(view.element);
  view.start();
  if (rest[0] !== undefined) view.goToRow(Number(rest[0]));
  return () => view.close();
}

// A store of loose images has no one picture: its patches are shown as they are.
function showImages(page, id, slide, cells) {
  const rows = [...cells.columns.row].filter((row) => row >= 0);
  const grid = make("div", { className: "cards" });
  const more = make("button", { onclick: () => add(200) }, "Show more");
  let shown = 0;
  function add(n) {
    for (const row of rows.slice(shown, shown + n)) {
      const label = cells.columns.label[cells.columns.row.indexOf(row)];
      grid.append(make("div", { className: "card" }, make("img", { src: patchAddress(id, row), loading: "lazy", alt: `patch ${row}` }),
        `${row}${label >= 0 ? `, ${cells.classes[label]}` : ""}`));
    }
    shown += n;
    more.hidden = shown >= rows.length;
  }
  add(100);
  page.replaceChildren(make("div", { className: "sheet" }, make("h1", {}, `${slide.name}: ${count(rows.length)} patches of images`), grid, more));
}

const patchAddress = (id, row) => `/api/slides/${id}/patches/${row}`;

class SlidePage {
  constructor(id, slide, cells, problems) {
    Object.assign(this, { id, slide, cells, problems, chosen: -1, picture: null, pictures: new Map() });
    const { width, height } = slide;
    const reach = cells ? [Math.max(...cells.columns.x, 0) + cells.size, Math.max(...cells.columns.y, 0) + cells.size] : [1, 1];
    this.size = [slide.levels[0]?.width || width || reach[0], slide.levels[0]?.height || height || reach[1]];
    this.show = { reasons: new Set(), labels: false, tissue: false, prediction: "", classIndex: 0, uncertain: false, opacity: 0.55 };
    this.colors = cells ? reasonColors(cells.reasons) : [];
    this.canvas = make("canvas", { role: "img", "aria-label": `Slide ${slide.name}` });
    this.scaleBar = make("div", { className: "scale" });
    this.told = make("div", { className: "over", role: "status" }, [...problems].join(" "));
    this.detail = make("div");
    this.panel = make("aside", { "aria-label": "What is shown" });
    this.element = make("div", { className: "slide" },
      make("div", { className: "stage" }, this.canvas, this.scaleBar, this.told), this.panel);
    this.regions = new Regions({ id, classes: cells?.classes.filter(Boolean) ?? [], mpp: slide.mpp, zoom: () => this.zoom });
    this.element.firstChild.append(this.regions.hint);
    this.drawPanel();
    this.keys = (event) => this.pressed(event);
    addEventListener("keydown", this.keys);
  }

  start() {
    this.zoom = new DeepZoom(this.canvas, {
      size: this.size, levels: this.slide.levels, over: (context, view) => this.drawOver(context, view),
      address: (key) => `/api/slides/${this.id}/tiles/${key}`,
      failed: (problem) => { this.problems.add(problem); this.told.textContent = [...this.problems].slice(0, 3).join(" "); },
    });
    this.zoom.clicked = (x, y) => (this.regions.ring ? this.regions.add(x, y) : this.choose(this.cellAt(x, y)));
    this.regions.load().then(() => this.drawPanel());
    this.zoom.changed = () => this.drawScale();
    if (!this.slide.levels.length && this.cells) this.loadMosaic();
  }

  close() {
    removeEventListener("keydown", this.keys);
    this.zoom.close();
  }

  // The slide is away: the store's patches in its place.
  async loadMosaic() {
    try {
      const answer = await fetch(`/api/slides/${this.id}/mosaic`);
      if (answer.ok) this.mosaic = await createImageBitmap(await answer.blob());
    } catch {
      // single patches come all the same
    }
    this.zoom.redraw();
  }

  cellAt(x, y) {
    if (!this.cells) return -1;
    const { x: xs, y: ys, row } = this.cells.columns;
    let found = -1;
    for (let i = 0; i < xs.length; i++) {
      if (x >= xs[i] && x < xs[i] + this.cells.size && y >= ys[i] && y < ys[i] + this.cells.size && (found < 0 || row[i] >= 0)) found = i;
    }
    return found;
  }

  goToRow(row) {
    const index = this.cells?.columns.row.indexOf(row) ?? -1;
    if (index >= 0) this.goTo(index);
  }

  goTo(index) {
    const { x, y } = this.cells.columns;
    const half = this.cells.size / 2;
    const centered = () => this.zoom.center(x[index] + half, y[index] + half, Math.max(this.zoom.scale ?? 0, 160 / this.cells.size));
    // The canvas may not have its size yet.
    if (this.zoom.scale === undefined) requestAnimationFrame(() => this.goTo(index));
    else centered();
    this.choose(index);
  }

  // Level-0 corner of a patch that may be of no store.
  goToPlace(x, y, side) {
    const index = this.cells ? this.cellAt(x + side / 2, y + side / 2) : -1;
    if (index >= 0) this.goTo(index);
    else this.zoom.center(x + side / 2, y + side / 2, Math.max(this.zoom.scale ?? 0, 160 / side));
  }

  choose(index) {
    this.chosen = index;
    this.drawDetail();
    this.zoom.redraw();
  }

  pressed(event) {
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.key !== "Escape") return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const presses = event.target.tagName === "BUTTON" && ["Enter", " "].includes(event.key);
    if (!presses && this.regions.pressed(event)) return void event.preventDefault();
    const step = 0.2 * this.canvas.height;
    const actions = {
      ArrowLeft: () => this.zoom.pan(step, 0), ArrowRight: () => this.zoom.pan(-step, 0),
      ArrowUp: () => this.zoom.pan(0, step), ArrowDown: () => this.zoom.pan(0, -step),
      "+": () => this.zoom.zoom(1.5), "=": () => this.zoom.zoom(1.5), "-": () => this.zoom.zoom(1 / 1.5), 0: () => this.zoom.fit(),
      k: () => this.toggleReason(0), r: () => this.toggleRejected(), l: () => this.toggle("labels"), t: () => this.toggleTissue(), u: () => this.toggle("uncertain"),
      p: () => this.nextPrediction(), n: () => this.nextPatch(1), b: () => this.nextPatch(-1), Escape: () => this.choose(-1),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  toggle(name) {
    this.show[name] = !this.show[name];
    this.drawPanel();
    this.zoom.redraw();
  }

  async toggleTissue() {
    this.toggle("tissue");
    if (!this.show.tissue || this.tissue || !this.cells) return;
    try {
      this.tissue = await columns(`/api/slides/${this.id}/tissue`);
    } catch (error) {
      this.problems.add(error.message);
      this.told.textContent = [...this.problems].join(" ");
    }
    this.zoom.redraw();
  }

  toggleReason(index) {
    const { reasons } = this.show;
    if (!reasons.delete(index)) reasons.add(index);
    this.drawPanel();
    this.zoom?.redraw();
  }

  toggleRejected() {
    const rejected = this.cells?.reasons.map((_, index) => index).slice(1) ?? [];
    const any = rejected.some((index) => this.show.reasons.has(index));
    for (const index of rejected) any ? this.show.reasons.delete(index) : this.show.reasons.add(index);
    this.drawPanel();
    this.zoom.redraw();
  }

  nextPatch(step) {
    if (!this.cells) return;
    const { row } = this.cells.columns;
    const n = row.length;
    for (let i = 1; i <= n; i++) {
      const index = (((this.chosen < 0 && step > 0 ? -1 : this.chosen) + step * i) % n + n) % n;
      if (row[index] >= 0) return void this.goTo(index);
    }
  }

  async nextPrediction() {
    const ids = ["", ...this.slide.predictions.map((one) => one.id)];
    await this.usePrediction(ids[(ids.indexOf(this.show.prediction) + 1) % ids.length]);
  }

  async usePrediction(id) {
    this.show.prediction = id;
    this.prediction = null;
    if (id) {
      try {
        this.prediction = await columns(`/api/slides/${this.id}/predictions/${id}`);
        // Where a slide was judged as a whole attention is what to look at: the layer after those of the classes.
        const { classes, columns: { attention } } = this.prediction;
        this.highest = attention ? attention.reduce((one, other) => Math.max(one, other), 0) : 0;
        this.show.classIndex = attention ? classes.length : Math.min(this.show.classIndex, classes.length - 1);
      } catch (error) {
        this.problems.add(error.message);
        this.told.textContent = [...this.problems].join(" ");
      }
    }
    this.drawPanel();
    this.drawDetail();
    this.zoom.redraw();
  }

  drawPanel() {
    const { slide, cells, show } = this;
    const facts = make("dl");
    const fact = (name, value) => value && facts.append(make("dt", {}, name), make("dd", {}, value));
    fact("patient", slide.group);
    fact("size", `${count(this.size[0])} x ${count(this.size[1])} px`);
    fact("resolution", slide.mpp ? `${slide.mpp.toPrecision(3)} um/px` : "not stated");
    fact("patches", count(slide.patches));
    const parts = [make("h1", {}, slide.name), facts];
    if (cells) parts.push(this.reasonBoxes());
    if (cells?.columns.label.some((label) => label >= 0)) parts.push(this.labelBoxes());
    if (slide.predictions.length) parts.push(this.predictionBoxes());
    parts.push(make("label", {}, "Opacity", make("input", { type: "range", min: 0.1, max: 1, step: 0.05, value: show.opacity,
      oninput: (event) => { show.opacity = Number(event.target.value); this.zoom.redraw(); } })));
    parts.push(this.regions.element, make("h2", {}, "Patch"), this.detail, this.help());
    this.panel.replaceChildren(...parts);
    this.drawDetail();
  }

  box(text, color, checked, change, n = "") {
    const swatch = make("i", { className: "swatch" });
    swatch.style.borderColor = color;
    return make("label", {}, make("input", { type: "checkbox", checked, onchange: change }), swatch, make("span", {}, text), make("span", {}, n));
  }

  reasonBoxes() {
    const { reason } = this.cells.columns;
    const counts = new Array(this.cells.reasons.length).fill(0);
    for (const value of reason) counts[value]++;
    return make("div", {}, make("h2", {}, "Tiling"), this.slide.levels.length ? this.box("outline of the tissue", KEPT_EDGE, this.show.tissue, () => this.toggleTissue()) : null,
      ...this.cells.reasons.map((name, index) => (!counts[index] ? null
      : this.box(name, this.colors[index], this.show.reasons.has(index), () => this.toggleReason(index), count(counts[index])))));
  }

  labelBoxes() {
    const present = this.cells.classes.map((_, index) => this.cells.columns.label.filter((label) => label === index).length);
    return make("div", {}, make("h2", {}, "Labels"), this.box("show labels", "transparent", this.show.labels, () => this.toggle("labels")),
      ...this.cells.classes.map((name, index) => {
        const swatch = make("i", { className: "swatch" });
        swatch.style.borderColor = PALETTE[index % PALETTE.length];
        return make("label", {}, swatch, make("span", {}, name), make("span", {}, count(present[index])));
      }));
  }

  predictionBoxes() {
    const { show, slide } = this;
    const options = [["", "none"], ...slide.predictions.map((one) => [one.id, one.name])];
    const choice = make("select", { "aria-label": "Prediction", onchange: (event) => this.usePrediction(event.target.value) },
      ...options.map(([value, text]) => make("option", { value, selected: value === show.prediction }, text)));
    const parts = [make("h2", {}, "Prediction"), choice];
    if (this.prediction) {
      parts.push(make("select", { "aria-label": "Class", onchange: (event) => { show.classIndex = Number(event.target.value); this.drawPanel(); this.zoom.redraw(); } },
        ...[...this.prediction.classes.map((name) => `probability of ${name}`), ...(this.highest ? ["attention"] : [])]
          .map((text, index) => make("option", { value: index, selected: index === show.classIndex }, text))));
      parts.push(this.box("uncertainty instead", "transparent", show.uncertain, () => this.toggle("uncertain")));
      const ramp = make("div", { className: "ramp" });
      ramp.style.background = `linear-gradient(to right, ${[0, 0.25, 0.5, 0.75, 1].map(probabilityColor).join(",")})`;
      const end = this.showsAttention() ? `${this.highest.toPrecision(3)} x the mean` : "1";
      parts.push(ramp, make("div", { className: "ends" }, make("span", {}, "0"), make("span", {}, end)));
      if (this.prediction.attended.length) parts.push(this.attendedPatches());
    }
    return make("div", {}, ...parts);
  }

  showsAttention() {
    return Boolean(this.highest) && this.show.classIndex === this.prediction.classes.length && !this.show.uncertain;
  }

  attendedPatches() {
    return make("div", {}, make("h2", {}, "Most attention"), make("ol", {}, ...this.prediction.attended.map((one) => make("li", {},
      make("button", { onclick: () => this.goToPlace(one.x, one.y, one.side) }, `${count(one.x)}, ${count(one.y)}`),
      ` ${one.relative.toPrecision(3)} x the mean; ${one.called} ${percent(one.probability)} alone`))));
  }

  help() {
    const keys = [["arrows + - 0", "move, zoom, whole"], ["k r l t", "kept, rejected, labels, tissue"], ["p u", "prediction, uncertainty"], ["n b", "next patch, back"],
      ...(this.regions.mayDraw ? [["d", "draw a region"]] : [])];
    return make("div", { className: "soft" }, make("h2", {}, "Keys"), ...keys.map(([key, what]) => make("div", {}, make("kbd", {}, key), ` ${what}`)));
  }

  drawDetail() {
    const { cells, chosen } = this;
    if (!cells || chosen < 0) {
      this.detail.replaceChildren(make("p", { className: "soft" }, cells ? "Click a patch." : "There is no store of this slide."));
      return;
    }
    const { columns: c } = cells;
    const facts = make("dl");
    const fact = (name, value) => facts.append(make("dt", {}, name), make("dd", {}, value));
    fact("place", `${count(c.x[chosen])}, ${count(c.y[chosen])}`);
    fact("tiling", cells.reasons[c.reason[chosen]]);
    fact("tissue", percent(c.tissue[chosen]));
    for (const [name, values] of Object.entries(c)) if (name.startsWith("score:")) fact(name.slice(6), values[chosen].toPrecision(3));
    if (c.label[chosen] >= 0) fact("label", cells.classes[c.label[chosen]]);
    const parts = [];
    if (c.row[chosen] >= 0) {
      fact("row", count(c.row[chosen]));
      parts.push(make("img", { className: "patch", src: patchAddress(this.id, c.row[chosen]), alt: "the chosen patch" }));
    }
    parts.push(facts, ...this.probabilities(chosen));
    if (c.row[chosen] >= 0) parts.push(...this.beside(c.row[chosen]));
    this.detail.replaceChildren(...parts);
  }

  // The nearest patches of other slides, and what a method sees of this one: each when it is asked for.
  beside(row) {
    const address = patchAddress(this.id, row);
    const parts = this.slide.features.map((one) => opening(`Nearest in ${one.name}`, async () => {
      const patches = await json(`${address}/neighbours/${one.id}`);
      return patches.length ? choosable(patches.map((patch) => ({ ...patch, text: `${patch.name} (${patch.similarity.toFixed(2)})` })))
        : make("p", { className: "soft" }, "There are features of no other slide.");
    }));
    parts.push(opening("Views of a method", async () => {
      const names = await json("/api/methods");
      const picture = make("img", { className: "patch", alt: "the patch, and its views drawn three times" });
      const told = make("p", { className: "soft" });
      const use = async (name) => {
        told.textContent = "The patch first; a row is one drawing.";
        picture.hidden = true;
        try {
          const sheet = await ask(`${address}/views/${name}`);
          picture.src = URL.createObjectURL(await sheet.blob());
          picture.hidden = false;
        } catch (error) {
          told.textContent = error.message;
        }
      };
      const first = names.includes("simclr") ? "simclr" : names[0];
      const choice = make("select", { "aria-label": "Method", onchange: (event) => use(event.target.value) },
        ...names.map((name) => make("option", { value: name, selected: name === first }, name)));
      use(first);
      return make("div", {}, choice, picture, told);
    }));
    return parts;
  }

  probabilities(index) {
    const at = this.prediction ? this.predictionAt(this.cells.columns.x[index], this.cells.columns.y[index]) : -1;
    if (at < 0) return [];
    const { classes, columns: { probability, attention } } = this.prediction;
    const bar = (name, value, text) => make("div", { className: "bar" }, make("span", {}, name), make("meter", { value }), make("span", {}, text));
    const bars = classes.map((name, k) => bar(name, probability[at * classes.length + k], percent(probability[at * classes.length + k])));
    return attention ? [...bars, bar("attention", attention[at] / this.highest, `${attention[at].toPrecision(3)} x`)] : bars;
  }

  predictionAt(x, y) {
    const { x: xs, y: ys } = this.prediction.columns;
    for (let i = 0; i < xs.length; i++) if (xs[i] === x && ys[i] === y) return i;
    return -1;
  }

  drawOver(context, view) {
    if (this.mosaic) context.drawImage(this.mosaic, -view.x * view.scale, -view.y * view.scale, this.size[0] * view.scale, this.size[1] * view.scale);
    if (!this.slide.levels.length && this.cells) this.drawPatches(context, view);
    if (this.prediction) this.drawPrediction(context, view);
    if (this.show.tissue && this.tissue) this.drawTissue(context, view);
    if (this.cells) this.drawCells(context, view);
    this.regions.draw(context, view);
  }

  // Calls draw(index, left, upper, side) for the cells on the screen, all in whole pixels.
  onScreen({ columns: { x, y }, size }, view, draw) {
    const side = size * view.scale;
    const { width, height } = view.canvas;
    for (let i = 0; i < x.length; i++) {
      const left = (x[i] - view.x) * view.scale;
      const upper = (y[i] - view.y) * view.scale;
      if (left < width && upper < height && left + side > 0 && upper + side > 0) draw(i, Math.floor(left), Math.floor(upper), Math.max(1, Math.ceil(side)));
    }
  }

  drawPatches(context, view) {
    if (this.cells.size * view.scale < PATCHES_FROM) return;
    const { row } = this.cells.columns;
    this.onScreen(this.cells, view, (i, left, upper, side) => {
      if (row[i] < 0) return;
      if (!this.pictures.has(row[i])) {
        const picture = new Image();
        picture.onload = () => this.zoom.redraw();
        picture.src = patchAddress(this.id, row[i]);
        this.pictures.set(row[i], picture);
      }
      const picture = this.pictures.get(row[i]);
      if (picture.complete && picture.naturalWidth) context.drawImage(picture, left, upper, side, side);
    });
  }

  drawTissue(context, view) {
    const { x, y, length } = this.tissue.columns;
    context.beginPath();
    let at = 0;
    for (const n of length) {
      for (let i = at; i < at + n; i++) context.lineTo((x[i] - view.x) * view.scale, (y[i] - view.y) * view.scale);
      at += n;
      if (at < x.length) context.moveTo((x[at] - view.x) * view.scale, (y[at] - view.y) * view.scale);
    }
    // Dark beneath light: seen on tissue and on glass.
    for (const [width, color] of [[4, "#23202a"], [2, KEPT_EDGE]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.stroke();
    }
  }

  drawPrediction(context, view) {
    const { classes, columns: { probability, attention } } = this.prediction;
    const k = classes.length;
    const attended = this.showsAttention();
    context.globalAlpha = this.show.opacity;
    this.onScreen(this.prediction, view, (i, left, upper, side) => {
      let value = attended ? attention[i] / this.highest : probability[i * k + this.show.classIndex];
      if (this.show.uncertain) value = 1 - Math.max(...probability.subarray(i * k, i * k + k));
      context.fillStyle = probabilityColor(value);
      context.fillRect(left, upper, side, side);
    });
    context.globalAlpha = 1;
  }

  drawCells(context, view) {
    const { reason, label } = this.cells.columns;
    const { reasons, labels, opacity } = this.show;
    this.onScreen(this.cells, view, (i, left, upper, side) => {
      if (labels && label[i] >= 0) this.drawCell(context, PALETTE[label[i] % PALETTE.length], left, upper, side, opacity, true);
      if (reasons.has(reason[i])) this.drawCell(context, this.colors[reason[i]], left, upper, side, opacity, reason[i] > 0);
      if (i === this.chosen) {
        context.lineWidth = 3;
        context.strokeStyle = "#23202a";
        context.strokeRect(left - 1.5, upper - 1.5, side + 3, side + 3);
        context.lineWidth = 1;
        context.strokeStyle = "#fff";
        context.strokeRect(left + 0.5, upper + 0.5, side - 1, side - 1);
      }
    });
  }

  drawCell(context, color, left, upper, side, opacity, filled) {
    context.fillStyle = context.strokeStyle = color;
    if (filled || side < SMALLEST_FRAME) {
      context.globalAlpha = opacity * (side < SMALLEST_FRAME ? 1 : 0.5);
      context.fillRect(left, upper, side, side);
    }
    context.globalAlpha = 1;
    if (side >= SMALLEST_FRAME) {
      context.lineWidth = side > 40 ? 2 : 1;
      context.strokeRect(left + 0.5, upper + 0.5, side - 1, side - 1);
    }
  }

  drawScale() {
    const ratio = this.canvas.width / this.canvas.clientWidth || 1;
    const unit = (this.slide.mpp || 1) / (this.zoom.scale / ratio); // um, or pixels, a CSS pixel
    const whole = 10 ** Math.floor(Math.log10(unit * 120));
    const length = [5, 2, 1].map((n) => n * whole).find((n) => n <= unit * 120) ?? whole;
    const bar = make("i");
    bar.style.width = `${length / unit}px`;
    const text = this.slide.mpp ? (length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(3)} um`) : `${+length.toPrecision(3)} px`;
    this.scaleBar.replaceChildren(bar, text);
  }
}
