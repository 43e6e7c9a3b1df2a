// The chapter on the data.
import { call, on } from "./calls.js";
import { $, bytesOf, grouped, sentence, showPng } from "./dom.js";

const GENERATED = { train: 60_000, test: 10_000 };

let loading = null;
export let data = null;
const listeners = [];

// Calls `listener` whenever there is another data set.
export const onData = (listener) => listeners.push(listener);

// Loads the data set that the form names, unless it is there; `least` are the images that are needed if they must be generated.
export async function needData(least = {}) {
  const wanted = { keeps: !document.body.dataset.runs, dataset: $("#dataset").value, ...GENERATED, ...least };
  const isThere = data && (data.isOwn || (loading?.dataset === wanted.dataset && (data.dataset !== "synthetic" || data.train_images >= wanted.train)));
  if (!isThere) await load(wanted);
  return data;
}

async function load(request) {
  const button = $("#load-data");
  button.disabled = true;
  loading = request;
  try {
    data = { ...(await call.loadData(request)), isOwn: Boolean(request.files) };
  } finally {
    button.disabled = false;
  }
  const { dataset, source, train_images, test_images, remarks, samples } = data;
  const kind = dataset === "synthetic" ? `Images ${source}` : `Fashion-MNIST, ${source}; SHA-256 as expected`;
  $("#data-status").textContent = [`${kind}: ${grouped(train_images)} for training, ${grouped(test_images)} for the test.`, ...remarks.map(sentence)].join(" ");
  const figure = $("#samples");
  showPng(figure.querySelector("img"), samples);
  figure.hidden = false;
  listeners.forEach((listener) => listener(data));
}

// Takes files of the visitor, if they are those of the data set. Returns whether they are.
export async function takeFiles(files) {
  if (!files.some((file) => /idx[13]-ubyte(\.gz)?$/.test(file.name))) return false;
  const read = await Promise.all(files.map(async (file) => ({ name: file.name, bytes: await bytesOf(file) })));
  await load({ dataset: "fashion-mnist", ...GENERATED, files: read });
  return true;
}

const failed = (error) => { $("#data-status").textContent = sentence(error.message); };

export function startData() {
  on("loading", ({ name, size, total }) => {
    const known = { checking: "Comparing SHA-256…", generating: "Generating images…" };
    $("#data-status").textContent = known[name] ?? `Downloading ${name}: ${(size / 1e6).toFixed(1)}${total ? ` of ${(total / 1e6).toFixed(1)}` : ""} MB`;
  });
  $("#data-form").addEventListener("submit", (event) => {
    event.preventDefault();
    data = null;
    needData().catch(failed);
  });
  $("#data-files").addEventListener("change", async (event) => {
    try {
      if (!(await takeFiles([...event.target.files]))) failed(new Error("these are not files of the data set, such as train-images-idx3-ubyte.gz"));
    } catch (error) {
      failed(error);
    }
  });
}
