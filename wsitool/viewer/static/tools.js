// Elements, answers of the server, colours. What comes from files is only ever text, never markup.

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export async function json(path) {
  const answer = await ask(path);
  return answer.json();
}

// A block of columns as `viewer/cells.py` packs it: {about..., columns: {name: typed array}}.
export async function columns(path) {
  const block = await (await ask(path)).arrayBuffer();
  const bytes = new Uint8Array(block);
  const end = bytes.indexOf(10);
  const about = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  const kinds = { "<i4": Int32Array, "<i2": Int16Array, "<f4": Float32Array, "|u1": Uint8Array };
  let offset = end + 1;
  const read = {};
  for (const [name, [kind, length]] of Object.entries(about.columns)) {
    read[name] = new kinds[kind](block, offset, length);
    offset += Math.ceil(read[name].byteLength / 8) * 8;
  }
  return { ...about, columns: read };
}

// What changes something: an object, as JSON.
export async function send(path, object) {
  const answer = await ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(object) });
  return answer.json();
}

export async function ask(path, how = {}) {
  let answer;
  try {
    answer = await fetch(path, how);
  } catch {
    throw new Error("The server is gone: start wsitool again with the same words.");
  }
  if (answer.ok) return answer;
  let problem = `${answer.status} ${answer.statusText}`;
  try {
    problem = (await answer.json()).problem;
  } catch {
    // not an answer of ours: its status says it all
  }
  throw new Error(problem);
}

// A part of a panel that is fetched when it is opened; what goes wrong is said in its place.
export function opening(title, fetched) {
  const inside = make("div", {}, make("p", { className: "soft" }, "Loading ..."));
  let asked = false;
  return make("details", { ontoggle: async (event) => {
    if (!event.target.open || asked) return;
    asked = true;
    try {
      inside.replaceChildren(await fetched());
    } catch (error) {
      inside.replaceChildren(make("p", { className: "problem", role: "alert" }, error.message));
    }
  } }, make("summary", {}, title), inside);
}

// Patches {slide, name, row, text} as cards, each of which leads to its place in its slide.
export function patchCards(patches) {
  return make("div", { className: "cards" }, ...patches.map(({ slide, name, row, text }) => {
    if (!slide) return make("div", { className: "card" }, make("p", { className: "soft" }, "Its store is not in the folders given, or was cut anew."), text);
    return make("a", { className: "card", href: `#/slide/${slide}/${row}` },
      make("img", { src: `/api/slides/${slide}/patches/${row}`, loading: "lazy", alt: `patch ${row} of ${name}` }), text);
  }));
}

// Okabe and Ito's colours, as in wsitool's pictures.
export const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442"];
export const KEPT = "#007a5c";
export const LOW_TISSUE = "#8a8a92";
const REJECTED = ["#d55e00", "#0072b2", "#e69f00", "#56b4e9", "#cc79a7", "#5a5a5a"];

export function reasonColors(reasons) {
  let others = 0;
  return reasons.map((reason, index) => {
    if (index === 0) return KEPT;
    return reason === "low tissue" ? LOW_TISSUE : REJECTED[others++ % REJECTED.length];
  });
}

// From blue over white to vermilion: two ends that colour-blind eyes tell apart, tissue visible in between.
const ENDS = [[0, 90, 160], [245, 245, 245], [200, 70, 0]];
export function probabilityColor(p) {
  const [low, high] = p < 0.5 ? [ENDS[0], ENDS[1]] : [ENDS[1], ENDS[2]];
  const t = p < 0.5 ? p * 2 : p * 2 - 1;
  return `rgb(${low.map((value, i) => Math.round(value + (high[i] - value) * t)).join(",")})`;
}

export const count = (n) => n.toLocaleString("en");
export const percent = (p) => `${(100 * p).toFixed(p > 0.1 && p < 0.9 ? 0 : 1)} %`;
