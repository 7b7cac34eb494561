// Which page is shown: the part of the address after "#".
import { showLibrary } from "./library.js";
import { showMap } from "./map.js";
import { showExperiment, showRun } from "./run.js";
import { showSlide } from "./slide.js";
import { make } from "./tools.js";

const page = document.getElementById("page");
const crumbs = document.getElementById("crumbs");
let leave = () => {};
let turn = 0;

async function show() {
  leave();
  leave = () => {};
  const mine = ++turn;
  const [kind, id, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const pages = { slide: showSlide, run: showRun, experiment: showExperiment, map: showMap };
  page.replaceChildren(make("p", { className: "sheet soft" }, "Loading ..."));
  try {
    const left = await (pages[kind] ?? showLibrary)(page, { id, rest, say });
    if (mine === turn) leave = left ?? leave;
    else left?.();
  } catch (error) {
    if (mine === turn) page.replaceChildren(make("p", { className: "sheet problem", role: "alert" }, error.message));
  }
  page.focus();
}

function say(...words) {
  crumbs.replaceChildren(...words);
  document.title = ["wsitool", ...words.map((word) => word.textContent ?? word)].join(" ");
}

addEventListener("hashchange", show);
show();
