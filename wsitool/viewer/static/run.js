// What a classifier got wrong: counts, then the patches themselves; each leads to its place in the slide.
import { count, json, make, percent } from "./tools.js";

export async function showRun(page, { id, say }) {
  const run = await json(`/api/runs/${id}`);
  say(run.name);
  const sheet = make("div", { className: "sheet" },
    make("h1", {}, `${count(run.wrong)} of ${count(run.patches)} ${run.part} patches wrong`),
    confusion(run), make("h2", {}, "Patients"), patients(run),
    make("h2", {}, "Most confidently wrong"), cards(run.most_confident),
    make("h2", {}, "Least sure"), cards(run.least_sure));
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

function cards(patches) {
  if (!patches.length) return make("p", { className: "soft" }, "None.");
  return make("div", { className: "cards" }, ...patches.map((patch) => {
    const text = make("div", {}, `${patch.label} called ${patch.predicted} (${percent(patch.probability)})`,
      make("div", { className: "soft" }, patch.name));
    if (!patch.slide) return make("div", { className: "card" }, make("p", { className: "soft" }, "Its store is not in the folders given, or was cut anew."), text);
    const picture = make("img", { src: `/api/slides/${patch.slide}/patches/${patch.row}`, loading: "lazy", alt: `patch ${patch.row} of ${patch.name}` });
    return make("a", { className: "card", href: `#/slide/${patch.slide}/${patch.row}` }, picture, text);
  }));
}
