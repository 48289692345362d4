/* Training on the points, and exporting labels: begun here, done by the server, shown as they go. */
import { $, ask, tell, flash, on, parts, set, index, refresh, showSettings, Lost, Refusal } from "./annotate.js";

const BUSY = 1000, IDLE = 4000, EXPORTS = $("export").title;
let work = null, seen = "";                              // seen: what was said of the last job

async function post(what, body = {}) {
  try { take(await ask(`/api/work/${what}`, body)); } catch (error) {
    if (error instanceof Refusal) tell(`Not done: ${error.message}`);
    else if (!(error instanceof Lost)) throw error;       // that the server has gone is said elsewhere
  }
}

async function poll() {
  let wait = IDLE;
  if (!document.hidden) {
    try { take(await ask("/api/work")); } catch { /* it is asked again */ }
    if (work?.job?.state === "running") wait = BUSY;
  }
  setTimeout(poll, wait);
}

function take(record) {
  const before = work;
  work = record;
  set.model = work.model;
  if (before && before.current !== work.current) { showSettings(); if (index >= 0) refresh(); }
  announce();
  show();
}

function announce() {
  const { job } = work, key = job ? `${job.folder} ${job.state}` : "";
  if (key === seen) return;
  const first = seen === "";
  seen = key;
  if (!job || (first && job.state !== "running")) return;
  if (job.state === "done") flash(job.said);
  if (job.state === "failed") tell(`The ${job.kind} ${job.said}`);
}

function show() {
  const { job, models, current } = work, running = job?.state === "running";
  $("work").hidden = false;
  const select = $("model");
  if (select.options.length !== models.length) select.replaceChildren(...models.map((name, n) => new Option(short(name), n)));
  select.value = current;
  select.title = models[current];
  $("train").hidden = $("export").hidden = running;
  $("stop").hidden = !running;
  $("train").textContent = work.model ? "Train on" : "Train";
  $("resume").hidden = running || !work.cut_off;
  $("resume").textContent = `Resume ${work.cut_off ?? ""}`;
  $("export").disabled = $("format").disabled = !work.model;
  $("export").title = work.model ? EXPORTS : "Needs a model, which makes the labels: train one here, choose one under Labels by, or start fdd annotate with --model";
  $("work-progress").hidden = !running;
  $("work-progress").value = running ? job.share : 0;
  const said = !job ? "" : running ? `${job.kind === "training" ? "Training" : "Exporting"}: ${job.words || `begins, ${job.seconds} s`}` : job.said.split("\n")[0];
  if ($("work-said").textContent !== said) $("work-said").textContent = said;
  $("unlearned").textContent = work.unlearned.length ? `Not learned yet: ${work.unlearned.join(", ")}` : "";
  $("work-said").title = job?.said || "";
}

/* Of a path, its end. */
const short = (name) => name.split(/[\\/]/).slice(-2).join("/");

parts.begun.push(() => {
  if (!set.work) return;
  $("format").replaceChildren(...set.work.formats.map((name) => new Option(name, name)));
  take(set.work);
  poll();
});
on("train", () => post("train"));
on("resume", () => post("resume"));
on("stop", () => post("stop"));
on("export", () => post("export", { formats: [...new Set(["panoptic", $("format").value])] }));
on("model", (event) => post("model", { model: Number(event.target.value) }), "change");
