// Where the visitor's images come from: a drawing area, the camera, a file. And what is said about them. This file and dom.js import nothing,
// as the page that `export --format html` writes contains them as they are.

// Lets the visitor draw; passes the canvas to `onImage` after each stroke.
export function startPad(pad, onImage) {
  const context = pad.getContext("2d");
  const clear = () => {
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, pad.width, pad.height);
  };
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
  };
  Object.assign(context, { lineWidth: 18, lineCap: "round", lineJoin: "round", strokeStyle: "#202020" });
  clear();
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    context.beginPath();
    context.moveTo(...at(event));
    context.lineTo(...at(event));
    context.stroke();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!pad.hasPointerCapture(event.pointerId)) return;
    context.lineTo(...at(event));
    context.stroke();
  });
  pad.addEventListener("pointerup", () => onImage(pad));
  return clear;
}

// Shows the camera when asked to; passes a canvas with its image to `onImage`.
export function startCamera({ open, shoot, video }, onImage, onError) {
  const close = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    video.hidden = true;
    shoot.hidden = true;
    open.hidden = false;
  };
  open.addEventListener("click", async () => {
    try {
      if (!navigator.mediaDevices) throw new Error("this page may not use one; it needs https, or localhost");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.hidden = false;
      await video.play();
      shoot.hidden = false;
      open.hidden = true;
    } catch (error) {
      onError(new Error(`there is no camera to use: ${error.message}`));
    }
  });
  shoot.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    onImage(canvas);
  });
}

// The pixels of an image file, which the browser decodes and turns upright: `data` with four bytes per pixel, and `width`.
export async function decoded(bytes, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]));
  } catch {
    throw new Error(`this browser cannot read ${name} as an image`);
  }
  // Far more than the 28 x 28 pixels that the network sees.
  const scale = Math.min(1, 2000 / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

export async function pngOf(canvas) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new Uint8Array(await blob.arrayBuffer());
}

// The classes from the likeliest to the least.
export const ranked = (probabilities) => [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);

// Why a prediction may mean nothing, as sentences.
export function doubtful(doubts, probabilities) {
  const all = doubts.length === 0 && Math.max(...probabilities) < 0.5 ? ["no class is likely"] : doubts;
  return all.map((doubt) => `${doubt.charAt(0).toUpperCase()}${doubt.slice(1)}.`).join(" ");
}

// The five likeliest classes as bars.
export function bars(names, probabilities) {
  return ranked(probabilities).slice(0, 5).flatMap((i) => {
    const [label, track, filled, value] = ["span", "span", "span", "span"].map((tag) => document.createElement(tag));
    label.textContent = names[i];
    filled.className = "bar";
    filled.style.width = `${100 * probabilities[i]}%`;
    track.append(filled);
    value.className = "value";
    value.textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
    return [label, track, value];
  });
}
