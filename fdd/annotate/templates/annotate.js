/*
 * The server has the points; this page shows them and asks for changes. Edits wait in a queue and are sent one at a
 * time, each on the revision that the one before has made, again and again until the server answers. So a click is
 * either on disk or visibly "not saved", and it is made once: an edit that is sent again carries the same key.
 *
 * Three coordinate systems: the original image's pixels (points, cursor), the label's (smaller, for large images), and
 * the window's (view.scale, view.x, view.y lead there from the original).
 *
 * What a part of its own adds (annotate_*.js) it hangs into `parts`: layers that are drawn over the label, keys, and what
 * is to happen when another image is shown or its points have changed. Parts know this file; it knows none of them.
 */
const $ = (id) => document.getElementById(id);
const picture = $("picture"), overlay = $("overlay"), stage = $("view"), root = document.body;
const ROW = 32, POINT = 5, REACH = 9, RETRY = 2000, WATCH = 4000, LAYERS = ["label", "outlines", "points", "confidence", "hints"];

/*
 * order: compares two images of the list (numbers), or null; score: makes the mark of an image there;
 * layers: functions (context, place) in the order of drawing, place(context) makes its units the image's pixels; keys: by
 * letter; shown: called when an image is shown, changed: when its points are; begun: when the set is known; tool: takes
 * the pointer and Enter while it is not null, with down(at, event), move(at, event), up(at, event), dot(at, event) in the
 * image's pixels, cancel(), leave(), and says, a sentence; hollow: whether a point counts for nothing.
 */
export const parts = { order: null, score: null, hollow: null, layers: [], keys: {}, shown: [], changed: [], begun: [], tool: null };

/* What is known. */
let set = null, classes = new Map(), shown = [];          // shown: indices of the list, after search and filter
let index = -1, image = null, points = null, label = null, hints = [], photo = null, blocked = "", opened = 0;
let view = { scale: 1, x: 0, y: 0 }, fitted = true;
let current = null, selected = null, picked = [], hovered = null, merging = false;  // selected: id, or an edit under way
let cursor = null, keyboard = false, mouse = null, drag = null, space = false, hint = -1;
const queue = [], states = new Map();                    // states: the last that is known of each image
let sending = false, wake = null, failed = false, version = 0, ready = -1, unlabelled = false;  // ready: has been labelled once

const kept = (() => { try { return JSON.parse(localStorage.getItem("fdd-annotate")) || {}; } catch { return {}; } })();
const settings = { opacity: 45, single: false, images: true, details: true,
  layers: { label: true, outlines: true, points: true, confidence: false, hints: false }, ...kept };
settings.layers = { label: true, outlines: true, points: true, confidence: false, hints: false, ...settings.layers };
/* In a window that is too narrow for a panel it lies over the picture, and is closed until it is asked for. */
const ROOM = { images: 1000, details: 620 }, roomy = {}, panels = {};
function layOut() {
  for (const name of Object.keys(ROOM)) {
    const has = innerWidth > ROOM[name];
    if (has !== roomy[name]) { roomy[name] = has; panels[name] = has && settings[name]; }
  }
}
layOut();
const keep = () => { try { localStorage.setItem("fdd-annotate", JSON.stringify(settings)); } catch { /* not allowed: not kept */ } };

/* ---- the server ---- */
class Refusal extends Error { constructor(status, body) { super(body.error || `status ${status}`); this.status = status; this.body = body; } }
class Lost extends Error {}

