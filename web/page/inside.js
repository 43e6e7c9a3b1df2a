// The chapter on what is inside the network: filters, and what each layer makes of a test image.
import { call } from "./calls.js";
import { $, figure, percent } from "./dom.js";
import { data, needData, onData } from "./data.js";

let wanted = 0;

// Draws them for the network that is shown now.
export async function showInside() {
  const { model, history } = await call.describe();
  $("#inside-model").textContent = history.length ? `Now: ${model}, after epoch ${history.length}.` : `Now: ${model}, which comes with the page.`;
  const filters = await call.filters();
  replace($("#filters"), filters ? [filters] : []);
  if (data) await showMaps();
}

async function showMaps() {
  const turn = ++wanted;
  const input = $("#inside-index");
  input.max = data.test_images - 1;
  const index = Math.min(Math.max(0, Number(input.value) || 0), data.test_images - 1);
  const [maps, probabilities] = [await call.maps(index), await call.predictTest(index)];
  if (turn !== wanted) return;
  replace($("#maps"), maps);
  const best = probabilities.indexOf(Math.max(...probabilities));
  const { class_names: names, test_labels: labels } = data;
  $("#inside-guess").textContent = `${names[best]} ${percent(probabilities[best], 0)} (it is: ${names[labels[index]]})`;
}

// Puts figures in the place of those that are there.
function replace(place, figures) {
  place.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  place.replaceChildren(...figures.map(figure));
}

export async function startInside() {
  $("#inside-index").addEventListener("input", async () => {
    await needData();
    await showMaps();
  });
  onData(() => showInside().catch(() => {})); // Shown again by the next epoch or run.
  await showInside();
}
