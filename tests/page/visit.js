// The beginning of every script of the tests of the page (`tests/support/visit.rs`). The script defines `scenario`; what that returns is
// reported, with everything that the page complained about.
const complaints = [];
for (const kind of ["error", "warn"]) {
  console[kind] = (...words) => complaints.push(`${kind}: ${words.join(" ")}`);
}
addEventListener("error", (event) => complaints.push(`error: ${event.message}`));
addEventListener("unhandledrejection", (event) => complaints.push(`rejected: ${event.reason?.message ?? event.reason}`));
document.addEventListener("securitypolicyviolation", (event) => complaints.push(`outside: ${event.blockedURI} by ${event.violatedDirective}`));

const $ = (selector) => document.querySelector(selector);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits until a condition holds.
async function until(condition) {
  for (;;) {
    const value = await condition();
    if (value) return value;
    await sleep(20);
  }
}

// Waits for the end of a training; fails with the page's error.
async function finished() {
  await until(() => ["done", "error"].includes(document.body.dataset.state));
  if (document.body.dataset.state === "error") throw new Error($("#error").textContent);
  return window.fmnist.summary;
}

const page = () => import("./calls.js");

async function base64(bytes) {
  const reader = new FileReader();
  reader.readAsDataURL(new Blob([bytes]));
  await until(() => reader.readyState === FileReader.DONE);
  return reader.result.split(",")[1];
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Puts text into a field, as a visitor does.
function enter(selector, value) {
  const field = $(selector);
  field.focus();
  field.value = value;
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
}

// The bytes of a PNG: dark trousers on a light background.
async function trousers() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 300, height: 400 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, 300, 400);
  context.fillStyle = "#333";
  context.fill(new Path2D("M90 40h120l20 330h-60l-20-220-20 220H70z"));
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new Uint8Array(await blob.arrayBuffer());
}

addEventListener("DOMContentLoaded", async () => {
  const report = { result: null, failure: null, complaints };
  try {
    report.result = await scenario();
    const outside = performance.getEntriesByType("resource").map((entry) => entry.name);
    complaints.push(...outside.filter((url) => !url.startsWith(location.origin) && !url.startsWith("blob:")));
  } catch (error) {
    report.failure = `${error?.message ?? error}\n${error?.stack ?? ""}`;
  }
  await fetch("report", { method: "POST", body: JSON.stringify(report) });
});