async function ask(path, body) {
  let answer;
  try {
    const signal = AbortSignal.timeout(120000);
    answer = await fetch(path, body === undefined ? { signal } : { signal, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch { throw new Lost("not reachable"); }
  let record;
  try { record = await answer.json(); } catch { throw new Lost("not reachable"); }
  if (answer.status === 403 || answer.status === 503) throw new Lost(record.error);
  if (!answer.ok) throw new Refusal(answer.status, record);
  return record;
}

function tell(text, kind = "", button = "Dismiss", action = null) {
  $("problem").hidden = !text;
  $("problem").classList.toggle("lost", kind === "lost");
  $("problem-text").textContent = text;
  $("problem-button").textContent = button;
  $("problem-button").onclick = action || (() => tell(""));
  resize();
}

function reachable(error) {
  if (!error) {
    if (failed) { failed = false; tell(""); }
  } else if (!failed || $("problem-text").dataset.cause !== `${error.message} ${queue.length > 0}`) {
    failed = true;
    const what = queue.length ? "Not reachable: your last click is not saved." : "Not reachable. Nothing is lost.";
    const why = error.message === "not reachable" ? "Is `fdd annotate` still running? It is tried again every two seconds." : `The server says: ${error.message}.`;
    tell(`${what} ${why}`, "lost", "Try again", () => wake ? wake() : watch());
    $("problem-text").dataset.cause = `${error.message} ${queue.length > 0}`;
  }
  showSaved();
}

function showSaved() {
  const state = failed ? "lost" : queue.length ? "saving" : "saved";
  $("saved").dataset.state = state;
  $("saved").textContent = { lost: queue.length ? "Not saved" : "Not reachable", saving: "Saving…", saved: "Saved" }[state];
}

/* ---- edits ---- */
const segmentOf = (id, state = points) => state?.segments.find((s) => s.id === id) || null;
const chosen = () => typeof selected === "number" ? segmentOf(selected) : null;
const number = (id) => typeof id === "object" && id ? id.made ?? null : id;
const samePoint = (a, b) => a[0] === b[0] && a[1] === b[1];

/* make(state) gives the action when its turn comes, or null where there is nothing left to do. */
function enqueue(make, more = {}) {
  if (!points || blocked) return null;
  const edit = { index, make, key: crypto.getRandomValues(new Uint32Array(4)).join("-"), ...more };
  queue.push(edit);
  showSaved(); showSelection(); draw();
  send();
  return edit;
}

async function send() {
  if (sending) return;
  sending = true;
  while (queue.length) {
    const edit = queue[0], state = states.get(edit.index);
    if (edit.action === undefined) edit.action = edit.make(state);
    if (!edit.action) { queue.shift(); continue; }
    if (!edit.before) edit.before = state;
    // A click does not wait until a new image has been read by the model.
    const body = { revision: state.revision, action: edit.action, key: edit.key, label: queue.length === 1 && edit.index === ready };
    try {
      const answer = await ask(`/api/images/${edit.index}/edit`, body);
      reachable(null);
      queue.shift();
      accept(answer, edit);
    } catch (error) {
      if (error instanceof Lost) {
        edit.again = true;
        reachable(error);
        await new Promise((resolve) => { wake = resolve; setTimeout(resolve, RETRY); });
        wake = null;
      } else if (error instanceof Refusal && error.status === 409 && error.body.state) {
        reachable(null);
        conflict(edit, error.body.state);
      } else {
        reachable(null);
        queue.shift();
        drop(edit);
        tell(`Not done: ${error.message}`);
      }
    }
  }
  sending = false;
  showSaved(); showSelection(); draw();
}

/* The image was at another revision. */
function conflict(edit, state) {
  const before = edit.before;
  remember(state);
  const told = (state) => JSON.stringify([state?.void, state?.segments.map((s) => [s.id, s.category_id, s.points])]);
  const same = (a, b) => told(a) === told(b);
  if (edit.again && before && same(state, before)) return;  // a new server counts anew: send it again
  queue.shift();
  if (edit.again && made(edit, before, state)) { accept(state, edit); refresh(); return; }  // it had arrived
  while (queue.length && queue[0].index === edit.index) drop(queue.shift());
  drop(edit);
  if (edit.index === index) { show(state); refresh(); }
  tell("Another window has changed this image. Its points are shown as they are now; your last click was not made.");
}

function drop(edit) { if (selected === edit) select(null); }

/* The segment that has got a point by an edit, in the state after it. */
function made(edit, before, after) {
  const { kind, x, y } = edit.action;
  if (kind === "paint") return after.void.some((v) => JSON.stringify(v.line) === JSON.stringify(edit.action.line)) && {};
  if (kind === "split") return after.segments.find((s) => !before?.segments.some((b) => b.id === s.id)) || null;
  if (kind !== "add") return null;
  const had = new Map(before?.segments.map((s) => [s.id, s.points.length]));
  return after.segments.find((s) => s.points.length > (had.get(s.id) || 0) && s.points.some((p) => Math.hypot(p[0] - x, p[1] - y) < 0.02)) || null;
}

function accept(answer, edit) {
  remember(answer);
  const found = made(edit, edit.before, answer);
  edit.made = found?.id;
  if (edit.index !== index || !points) { count(edit.index, answer); return; }
  show(answer);
  if (selected === edit) select(settings.single && edit.action.kind === "add" && edit.fresh ? null : edit.made ?? null);
  if (edit.then) edit.then(answer);
  takeLabel(answer);
  if (!queue.length && edit.index === ready && answer.label === undefined && !answer.label_error) refresh();
  else askHints();
}

/* ---- an image ---- */
async function open(next, push = true) {
  if (!set || next < 0 || next >= set.images.length) return;
  const turn = ++opened;
  ready = -1;
  if (index >= 0 && next !== index) write(true);
  const forward = index < 0 || position(next) >= position(index);
  index = next; image = set.images[index];
  points = null; label = null; hints = []; photo = null; blocked = ""; hint = -1;
  selected = null; picked = []; hovered = null; merging = false; cursor = null; drag = null; fitted = true;
  if (push) history.replaceState(null, "", `#image=${index + 1}`);
  for (const name of ["revision", "label", "photo"]) delete root.dataset[name];
  showImage(); showList(true); showAll(); say("Loading…"); fit();
  for (const call of parts.shown) call();
  const load = new Image();
  load.onload = () => { if (turn === opened) { photo = load; draw(true); } };
  load.onerror = () => { if (turn === opened) askProblem(turn); };
  load.src = `/api/images/${index}/picture`;
  try {
    const state = await ask(`/api/images/${index}?parts=`);
    if (turn !== opened) return;
    reachable(null);
    if (!queue.some((edit) => edit.index === index)) remember(state);
    if (state.problem) { blocked = state.problem; say(blocked); }
    else say("");
    show(states.get(index));
    $("made").textContent = set.model && !blocked ? "reading the image…" : "";
    if (!blocked) await refresh(`&ahead=${beside(forward ? 1 : -1) ?? ""}`);
  } catch (error) {
    if (turn === opened) { if (error instanceof Lost) reachable(error); else say(error.message); }
  }
}

async function askProblem(turn) {
  try { await ask(`/api/images/${index}/picture`); } catch (error) {
    if (turn === opened && error instanceof Refusal) { blocked = error.message; say(blocked); showAll(); }
  }
}

/* The label, after an image was opened or another window has changed it. */
async function refresh(more = "") {
  const at = index;
  for (let turn = 0; turn < 5; turn++) {
    const answer = await ask(`/api/images/${at}?parts=label${more}`).catch(() => null);
    if (!answer || at !== index) return;
    ready = at;
    takeLabel(answer);
    if (queue.length) return;  // the last of these brings its own
    if (answer.revision === points.revision) break;
  }
  askHints();
}

const remember = (state) => states.set(state.index, { index: state.index, revision: state.revision, segments: state.segments, void: state.void, can_undo: state.can_undo, can_redo: state.can_redo });

function show(state) {
  if (state.segments.some((s) => !classes.has(s.category_id))) { learnClasses(state); return; }  // of another window
  remember(state);
  points = states.get(state.index);
  root.dataset.revision = state.revision;
  count(state.index, state);
  if (typeof selected === "number" && !segmentOf(selected)) select(null, true);
  const own = chosen();
  picked = own ? picked.filter((p) => own.points.some((q) => samePoint(p, q))) : [];
  showAll();
  for (const call of parts.changed) call();
}

async function learnClasses(state) {
  const answer = await ask("/api/set").catch(() => null);
  if (answer) takeClasses(answer.classes);
  if (state.index === index && state.segments.every((s) => classes.has(s.category_id))) show(state);
}

function takeClasses(list) {
  set.classes = list;
  classes = new Map(list.map((c) => [c.id, c]));
  current ??= list[0]?.id ?? null;
  $("class-search").hidden = list.length <= 9;
  $("segment-class").replaceChildren(...list.map((c) => new Option(c.isthing ? c.name : `${c.name} (stuff)`, c.id)));
  showClasses();
  if (points) showAll();
}

function count(at, state) {
  const total = state.segments.reduce((sum, s) => sum + s.points.length, 0);
  if (set.images[at].points !== total) { set.images[at].points = total; showList(); }
}

/* Two windows, a server that has gone: seen without a click, too. */
async function watch() {
  if (document.hidden || queue.length || sending || index < 0) return;
  const at = index;
  try {
    const state = await ask(`/api/images/${at}?parts=`);
    reachable(null);
    if (at !== index || queue.length || sending) return;
    if (!points) { open(at, false); return; }
    if (state.revision !== points.revision) { show(state); refresh(); }
  } catch (error) { if (error instanceof Lost && !queue.length) reachable(error); }
}

async function write(quiet = false) {
  try {
    const answer = await ask("/api/save", {});
    if (!quiet) flash(`Wrote ${answer.saved}`);
  } catch (error) { if (error instanceof Refusal) tell(`The points file was not written: ${error.message}`); else if (!quiet) reachable(error); }
}

/* ---- the label ---- */
async function pixels(png) {
  const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function takeLabel(answer) {
  if (answer.label === undefined && !answer.label_error) return;
  const turn = ++version, at = index;
  $("made").textContent = answer.label_error ? "no label" : answer.label ? `${answer.label.maker}, ${Math.round(answer.label.milliseconds)} ms` : "";
  if (answer.label_error) { label = null; unlabelled = true; tell(`No label for this image: ${answer.label_error}\nThe points are kept.`); draw(); return; }
  if (unlabelled) { unlabelled = false; if (!failed) tell(""); }
  if (!answer.label) { label = null; draw(); return; }
  const [found, confidence] = await Promise.all([pixels(answer.label.png), answer.label.confidence ? pixels(answer.label.confidence) : null]);
  if (turn !== version || at !== index) return;
  const { width, height } = found, area = new Int32Array(width * height), raw = found.data;
  for (let i = 0, j = 0; i < area.length; i++, j += 4) area[i] = raw[j] + (raw[j + 1] << 8) + (raw[j + 2] << 16);
  label = { width, height, area, ids: answer.segments.map((s) => s.id), confidence: confidence?.data || null, revision: answer.revision };
  root.dataset.label = answer.revision;
  paint(); draw();
}

const layer = (width, height) => new OffscreenCanvas(width, height);
const rgba = ([r, g, b], a = 255) => (a << 24 | b << 16 | g << 8 | r) >>> 0;

/* Regions, outlines and unsure places as pictures, of the label's size. */
function paint() {
  if (!label) return;
  const { width, height, area, ids, confidence } = label, colors = new Uint32Array(ids.length + 1);
  const now = new Map(points.segments.map((s) => [s.id, s.color]));
  ids.forEach((id, n) => { colors[n + 1] = now.has(id) ? rgba(now.get(id)) : 0; });
  const draft = (fill) => {
    const canvas = layer(width, height), context = canvas.getContext("2d"), data = context.createImageData(width, height);
    fill(new Uint32Array(data.data.buffer));
    context.putImageData(data, 0, 0);
    return canvas;
  };
  label.fill = draft((out) => { for (let i = 0; i < area.length; i++) out[i] = colors[area[i]]; });
  label.unsure = confidence && draft((out) => {
    for (let i = 0; i < area.length; i++) out[i] = rgba([255, 0, 200], Math.min(190, Math.max(0, 215 - confidence[4 * i]) * 1.6));
  });
  outline();
}

function outline() {
  if (!label) return;
  const { width, height, area, ids } = label, mine = ids.indexOf(number(selected)) + 1, over = ids.indexOf(hovered) + 1;
  const canvas = layer(width, height), context = canvas.getContext("2d"), data = context.createImageData(width, height);
  const out = new Uint32Array(data.data.buffer), dark = rgba([15, 18, 22], 215), light = rgba([255, 255, 255]), soft = rgba([255, 255, 255], 190);
  const now = new Map(points.segments.map((s) => [s.id, s.color]));
  const colors = [dark, ...ids.map((id) => now.has(id) ? rgba(now.get(id).map((v) => v * 0.45 | 0), 235) : 0)];
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
    const a = area[i], right = x + 1 < width ? area[i + 1] : a, down = y + 1 < height ? area[i + width] : a;
    if (a === right && a === down) continue;
    const touched = (n) => n && (a === n || right === n || down === n);
    out[i] = touched(mine) ? light : touched(over) ? soft : colors[a];
    if (touched(mine)) { if (right !== a) out[i + 1] = light; if (down !== a) out[i + width] = light; }
  }
  context.putImageData(data, 0, 0);
  label.lines = canvas;
}

/* The segment of the label at a place of the image: its id, or null. */
function under(x, y) {
  const place = label && image ? spot(x, y) : -1;
  return place < 0 ? null : label.ids[label.area[place] - 1] ?? null;
}
function spot(x, y) {
  const u = Math.floor(x * label.width / image.width), v = Math.floor(y * label.height / image.height);
  return u < 0 || v < 0 || u >= label.width || v >= label.height ? -1 : v * label.width + u;
}

async function askHints() {
  const at = index;
  if (!settings.layers.hints || blocked || queue.length) return;
  const answer = await ask(`/api/images/${at}?parts=suggestions`).catch(() => null);
  if (!answer || at !== index || queue.length) return;
  hints = answer.suggestions || [];
  hint = -1;
  draw();
}

/* ---- the view ---- */
function resize() {
  const ratio = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = stage;
  for (const canvas of [picture, overlay]) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
  if (fitted) fit(); else draw(true);
}

function fit() {
  if (!image) return;
  const { clientWidth: width, clientHeight: height } = stage, margin = 14;
  view.scale = Math.max(1e-3, Math.min((width - 2 * margin) / image.width, (height - 2 * margin) / image.height, 32));
  view.x = (width - image.width * view.scale) / 2;
  view.y = (height - image.height * view.scale) / 2;
  fitted = true;
  draw(true);
}

function zoom(factor, at = null) {
  if (!image) return;
  const [x, y] = at || (keyboard && cursor ? toWindow(cursor) : [stage.clientWidth / 2, stage.clientHeight / 2]);
  const scale = Math.min(64, Math.max(0.02, view.scale * factor)), by = scale / view.scale;
  view = { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
  fitted = false;
  confine();
  draw(true);
}

/* Some of the image stays in the window. */
function confine() {
  const { clientWidth: width, clientHeight: height } = stage, edge = 60;
  view.x = Math.min(width - edge, Math.max(edge - image.width * view.scale, view.x));
  view.y = Math.min(height - edge, Math.max(edge - image.height * view.scale, view.y));
}

const toWindow = ([x, y]) => [x * view.scale + view.x, y * view.scale + view.y];
const toImage = ([x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];
const inside = ([x, y]) => image && x >= 0 && y >= 0 && x < image.width && y < image.height;
const rounded = ([x, y]) => [Math.min(Math.round(x * 100) / 100, image.width - 0.01), Math.min(Math.round(y * 100) / 100, image.height - 0.01)];

let due = false, dirty = true;
function draw(below = false) {
  dirty ||= below;
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; render(); });
}

function render() {
  const ratio = devicePixelRatio || 1;
  overlay.dataset.view = JSON.stringify(view);
  const place = (context) => { context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y); context.imageSmoothingEnabled = view.scale < 3; };
  if (dirty) {
    dirty = false;
    const context = picture.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, picture.width, picture.height);
    if (photo && image) { place(context); context.imageSmoothingQuality = "high"; context.drawImage(photo, 0, 0, image.width, image.height); }
    if (photo) root.dataset.photo = index;
  }
  const context = overlay.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, overlay.width, overlay.height);
  if (!image || !points) return;
  const layers = settings.layers;
  if (label) {
    place(context);
    const put = (canvas, alpha) => { context.globalAlpha = alpha; context.drawImage(canvas, 0, 0, image.width, image.height); context.globalAlpha = 1; };
    context.imageSmoothingEnabled = false;
    if (layers.label) put(label.fill, settings.opacity / 100);
    if (layers.confidence && label.unsure) put(label.unsure, 0.85);
    if (layers.outlines) put(label.lines, 1);
  }
  for (const drawn of parts.layers) { context.save(); drawn(context, place); context.restore(); }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (layers.points) drawPoints(context);
  if (layers.hints) hints.forEach((h, n) => drawHint(context, h, n));
  if (keyboard && cursor) drawCross(context);
}

