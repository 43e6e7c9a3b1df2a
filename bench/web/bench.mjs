// Measures the page beside TensorFlow.js and jax-js on the article's two models, and prints a table: images per second, best and median of all
// windows. Each measurement has a Chromium of its own; the rounds follow each other, so that all see the same state of the machine.
//
//   sh web/build.sh
//   cd bench/web && npm install && node bench.mjs [--only REGEX] [--rounds 2] [--windows 3] [--seconds 2] [--hardware] [--chromium PATH]
//
// --only selects rows by their text, such as "cnn training 32 page gpu". WebGPU is SwiftShader, a GPU in software, unless --hardware is given.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: flags } = parseArgs({
    options: {
        only: { type: "string", default: "" },
        rounds: { type: "string", default: "2" },
        windows: { type: "string", default: "3" },
        seconds: { type: "string", default: "2" },
        hardware: { type: "boolean", default: false },
        chromium: { type: "string", default: "/usr/bin/chromium" },
    },
});
const [rounds, windows, seconds] = [flags.rounds, flags.windows, flags.seconds].map(Number);

// Model, what, batch, and who: the page on a device, or a peer on a backend.
const ROWS = ["mlp", "cnn"].flatMap((model) => [
    ...["page cpu", "tensorflow wasm", "jax wasm", "page gpu", "tensorflow webgpu", "jax webgpu"].map((who) => [model, "training", 32, who]),
    // The page takes larger batches for inference by itself.
    ...["page cpu", "page gpu"].map((who) => [model, "inference", 2048, who]),
    ...["tensorflow wasm", "jax wasm", "tensorflow webgpu", "jax webgpu"].map((who) => [model, "inference", 256, who]),
]);

const PAGE = join(import.meta.dirname, "../../web/dist");
const TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
};
const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const file = path.startsWith("/page/") ? join(PAGE, path.slice(5)) : join(import.meta.dirname, path);
    try {
        const content = await readFile(file.endsWith("/") ? join(file, "index.html") : file);
        response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "text/html" }).end(content);
    } catch {
        response.writeHead(404).end();
    }
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const address = `http://127.0.0.1:${server.address().port}`;

const WEBGPU = ["--enable-unsafe-webgpu", "--enable-features=Vulkan"];
if (!flags.hardware) WEBGPU.push("--use-webgpu-adapter=swiftshader");

async function measure([model, what, batch, who]) {
    const [peer, backend] = who.split(" ");
    const args = ["--no-sandbox", ...(backend.endsWith("gpu") ? WEBGPU : [])];
    const browser = await chromium.launch({ executablePath: flags.chromium, args });
    try {
        const page = await browser.newPage();
        page.setDefaultTimeout(300_000);
        if (peer === "page") {
            await page.goto(`${address}/page/?device=${backend}`);
            await page.waitForFunction(() => globalThis.fmnist?.speed);
            const request = { models: [model], batches: [32], windows, seconds };
            const result = await page.evaluate((request) => fmnist.speed(request), request);
            const found = result.images_per_second.find((row) => row.what === what && row.batch === batch);
            return [found.best, found.median];
        }
        await page.goto(`${address}/peers.html`);
        await page.waitForFunction(() => globalThis.measure);
        return await page.evaluate((task) => measure(task), { peer, backend, model, what, batch, windows, seconds });
    } finally {
        await browser.close();
    }
}

const rows = ROWS.filter((row) => new RegExp(flags.only).test(row.join(" ")));
const found = new Map(rows.map((row) => [row, []]));
for (let round = 0; round < rounds; round++) {
    for (const row of rows) {
        try {
            found.get(row).push(...(await measure(row)));
        } catch (error) {
            found.set(row, String(error.message).split("\n")[0]);
        }
        console.error(row.join(" "), found.get(row));
    }
}
server.close();

const count = (value) => value.toLocaleString("en-US", { maximumFractionDigits: value < 100 ? 1 : 0 });
console.log("| model | | batch | who | best | median |\n|---|---|---|---|---|---|");
for (const [row, speeds] of found) {
    const sorted = Array.isArray(speeds) ? [...speeds].sort((a, b) => a - b) : [];
    const cells = sorted.length > 0 ? [sorted.at(-1), sorted[(sorted.length - 1) >> 1]].map(count) : ["failed", speeds];
    console.log(`| ${[...row, ...cells].join(" | ")} |`);
}
