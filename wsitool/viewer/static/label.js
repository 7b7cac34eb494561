// Labelling: one patch, one key, the answer on disk, the next patch.
import { learningCurve } from "./learning_curve.js";
import { count, json, make, PALETTE, percent, send } from "./tools.js";

const page = document.getElementById("page");
const crumbs = document.getElementById("crumbs");
const random = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
// Of this tab: what it has in hand is in no other's.
const client = (sessionStorage.client ??= random());

const state = { annotator: "", patch: null, told: null, ready: false, busy: false, retry: null, turn: 0 };
let parts;

async function start() {
  const about = await json("/api/label/about");
  const name = about.annotator ?? sessionStorage.annotator;
  if (name) begin(name);
  else askWho(about.classes);
}

function askWho(classes) {
  const name = make("input", { name: "annotator", autocomplete: "name", maxLength: 60, required: true, "aria-label": "Your name" });
  const problem = make("p", { className: "problem", role: "alert" });
  name.value = localStorage.annotator ?? "";
  const form = make("form", {
    onsubmit: async (event) => {
      event.preventDefault();
      try {
        await begin(name.value.trim());
      } catch (error) {
        problem.textContent = error.message;
      }
    },
  }, name, make("button", {}, "Begin"));
  page.replaceChildren(make("div", { className: "sheet who" }, make("h1", {}, "Who labels?"),
    make("p", {}, `You will be asked which patches are ${classes.join(", ")}. Your name stands beside your answers, so that those of several people can be compared.`), form, problem));
  name.focus();
}

async function begin(annotator) {
  const answer = await send("/api/label/next", { client, annotator });
  state.annotator = sessionStorage.annotator = localStorage.annotator = annotator;
  draw(answer.state);
  show(answer);
}

function draw(told) {
  const note = make("input", { id: "note", placeholder: "Note ( / )", maxLength: 4000, "aria-label": "Note on this patch" });
  note.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      page.focus();
    }
  });
  const answers = told.classes.map((one, index) => make("button", { className: "answer", onclick: () => label(index) },
    swatch(index), one.name, ...one.keys.map((key) => make("kbd", {}, key))));
  const button = (text, key, act) => make("button", { className: "answer", onclick: act }, text, make("kbd", {}, key));
  parts = {
    asked: make("div", { className: "asked", "aria-live": "polite" }), note, answers, place: make("span", { className: "place" }),
    accept: make("p", { className: "accept", hidden: true }), problem: make("p", { className: "problem", role: "alert" }), aside: make("aside"),
  };
  page.replaceChildren(make("div", { className: "labelling" },
    make("div", { className: "asking" }, parts.asked, parts.problem, parts.accept,
      make("div", { className: "answers" }, ...answers, button("unsure", "?", () => give("unsure")), button("skip", "Space", skip), button("undo", "Backspace", undo)),
      make("div", { className: "under" }, parts.place, note)), parts.aside));
  page.focus();
}

function swatch(index) {
  const dot = make("i", { className: "swatch" });
  dot.style.borderColor = dot.style.background = PALETTE[index % PALETTE.length];
  return dot;
}

function show({ patch, state: told }) {
  Object.assign(state, { patch, told, ready: false, retry: null });
  parts.problem.textContent = page.dataset.shown = "";
  const before = patch?.before;
  parts.note.value = before?.note ?? "";
  parts.answers.forEach((button, index) => button.classList.toggle("meant", before?.label === index));
  parts.accept.hidden = !patch?.suggestion;
  parts.place.textContent = patch ? place(patch) : "";
  if (patch?.suggestion) {
    const { label: called, probability } = patch.suggestion;
    parts.accept.replaceChildren(swatch(called), ` The model calls it ${told.classes[called].name} (${percent(probability)}): `, make("kbd", {}, "Enter"), " accepts.");
  }
  if (!patch) finish();
  else if (patch.problem) damaged(patch.problem);
  else picture(patch);
  aside(told);
  page.dataset.mine = told.mine;
}

// Of an image's path the last part alone: folders are often called as the classes are.
const fileOf = (patch) => (patch.image ?? patch.slide).split(/[\\/]/).at(-1);
const place = (patch) => `${fileOf(patch)} at ${count(patch.x)}, ${count(patch.y)}${{ "least-sure": " (least sure)", selected: " (selected)" }[patch.chosen] ?? ""}`;

function picture(patch) {
  const image = make("img", { alt: `the patch at ${patch.x}, ${patch.y} of ${fileOf(patch)}` });
  image.addEventListener("load", () => ready());
  image.addEventListener("error", async () => {
    // Why it cannot be seen is what the server answered.
    try {
      await json(image.src);
    } catch (error) {
      parts.problem.textContent = error.message;
    }
  });
  parts.asked.replaceChildren(image);
  image.src = `/api/label/patches/${patch.store}/${patch.row}`;
}

function damaged(sentence) {
  parts.asked.replaceChildren(make("p", { className: "problem" }, sentence, make("br"), make("kbd", {}, "Space"), " goes on."));
  ready();
}

function finish() {
  parts.asked.replaceChildren(make("p", {}, "Every patch of the queue was answered, or is in somebody else's hand."));
  page.dataset.shown = "nothing";
}

// Only what was seen can be answered.
function ready() {
  state.ready = true;
  page.dataset.shown = `${state.patch.store}:${state.patch.row}`;
}

function label(index) {
  if (!state.patch?.problem) give("label", index);
}
const skip = () => give(state.patch?.problem ? "damaged" : "skip");

