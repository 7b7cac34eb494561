// The first page: every collection with its slides; runs and predictions beside them.
import { count, json, make } from "./tools.js";

const AT_ONCE = 200; // rows; more are drawn when they are asked for
const COLUMNS = [
  ["", (s) => s.has_preview, false],
  ["slide", (s) => s.name, false],
  ["patient", (s) => s.group, false],
  ["patches", (s) => s.patches, true],
  ["rejected", (s) => total(s.counts) - (s.counts.kept ?? 0), true],
  ["mpp", (s) => s.mpp ?? 0, true],
  ["size", (s) => s.width * s.height, true],
  ["labels", (s) => labelled(s), false],
  ["state", (s) => s.status, false],
];
const total = (counts) => Object.values(counts).reduce((sum, n) => sum + n, 0);
const labelled = (s) =>
  Object.entries(s.labels).filter(([name, n]) => n && name !== "unlabelled").map(([name, n]) => `${name} ${count(n)}`).join(", ");

export async function showLibrary(page, { say }) {
  const { groups, slides } = await json("/api/library");
  say();
  const sheet = make("div", { className: "sheet" });
  const runs = groups.filter((group) => ["run", "experiment"].includes(group.kind));
  if (!groups.length) sheet.append(make("p", {}, "These folders hold no slides, and nothing that wsitool wrote."));
  if (runs.length) {
    sheet.append(make("h2", {}, "Classifiers"));
    for (const run of runs) sheet.append(make("p", {}, make("a", { href: `#/${run.kind}/${run.id}` }, `${run.name}: mistakes`)));
  }
  const maps = groups.filter((group) => group.kind === "features");
  if (maps.length) {
    sheet.append(make("h2", {}, "Features"));
    for (const map of maps) sheet.append(make("p", {}, make("a", { href: `#/map/${map.id}` }, `${map.name}: map`)));
  }
  for (const group of groups) {
    if (group.problem) sheet.append(make("p", { className: "problem" }, `${group.name}: ${group.problem}`));
    const mine = slides.filter((slide) => slide.collection === group.id);
    if (mine.length) sheet.append(section(group, mine));
  }
  page.replaceChildren(sheet);
  const keys = (event) => {
    if (event.key === "/" && event.target.tagName !== "INPUT") {
      event.preventDefault();
      sheet.querySelector("input")?.focus();
    }
  };
  addEventListener("keydown", keys);
  return () => removeEventListener("keydown", keys);
}

function section(group, slides) {
  const state = { text: "", by: 1, down: false, shown: AT_ONCE };
  const body = make("tbody");
  const told = make("span");
  const more = make("button", { onclick: () => { state.shown *= 5; draw(); } }, "Show more");
  const heads = COLUMNS.map(([name, , number], index) =>
    make("th", { className: number ? "number" : "" }, name && make("button", { onclick: () => sort(index) }, name)));

  function sort(index) {
    state.down = state.by === index ? !state.down : COLUMNS[index][2];
    state.by = index;
    draw();
  }
  function draw() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const [, key] = COLUMNS[state.by];
    const fits = (s) => words.every((word) => `${s.name} ${s.group} ${s.status} ${s.problem} ${labelled(s)}`.toLowerCase().includes(word));
    const chosen = slides.filter(fits).sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return state.down ? -order : order;
    });
    body.replaceChildren(...chosen.slice(0, state.shown).map(row));
    heads.forEach((head, index) => head.setAttribute("aria-sort", index !== state.by ? "none" : state.down ? "descending" : "ascending"));
    const patches = chosen.reduce((sum, slide) => sum + slide.patches, 0);
    told.textContent = `${count(chosen.length)} of ${count(slides.length)} slides, ${count(patches)} patches`;
    more.hidden = chosen.length <= state.shown;
  }
  const search = make("input", {
    type: "search", placeholder: "Filter: name, patient, label, failed ...", "aria-label": `Filter the slides of ${group.name}`,
    oninput: (event) => { state.text = event.target.value; draw(); },
  });
  draw();
  return make("section", {}, make("h2", {}, group.name), make("div", { className: "tools" }, search, told),
    make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body), more);
}

function row(slide) {
  const opens = slide.has_store || slide.width || slide.status === "not tiled";
  const name = opens ? make("a", { href: `#/slide/${slide.id}` }, slide.name) : slide.name;
  const rejected = Object.entries(slide.counts).filter(([reason, n]) => reason !== "kept" && n);
  const number = (text, title = "") => make("td", { className: "number", title }, text);
  const picture = slide.has_preview ? make("img", { src: `/api/slides/${slide.id}/thumbnail`, loading: "lazy", alt: "" }) : "";
  return make("tr", {}, make("td", { className: "thumbnail" }, picture), make("td", {}, name), make("td", {}, slide.group), number(count(slide.patches)),
    number(count(total(slide.counts) - (slide.counts.kept ?? 0)), rejected.map(([reason, n]) => `${reason} ${count(n)}`).join(", ")),
    number(slide.mpp ? slide.mpp.toPrecision(3) : "-"), number(slide.width ? `${count(slide.width)} x ${count(slide.height)}` : "-"),
    make("td", {}, labelled(slide)), make("td", { className: slide.status === "failed" ? "problem" : "soft" }, slide.problem || slide.status));
}
