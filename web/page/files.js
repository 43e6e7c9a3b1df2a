// The data set, in the worker: from beside the page, from GitHub, or from files that the visitor has; else a generated one.
const CACHE = "fmnist-data-1";
const GITHUB = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/";

async function read(response, name, onProgress) {
  const total = Number(response.headers.get("content-length")) || 0;
  const parts = [];
  let size = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    size += value.length;
    onProgress({ name, size, total });
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const here = (name) => new URL(`./data/${name}`, import.meta.url).href;

async function get(url, name, onProgress) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`status ${response.status}`);
  return read(response, name, onProgress);
}

// Where the files may be, in the order in which they are looked for. Nothing is trusted before its SHA-256 was compared.
function sources(kept, onProgress) {
  return [
    ["kept by this browser", async (name) => {
      const known = kept && (await kept.match(here(name)));
      if (!known) throw new Error("nothing is kept yet");
      return new Uint8Array(await known.arrayBuffer());
    }],
    ["from beside this page", (name) => get(here(name), name, onProgress)],
    ["from GitHub", (name) => get(GITHUB + name, name, onProgress)],
  ];
}

async function download(Data, names, keeps, onProgress) {
  // Private windows may keep nothing.
  const kept = keeps && await self.caches?.open(CACHE).catch(() => null);
  let reason = "";
  for (const [origin, bytesOf] of sources(kept, onProgress)) {
    try {
      const files = [];
      for (const name of names) files.push(await bytesOf(`${name}.gz`));
      onProgress({ name: "checking", size: 0, total: 0 });
      const data = Data.read(files, origin);
      // No room is no reason to stop.
      await Promise.all(names.map((name, i) => kept && kept.put(here(`${name}.gz`), new Response(files[i])))).catch(() => {});
      return data;
    } catch (error) {
      reason += `${reason && "; "}${origin}: ${error.message}`;
    }
  }
  throw new Error(reason);
}

// Puts the visitor's files in order, by their names.
function dropped(Data, names, files) {
  const found = names.map((name) => files.find((file) => file.name === name || file.name === `${name}.gz`));
  const missing = names.filter((_, i) => !found[i]);
  if (missing.length > 0) throw new Error(`${missing.join(", ")} not among the files; all four belong together (with or without .gz)`);
  return Data.read(found.map((file) => file.bytes), "your files");
}

// `request` has `dataset` (auto, fashion-mnist or synthetic), the number of generated images `train` and `test`, whether
// the browser `keeps` what was downloaded, and `files` of the visitor.
export async function loadData(Data, { dataset, train, test, keeps, files }, onProgress) {
  const names = JSON.parse(Data.file_names());
  const remarks = [];
  if (files) return { data: dropped(Data, names, files), remarks };
  if (dataset !== "synthetic") {
    try {
      return { data: await download(Data, names, keeps, onProgress), remarks };
    } catch (error) {
      if (dataset === "fashion-mnist") throw error;
      remarks.push(`Fashion-MNIST is not available: ${error.message}. Generated images take its place; they are as hard to classify.`);
    }
  }
  onProgress({ name: "generating", size: 0, total: 0 });
  return { data: Data.generated(train, test, 0), remarks };
}