const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

function drawPoint(context, [x, y], thing, color, { ring = 1.5, size = POINT, hollow = false, strong = false } = {}) {
  context.beginPath();
  if (thing) context.arc(x, y, size, 0, 7); else context.rect(x - size, y - size, 2 * size, 2 * size);
  context.lineWidth = ring + 2.5; context.strokeStyle = "rgb(15 18 22 / .85)"; context.stroke();
  context.lineWidth = ring; context.strokeStyle = "#fff"; context.stroke();
  context.fillStyle = hollow ? "rgb(255 255 255 / .35)" : color; context.fill();
  if (strong) { context.beginPath(); context.arc(x, y, 2, 0, 7); context.fillStyle = "#fff"; context.fill(); }
}

function drawPoints(context) {
  const mine = number(selected);
  for (const late of [false, true]) for (const s of points.segments) {
    if ((s.id === mine) !== late) continue;
    const thing = classes.get(s.category_id).isthing;
    for (const p of s.points) {
      const moved = drag?.point && drag.moved && drag.segment === s.id && samePoint(p, drag.point);
      const at = toWindow(moved ? drag.to : p);
      if (at[0] < -20 || at[1] < -20 || at[0] > stage.clientWidth + 20 || at[1] > stage.clientHeight + 20) continue;
      const strong = late && picked.some((q) => samePoint(p, q));
      const hollow = Boolean(parts.hollow?.(p));
      drawPoint(context, at, thing, css(s.color), late ? { ring: 2.5, size: POINT + (strong ? 2.5 : 1), strong, hollow } : { hollow });
    }
  }
  for (const edit of queue) if (edit.index === index && edit.at) drawPoint(context, toWindow(edit.at), edit.thing, "", { hollow: true });
}

