// The chapter on the self-test and the speed.
import { call, on } from "./calls.js";
import { $, copied, grouped, sentence } from "./dom.js";
import { openDevice } from "./device.js";

// Runs the self-test; resolves to what `fmnist-gpu selftest --json` prints.
export async function selftest() {
  await openDevice($("#device-choice").value);
  return JSON.parse(await call.selftest(0));
}

let report = null;

async function prove() {
  const [button, status, place] = [$("#prove"), $("#proof-status"), $("#proof-table")];
  button.disabled = true;
  try {
    report = await selftest();
    const verdicts = [...report.kernels, ...report.gradients];
    const failed = verdicts.filter((verdict) => !passed(verdict)).length;
    const outcome = report.passed ? `All ${verdicts.length} passed` : `${failed} of ${verdicts.length} failed`;
    status.textContent = `${outcome} on ${report.device}, in ${report.seconds.toFixed(1)} s.`;
    place.replaceChildren(table("Kernel or loop, against plain loops in double precision", report.kernels), table("Gradient, against finite differences", report.gradients));
    place.hidden = false;
    $("#copy-proof").hidden = false;
  } catch (error) {
    status.textContent = sentence(error.message);
  } finally {
    button.disabled = false;
  }
}

const passed = ({ comparisons, failures }) => comparisons > 0 && failures.length === 0;

function heading(row, text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  row.append(cell);
}

function fillHead(table, names) {
  const row = table.createTHead().insertRow();
  names.forEach((name) => heading(row, name, "col"));
}

function table(title, verdicts) {
  const element = document.createElement("table");
  element.createCaption().textContent = title;
  fillHead(element, ["Name", "Numbers compared", "Largest error / bound", "Verdict"]);
  const body = element.createTBody();
  for (const verdict of verdicts) {
    const row = body.insertRow();
    heading(row, verdict.kernel, "row");
    row.insertCell().textContent = verdict.elements.toLocaleString("en");
    row.insertCell().textContent = verdict.worst_ratio === null ? "not a number" : verdict.worst_ratio.toFixed(4);
    const cell = row.insertCell();
    cell.textContent = passed(verdict) ? "passed" : `failed: ${verdict.failures[0] ?? "nothing was compared"}`;
    if (!passed(verdict)) cell.className = "failed";
  }
  return element;
}

let speeds = null;

// Measures the speed of this browser on this device.
export async function speed(request = { models: ["mlp", "cnn"], batches: [32, 256], windows: 3, seconds: 1 }) {
  const { name, backend } = await openDevice($("#device-choice").value);
  return { device: name, backend, browser: navigator.userAgent, images_per_second: await call.measure(request) };
}

function showSpeeds(rows) {
  const element = document.createElement("table");
  element.createCaption().textContent = "Images per second, the best of three windows";
  fillHead(element, ["Model", "What", "Images per step", "Images/s"]);
  const body = element.createTBody();
  for (const { model, what, batch, best } of rows) {
    const row = body.insertRow();
    heading(row, model, "row");
    for (const text of [what, batch.toLocaleString("en"), grouped(best)]) row.insertCell().textContent = text;
  }
  $("#speed-table").replaceChildren(element);
  $("#speed-table").hidden = false;
}

async function measure() {
  const [button, status] = [$("#measure"), $("#speed-status")];
  button.disabled = true;
  status.textContent = "Measuring, for some twenty seconds…";
  try {
    speeds = await speed();
    status.textContent = `On ${speeds.device}.`;
    $("#copy-speeds").hidden = false;
  } catch (error) {
    status.textContent = sentence(error.message);
  } finally {
    button.disabled = false;
  }
}

export function startProof() {
  on("measured", showSpeeds);
  $("#measure").addEventListener("click", measure);
  $("#copy-speeds").addEventListener("click", (event) => copied(event.target, JSON.stringify(speeds, null, 2)));
  on("proving", ({ what }) => { $("#proof-status").textContent = `Testing ${what}…`; });
  $("#prove").addEventListener("click", prove);
  $("#copy-proof").addEventListener("click", (event) => copied(event.target, JSON.stringify({ browser: navigator.userAgent, ...report }, null, 2)));
}
