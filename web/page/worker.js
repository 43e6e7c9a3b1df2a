// The worker: holds the library and whatever it computes, so that the page never blocks. The page calls the functions of `commands` by their
// names (see calls.js), and is sent an `event` whenever a training or a test has come further.
import load, * as library from "./fmnist_gpu_web.js";
import { loadData } from "./files.js";
import { decoded } from "./sources.js";

const ready = load({ module_or_path: new URL("./fmnist_gpu_web_bg.wasm", import.meta.url) });

// What the commands work with: a device, a data set, the network that the page shows, and the one that is being trained.
let computer = null;
let data = null;
let network = null;
let live = null;
let isTraining = false;

const send = (event, detail) => self.postMessage({ event, detail });

// Lets the worker read its messages: a message to itself comes after those that wait, and without the delay of a timer.
const channel = new MessageChannel();
const breathing = []; // A training and a self-test may wait at once.
channel.port1.onmessage = () => breathing.shift()();
const breathe = () => new Promise((resolve) => { breathing.push(resolve); channel.port2.postMessage(0); });

const decoder = new TextDecoder();

let paused = null;
const pauseEnds = () => (paused ? paused.promise : undefined);

// Firefox looks for finished work on the GPU ten times a second, and whenever something is submitted.
const isFirefox = /Firefox\//.test(navigator.userAgent);
async function nudging(work) {
  const timer = isFirefox && computer.isGpu() ? setInterval(() => computer.nudge(), 5) : 0;
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

function browser() {
  const known = [[/Edg\/(\d+)/, "Edge"], [/Firefox\/(\d+)/, "Firefox"], [/Chrome\/(\d+)/, "Chrome"], [/Version\/(\d+).*Safari/, "Safari"]];
  for (const [pattern, name] of known) {
    const found = navigator.userAgent.match(pattern);
    if (found) return `${name} ${found[1]}`;
  }
  return "this browser";
}

// The adapter that the browser would use, or why there is none.
async function findAdapter() {
  if (!self.isSecureContext) return { why: "WebGPU needs a secure page: one with https, or on localhost" };
  if (!navigator.gpu) return { why: `${browser()} has no WebGPU` };
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (!adapter) return { why: `${browser()} has WebGPU, but found no adapter for it` };
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info ?? {};
  const name = description || [vendor, architecture, device].filter(Boolean).join(" ") || "WebGPU adapter";
  const isSoftware = isFallbackAdapter || adapter.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(name);
  return { name, isSoftware };
}

async function openDevice(choice) {
  const adapter = choice === "cpu" ? { why: "as chosen" } : await findAdapter();
  if (choice === "gpu" && adapter.why) throw new Error(adapter.why);
  let why = adapter.why;
  if (adapter.name && adapter.isSoftware && choice !== "gpu") {
    why = `the only adapter, ${adapter.name}, computes in software`;
  }
  if (!why) {
    try {
      return { computer: await library.Computer.gpu(`${adapter.name}, ${browser()}`), why: choice === "gpu" ? "as chosen" : "WebGPU found it" };
    } catch (error) {
      if (choice === "gpu") throw error;
      why = `the adapter ${adapter.name} could not be opened: ${error.message}`;
    }
  }
  return { computer: library.Computer.cpu(`CPU, ${browser()}`), why };
}

// The network that is shown: the one in training, or the last result, or the one that comes with the page.
const shown = () => live ?? network;

async function needNetwork() {
  if (shown()) return;
  const response = await fetch(new URL("./tiny.safetensors", import.meta.url));
  if (!response.ok) throw new Error(`tiny.safetensors: status ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  network ??= library.Network.open(["tiny.safetensors"], [bytes]);
}

function figure(drawn) {
  return drawn && { title: drawn.title, description: drawn.description, png: drawn.png };
}

// Trains for some seconds.
function speedOf(images, model, batch_size, seconds) {
  const begin = performance.now();
  const onEvent = (kind, _, snapshot) => {
    snapshot?.free();
    if (kind === "progress" && performance.now() - begin > 1000 * seconds) library.stop();
    return breathe();
  };
  const request = { model, settings: { batch_size, epochs: 10_000 }, test_limit: 1 };
  return library.train(computer, images, JSON.stringify(request), onEvent);
}

const commands = {
  version: () => library.version(),

  async open(choice) {
    await ready;
    const before = computer;
    const opened = await openDevice(choice);
    computer = opened.computer;
    before?.close();
    return { ...JSON.parse(computer.describe()), why: opened.why };
  },

  async loadData(request) {
    await ready;
    const loaded = await loadData(library.Data, request, (detail) => send("loading", detail));
    data?.free();
    data = loaded.data;
    return { ...JSON.parse(data.describe()), remarks: loaded.remarks, samples: data.samples() };
  },

  modelText: async (name) => (await ready, library.model_text(name)),
  checkModel: async (text) => (await ready, library.check_model(text)),

  async train(request, resumes) {
    if (isTraining) throw new Error("something is trained or measured already; wait for it, or stop it");
    isTraining = true;
    paused = null;
    const onEvent = (kind, json, snapshot) => {
      if (snapshot) {
        live?.free();
        live = snapshot;
      }
      send(kind, JSON.parse(json));
      return breathe().then(pauseEnds);
    };
    try {
      const wanted = [computer, data, JSON.stringify(request), onEvent];
      const trained = await nudging(() => (resumes ? network.resume(...wanted) : library.train(...wanted)));
      network?.free();
      network = trained;
    } catch (error) {
      // What the last epoch left is not lost.
      if (live) {
        network?.free();
        network = live;
        live = null;
      }
      throw error;
    } finally {
      isTraining = false;
      live?.free();
      live = null;
    }
    return JSON.parse(network.describe());
  },

  pause() {
    if (paused) return;
    paused = {};
    paused.promise = new Promise((resolve) => { paused.end = resolve; });
  },
  endPause() {
    paused?.end();
    paused = null;
  },
  stop() {
    library.stop();
    commands.endPause();
  },

  async describe() {
    await needNetwork();
    return JSON.parse(shown().describe());
  },
  file: (name) => shown().file(name),
  predictions: () => shown().predictions(data),
  zip: (name) => shown().zip(name),
  safetensors: () => shown().safetensors(),
  onnx: () => shown().onnx(),

  filters: () => figure(shown().filters()),
  maps: (index) => shown().maps(data.test_image(index)).map(figure),

  async predictTest(index) {
    return nudging(() => shown().predict(computer, data.test_image(index)));
  },

  async predict(bytes, name, invert) {
    await needNetwork();
    const { data: rgba, width } = await decoded(bytes, name);
    const prepared = library.prepare_photo(rgba, width, invert);
    const image = prepared.image;
    const probabilities = await nudging(() => shown().predict(computer, image));
    const { model } = JSON.parse(shown().describe());
    const names = JSON.parse(library.class_names());
    return { image, probabilities, names, model, ...JSON.parse(prepared.description) };
  },

  async openRun(names, contents) {
    await ready;
    const opened = library.Network.open(names, contents);
    network?.free();
    network = opened;
    return JSON.parse(network.describe());
  },

  async evaluate() {
    const onProgress = (images) => send("evaluating", { images });
    const tested = shown();
    const probabilities = await nudging(() => tested.predict(computer, data.test_images(), onProgress));
    tested.report(data, probabilities);
    const { loss, accuracy } = JSON.parse(decoder.decode(tested.file("report.json")));
    return { loss, accuracy, ...JSON.parse(tested.describe()) };
  },

  async selftest(seed) {
    const onProgress = (what) => {
      send("proving", { what });
      return breathe();
    };
    return nudging(() => library.selftest(computer, seed, onProgress));
  },

  // Images per second of training and inference, on generated images: the best and the median of some windows of `seconds` each.
  async measure({ models, batches, windows, seconds }) {
    // Only one can be told to stop.
    if (isTraining) throw new Error("a training is running; wait for it, or stop it, before you measure");
    isTraining = true;
    const images = library.Data.generated(4096, 2048, 0);
    const rows = [];
    const note = (model, what, batch, rates) => {
      rates.sort((a, b) => a - b);
      rows.push({ model, what, batch, best: rates.at(-1), median: rates[rates.length >> 1] });
      send("measured", rows);
    };
    try {
      for (const model of models) {
        let trained = null;
        for (const batch of batches) {
          const rates = [];
          for (let window = 0; window < windows; window++) {
            trained?.free();
            trained = await nudging(() => speedOf(images, model, batch, seconds));
            rates.push(JSON.parse(trained.describe()).summary.images_per_second);
          }
          note(model, "training", batch, rates);
        }
        const [test, rates] = [images.test_images(), []];
        for (let window = 0; window < windows; window++) {
          let [done, begin] = [0, performance.now()];
          do {
            await nudging(() => trained.predict(computer, test));
            done += 2048;
          } while (performance.now() - begin < 1000 * seconds);
          rates.push((1000 * done) / (performance.now() - begin));
        }
        note(model, "inference", 2048, rates);
        trained.free();
      }
    } finally {
      isTraining = false;
      images.free();
    }
    return rows;
  },

  namedFilters: async () => (await ready, JSON.parse(library.named_filters())),
  testImage: (index) => data.test_image(index),
  async greyPhoto(bytes, name, side) {
    const { data: rgba, width } = await decoded(bytes, name);
    const [columns, ...values] = library.grey_photo(rgba, width, side);
    return { columns, values: Float32Array.from(values) };
  },
  async convolve(image, columns, filter, stride, padding) {
    return JSON.parse(await nudging(() => library.convolve(computer, image, columns, filter, stride, padding)));
  },
  pool: (image, columns, side, stride, average) => JSON.parse(library.pool(image, columns, side, stride, average)),
};

self.onmessage = async ({ data: { id, command, args } }) => {
  try {
    const result = await commands[command](...args);
    self.postMessage({ id, result });
  } catch (error) {
    // A trap leaves the module unusable. Phones give a page little memory, and nothing else is known to end like this.
    const isBroken = error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
    const said = isBroken ? "the computation broke down, probably because memory ran out; reload the page, and use fewer images or a smaller model" : error?.message;
    self.postMessage({ id, error: said ?? String(error) });
  }
};