function drawHint(context, h, n) {
  const [x, y] = toWindow([h.x, h.y]), size = n === hint ? 12 : 9;
  context.beginPath();
  context.moveTo(x, y - size); context.lineTo(x + size, y); context.lineTo(x, y + size); context.lineTo(x - size, y); context.closePath();
  context.lineWidth = 4.5; context.strokeStyle = "rgb(15 18 22 / .8)"; context.stroke();
  context.lineWidth = 2; context.strokeStyle = "#ffd84a"; context.stroke();
  context.font = "600 10px system-ui, sans-serif"; context.textAlign = "center"; context.textBaseline = "middle";
  context.lineWidth = 3; context.strokeStyle = "rgb(15 18 22 / .8)"; context.strokeText(n + 1, x, y); context.fillStyle = "#fff"; context.fillText(n + 1, x, y);
}

function drawCross(context) {
  const [x, y] = toWindow(cursor).map((v) => Math.round(v) + 0.5);
  for (const [width, color] of [[3.5, "rgb(15 18 22 / .8)"], [1.5, "#fff"]]) {
    context.lineWidth = width; context.strokeStyle = color; context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { context.moveTo(x + 5 * dx, y + 5 * dy); context.lineTo(x + 20 * dx, y + 20 * dy); }
    context.stroke();
  }
}

/* ---- what is said around the picture ---- */
const nameOf = (s) => `${classes.get(s.category_id).name} ${classes.get(s.category_id).isthing ? s.id : ""}`.trim();
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

function say(text) { $("empty").textContent = text; $("empty").hidden = !text; }

let flashing = 0;
function flash(text) {
  clearTimeout(flashing);
  $("next-click").textContent = text;
  flashing = setTimeout(() => { flashing = 0; showNext(); }, 2500);
}

function showNext() {
  if (flashing) return;
  const out = $("next-click"), strong = document.createElement("b");
  out.textContent = "";
  const own = chosen(), pending = typeof selected === "object" && selected;
  if (blocked || !points) return;
  if (parts.tool) { out.append(parts.tool.says); return; }
  if (merging) out.append("Choose the segment that ", Object.assign(strong, { textContent: own ? nameOf(own) : "" }), " joins (Esc: none)");
  else if (own || pending) out.append("Next click: a point of ", Object.assign(strong, { textContent: own ? nameOf(own) : "the new segment" }), classOf(own)?.isthing ?? true ? "  (N: new thing)" : "  (N: let go)");
  else { const c = classes.get(current); out.append(c.isthing ? "Next click: a new " : "Next click: a point of ", Object.assign(strong, { textContent: c.name })); }
}
const classOf = (s) => s ? classes.get(s.category_id) : undefined;

