"""Style and script of the report, as text: no package data to lose in a wheel, nothing to load."""

# ruff: noqa: E501

STYLE = """
:root { color-scheme: light dark;
  --back: #f6f7f9; --paper: #ffffff; --ink: #1c2024; --soft: #5d6670; --line: #dfe3e8; --accent: #0a63c4; }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171b; --paper: #1d2126; --ink: #e8eaed; --soft: #9aa4af; --line: #343b43; --accent: #6cb2ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1680px; margin: 0 auto; padding: 24px clamp(12px, 3vw, 40px) 48px; }
h1 { font-size: 1.7rem; margin: 0 0 18px; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 30px 0 10px; }
h2 small { color: var(--soft); font-weight: 400; }
.note { color: var(--soft); font-size: .87rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); gap: 12px; margin: 0; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.card.lead { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.card dt { color: var(--soft); font-size: .82rem; }
.card dd { margin: 2px 0 0; font-size: 1.25rem; font-weight: 650; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tables { display: flex; flex-wrap: wrap; gap: 0 36px; }
table { border-collapse: collapse; background: var(--paper); border: 1px solid var(--line); }
th, td { padding: 5px 14px; border-bottom: 1px solid var(--line); text-align: left; font-weight: 400; }
td { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 12px; }
.chart { margin: 0; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px 4px; }
.chart figcaption { font-size: .87rem; font-weight: 600; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg .grid { stroke: var(--line); }
svg .tick { fill: var(--soft); font-size: 11px; }
svg .raw { fill: none; stroke: var(--accent); stroke-opacity: .3; stroke-width: 1; }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .last { fill: var(--accent); }
svg .value { fill: var(--ink); font-size: 12px; font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px; margin: 0; padding: 0; list-style: none; }
.chip { padding: 2px 11px; font-size: .84rem; border: 1px solid var(--line); }
.chip.thing { border-radius: 999px; }
.chip.stuff { border-radius: 2px; }
.sort { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 12px; }
.sort button { font: inherit; font-size: .87rem; color: var(--ink); background: var(--paper); border: 1px solid var(--line);
  border-radius: 999px; padding: 4px 14px; cursor: pointer; }
.sort button[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); font-weight: 600; }
.row { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px 12px; margin-bottom: 12px; }
.row header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 8px; }
.name { font-weight: 600; overflow-wrap: anywhere; }
.pq { color: var(--accent); font-weight: 650; font-variant-numeric: tabular-nums; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 170px), 1fr)); gap: 10px; }
.panels figure { margin: 0; min-width: 0; max-width: 480px; }
.panels img { display: block; width: 100%; height: auto; border-radius: 4px; }
.panels figcaption { color: var(--soft); font-size: .8rem; margin-top: 3px; }
.shot { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in; }
dialog { border: 0; border-radius: 10px; padding: 12px; background: var(--paper); color: var(--ink); max-width: 96vw; max-height: 96vh; }
dialog::backdrop { background: rgb(0 0 0 / .7); }
dialog img { display: block; width: min(92vw, 1100px); max-height: 84vh; object-fit: contain; cursor: zoom-out; }
dialog p { margin: 8px 0 0; font-size: .87rem; color: var(--soft); overflow-wrap: anywhere; }
"""

# Rows arrive sorted worst first, so that the page is useful without the script.
SCRIPT = """
(() => {
  const rows = document.getElementById("rows");
  const buttons = document.querySelectorAll("[data-sort]");
  const number = (row) => row.dataset.pq === "" ? null : Number(row.dataset.pq);
  const byPq = (sign) => (a, b) => {
    const x = number(a), y = number(b);
    if (x === null || y === null) return (x === null) - (y === null) || a.dataset.order - b.dataset.order;
    return sign * (x - y) || a.dataset.order - b.dataset.order;
  };
  const orders = { worst: byPq(1), best: byPq(-1),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }) };
  buttons.forEach((button) => button.addEventListener("click", () => {
    rows.append(...[...rows.children].sort(orders[button.dataset.sort]));
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
  }));
  const dialog = document.getElementById("zoom");
  document.addEventListener("click", (event) => {
    const shot = event.target.closest(".shot");
    if (shot) {
      const image = shot.querySelector("img");
      dialog.querySelector("img").src = image.src;
      dialog.querySelector("p").textContent = image.alt;
      dialog.showModal();
    } else if (dialog.open) dialog.close();
  });
})();
"""
