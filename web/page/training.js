// The chapters on training and its result.
import { call, on } from "./calls.js";
import { $, complain, copied, counted, duration, grouped, percent, setState, showPng } from "./dom.js";
import { needData } from "./data.js";
import { forgetDevice, openDevice } from "./device.js";
import { link, trainingSettings } from "./settings.js";
import { showInside } from "./inside.js";

// The run that is shown: what describes it, or null.
export let run = null;
const decoder = new TextDecoder();
let isTraining = false;

export const isBusy = () => isTraining;

function buttons({ training, paused = false }) {
  isTraining = training;
  $("#start").disabled = training;
  $("#pause").hidden = !training || paused;
  $("#continue").hidden = !training || !paused;
  $("#stop").hidden = !training;
  $("#device-choice").disabled = training; // It must not be opened anew meanwhile.
  $("#resume").hidden = training || !run?.can_resume;
  if (run?.can_resume) {
    const done = run.history.length;
    const isDone = done >= run.config.epochs;
    $("#resume").textContent = isDone ? `Train further after epoch ${done}` : `Resume after epoch ${done} of ${run.config.epochs}`;
  }
}

async function request(resumes) {
  const wanted = { ...trainingSettings(), model: $("#model").value };
  if (wanted.model === "own") wanted.model = $("#model-text").value;
  if (resumes) {
    const done = run.history.length;
    const more = Number($("#epochs").value) || 1;
    wanted.settings = { epochs: done >= run.config.epochs ? done + more : run.config.epochs };
  }
  return wanted;
}

// The data set of a training. Of generated images, only as many are needed as it uses.
function imagesOf({ settings, test_limit: test }, resumes) {
  const train = resumes ? run.config.train_images + run.config.validation_images : settings.train_limit;
  return { ...(resumes && { dataset: run.config.dataset }), ...(train && { train }), ...(test && { test }) };
}

async function train(resumes) {
  $("#error").hidden = true;
  $("#live").hidden = false;
  buttons({ training: true });
  setState("loading");
  window.fmnist.summary = null;
  const status = $("#live-status");
  try {
    const wanted = await request(resumes);
    status.textContent = "Loading the data…";
    await needData(imagesOf(wanted, resumes));
    await openDevice($("#device-choice").value);
    status.textContent = "Preparing the kernels…";
    setState("training");
    show(await call.train(wanted, resumes));
    await showResult();
    setState("done");
  } catch (error) {
    if (/lost/i.test(error.message)) forgetDevice();
    await call.describe().then((left) => { if (left.history.length > 0) run = left; }, () => {});
    const left = run?.history.length ? ` What was learned up to epoch ${run.history.length} is kept.` : "";
    complain(new Error(`${error.message.replace(/\.$/, "")}.${left}`));
    status.textContent = "";
  } finally {
    buttons({ training: false });
  }
}

// Takes over a run, trained here or opened.
export function show(described) {
  run = described;
  buttons({ training: false });
}

// Shows what came out, of the network that the worker has.
export async function showResult() {
  const { summary, remark, model, parameters, files } = run;
  const interrupted = summary?.status === "interrupted";
  $("#remark").hidden = !remark;
  $("#remark").textContent = remark ?? "";
  window.fmnist.summary = summary;
  const status = $("#live-status");
  if (summary) {
    status.textContent = interrupted
      ? `Stopped after ${summary.epochs_completed} of ${summary.epochs} epochs.`
      : `${counted(summary.epochs_completed, "epoch")} in ${duration(summary.train_seconds)}, ${grouped(summary.images_per_second)} images/s.`;
  }
  $("#progress").value = interrupted ? $("#progress").value : 1;
  await showInside();
  if (!files.includes("confusion.svg")) return;
  const accuracy = summary?.test_accuracy ?? run.accuracy;
  $("#verdict").textContent = `${model}, ${grouped(parameters)} parameters: accuracy ${percent(accuracy, 2)} on the test images.`;
  showPng($("#predictions"), await call.predictions(), "25 test images with predicted and original classes");
  $("#confusion").innerHTML = decoder.decode(await call.file("confusion.svg"));
  $("#mistakes-block").hidden = !files.includes("mistakes.png");
  if (files.includes("mistakes.png")) showPng($("#mistakes"), await call.file("mistakes.png"));
  $("#result-none").hidden = true;
  $("#result-body").hidden = false;
}

function draw([loss, accuracy]) {
  $("#loss").innerHTML = loss;
  $("#accuracy").innerHTML = accuracy;
}

function onProgress({ epoch, epochs, images: [done, all], loss, accuracy, images_per_second, seconds_left, curves }) {
  $("#progress").value = (epoch - 1 + done / all) / epochs;
  const speed = images_per_second ? `, ${grouped(images_per_second)} images/s, ${duration(seconds_left)} left` : "";
  $("#live-status").textContent = `Epoch ${epoch} of ${epochs}, ${grouped(done)} of ${grouped(all)} images: loss ${loss.toFixed(4)}, accuracy ${percent(accuracy)}${speed}`;
  if (curves) draw(curves);
}

function onEpoch({ epoch, epochs, curves }) {
  $("#progress").value = epoch / epochs;
  draw(curves);
  showInside().catch(() => {}); // The network of this epoch may be gone already.
}

// The text of the chosen model, and whether it is one.
async function showModel() {
  const name = $("#model").value;
  if (name === "own") {
    $("#model-details").open = true;
  } else {
    $("#model-text").value = await call.modelText(name);
  }
  await checkModel();
}

let checks = 0;
async function checkModel() {
  const check = ++checks;
  const place = $("#model-check");
  try {
    const layers = await call.checkModel($("#model-text").value);
    if (check !== checks) return;
    place.textContent = layers;
    place.className = "";
  } catch (error) {
    if (check !== checks) return;
    place.textContent = error.message;
    place.className = "wrong";
  }
}

export function startTraining() {
  on("progress", onProgress);
  on("epoch", onEpoch);
  on("testing", () => {
    setState("testing");
    $("#live-status").textContent = "Testing…";
  });
  $("#train-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!isTraining) train(false);
  });
  $("#resume").addEventListener("click", () => train(true));
  $("#pause").addEventListener("click", async () => {
    await call.pause();
    buttons({ training: true, paused: true });
    $("#live-status").textContent += " (paused)";
  });
  $("#continue").addEventListener("click", async () => {
    await call.endPause();
    buttons({ training: true });
  });
  $("#stop").addEventListener("click", () => {
    call.stop();
    $("#live-status").textContent = "Stopping…";
  });
  $("#copy-link").addEventListener("click", (event) => copied(event.target, link()));
  $("#model").addEventListener("change", showModel);
  $("#model-text").addEventListener("input", () => {
    $("#model").value = "own";
    checkModel();
  });
  $("#device-choice").addEventListener("change", () => {
    if (!isTraining) openDevice($("#device-choice").value).catch(complain);
  });
  showModel().catch(complain);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && isTraining) $("#live-status").textContent += " (browsers slow down pages in the background)";
  });
}
