// The page: finds the device, wires the chapters, and tells tests how far it is (`document.body.dataset.state`, `window.fmnist`).
import { call, on } from "./calls.js";
import { complain } from "./dom.js";
import { startLaboratory } from "./laboratory.js";
import { startData } from "./data.js";
import { startTraining } from "./training.js";
import { startInside } from "./inside.js";
import { startPhoto } from "./photo.js";
import { selftest, speed, startProof } from "./proof.js";
import { startRuns } from "./runs.js";
import { readSettings } from "./settings.js";
import { openDevice } from "./device.js";

window.fmnist = { summary: null, selftest, speed };

on("failed", complain);

async function start() {
  const settings = readSettings();
  startTraining(settings);
  startData();
  startPhoto();
  startProof();
  startRuns();
  await openDevice(settings.device);
  document.querySelector("#version").textContent = `fmnist-gpu ${await call.version()}. MIT or Apache-2.0. The data set is MIT, Copyright (c) 2017 Zalando SE.`;
  await startLaboratory();
  await startInside();
  if (settings.start) document.querySelector("#train-form").requestSubmit();
}

start().catch(complain);

// Offline after the first visit. Where it is not possible, the page only needs the network again. `fmnist-gpu web` has another address at
// each start, for which nothing should be kept.
if (!document.body.dataset.runs && "serviceWorker" in navigator && window.isSecureContext) {
  navigator.serviceWorker.register(new URL("./sw.js", import.meta.url)).catch(() => {});
}
