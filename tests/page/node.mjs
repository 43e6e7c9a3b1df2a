// Trains as `the_cnn_trains_on_the_cpu_with_the_same_bits_in_every_browser` does, in Node, and prints the SHA-256 of the weights:
//
//     node tests/page/node.mjs web/dist TRAIN TEST
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, train, test] = process.argv.slice(2);
const library = await import(pathToFileURL(resolve(folder, "fmnist_gpu_web.js")));
await library.default({ module_or_path: readFileSync(resolve(folder, "fmnist_gpu_web_bg.wasm")) });
const computer = library.Computer.cpu("Node");
const data = library.Data.generated(Number(train), Number(test), 0);
const request = { model: "cnn", settings: { epochs: 2, train_limit: Number(train) }, test_limit: Number(test) };
const network = await library.train(computer, data, JSON.stringify(request), () => {});
console.log(createHash("sha256").update(network.safetensors()).digest("hex"));
