// A picture of many tiles on a canvas: which level, which tiles, when they come; drawing over them is the page's.

const AT_ONCE = 8; // requests; the newest asked for first, as the eye has moved on
const KEPT = 400; // tiles in memory
const FINER = 1.5; // a level may be this much coarser than the screen before the next finer one is fetched

export class DeepZoom {
  // `size` [w, h] in level-0 pixels; `levels` as the server lists them; `over(context, view)` draws on top.
  constructor(canvas, { size, levels, address, over, failed }) {
    Object.assign(this, { canvas, size, levels, address, over, failed });
    this.context = canvas.getContext("2d");
    this.tiles = new Map();
    this.waiting = [];
    this.running = 0;
    this.watch = new ResizeObserver(() => this.resized());
    this.watch.observe(canvas);
    this.listen();
  }

  close() {
    this.closed = true;
    this.watch.disconnect();
    for (const tile of this.tiles.values()) tile.bitmap?.close?.();
  }

  resized() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    if (this.scale === undefined) this.fit();
    else this.redraw();
  }

  // scale: screen pixels a level-0 pixel; x, y: the level-0 point at the canvas's corner.
  fit() {
    const { width, height } = this.canvas;
    this.scale = Math.min(width / this.size[0], height / this.size[1]) * 0.96;
    this.x = this.size[0] / 2 - width / 2 / this.scale;
    this.y = this.size[1] / 2 - height / 2 / this.scale;
    this.redraw();
  }

  center(x, y, scale) {
    this.scale = scale;
    this.x = x - this.canvas.width / 2 / scale;
    this.y = y - this.canvas.height / 2 / scale;
    this.redraw();
  }

  zoom(factor, sx = this.canvas.width / 2, sy = this.canvas.height / 2) {
    const least = Math.min(this.canvas.width / this.size[0], this.canvas.height / this.size[1]) / 4;
    const scale = Math.min(Math.max(this.scale * factor, least), 16);
    this.x += sx / this.scale - sx / scale;
    this.y += sy / this.scale - sy / scale;
    this.scale = scale;
    this.redraw();
  }

  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.redraw();
  }

  // The level-0 point at the canvas's middle.
  middle() {
    return [this.x + this.canvas.width / 2 / this.scale, this.y + this.canvas.height / 2 / this.scale];
  }

  at(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    return [(clientX - box.left) * ratio, (clientY - box.top) * ratio];
  }

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    let moved = 0;
    let tracing = false; // a line is drawn, where somebody takes it: `traced(x, y)`
    const place = ([sx, sy]) => [this.x + sx / this.scale, this.y + sy / this.scale];
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...this.at(event.clientX, event.clientY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, this.at(event.clientX, event.clientY));
      moved = 0;
      tracing = Boolean(event.shiftKey && this.traced);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const before = fingers.get(event.pointerId);
      const now = this.at(event.clientX, event.clientY);
      moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (tracing) this.traced?.(...place(now));
      else if (fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
        this.zoom(Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1])), ...other);
      } else this.pan(now[0] - before[0], now[1] - before[1]);
      fingers.set(event.pointerId, now);
    });
    const up = (event) => {
      if (fingers.delete(event.pointerId) && moved < 6 && event.type === "pointerup") {
        this.clicked?.(...place(this.at(event.clientX, event.clientY)));
      }
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
  }

  redraw() {
    if (this.drawing || this.closed) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      if (this.closed) return;
      this.draw();
    });
  }

  draw() {
    const { context, canvas, scale, x, y } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#e9e7e3";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = "#fff";
    context.fillRect(-x * scale, -y * scale, this.size[0] * scale, this.size[1] * scale);
    context.imageSmoothingEnabled = scale < 3;
    this.waiting = [];
    // Coarse levels first: what is there already stands in for what is still to come.
    const wanted = this.wantedLevel();
    for (let level = this.levels.length - 1; level >= wanted; level--) this.drawLevel(level, level === wanted);
    this.fetchMore();
    this.over?.(context, this);
    this.changed?.(this);
    Object.assign(this.canvas.dataset, { x: this.x, y: this.y, scale: this.scale });
    this.canvas.setAttribute("aria-busy", String(this.running + this.waiting.length > 0));
  }

  wantedLevel() {
    let best = 0;
    this.levels.forEach((level, index) => {
      if (level.downsample * this.scale <= FINER) best = index;
    });
    return best;
  }

  drawLevel(number, fetch) {
    const level = this.levels[number];
    const [fx, fy] = [this.size[0] / level.width, this.size[1] / level.height];
    const [w, h] = [level.tile_width * fx, level.tile_height * fy];
    const clamp = (value, top) => Math.min(Math.max(Math.floor(value), 0), top);
    const columns = Math.ceil(level.width / level.tile_width) - 1;
    const rows = Math.ceil(level.height / level.tile_height) - 1;
    const [c0, c1] = [clamp(this.x / w, columns), clamp((this.x + this.canvas.width / this.scale) / w, columns)];
    const [r0, r1] = [clamp(this.y / h, rows), clamp((this.y + this.canvas.height / this.scale) / h, rows)];
    const top = number === this.levels.length - 1; // always fetched: something to stand in for all the others
    for (let r = r0; r <= r1; r++) {
      for (let c = c0; c <= c1; c++) {
        const key = `${number}/${c}/${r}`;
        const tile = this.tiles.get(key);
        if (tile?.bitmap) this.drawTile(level, tile, c, r, fx, fy);
        else if (!tile && (fetch || top)) this.waiting.push(key);
      }
    }
  }

  drawTile(level, tile, column, row, fx, fy) {
    tile.used = ++this.clock;
    // A file's own tiles may reach beyond the level: that part is no picture.
    const w = Math.min(tile.bitmap.width, level.width - column * level.tile_width);
    const h = Math.min(tile.bitmap.height, level.height - row * level.tile_height);
    const left = Math.floor((column * level.tile_width * fx - this.x) * this.scale);
    const upper = Math.floor((row * level.tile_height * fy - this.y) * this.scale);
    // To the next tile's first pixel, so that no seam shows.
    const right = Math.floor(((column * level.tile_width + w) * fx - this.x) * this.scale);
    const lower = Math.floor(((row * level.tile_height + h) * fy - this.y) * this.scale);
    this.context.drawImage(tile.bitmap, 0, 0, w, h, left, upper, right - left, lower - upper);
  }

  clock = 0;

  fetchMore() {
    while (this.running < AT_ONCE && this.waiting.length) {
      const key = this.waiting.pop();
      if (this.tiles.has(key)) continue;
      this.tiles.set(key, {});
      this.running++;
      this.fetchTile(key).finally(() => {
        this.running--;
        this.redraw();
      });
    }
  }

  async fetchTile(key) {
    try {
      const answer = await fetch(this.address(key));
      if (!answer.ok) throw new Error((await answer.json()).problem);
      // The colours as the file has them: what a profile would make of them, networks do not see either.
      const bitmap = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
      if (this.closed) bitmap.close();
      else this.tiles.set(key, { bitmap, used: ++this.clock });
      this.forget();
    } catch (error) {
      // It stays in the map, so that it is not asked for again and again.
      this.failed?.(error.message);
    }
  }

  forget() {
    if (this.tiles.size <= KEPT) return;
    const old = [...this.tiles].filter(([, tile]) => tile.bitmap).sort((a, b) => a[1].used - b[1].used);
    for (const [key, tile] of old.slice(0, this.tiles.size - KEPT)) {
      tile.bitmap.close();
      this.tiles.delete(key);
    }
  }
}