function showHere(at) {
  if (!at || !inside(at)) { $("here").textContent = ""; return; }
  const id = under(...at), s = segmentOf(id), sure = label?.confidence ? label.confidence[4 * spot(...at)] / 2.55 : null;
  const what = s ? `${nameOf(s)}${sure === null ? "" : `, ${Math.round(sure)} % sure`}   ` : "";
  $("here").textContent = `${what}${Math.floor(at[0])}, ${Math.floor(at[1])}`;
}

function tip(text, [x, y] = [0, 0]) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  box.style.left = `${Math.max(6, Math.min(x + 16, stage.clientWidth - box.offsetWidth - 6))}px`;
  box.style.top = `${Math.max(6, Math.min(y + 16, stage.clientHeight - box.offsetHeight - 6))}px`;
}

function showImage() {
  $("image-name").textContent = $("image-name").title = image.name;
  $("image-number").textContent = `${(index + 1).toLocaleString("en")} of ${set.images.length.toLocaleString("en")}`;
}

/* Of a long list only the lines in view are made. */
function filterList() {
  const text = $("search").value.trim().toLowerCase(), which = $("filter").value;
  shown = set.images.map((_, n) => n).filter((n) => {
    const { name, points: total } = set.images[n];
    return (!text || name.toLowerCase().includes(text)) && (which === "all" || (which === "with") === total > 0);
  });
  if (parts.order) shown.sort(parts.order);
  $("rows").style.height = `${Math.max(1, shown.length) * ROW}px`;
}

function showList(follow = false) {
  filterList();
  const list = $("list"), place = shown.indexOf(index);
  if (follow && place >= 0) {
    const top = place * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  }
  showRows();
  $("previous").disabled = beside(-1) === undefined; $("next").disabled = beside(1) === undefined;
  const begun = set.images.filter((i) => i.points).length;
  $("done").max = Math.max(1, set.images.length); $("done").value = begun;
  $("progress").textContent = `${begun.toLocaleString("en")} of ${plural(set.images.length, "image")} with points`;
}

function showRows() {
  const list = $("list"), first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5), last = Math.min(shown.length, first + Math.ceil((list.clientHeight || 600) / ROW) + 10);
  $("rows").replaceChildren(...shown.slice(first, last).map((n, k) => {
    const { name, points: total } = set.images[n], row = document.createElement("div");
    row.className = total ? "image" : "image blank";
    row.role = "option"; row.id = `image-${n}`; row.title = name; row.dataset.index = n;
    row.setAttribute("aria-selected", n === index);
    row.style.top = `${(first + k) * ROW}px`;
    row.append(span("name", name));
    if (parts.score) row.append(parts.score(n));
    row.append(span("points", total || "–"));
    return row;
  }));
  list.setAttribute("aria-activedescendant", `image-${index}`);
  if (!shown.length) $("rows").append(span("image", "none found"));
}

function span(kind, text) { const node = document.createElement("span"); node.className = kind; node.textContent = text; return node; }
function swatch(color, thing) { const node = span(`swatch${thing ? " thing" : ""}`, ""); node.style.background = css(color); return node; }

function showClasses() {
  const text = $("class-search").value.trim().toLowerCase();
  $("classes").replaceChildren(...set.classes.map((c, n) => {
    const row = document.createElement("div");
    row.className = "class"; row.role = "radio"; row.dataset.id = c.id; row.title = `${c.name}, ${c.isthing ? "thing" : "stuff"}${n < 9 ? ` (${n + 1})` : ""}`;
    row.setAttribute("aria-checked", c.id === current);
    row.tabIndex = c.id === current ? 0 : -1;
    row.hidden = Boolean(text) && !c.name.toLowerCase().includes(text);
    row.append(swatch(c.color, c.isthing), span("name", c.name));
    if (!c.isthing) row.append(Object.assign(document.createElement("small"), { textContent: "stuff" }));
    if (n < 9) row.append(Object.assign(document.createElement("kbd"), { textContent: n + 1 }));
    return row;
  }));
}

function showSegments() {
  const list = $("segments"), mine = number(selected);
  $("count").textContent = points?.segments.length ? `${points.segments.length.toLocaleString("en")}, ${plural(points.segments.reduce((n, s) => n + s.points.length, 0), "point")}` : "none";
  list.replaceChildren(...(points?.segments || []).map((s) => {
    const row = document.createElement("div"), small = document.createElement("small");
    row.className = "row"; row.role = "option"; row.id = `segment-${s.id}`; row.dataset.id = s.id;
    row.setAttribute("aria-selected", s.id === mine);
    small.textContent = plural(s.points.length, "point");
    row.append(swatch(s.color, classes.get(s.category_id).isthing), span("name", nameOf(s)), small);
    return row;
  }));
  if (mine !== null) list.setAttribute("aria-activedescendant", `segment-${mine}`);
  list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
}

function showSelection() {
  const own = chosen();
  $("segment-tools").hidden = !own;
  $("segment-none").hidden = Boolean(own);
  $("segment-name").textContent = own ? `${nameOf(own)}, ${picked.length ? `${picked.length} of ` : ""}${plural(own.points.length, "point")}` : typeof selected === "object" && selected ? "New segment" : "Nothing selected";
  if (own) {
    $("segment-class").value = own.category_id;
    $("split").disabled = !picked.length || picked.length >= own.points.length;
    $("merge").disabled = points.segments.length < 2;
    $("merge").setAttribute("aria-pressed", merging);
    $("delete").textContent = picked.length ? plural(picked.length, "point").replace(/^1 /, "").replace(/^/, "Delete ") : "Delete";
  }
  $("undo").disabled = !points?.can_undo && !queue.length;
  $("redo").disabled = !points?.can_redo;
  showNext();
}

function showAll() { showSegments(); showSelection(); if (label && points) paint(); draw(); }

function showSettings() {
  root.classList.toggle("no-images", !panels.images);
  root.classList.toggle("no-details", !panels.details);
  $("images-toggle").setAttribute("aria-pressed", panels.images);
  $("details-toggle").setAttribute("aria-pressed", panels.details);
  for (const name of LAYERS) $(`layer-${name}`).setAttribute("aria-pressed", settings.layers[name]);
  $("layer-confidence").hidden = !set?.model;
  $("opacity").value = settings.opacity;
  $("single").checked = settings.single;
  keep();
  resize();
}

