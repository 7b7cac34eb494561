// What a classifier got wrong: counts, then the patches themselves; each leads to its place in the slide.
import { count, json, make, patchCards, percent } from "./tools.js";

export async function showRun(page, { id, say }) {
  const run = await json(`/api/runs/${id}`);
  say(run.name);
  const sheet = make("div", { className: "sheet" },
    make("h1", {}, `${count(run.wrong)} of ${count(run.patches)} ${run.part} patches wrong`),
    make("div", { className: "beside" }, confusion(run), reliability(run.reliability)), make("h2", {}, "Patients"), patients(run),
    ...some("Most confidently wrong", run.most_confident), ...some("Least sure", run.least_sure));
  page.replaceChildren(sheet);
}

function confusion(run) {
  const head = make("tr", {}, make("th", {}, "label / called"), ...run.classes.map((name) => make("th", { className: "number" }, name)));
  const rows = run.classes.map((label) => make("tr", {}, make("th", {}, label),
    ...run.classes.map((called) => make("td", { className: "number" }, count(run.confusion[label]?.[called] ?? 0)))));
  return make("table", { className: "small" }, make("thead", {}, head), make("tbody", {}, ...rows));
}

function patients(run) {
  const worst = [...run.groups].sort((a, b) => b.wrong / b.patches - a.wrong / a.patches).slice(0, 20);
  const rows = worst.map((group) => make("tr", {}, make("td", {}, group.name), make("td", { className: "number" }, count(group.patches)),
    make("td", { className: "number" }, count(group.wrong)), make("td", { className: "number" }, percent(group.wrong / group.patches))));
  const head = ["patient", "patches", "wrong", "share"].map((name, i) => make("th", { className: i ? "number" : "" }, name));
  return make("table", { className: "small" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

// How often what was called with some probability was right: on the diagonal where probabilities are honest.
function reliability(bins) {
  const figure = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    figure.append(element);
    return element;
  };
  const x = (p) => 40 + 190 * p;
  const y = (p) => 200 - 190 * p;
  figure.setAttribute("viewBox", "0 0 240 240");
  figure.setAttribute("class", "chart");
  figure.setAttribute("role", "img");
  figure.setAttribute("aria-label", "Reliability: share of right calls by probability");
  part("rect", { x: x(0), y: y(1), width: 190, height: 190, class: "frame" });
  part("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "even" });
  part("polyline", { points: bins.map((bin) => `${x(bin.probability)},${y(bin.right)}`).join(" "), class: "curve" });
  for (const bin of bins) {
    const dot = part("circle", { cx: x(bin.probability), cy: y(bin.right), r: 4, class: "dot" });
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${count(bin.patches)} patches called with ${percent(bin.probability)}: ${percent(bin.right)} right`;
    dot.append(title);
  }
  for (const p of [0, 0.5, 1]) {
    part("text", { x: x(p), y: 216, "text-anchor": "middle" }).textContent = p;
    part("text", { x: 34, y: y(p) + 4, "text-anchor": "end" }).textContent = p;
  }
  part("text", { x: x(0.5), y: 234, "text-anchor": "middle" }).textContent = "probability; up: share that is right";
  return figure;
}

// A heading, a choice of one class where there are several, and the patches.
function some(title, patches) {
  const labels = [...new Set(patches.map((patch) => patch.label))].sort();
  const shown = make("div", {}, cards(patches));
  const choice = make("select", { "aria-label": `${title}: class`, onchange: ({ target }) => shown.replaceChildren(cards(patches.filter((patch) => !target.value || patch.label === target.value))) },
    make("option", { value: "" }, "all classes"), ...labels.map((label) => make("option", { value: label }, `labelled ${label}`)));
  return [make("h2", {}, title, " ", labels.length > 1 ? choice : ""), shown];
}

function cards(patches) {
  if (!patches.length) return make("p", { className: "soft" }, "None.");
  return patchCards(patches.map((patch) => ({ ...patch, text: make("div", {}, `${patch.label} called ${patch.predicted} (${percent(patch.probability)})`,
    make("div", { className: "soft" }, patch.name)) })));
}
