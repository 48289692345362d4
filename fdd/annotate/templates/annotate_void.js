/*
 * The void brush: what is dragged over is ignored, by trainings and in exported labels. Strokes are lines of a round
 * brush in the image's pixels; points under them stay where they are and count for nothing.
 */
import { $, on, parts, draw, enqueue, flash, hintNext, image, index, points, queue, settings, keep, overlay, view, toWindow, blocked } from "./annotate.js";

const LEAST = 2, MOST = 400, PLACES = 1000;             // px of the window; places of a stroke before another is begun
let at = null, stroke = null, gone = null, hidden = new Set(), seen = null, pattern = null;   // gone: strokes that are being removed
settings.brush ||= 24;

const width = () => Math.max(1, Math.round(10 * settings.brush / view.scale) / 10);
const tenth = (v) => Math.round(10 * v) / 10;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/* Distance of a place to a stroke's line. */
function gap([x, y], { line }) {
  let least = Infinity;
  for (let n = 0; n < line.length; n++) {
    const [ax, ay] = line[n], [bx, by] = line[n + 1] || line[n], dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
    const share = length ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
    least = Math.min(least, Math.hypot(x - ax - share * dx, y - ay - share * dy));
  }
  return least;
}

/* Whether a point counts for nothing: its pixel's middle decides, as on the server. */
function isHidden([x, y]) {
  if (seen !== points) {
    seen = points;
    hidden = new Set();
    if (points?.void.length) for (const s of points.segments) for (const p of s.points) {
      const middle = [Math.min(Math.floor(p[0]), image.width - 1) + 0.5, Math.min(Math.floor(p[1]), image.height - 1) + 0.5];
      if (points.void.some((v) => gap(middle, v) <= v.width / 2)) hidden.add(`${p}`);
    }
  }
  return hidden.has(`${[x, y]}`);
}
parts.hollow = isHidden;

/* ---- what is drawn ---- */
function hatch(context) {
  if (pattern) return pattern;
  const tile = new OffscreenCanvas(12, 12), pen = tile.getContext("2d");
  pen.fillStyle = "rgb(15 18 22 / .55)"; pen.fillRect(0, 0, 12, 12);
  pen.strokeStyle = "rgb(255 255 255 / .75)"; pen.lineWidth = 1.5;
  for (const x of [-12, 0, 12]) { pen.beginPath(); pen.moveTo(x - 1, 13); pen.lineTo(x + 13, -1); pen.stroke(); }
  return pattern = context.createPattern(tile, "repeat");
}

function trace(context, { width: wide, line }) {
  context.lineWidth = wide; context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...line[0]);
  for (const place of line.length > 1 ? line.slice(1) : line) context.lineTo(...place);
  context.stroke();
}

/* All strokes at once, so that where they overlap is as dark as elsewhere. */
parts.layers.push((context, place) => {
  const waiting = queue.filter((edit) => edit.index === index && edit.stroke).map((edit) => edit.stroke);
  const strokes = [...points.void.filter((v) => !gone?.has(JSON.stringify(v))), ...waiting, ...(stroke ? [stroke] : [])];
  if (strokes.length && overlay.width && overlay.height) {  // while the window is laid out there may be no room
    const canvas = new OffscreenCanvas(overlay.width, overlay.height), pen = canvas.getContext("2d");
    place(pen);
    for (const one of strokes) trace(pen, one);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = hatch(pen);
    pen.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(canvas, 0, 0);
  }
  if (parts.tool === brush && at) {
    const ratio = devicePixelRatio || 1, [x, y] = toWindow(at);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const [wide, color] of [[3.5, "rgb(15 18 22 / .8)"], [1.5, gone ? "#ff9c95" : "#fff"]]) {
      context.beginPath(); context.arc(x, y, settings.brush / 2, 0, 7);
      context.lineWidth = wide; context.strokeStyle = color; context.stroke();
    }
  }
});

/* ---- the brush ---- */
const removing = (event) => event?.shiftKey || $("void-remove").checked;

const brush = {
  says: "Void brush: drag over what is to be ignored  (Shift: remove, [ ]: size, Esc: done)",
  down(place, event) {
    if (!points || blocked) return;
    at = place;
    if (removing(event)) { gone = new Set(); take(); } else stroke = { width: width(), line: [place.map(tenth)] };
    draw();
  },
  move(place) {
    at = place;
    if (gone) take();
    else if (stroke) {
      const [x, y] = stroke.line.at(-1), step = Math.max(0.5, stroke.width / 12);
      if (Math.hypot(place[0] - x, place[1] - y) >= step) stroke.line.push(place.map(tenth));
      if (stroke.line.length >= PLACES) { const next = stroke.line.at(-1); finish(); stroke = { width: width(), line: [next] }; }
    }
    draw();
  },
  up(place) {
    if (!stroke && !gone) return;
    this.move(place);
    finish();
  },
  cancel() { stroke = gone = null; draw(); },
  dot(place, event) { this.down(place, event); this.up(place); },
  leave() { at = null; draw(); },
};

function take() {
  for (const v of points.void) if (gap(at, v) <= (v.width + width()) / 2) gone.add(JSON.stringify(v));
}

function finish() {
  if (stroke) {
    const made = stroke;
    enqueue(() => ({ kind: "paint", width: made.width, line: made.line }), { stroke: made });
  } else if (gone?.size) {
    const taken = [...gone].map((text) => JSON.parse(text));
    enqueue((state) => {
      const strokes = state.void.map((v, n) => taken.some((t) => same(t, v)) ? n : -1).filter((n) => n >= 0);
      return strokes.length ? { kind: "unpaint", strokes } : null;
    });
  }
  stroke = gone = null;
  draw();
}

function size(by) {
  settings.brush = Math.min(MOST, Math.max(LEAST, Math.round(settings.brush * by)));
  show();
}

function toggle(active = parts.tool !== brush) {
  brush.cancel();
  parts.tool = active ? brush : null;
  at = null;
  const keys = { escape: () => toggle(false), "[": () => size(1 / 1.25), "]": () => size(1.25) };
  for (const key of Object.keys(keys)) { if (active) parts.keys[key] = keys[key]; else delete parts.keys[key]; }
  if (!active) $("void-remove").checked = false;
  show();
}

function show() {
  const active = parts.tool === brush;
  $("void").setAttribute("aria-pressed", active);
  $("void-tools").hidden = !active;
  $("void-size").value = settings.brush;
  overlay.classList.toggle("brush", active);
  keep(); hintNext(); draw();
}

on("void", () => { toggle(); overlay.focus(); });
on("void-size", (event) => { settings.brush = Number(event.target.value); show(); }, "input");
on("void-remove", show, "change");
parts.keys.v = () => toggle();
parts.shown.push(() => brush.cancel());
parts.begun.push(show);