function showTone() {
  const contrast = Number($("contrast").value) / 100, gamma = 3 ** (-Number($("gamma").value) / 100);
  for (const node of document.querySelectorAll("#tone [type=gamma]")) node.setAttribute("exponent", gamma);
  picture.style.filter = contrast === 1 && gamma === 1 ? "" : `url(#tone) contrast(${contrast})`;
}

/* ---- what the user does ---- */
function select(id, quiet = false) {
  if (merging && id !== null && typeof id === "number") { mergeInto(id); return; }
  merging = merging && id !== null;
  if (id !== selected) picked = [];
  selected = id;
  if (quiet) return;
  showSegments(); showSelection(); outline(); draw();
}

function chooseClass(id) { current = id; merging = false; select(null); showClasses(); }

function release() { merging = false; select(null); }

/* A click at a place of the image; on a point it selects. */
function click(at, { shift = false, alt = false } = {}) {
  if (!points || blocked || !inside(at)) return;
  const near = nearest(at);
  if (merging) { const id = near?.segment.id ?? under(...at); if (id !== null) mergeInto(id); return; }
  if (alt) { select(near?.segment.id ?? under(...at)); return; }
  if (near) {
    const same = number(selected) === near.segment.id;
    if (shift && same) picked = picked.some((p) => samePoint(p, near.point)) ? picked.filter((p) => !samePoint(p, near.point)) : [...picked, near.point];
    else { select(near.segment.id); picked = [near.point]; }
    showSelection(); draw();
    return;
  }
  const [x, y] = rounded(at), into = selected, category = chosen()?.category_id ?? (typeof into === "object" && into ? into.category : current);
  const edit = enqueue(() => ({ kind: "add", x, y, segment: number(into), category_id: category }),
    { at: [x, y], thing: classes.get(category).isthing, category, fresh: into === null });
  if (edit && into === null && !(settings.single && classes.get(category).isthing)) select(edit);
  if (picked.length) { picked = []; showSelection(); }
}

/* The point within reach of a place. */
function nearest(at) {
  const [x, y] = toWindow(at), mine = number(selected);
  let best = null, least = REACH;
  if (settings.layers.points) for (const segment of points?.segments || []) for (const point of segment.points) {
    const [u, v] = toWindow(point), gap = Math.hypot(u - x, v - y) - (segment.id === mine ? 0.5 : 0);
    if (gap < least) { least = gap; best = { segment, point }; }
  }
  return best;
}

/* A place among a segment's points at the time of sending: what was meant may have moved on. */
const placeOf = (state, id, point) => segmentOf(id, state)?.points.findIndex((p) => samePoint(p, point)) ?? -1;

function move(id, point, to) {
  const [x, y] = rounded(to);
  enqueue((state) => { const n = placeOf(state, id, point); return n < 0 ? null : { kind: "move", segment: id, point: n, x, y }; },
    { then: () => { if (selected === id && picked.some((p) => samePoint(p, point))) { picked = [[x, y]]; showSelection(); } } });
  if (picked.some((p) => samePoint(p, point))) picked = [point, [x, y]];
}

function remove() {
  const own = chosen();
  if (!own) return;
  if (!picked.length) { enqueue((state) => segmentOf(own.id, state) && { kind: "delete_segment", segment: own.id }); return; }
  for (const point of picked) enqueue((state) => { const n = placeOf(state, own.id, point); return n < 0 ? null : { kind: "delete", segment: own.id, point: n }; });
}

function setClass(id) {
  const own = chosen();
  if (!own || own.category_id === id) return;
  enqueue((state) => segmentOf(own.id, state) && { kind: "set_class", segment: own.id, category_id: id });
}

function mergeInto(id) {
  const own = chosen();
  merging = false;
  if (own && own.id !== id) enqueue((state) => segmentOf(own.id, state) && segmentOf(id, state) && { kind: "merge", segment: own.id, into: id }, { then: () => select(segmentOf(id) ? id : null) });
  else showSelection();
}

function split() {
  const own = chosen();
  if (!own || !picked.length || picked.length >= own.points.length) return;
  const taken = picked;
  const edit = enqueue((state) => { const places = taken.map((p) => placeOf(state, own.id, p)).filter((n) => n >= 0); return places.length ? { kind: "split", segment: own.id, points: places } : null; });
  if (edit) { selected = edit; picked = []; showSelection(); }
}

const undo = () => { if (points?.can_undo || queue.length) enqueue(() => ({ kind: "undo" })); };
const redo = () => { if (points?.can_redo || queue.length) enqueue(() => ({ kind: "redo" })); };

function step(by) {
  if (!points?.segments.length) return;
  const ids = points.segments.map((s) => s.id), at = ids.indexOf(number(selected));
  select(ids[at < 0 ? (by > 0 ? 0 : ids.length - 1) : (at + by + ids.length) % ids.length]);
}

/* Where an image is in the list; one that a filter hides, where it would be. */
function position(n) {
  const at = shown.indexOf(n);
  if (at >= 0) return at;
  const after = shown.findIndex((m) => (parts.order ? parts.order(m, n) : m - n) > 0);
  return (after < 0 ? shown.length : after) - 0.5;
}
function beside(by) { const at = position(index); return shown[by > 0 ? Math.floor(at) + 1 : Math.ceil(at) - 1]; }
function go(by) { const next = beside(by); if (next !== undefined) open(next); }

async function goHint() {
  if (!settings.layers.hints) toggle("hints");
  if (!hints.length) await askHints();
  if (!hints.length) { flash("No hints for this image"); return; }
  hint = (hint + 1) % hints.length;
  cursor = [hints[hint].x, hints[hint].y];
  keyboard = true;
  bringIn(cursor);
  overlay.focus();
  flash(`Hint ${hint + 1}: ${hints[hint].reason}`);
  showHere(cursor); draw();
}

function toggle(name) {
  settings.layers[name] = !settings.layers[name];
  showSettings();
  if (name === "hints") { if (settings.layers.hints) askHints(); else tip(""); }
}

function bringIn(at) {
  const [x, y] = toWindow(at), { clientWidth: width, clientHeight: height } = stage, edge = 40;
  const dx = x < edge ? edge - x : x > width - edge ? width - edge - x : 0, dy = y < edge ? edge - y : y > height - edge ? height - edge - y : 0;
  if (dx || dy) { view.x += dx; view.y += dy; fitted = false; draw(true); }
}

