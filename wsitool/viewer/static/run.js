// What a classifier got wrong: counts, then the patches themselves; each leads to its place in the slide.
import { choosable } from "./selection.js";
import { count, json, make, percent } from "./tools.js";

const AT_ONCE = 120; // patches of one kind on the page

export async function showRun(page, { id, say }) {
  const run = await json(`/api/runs/${id}`);
  say(run.name);
  page.replaceChildren(make("div", { className: "sheet" }, ...mistakes(run)));
}

// An experiment has many classifiers: the same page of one of them, and which.
export async function showExperiment(page, { id, rest, say }) {
  const about = await json(`/api/experiments/${id}`);
  say(about.name);
  // Without a choice the first row, with all the labels it was given.
  const chosen = rest.length === 3 ? rest.map(Number) : [0, about.amounts.length - 1, 0];
  const choice = (which, name, options) => make("label", {}, `${name} `, make("select", {
    onchange: ({ target }) => { location.hash = `#/experiment/${id}/${chosen.map((n, i) => (i === which ? target.selectedIndex : n)).join("/")}`; },
  }, ...options.map((text, n) => make("option", { selected: n === chosen[which] }, text))));
  const sheet = make("div", { className: "sheet" }, make("div", { className: "tools" }, choice(0, "arm", about.rows),
    choice(1, "labels", about.amounts), choice(2, "seed", Array.from({ length: about.seeds[chosen[1]] }, (_, n) => String(n)))));
  try {
    sheet.append(...mistakes(await json(`/api/experiments/${id}/${chosen.join("/")}`)));
  } catch (error) {
    sheet.append(make("p", { className: "problem", role: "alert" }, error.message));
  }
  page.replaceChildren(sheet);
}

function mistakes(run) {
  const kept = { label: "", group: "" };
  const lists = [["Most confidently wrong", run.most_confident], ["Least sure", run.least_sure]].map(([title, patches]) => ({ title, patches, shown: make("div") }));
  const draw = () => {
    for (const { patches, shown } of lists) {
      shown.replaceChildren(cards(patches.filter((patch) => Object.entries(kept).every(([name, value]) => !value || patch[name] === value)).slice(0, AT_ONCE), run.part));
    }
  };
  const choose = (name, all, options, text) => make("select", { "aria-label": all, onchange: ({ target }) => { kept[name] = target.value; draw(); } },
    make("option", { value: "" }, all), ...options.map((value) => make("option", { value }, text(value))));
  const groups = [...run.groups].sort((a, b) => b.wrong / b.patches - a.wrong / a.patches);
  const ofPatient = choose("group", "all patients", groups.map((group) => group.name), (name) => name);
  draw();
  return [make("h1", {}, `${count(run.wrong)} of ${count(run.patches)} ${run.part} patches wrong`),
    ...run.notes.map((note) => make("p", { className: "soft" }, note)),
    make("div", { className: "beside" }, confusion(run), reliability(run.reliability), patients(groups, (name) => {
      ofPatient.value = name;
      ofPatient.dispatchEvent(new Event("change"));
      ofPatient.scrollIntoView();
      ofPatient.focus();
    })),
    make("h2", {}, "Patches"),
    make("div", { className: "tools" }, choose("label", "all classes", run.classes, (name) => `labelled ${name}`), ofPatient),
    ...lists.flatMap(({ title, shown }) => [make("h2", {}, title), shown])];
}

function confusion(run) {
  const head = make("tr", {}, make("th", {}, "label / called"), ...run.classes.map((name) => make("th", { className: "number" }, name)));
  const rows = run.classes.map((label) => make("tr", {}, make("th", {}, label),
    ...run.classes.map((called) => make("td", { className: "number" }, count(run.confusion[label]?.[called] ?? 0)))));
  return make("table", { className: "small" }, make("thead", {}, head), make("tbody", {}, ...rows));
}

function patients(groups, choose) {
  const rows = groups.slice(0, 20).map((group) => make("tr", {}, make("td", {}, make("button", { className: "link", onclick: () => choose(group.name) }, group.name)), make("td", { className: "number" }, count(group.patches)),
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

function cards(patches, part) {
  const note = part === "test" ? "These are test patches: a classifier that learns from them can no longer be judged on them." : "";
  return choosable(patches.map((patch) => ({ ...patch, text: make("div", {}, `${patch.label} called ${patch.predicted} (${percent(patch.probability)})`,
    make("div", { className: "soft" }, patch.name)) })), { note });
}
