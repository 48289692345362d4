"""The report's style sheet."""

# ruff: noqa: E501

STYLE = """
:root { color-scheme: light dark;
  --back: #f6f7f9; --paper: #ffffff; --ink: #1c2024; --soft: #5d6670; --line: #dfe3e8; --accent: #0a63c4;
  --bar: #0a63c48c; --warn: #8a4b00; --warnback: #fdf0dc; }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171b; --paper: #1d2126; --ink: #e8eaed; --soft: #9aa4af; --line: #343b43; --accent: #6cb2ff;
  --bar: #6cb2ff8c; --warn: #ffc47a; --warnback: #3d2f1a; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 76px; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1680px; margin: 0 auto; padding: 24px clamp(12px, 3vw, 40px) 48px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 18px; overflow-wrap: anywhere; }
h2, summary { font-size: 1.1rem; font-weight: 700; margin: 30px 0 10px; }
summary { cursor: pointer; }
h2 small { color: var(--soft); font-weight: 400; }
a { color: inherit; }
.intro { max-width: 78ch; margin: -8px 0 18px; color: var(--soft); overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .87rem; max-width: 90ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 168px), 1fr)); gap: 12px; margin: 0; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.card.lead { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.card dt { color: var(--soft); font-size: .82rem; }
.card dd { margin: 2px 0 0; font-size: 1.25rem; font-weight: 650; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.card dd.why { font-size: .8rem; line-height: 1.35; font-weight: 400; color: var(--soft); margin-top: 4px; }
.explained { grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.tables { display: flex; flex-wrap: wrap; gap: 0 36px; }
table { border-collapse: collapse; background: var(--paper); border: 1px solid var(--line); }
th, td { padding: 5px 14px; border-bottom: 1px solid var(--line); text-align: left; font-weight: 400; }
td { text-align: right; font-variant-numeric: tabular-nums; }
.tables td.text { text-align: left; overflow-wrap: anywhere; }
.wide { max-height: min(70vh, 720px); overflow: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--paper); width: fit-content; max-width: 100%; }
.wide table { border: 0; border-collapse: separate; border-spacing: 0; }
.wide thead th { position: sticky; top: 0; z-index: 2; background: var(--paper); vertical-align: bottom; text-align: right; padding: 6px 12px; }
.wide thead th:first-child, .wide tbody th { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: left; }
.wide thead th:first-child { z-index: 3; }
.wide tbody tr:last-child > * { border-bottom: 0; }
.wide td { padding: 5px 12px; background: linear-gradient(90deg, var(--bar) var(--share, 0%), transparent 0) left 6px bottom 2px / calc(100% - 12px) 4px no-repeat; }
.wide tbody tr:hover > *, .wide tr.on > * { background-color: color-mix(in srgb, var(--accent) 9%, var(--paper)); }
.wide tr.on th { box-shadow: inset 4px 0 0 var(--accent); }
.wide thead button { font: inherit; font-size: .84rem; color: var(--soft); background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit; line-height: 1.25; }
.wide thead [aria-sort] button { color: var(--accent); font-weight: 600; }
.wide thead [aria-sort="ascending"] button::after { content: " ↑"; }
.wide thead [aria-sort="descending"] button::after { content: " ↓"; }
.wide .swatch { margin-right: 8px; vertical-align: -1px; }
.wide tbody th { max-width: 15rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.swatch { display: inline-block; width: .85em; height: .85em; border: 1px solid var(--line); border-radius: 2px; }
.swatch.thing { border-radius: 999px; }
.meaning { margin: 10px 0 0; max-width: 90ch; }
.meaning summary { font-size: .87rem; font-weight: 400; color: var(--soft); margin: 0 0 6px; }
.meaning dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; font-size: .87rem; }
.meaning dd { margin: 0; color: var(--soft); }
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
.scale { display: inline-block; width: 120px; height: .8em; margin: 0 6px; border: 1px solid var(--line); border-radius: 3px; vertical-align: -1px; }
.tools { position: sticky; top: 0; z-index: 5; display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin: 0 -8px 12px; padding: 8px; background: var(--back); border-bottom: 1px solid var(--line); }
.tools[hidden] { display: none; }
.tools input, .tools select { font: inherit; font-size: .87rem; color: var(--ink); background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 4px 10px; min-width: 0; max-width: 100%; }
.tools input, .tools select { width: 158px; }
.state { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; }
.tools output { font-size: .87rem; color: var(--soft); overflow-wrap: anywhere; }
.sort { display: flex; gap: 6px; overflow-x: auto; scrollbar-width: thin; max-width: 100%; }
.sort button, .clear { font: inherit; font-size: .87rem; color: var(--ink); background: var(--paper); border: 1px solid var(--line);
  border-radius: 999px; padding: 4px 13px; cursor: pointer; white-space: nowrap; }
.sort button[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); font-weight: 600; }
.clear[hidden] { display: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.row { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px 12px; margin-bottom: 12px; }
.row[hidden] { display: none; }
.js .row { content-visibility: auto; contain-intrinsic-size: auto 280px; }
.js .panels:has(> noscript) { min-height: 200px; }
.row header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 8px; }
.name { font-size: 1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.pq { color: var(--accent); font-weight: 650; font-variant-numeric: tabular-nums; }
.figure { color: var(--soft); font-size: .87rem; font-variant-numeric: tabular-nums; }
.figure b { color: var(--ink); font-weight: 600; }
.mine { color: var(--accent); font-size: .87rem; font-weight: 600; }
.mine:empty { display: none; }
.warn { color: var(--warn); background: var(--warnback); border-radius: 6px; padding: 0 8px; font-size: .84rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); gap: 10px; }
.panels figure { margin: 0; min-width: 0; max-width: 480px; }
.panels img { display: block; width: 100%; height: auto; border-radius: 4px; }
.panels figcaption { color: var(--soft); font-size: .8rem; margin-top: 3px; }
.shot { display: block; width: 100%; padding: 0; border: 0; border-radius: 4px; cursor: zoom-in; }
.shot, .large { background: var(--image, none) center / 100% 100% no-repeat; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.filled .layer { filter: url(#fill-filter); }
.fill { display: flex; gap: 6px; align-items: center; font-size: .87rem; color: var(--soft); }
.fill[hidden] { display: none; }
.tools .fill input { width: 110px; padding: 0; accent-color: var(--accent); }
dialog { border: 0; border-radius: 10px; padding: 12px; background: var(--paper); color: var(--ink); max-width: 96vw; max-height: 96vh; }
dialog::backdrop { background: rgb(0 0 0 / .7); }
dialog:focus-visible { outline: 0; }
dialog .large { width: fit-content; margin: 0 auto; background-size: contain; }
dialog img { display: block; width: auto; height: 80vh; max-width: min(92vw, 1100px); object-fit: contain; cursor: zoom-out; }
dialog p { margin: 8px 0 0; font-size: .87rem; color: var(--soft); overflow-wrap: anywhere; }
kbd { font: inherit; font-size: .8rem; border: 1px solid var(--line); border-bottom-width: 2px; border-radius: 5px; padding: 0 5px; background: var(--paper); }
footer { margin-top: 36px; padding-top: 14px; border-top: 1px solid var(--line); color: var(--soft); font-size: .84rem; }
footer dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0; }
footer dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 620px) {
  h1 { font-size: 1.35rem; }
  main { padding-top: 16px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; }
  .card { padding: 9px 11px; }
  .panels { grid-template-columns: 1fr 1fr; gap: 8px; }
  .js .row { contain-intrinsic-size: auto 760px; }
  .tools input, .tools select { flex: 1 1 40%; width: 0; font-size: 16px; }
  .wide tbody th { max-width: 8.5rem; }
  .wide td, .wide thead th { padding-inline: 9px; }
  .meaning dl { grid-template-columns: 1fr; }
  .meaning dd { margin-bottom: 6px; }
  .keys { display: none; }
}
@media (max-height: 500px) { .tools { position: static; } }
@media print { .tools, .clear { display: none; } .row { break-inside: avoid; } .wide { max-height: none; } }
"""

# The opacity of what is drawn over an image: of fills, which are drawn with 0.6, as the reader
# likes; what is not there stays away, and what hides the image (outlines, points) goes on doing so.
FILL_FILTER = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true">'
    '<filter id="fill-filter" color-interpolation-filters="sRGB" x="0" y="0" width="100%" '
    'height="100%"><feComponentTransfer><feFuncA id="fill-table" type="table" '
    'tableValues="0 .2 .4 .6 .8 1"></feFuncA>'
    + "".join(f'<feFunc{c} class="fill-colour" type="linear" slope="1"></feFunc{c}>' for c in "RGB")
    + "</feComponentTransfer></filter></svg>\n"
)
