// The convolution laboratory: an image, a filter with numbers to edit, the result, and one sum of it.
import { call } from "./calls.js";
import { $, bytesOf, drawGrey, sentence } from "./dom.js";
import { data, onData } from "./data.js";

// The image: its values, its columns, whether 255 is ink. Drawn here until there are better ones.
let image = drawnShirt();
let isInk = true;
let result = null;
let turn = 0;

function drawnShirt() {
  const canvas = new OffscreenCanvas(28, 28);
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, 28, 28);
  context.fillStyle = "#bbb";
  context.fill(new Path2D("M10 4 3 7l2 6 3-1v13h12V12l3 1 2-6-7-3c-1 3-7 3-8 0z"));
  context.fillStyle = "#eee";
  for (let row = 14; row < 25; row += 4) context.fillRect(8, row, 12, 1);
  const { data: rgba } = context.getImageData(0, 0, 28, 28);
  return { values: Float32Array.from({ length: 784 }, (_, i) => rgba[4 * i]), columns: 28 };
}

const numbers = () => [...$("#lab-numbers").children].map((input) => Number(input.value));

function showFilter(weights) {
  [...$("#lab-numbers").children].forEach((input, i) => { input.value = Number(weights[i].toFixed(4)); });
}

// Computes and draws the result; of several calls, the last one counts.
async function compute() {
  const now = ++turn;
  const { values, columns } = image;
  const filter = numbers();
  const text = [0, 3, 6].map((row) => filter.slice(row, row + 3).join(" ")).join("\n");
  const stride = Number($("#lab-stride").value);
  const padding = $("#lab-padding").value;
  const pooling = $("#lab-pool").value;
  try {
    const convolved = await call.convolve(values, columns, text, stride, padding);
    const pooled = pooling && (await call.pool(Float32Array.from(convolved.grey), convolved.size[1], 2, 2, pooling === "average"));
    if (now !== turn) return;
    result = { ...convolved, filter, stride, pooled };
    draw();
  } catch (error) {
    if (now === turn) $("#lab-sum").textContent = sentence(error.message);
  }
}

function draw() {
  const { values, columns } = image;
  drawGrey($("#lab-before"), values, columns, isInk);
  $("#lab-before-caption").textContent = `Image: ${columns} × ${values.length / columns}`;
  const { grey, size, shown, pooled } = result;
  const last = pooled || result;
  drawGrey($("#lab-after"), pooled ? pooled.grey : grey, last.size[1], isInk);
  const how = shown === "clamped" ? "from 0 to 255" : "absolute values, the largest in full";
  $("#lab-after-caption").textContent = `Result: ${size[1]} × ${size[0]}, ${how}${pooled ? `, then pooled: ${pooled.size[1]} × ${pooled.size[0]}` : ""}`;
}

// Writes out one sum of the result, and marks the pixels that it reads.
function explain(row, column) {
  if (!result) return;
  const { size: [rows, columns], padding: [top, left], filter, stride, values } = result;
  if (row < 0 || column < 0 || row >= rows || column >= columns) return;
  const height = image.values.length / image.columns;
  const terms = filter.map((weight, i) => {
    const [y, x] = [row * stride + Math.floor(i / 3) - top, column * stride + (i % 3) - left];
    const isInside = y >= 0 && x >= 0 && y < height && x < image.columns;
    return `${isInside ? Math.round(image.values[y * image.columns + x]) : 0}·${Number(weight.toFixed(3))}`;
  });
  $("#lab-sum").textContent = `Row ${row + 1}, column ${column + 1}: ${terms.join(" + ")} = ${values[row * columns + column].toFixed(2)}`;
  const canvas = $("#lab-before");
  const scale = drawGrey(canvas, image.values, image.columns, isInk);
  const context = canvas.getContext("2d");
  context.strokeStyle = "#c85000";
  context.lineWidth = 2;
  context.strokeRect((column * stride - left) * scale, (row * stride - top) * scale, 3 * scale, 3 * scale);
}

function startSums() {
  const [before, after] = [$("#lab-before"), $("#lab-after")];
  let at = [0, 0];
  after.addEventListener("pointermove", (event) => {
    if (!result || result.pooled) return;
    const box = after.getBoundingClientRect();
    const [rows, columns] = result.size;
    const scale = Math.min(after.width / columns, after.height / rows) * (box.width / after.width);
    at = [Math.floor((event.clientY - box.top) / scale), Math.floor((event.clientX - box.left) / scale)];
    explain(...at);
  });
  before.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !result) return;
    event.preventDefault();
    at = at.map((place, axis) => Math.min(Math.max(0, place + step[axis]), result.size[axis] - 1));
    explain(...at);
  });
}

async function showTestImages() {
  const select = $("#lab-image");
  select.replaceChildren(new Option("a drawn shirt", ""), ...data.class_names.map((name, i) => {
    const index = data.test_labels.indexOf(i);
    return new Option(`test image ${index}: ${name}`, index);
  }));
}

export async function startLaboratory() {
  const filters = new Map(await call.namedFilters());
  const choice = $("#lab-filter");
  choice.replaceChildren(...[...filters.keys()].map((name) => new Option(name, name)), new Option("your own", ""));
  choice.value = "sobel-x";
  $("#lab-numbers").replaceChildren(...Array.from({ length: 9 }, (_, i) => {
    const input = document.createElement("input");
    Object.assign(input, { type: "number", step: "any" });
    input.setAttribute("aria-label", `row ${Math.floor(i / 3) + 1}, column ${(i % 3) + 1}`);
    return input;
  }));
  showFilter(filters.get("sobel-x"));
  $("#lab-image").replaceChildren(new Option("a drawn shirt", ""));
  choice.addEventListener("change", () => {
    if (choice.value) showFilter(filters.get(choice.value));
    compute();
  });
  $("#lab-numbers").addEventListener("input", () => {
    choice.value = "";
    compute();
  });
  for (const id of ["#lab-stride", "#lab-padding", "#lab-pool"]) $(id).addEventListener("input", compute);
  $("#lab-image").addEventListener("change", async (event) => {
    const index = event.target.value;
    image = index === "" ? drawnShirt() : { values: Float32Array.from(await call.testImage(Number(index))), columns: 28 };
    isInk = true;
    await compute();
  });
  $("#lab-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      image = await call.greyPhoto(await bytesOf(file), file.name, 280);
      isInk = false;
      await compute();
    } catch (error) {
      $("#lab-sum").textContent = sentence(error.message);
    }
  });
  $("#lab").addEventListener("submit", (event) => event.preventDefault());
  startSums();
  onData(showTestImages);
  await compute();
}
