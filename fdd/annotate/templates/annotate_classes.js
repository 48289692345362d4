/* Adding a class: its name and kind are asked for below the classes, and written by the server. */
import { $, ask, tell, flash, on, takeClasses, chooseClass, overlay, refresh, index, Lost, Refusal } from "./annotate.js";

let waiting = false;

function show(open) {
  $("new-class").hidden = !open;
  $("add-class").hidden = open;
  if (open) $("new-class-name").focus();
}

function close() {
  $("new-class-name").value = "";
  show(false);
  overlay.focus();
}

async function add() {
  const name = $("new-class-name").value.trim(), isthing = $("new-class-kind").value === "thing";
  if (!name || waiting) return;
  waiting = $("new-class-add").disabled = true;           // a model is loaded anew: that takes a second or two
  try {
    const answer = await ask("/api/classes", { name, isthing });
    takeClasses(answer.classes);
    chooseClass(answer.id);
    close();
    flash(`New class: ${name}`);
    if (index >= 0) refresh();
  } catch (error) {
    if (error instanceof Refusal) tell(`The class was not added: ${error.message}`);
    else if (error instanceof Lost) tell("The class was not added: fdd annotate cannot be reached.");
    else throw error;
  } finally { waiting = $("new-class-add").disabled = false; }
}

on("add-class", () => show(true));
on("new-class", (event) => { event.preventDefault(); add(); }, "submit");
on("new-class-close", close);
on("new-class", (event) => { if (event.key === "Escape") { event.stopPropagation(); close(); } }, "keydown");
