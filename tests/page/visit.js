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