async function give(kind, index = null) {
  const { patch } = state;
  if (!patch || !state.ready || state.busy || (patch.problem && kind !== "damaged")) return;
  const same = state.retry?.kind === kind && state.retry?.label === index;
  // An answer whose acknowledgement was lost is sent by the same id: the server keeps it once.
  const answer = same ? state.retry : { id: random(), kind, label: index };
  state.retry = answer;
  await ask("/api/label/answer", { ...answer, note: parts.note.value, store: patch.store, row: patch.row, chosen: patch.chosen });
}

async function undo() {
  if (state.told?.last && !state.busy) await ask("/api/label/undo", { id: state.told.last });
}

async function ask(path, sent) {
  state.busy = true;
  state.turn++;
  try {
    show(await send(path, { ...sent, client, annotator: state.annotator }));
  } catch (error) {
    parts.problem.textContent = error.message;
  }
  state.busy = false;
}

addEventListener("keydown", (event) => {
  if (!parts || event.repeat || event.ctrlKey || event.metaKey || event.altKey || ["INPUT"].includes(event.target.tagName)) return;
  const act = action(event);
  if (act) {
    event.preventDefault();
    act();
  }
});

function action({ key, target }) {
  const index = state.told.classes.findIndex((one) => one.keys.includes(key.toLowerCase()));
  if (index >= 0) return () => label(index);
  if (target.tagName === "BUTTON" && (key === "Enter" || key === " ")) return null; // presses the button
  const commands = { "?": () => give("unsure"), " ": skip, Backspace: undo, "/": () => parts.note.focus() };
  if (key === "Enter" && state.patch?.suggestion) return () => label(state.patch.suggestion.label);
  return commands[key] ?? null;
}

function aside(told) {
  state.told = told;
  crumbs.replaceChildren(`${state.annotator}: ${count(told.mine)} labels, ${count(told.labels)} of ${count(told.queue)} patches labelled by all`);
  const counts = told.classes.map((one, index) => make("div", { className: "count" }, swatch(index), make("span", {}, one.name), make("b", {}, count(one.count))));
  const rest = [[told.unsure, "unsure"], [told.skipped, "skipped"], [told.imported, "imported"]].filter(([n]) => n).map(([n, text]) => `${count(n)} ${text}`);
  const said = [
    told.first ? `${count(told.first)} selected patches are asked for first; of them the figures count those that would have come in turn by now.` : "",
    told.test_patients ? `${count(told.test_patients)} test patients are not in the queue.` : "",
    told.annotators.length > 1 ? told.annotators.map((one) => `${one.name} ${count(one.labels)}`).join(", ") : "",
    rest.join(", "),
  ].filter(Boolean);
  parts.aside.replaceChildren(make("h2", {}, "Labels"), ...counts, ...said.map((text) => make("p", { className: "soft" }, text)),
    ...figures(told.figures), ...agreement(told.agreement),
    ...told.problems.map((text) => make("p", { className: "problem" }, text)));
}

function figures(told) {
  if (!told) return [];
  const head = make("h2", {}, "Balanced accuracy on new patients");
  const sure = told.least_sure && !told.asking ? [make("p", { className: "soft" }, `From ${told.least_sure_from} labels on the least sure are asked for.`)] : [];
  if (!told.accuracy) return [head, make("p", { className: "soft" }, told.why ? `Not yet: ${told.why}.` : "Not yet: a few labels more."), ...sure];
  const { value, low, high, reason, patches, patients } = told.accuracy;
  const range = low === null ? reason : `95 % interval ${percent(low)} to ${percent(high)}`;
  const chance = told.least_sure ? "that were drawn by chance, not asked for as unsure, " : "";
  const gain = told.gain === null ? `An estimate of what the next ${told.more} answers bring needs ${told.least_points} points of the curve.`
    : `The next ${told.more} answers are expected to bring ${(100 * told.gain).toFixed(1)} points: an estimate, from the curve.`;
  return [head, make("div", { className: "figure" }, percent(value)), make("p", { className: "soft" },
    `${range}; by cross-validation over ${count(patients)} patients, on ${count(patches)} patches ${chance}by a probe on frozen features with classes weighed alike.`),
  learningCurve(told.curve), make("p", { className: "soft" }, gain), ...sure];
}

function agreement(told) {
  if (!told) return [];
  const kappa = (value) => (value === null ? "undefined" : value.toFixed(2));
  const lines = told.pairs.map((pair) => `${pair.annotators.join(" and ")}: ${kappa(pair.kappa)} (${count(pair.patches)} patches, ${percent(pair.agreed)} alike)`);
  if (told.fleiss) lines.push(`all (Fleiss): ${kappa(told.fleiss.kappa)} (${count(told.fleiss.patches)} patches)`);
  return [make("h2", {}, "Agreement (Cohen's kappa)"), ...lines.map((line) => make("p", {}, line))];
}

// What was learned since the last answer, and what others did.
async function refresh() {
  if (!parts || state.busy || document.hidden) return;
  const { turn } = state;
  try {
    const told = await send("/api/label/state", { client, annotator: state.annotator });
    if (turn === state.turn) aside(told); // else an answer came meanwhile, and what it brought is newer
  } catch {
    // The next answer says so.
  }
}
setInterval(refresh, 3000);

start().catch((error) => page.replaceChildren(make("p", { className: "sheet problem", role: "alert" }, error.message)));
