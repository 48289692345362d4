/*
 * The order of the list of images, and label scores in it. An image keeps its place while it is the one that is shown:
 * its first points, or a new score, do not carry it off while its user works on it.
 */
import { $, ask, on, parts, set, index, showList, span } from "./annotate.js";

const PERIOD = 5000;
let scores = {}, gains = {}, made = false, held = null, order = "listed";   // scores, gains: by image; null: none can be made

/* What images are ordered by, smallest first. Without points there is no label, and so everything to gain. */
const KEYS = {
  fewest: (n) => set.images[n].points,
  gain: (n) => set.images[n].points ? -(gains[n] ?? 0) : -Infinity,
  worst: (n) => scores[n] ?? 101,                         // nothing is known of these: last
};
const key = (n) => held?.index === n ? held.key : KEYS[order](n);
const compare = (a, b) => { const u = key(a), v = key(b); return u < v ? -1 : u > v ? 1 : a - b; };
const hold = () => { held = index >= 0 && order !== "listed" ? { index, key: KEYS[order](index) } : null; };

function mark(n) {
  const value = scores[n], known = typeof value === "number", node = span("score", known ? Math.round(value) : "");
  if (!set.images[n].points) return node;
  node.title = value === undefined ? "No label score yet: they are made while nothing is clicked" : value === null ? "No label score: the image could not be examined"
    : `Label score ${value}: the PQ that can be expected of this label, without knowing masks`;
  if (known) {
    node.setAttribute("aria-label", `label score ${Math.round(value)}`);
    const bar = document.createElement("i");
    bar.style.setProperty("--share", `${value}%`);
    node.prepend(bar);
  }
  return node;
}

async function poll() {
  if (!document.hidden) {
    try {
      const found = await ask("/api/scores");
      if (!found.scores) return;                          // they are switched off
      if (JSON.stringify(found) !== JSON.stringify({ scores, gains })) take(found);
    } catch { /* it is asked again */ }
  }
  setTimeout(poll, PERIOD);
}

function take(found) {
  ({ scores, gains } = found);
  const any = Object.keys(scores).length > 0;
  if (any !== made) {
    made = any;
    for (const option of $("order").options) if (option.value === "gain" || option.value === "worst") option.hidden = option.disabled = !any && option.value !== order;
    parts.score = any ? mark : null;
  }
  showList();
}

function choose(which) {
  order = which;
  parts.order = order === "listed" ? null : compare;
  hold();
  $("list").scrollTop = 0;
  showList();
}

parts.shown.push(() => { hold(); showList(true); });
parts.begun.push(() => { if (set.work) poll(); });
on("order", () => choose($("order").value), "change");
