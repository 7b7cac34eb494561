// Patches as cards with a box each, and a file of those ticked, which `wsitool label --first` takes.
import { count, make, patchCards } from "./tools.js";

// Patches as `patchCards` takes them, with content_hash. Where none is ticked the file is of the `total` that `everything` returns.
export function choosable(patches, { note = "", total = patches.length, everything = () => patches } = {}) {
  if (!patches.length) return make("p", { className: "soft" }, "None.");
  const ticked = new Set();
  const told = make("p", { className: "soft", role: "status" }, note);
  const save = make("button", { onclick: () => saved(ticked.size ? patches.filter((patch) => ticked.has(patch)) : everything()) });
  const say = () => { save.textContent = ticked.size ? `Save the ${count(ticked.size)} ticked for labelling` : `Save ${total === 1 ? "it" : `all ${count(total)}`} for labelling`; };
  const cards = patchCards(patches);
  cards.childNodes.forEach((card, number) => {
    const patch = patches[number];
    const box = make("input", { type: "checkbox", "aria-label": `choose patch ${patch.row} of ${patch.name}`,
      onchange: () => { if (!ticked.delete(patch)) ticked.add(patch); say(); } });
    const pick = make("div", { className: "pick" });
    card.replaceWith(pick);
    pick.append(card, box);
  });
  // Features that others made do not say which store they are of.
  const saved = (some) => {
    const known = some.filter((patch) => patch.content_hash);
    if (known.length) download(known);
    const lost = known.length < some.length ? ` ${count(some.length - known.length)} more do not say which store they are of.` : "";
    told.replaceChildren(`selection.csv: ${count(known.length)} ${known.length === 1 ? "patch" : "patches"}.${lost} Asked for first by `, make("code", {}, "wsitool label STORES --first selection.csv"), `. ${note}`);
  };
  say();
  return make("div", {}, make("div", { className: "tools" }, save), told, cards);
}

function download(patches) {
  const lines = patches.map(({ name, row, content_hash }) => [name, row, content_hash].map(cell).join(","));
  const link = make("a", { download: "selection.csv", href: URL.createObjectURL(new Blob([["slide,row,content_hash", ...lines, ""].join("\n")], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// As wsitool's own tables are written: what a spreadsheet would take for a formula gets a leading '.
function cell(value) {
  const text = String(value);
  const plain = /^'*[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]|^\s|\s$/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
