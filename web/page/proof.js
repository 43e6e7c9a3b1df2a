// The chapter on the self-test.
import { call, on } from "./calls.js";
import { $, copied, sentence } from "./dom.js";
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

function table(title, verdicts) {
  const element = document.createElement("table");
  element.createCaption().textContent = title;
  const head = element.createTHead().insertRow();
  for (const name of ["Name", "Numbers compared", "Largest error / bound", "Verdict"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = element.createTBody();
  for (const verdict of verdicts) {
    const row = body.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = verdict.kernel;
    row.append(name);
    row.insertCell().textContent = verdict.elements.toLocaleString("en");
    row.insertCell().textContent = verdict.worst_ratio === null ? "not a number" : verdict.worst_ratio.toFixed(4);
    const cell = row.insertCell();
    cell.textContent = passed(verdict) ? "passed" : `failed: ${verdict.failures[0] ?? "nothing was compared"}`;
    if (!passed(verdict)) cell.className = "failed";
  }
  return element;
}

export function startProof() {
  on("proving", ({ what }) => { $("#proof-status").textContent = `Testing ${what}…`; });
  $("#prove").addEventListener("click", prove);
  $("#copy-proof").addEventListener("click", (event) => copied(event.target, JSON.stringify({ browser: navigator.userAgent, ...report }, null, 2)));
}
