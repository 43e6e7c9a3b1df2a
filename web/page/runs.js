// The chapter on saving and opening runs, and whatever is dropped on the page.
import { call, on } from "./calls.js";
import { $, bytesOf, counted, grouped, percent, save, sentence } from "./dom.js";
import { needData, takeFiles } from "./data.js";
import { openDevice } from "./device.js";
import { isBusy, run, show, showResult } from "./training.js";
import { classify } from "./photo.js";

const say = (text) => { $("#runs-status").textContent = sentence(text); };

const attempt = (work) => async (...args) => {
  try {
    await work(...args);
  } catch (error) {
    say(error.message);
  }
};

// A run by its files; their names are paths in the folder that was dropped.
async function open(files) {
  if (isBusy()) throw new Error("a training is running; stop it first, then open the run");
  const names = files.map((file) => file.path ?? (file.webkitRelativePath || file.name));
  const contents = await Promise.all(files.map(bytesOf));
  const opened = await call.openRun(names, contents);
  show(opened);
  const { model, parameters, history, summary } = opened;
  const result = summary?.test_accuracy ? `, test accuracy ${percent(summary.test_accuracy, 2)}` : "";
  say(`open: ${model}, ${grouped(parameters)} parameters${history.length ? `, ${counted(history.length, "epoch")}` : ""}${result}`);
  $("#test-run").hidden = false;
  await showResult();
}

async function test() {
  await needData();
  await openDevice($("#device-choice").value);
  const { accuracy, loss, ...described } = await call.evaluate();
  show({ ...described, accuracy });
  say(`test accuracy ${percent(accuracy, 2)}, loss ${loss.toFixed(4)}`);
  await showResult();
}

// All files below what was dropped, with their paths.
async function filesIn(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    file.path = path + file.name;
    return [file];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) break;
    for (const inside of some) found.push(...(await filesIn(inside, `${path}${entry.name}/`)));
  }
  return found;
}

async function take(files) {
  if (files.length === 0 || (await takeFiles(files))) return;
  const [first] = files;
  if (files.length === 1 && first.type.startsWith("image/")) {
    document.querySelector("#photo").scrollIntoView();
    await classify(await bytesOf(first), first.name);
  } else {
    document.querySelector("#runs").scrollIntoView();
    await open(files);
  }
}

function startDrop() {
  const dropping = (is) => document.body.classList.toggle("dropping", is);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    dropping(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) dropping(false); });
  document.addEventListener("drop", attempt(async (event) => {
    event.preventDefault();
    dropping(false);
    // Before anything is awaited: then the list is empty.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const files = [];
    for (const entry of entries) files.push(...(await filesIn(entry)));
    await take(files);
  }));
}

// The runs of the computer, if `fmnist-gpu web` serves the page.
async function startOwnRuns() {
  const { runs } = document.body.dataset;
  if (!runs) return;
  const names = await (await fetch(runs)).json();
  $("#own-runs").hidden = names.length === 0;
  $("#own-run").replaceChildren(...names.map((name) => new Option(name, name)));
  $("#own-runs").addEventListener("submit", attempt(async (event) => {
    event.preventDefault();
    const name = $("#own-run").value;
    const response = await fetch(`runs/${encodeURIComponent(name)}.zip`);
    if (!response.ok) throw new Error(`the run ${name} cannot be read: status ${response.status}`);
    await open([new File([await response.blob()], `${name}.zip`)]);
  }));
}

export function startRuns() {
  startOwnRuns().catch((error) => say(error.message));
  const name = () => (run ? `${run.model}-seed-${run.config?.seed ?? 0}` : "tiny");
  $("#save-zip").addEventListener("click", attempt(async () => save(await call.zip(name()), `${name()}.zip`, "application/zip")));
  $("#save-weights").addEventListener("click", attempt(async () => save(await call.safetensors(), "model.safetensors")));
  $("#save-onnx").addEventListener("click", attempt(async () => save(await call.onnx(), `${name()}.onnx`)));
  $("#save-report").addEventListener("click", attempt(async () => {
    const page = await call.file("report.html");
    if (!page) throw new Error("there is no report yet; train a network, or test the run that you opened");
    save(page, "report.html", "text/html");
  }));
  $("#run-files").addEventListener("change", attempt(async (event) => open([...event.target.files])));
  $("#test-run").addEventListener("click", attempt(test));
  on("evaluating", ({ images }) => say(`${counted(images, "image")} tested`));
  startDrop();
}