function moveCursor(dx, dy, fine) {
  if (!image) return;
  keyboard = true;
  cursor ||= toImage([stage.clientWidth / 2, stage.clientHeight / 2]);
  const by = fine ? 1 : Math.max(1, 12 / view.scale);
  cursor = [Math.min(image.width - 0.5, Math.max(0.5, cursor[0] + dx * by)), Math.min(image.height - 0.5, Math.max(0.5, cursor[1] + dy * by))];
  bringIn(cursor); showHere(cursor); draw();
}

function nudge(dx, dy, fine) {
  const own = chosen();
  if (!own || picked.length !== 1 || queue.length) return;
  const by = fine ? 0.25 : 1, to = [picked[0][0] + dx * by, picked[0][1] + dy * by];
  if (inside(to)) move(own.id, picked[0], to);
}

/* ---- mouse ---- */
const place = (event) => { const box = overlay.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };

overlay.addEventListener("pointerdown", (event) => {
  if (!image || (event.button !== 0 && event.button !== 1)) return;
  event.preventDefault();
  overlay.focus({ preventScroll: true });
  overlay.setPointerCapture(event.pointerId);
  keyboard = false;
  const from = place(event), pan = event.button === 1 || space, tool = pan ? null : parts.tool;
  const near = pan || tool || merging || blocked ? null : nearest(toImage(from));
  drag = { from, pan, tool, view: { ...view }, moved: false, shift: event.shiftKey, alt: event.altKey, segment: near?.segment.id, point: near?.point, to: near?.point };
  overlay.classList.toggle("panning", pan);
  tool?.down(toImage(from), event);
});

overlay.addEventListener("pointermove", (event) => {
  if (!image) return;
  mouse = place(event);
  const at = toImage(mouse);
  if (keyboard && !drag) { keyboard = false; draw(); }
  if (drag?.tool) { drag.tool.move(at, event); return; }
  if (parts.tool && !drag) { parts.tool.move(at, event); showHere(at); return; }
  if (drag) {
    const dx = mouse[0] - drag.from[0], dy = mouse[1] - drag.from[1];
    drag.moved ||= Math.hypot(dx, dy) > 3;
    if (drag.pan) { view.x = drag.view.x + dx; view.y = drag.view.y + dy; fitted = false; confine(); draw(true); }
    else if (drag.point && drag.moved) {
      drag.to = [Math.min(image.width - 0.01, Math.max(0, drag.point[0] + dx / view.scale)), Math.min(image.height - 0.01, Math.max(0, drag.point[1] + dy / view.scale))];
      draw();
    }
    return;
  }
  const near = points && nearest(at), hinted = settings.layers.hints && hints.find((h) => { const [x, y] = toWindow([h.x, h.y]); return Math.hypot(x - mouse[0], y - mouse[1]) < 12; });
  overlay.classList.toggle("over", Boolean(near) || merging);
  tip(hinted ? hinted.reason : near ? `${nameOf(near.segment)}: drag moves, Delete deletes` : "", mouse);
  const over = near?.segment.id ?? (inside(at) ? under(...at) : null);
  if (over !== hovered) { hovered = over; if (settings.layers.outlines) { outline(); draw(); } }
  showHere(at);
});

overlay.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const done = drag;
  drag = null;
  overlay.classList.remove("panning");
  if (done.tool) { done.tool.up(toImage(place(event)), event); return; }
  if (done.pan || event.button !== 0) return;
  if (done.point && done.moved) { if (selected !== done.segment) select(done.segment); picked = [done.point]; move(done.segment, done.point, done.to); }
  else click(toImage(done.moved ? place(event) : done.from), done);
  draw();
});
overlay.addEventListener("pointercancel", () => { drag?.tool?.cancel(); drag = null; overlay.classList.remove("panning"); draw(); });
overlay.addEventListener("pointerleave", () => { mouse = null; parts.tool?.leave(); tip(""); showHere(null); if (hovered !== null) { hovered = null; outline(); draw(); } });
overlay.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.0018)), place(event)); }, { passive: false });
overlay.addEventListener("auxclick", (event) => event.preventDefault());
overlay.addEventListener("contextmenu", (event) => event.preventDefault());
overlay.addEventListener("blur", () => { space = false; overlay.classList.remove("pan"); });

/* ---- keys ---- */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const typing = (node) => node.matches?.("select, textarea, input:not([type=checkbox], [type=range])");

addEventListener("keydown", (event) => {
  const { key, target, code } = event, command = event.ctrlKey || event.metaKey;
  if ($("keys").open || !set) return;
  if (typing(target)) {
    if (key === "Escape" || (key === "Enter" && target.id !== "class-search")) { if (key === "Escape" && target.type === "search") { target.value = ""; target.dispatchEvent(new Event("input")); } if (target.tagName === "INPUT") overlay.focus(); }
    if (!command || !"sS".includes(key)) return;
  }
  const run = (what, ...values) => { event.preventDefault(); what(...values); };
  if (command) {
    const low = key.toLowerCase();
    if (low === "z") run(event.shiftKey ? redo : undo);
    else if (low === "y") run(redo);
    else if (low === "s") run(write);
    return;
  }
  if (ARROWS[key]) {
    if (target.type === "range") return;
    const [dx, dy] = ARROWS[key];
    if (event.altKey) return run(nudge, dx, dy, event.shiftKey);
    if (target.id === "list") return dy ? run(go, dy) : undefined;
    if (target.id === "segments") return dy ? run(step, dy) : undefined;
    if (target.closest?.("#classes")) return run(() => stepClass(dx + dy));
    return target === overlay || target === root ? run(() => { overlay.focus(); moveCursor(dx, dy, event.shiftKey); }) : undefined;
  }
  if (event.altKey) return;
  const digit = /^Digit([1-9])$/.exec(code) || /^Numpad([1-9])$/.exec(code) || /^([1-9])$/.exec(key);
  if (digit) {
    const entry = set.classes[digit[1] - 1];
    if (entry) run(event.shiftKey ? setClass : chooseClass, entry.id);
    return;
  }
  if (key === "Enter" || key === " ") {
    if (target !== overlay && target !== root) return;
    if (key === " ") return run(() => { space = true; overlay.classList.add("pan"); });
    return run(() => { overlay.focus(); keyboard = true; cursor ||= mouse ? toImage(mouse) : toImage([stage.clientWidth / 2, stage.clientHeight / 2]); if (parts.tool) parts.tool.dot(cursor, event); else click(cursor, { shift: event.shiftKey }); });
  }
  const here = keyboard && cursor ? cursor : mouse && toImage(mouse);
  const letter = { n: release, t: () => { settings.single = !settings.single; showSettings(); flash(settings.single ? "One point a thing: every click is a new thing" : "Clicks add points to the thing that is selected"); },
    e: () => here && click(here, { alt: true }), m: startMerge, s: split, l: () => toggle("label"), o: () => toggle("outlines"), u: () => set.model && toggle("confidence"), p: () => toggle("points"),
    h: () => toggle("hints"), g: goHint, i: () => panel("images"), d: () => panel("details"), c: findClass, "0": fit, "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), "−": () => zoom(1 / 1.3),
    "[": () => step(-1), "]": () => step(1), "/": findImage, "?": help, ...parts.keys }[key.toLowerCase()];
  if (letter) run(letter);
  else if (key === "Escape") run(() => { if (!$("problem").hidden && !failed) tell(""); else if (merging) { merging = false; showSelection(); } else if (picked.length) { picked = []; showSelection(); draw(); } else release(); });
  else if (key === "Delete" || key === "Backspace") run(remove);
  else if (key === "PageUp") run(go, -1);
  else if (key === "PageDown") run(go, 1);
});
addEventListener("keyup", (event) => { if (event.key === " ") { space = false; overlay.classList.remove("pan"); } });

