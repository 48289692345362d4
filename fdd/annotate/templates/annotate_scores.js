/* Label scores in the list of images, and the order by them. */
import { $, ask, on, parts, set, showList, span } from "./annotate.js";

const PERIOD = 5000;
let scores = {};

/* Images without a score come last: nothing is known of them. */
const worst = (a, b) => (scores[a] ?? 101) - (scores[b] ?? 101) || a - b;

function mark(n) {
  const value = scores[n], node = span("score", value === undefined ? "" : Math.round(value));
  node.title = value === undefined ? "" : `Label score ${value}: what PQ can be expected of this label, without knowing masks`;
  if (value !== undefined) { const bar = document.createElement("meter"); bar.max = 100; bar.value = value; bar.setAttribute("aria-hidden", "true"); node.prepend(bar); }
  return node;
}

async function poll() {
  if (!document.hidden) {
    try {
      const { scores: found } = await ask("/api/scores");
      if (JSON.stringify(found) !== JSON.stringify(scores)) {
        scores = found || {};
        $("order").hidden = !Object.keys(scores).length && $("order").value === "listed";
        showList();
      }
    } catch { /* it is asked again */ }
  }
  setTimeout(poll, PERIOD);
}

parts.begun.push(() => {
  if (!set.work) return;
  parts.score = mark;
  poll();
});
on("order", () => { parts.order = $("order").value === "worst" ? worst : null; $("list").scrollTop = 0; showList(); }, "change");
