// Small helpers for the chapters.
export const $ = (selector) => document.querySelector(selector);

// How far the page is: idle, loading, training, testing, done or error.
export function setState(state) {
  document.body.dataset.state = state;
}

// Shows an error where the visitor looks, and tells tests.
export function complain(error) {
  const place = $("#error");
  place.textContent = sentence(error.message ?? String(error));
  place.hidden = false;
  setState("error");
}

export function sentence(text) {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?)]$/.test(capital) || capital.includes("\n") ? capital : `${capital}.`;
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
export const grouped = (number) => Math.round(number).toLocaleString("en");

export const counted = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;

export function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// Shows the bytes of a PNG in an image, and forgets those before.
export function showPng(image, png, alternative) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(new Blob([png], { type: "image/png" }));
  if (alternative !== undefined) image.alt = alternative;
}

// A figure of a layer, as the report has it.
export function figure({ title, description, png }) {
  const element = document.createElement("figure");
  const scroll = document.createElement("div");
  scroll.className = "scroll layer";
  scroll.tabIndex = 0;
  scroll.role = "group";
  scroll.setAttribute("aria-label", title);
  const image = document.createElement("img");
  showPng(image, png, description);
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  scroll.append(image);
  element.append(scroll, caption);
  return element;
}

// Draws shades of grey, large, pixel by pixel. In images of the data set, 255 is ink.
export function drawGrey(canvas, grey, columns, isInk = false) {
  const rows = grey.length / columns;
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  grey.forEach((value, i) => {
    const shade = isInk ? 255 - value : value;
    pixels.data.set([shade, shade, shade, 255], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  const scale = Math.min(canvas.width / columns, canvas.height / rows);
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, columns * scale, rows * scale);
  return scale;
}

// Hands a file to the visitor.
export function save(bytes, name, type = "application/octet-stream") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function copied(button, text) {
  const label = button.textContent;
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

export const bytesOf = async (file) => new Uint8Array(await file.arrayBuffer());