function stepClass(by) {
  const ids = set.classes.map((c) => c.id);
  chooseClass(ids[(ids.indexOf(current) + by + ids.length) % ids.length]);
  $("classes").querySelector("[aria-checked=true]").focus();
}
function startMerge() { if (chosen() && points.segments.length > 1) { merging = !merging; showSelection(); } }
function panel(name) {
  panels[name] = !panels[name];
  if (roomy[name]) settings[name] = panels[name];
  showSettings();
  if (name === "images" && panels.images) showList(true);
}
function findImage() { if (!panels.images) panel("images"); $("search").focus(); $("search").select(); }
function findClass() { if (!panels.details) panel("details"); if ($("class-search").hidden) $("classes").querySelector("[aria-checked=true]")?.focus(); else $("class-search").focus(); }
function help() { $("keys").showModal(); }

/* ---- buttons and lists ---- */
const on = (id, what, kind = "click") => $(id).addEventListener(kind, what);
for (const name of LAYERS) on(`layer-${name}`, () => toggle(name));
on("undo", undo); on("redo", redo); on("save", () => write()); on("help", help); on("keys-close", () => $("keys").close());
on("previous", () => go(-1)); on("next", () => go(1));
on("images-toggle", () => panel("images")); on("details-toggle", () => panel("details"));
on("zoom-in", () => zoom(1.3)); on("zoom-out", () => zoom(1 / 1.3)); on("fit", fit);
on("new", release); on("merge", startMerge); on("split", split); on("delete", remove);
on("segment-class", (event) => { setClass(Number(event.target.value)); overlay.focus(); }, "change");
on("single", (event) => { settings.single = event.target.checked; keep(); }, "change");
on("opacity", (event) => { settings.opacity = Number(event.target.value); keep(); draw(); }, "input");
for (const [id, plain] of [["contrast", 100], ["gamma", 0]]) {
  on(id, showTone, "input");
  on(id, () => { $(id).value = plain; showTone(); }, "dblclick");
}
on("list", showRows, "scroll");
on("list", (event) => { const row = event.target.closest("[data-index]"); if (row) { open(Number(row.dataset.index)); if (innerWidth <= 1000) panel("images"); } });
on("search", () => { $("list").scrollTop = 0; showList(); }, "input");
on("search", (event) => { if (event.key === "Enter" && shown.length && !shown.includes(index)) open(shown[0]); }, "keydown");
on("filter", () => { $("list").scrollTop = 0; showList(); }, "change");
on("classes", (event) => { const row = event.target.closest("[data-id]"); if (row) chooseClass(Number(row.dataset.id)); });
on("class-search", showClasses, "input");
on("class-search", (event) => {
  const first = event.key === "Enter" && $("classes").querySelector(".class:not([hidden])");
  if (first) { event.target.value = ""; chooseClass(Number(first.dataset.id)); $("classes").querySelector("[aria-checked=true]").scrollIntoView({ block: "nearest" }); overlay.focus(); }
}, "keydown");
on("segments", (event) => { const row = event.target.closest("[data-id]"); if (row) select(Number(row.dataset.id)); });
on("segments", (event) => { const id = Number(event.target.closest("[data-id]")?.dataset.id) || null; if (id !== hovered) { hovered = id; outline(); draw(); } }, "pointerover");
on("segments", () => { hovered = null; outline(); draw(); }, "pointerleave");

addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });
addEventListener("hashchange", () => { const n = fromHash(); if (n !== index) open(n, false); });
document.addEventListener("visibilitychange", watch);
addEventListener("focus", watch);
addEventListener("resize", () => { const before = JSON.stringify(panels); layOut(); if (JSON.stringify(panels) !== before) showSettings(); });
new ResizeObserver(resize).observe(stage);
setInterval(watch, WATCH);

const fromHash = () => { const n = Number(/^#image=(\d+)$/.exec(location.hash)?.[1]); return n >= 1 && n <= set.images.length ? n - 1 : 0; };

async function begin() {
  try { set = await ask("/api/set"); } catch (error) {
    say(`Not reachable: ${error.message}`);
    if (error instanceof Lost) setTimeout(begin, RETRY);
    return;
  }
  takeClasses(set.classes);
  $("saved").title = `Each click is on disk at once. ${set.points_file} is written when the image is changed, on Ctrl+S, and when fdd annotate ends.`;
  for (const node of document.querySelectorAll(".settings")) node.open = innerHeight > 700;
  showSettings(); showList(); showSaved();
  for (const call of parts.begun) call();
  for (const notice of set.notices || []) tell([...(set.notices)].join("\n"));
  if (!set.images.length) { say("There are no images."); return; }
  overlay.focus({ preventScroll: true });
  open(fromHash());
}
export { begin, $, ask, tell, flash, showNext as hintNext, span, plural, on, toggle, showSettings, showList, showAll, draw, tip, open, enqueue, refresh, write, select, chosen, chooseClass, takeClasses, fit,
  toWindow, toImage, inside, rounded, place, root, overlay, stage, settings, keep, states,
  set, classes, index, image, points, label, view, blocked, queue, hovered, Refusal, Lost };
