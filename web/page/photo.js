// The chapter on the visitor's own photo: a file, the camera, a drawing.
import { call } from "./calls.js";
import { $, bytesOf, drawGrey, percent, sentence } from "./dom.js";
import { data } from "./data.js";

const NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

// Classifies an image file, and shows what the network saw.
export async function classify(bytes, name) {
  const doubt = $("#photo-doubt");
  $("#photo-result").hidden = false;
  try {
    const { image, probabilities, model, inverted, doubts } = await call.predict(bytes, name, "auto");
    drawGrey($("#photo-seen"), image, 28, true);
    const names = data?.class_names ?? NAMES;
    const order = [...names.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    $("#photo-verdict").textContent = `${names[order[0]]}, ${percent(probabilities[order[0]], 0)}, says ${model}.${inverted ? " Light and dark were swapped, as the background is light." : ""}`;
    if (doubts.length === 0 && probabilities[order[0]] < 0.5) doubts.push("no class is likely");
    doubt.textContent = doubts.map(sentence).join(" ");
    doubt.hidden = doubts.length === 0;
    $("#photo-bars").replaceChildren(...order.slice(0, 5).flatMap((i) => bar(names[i], probabilities[i])));
  } catch (error) {
    doubt.textContent = sentence(error.message);
    doubt.hidden = false;
    $("#photo-verdict").textContent = "";
    $("#photo-bars").replaceChildren();
  }
}

function bar(name, share) {
  const [label, track, filled, value] = ["span", "span", "span", "span"].map((tag) => document.createElement(tag));
  label.textContent = name;
  filled.className = "bar";
  filled.style.width = `${100 * share}%`;
  track.append(filled);
  value.className = "value";
  value.textContent = percent(share);
  return [label, track, value];
}

async function classifyCanvas(canvas, name) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  await classify(new Uint8Array(await blob.arrayBuffer()), name);
}

function startPad() {
  const pad = $("#pad");
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
  pad.addEventListener("pointerup", () => classifyCanvas(pad, "your drawing"));
  $("#pad-clear").addEventListener("click", () => {
    clear();
    $("#photo-result").hidden = true;
  });
}

function startCamera() {
  const video = $("#video");
  const close = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    video.hidden = true;
    $("#shoot").hidden = true;
    $("#camera").hidden = false;
  };
  $("#camera").addEventListener("click", async () => {
    try {
      if (!navigator.mediaDevices) throw new Error("this page may not use a camera: it needs https, or localhost");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.hidden = false;
      await video.play();
      $("#shoot").hidden = false;
      $("#camera").hidden = true;
    } catch (error) {
      $("#photo-result").hidden = false;
      $("#photo-doubt").hidden = false;
      $("#photo-doubt").textContent = sentence(`there is no camera to use: ${error.message}`);
    }
  });
  $("#shoot").addEventListener("click", async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    await classifyCanvas(canvas, "the camera's image");
  });
}

export function startPhoto() {
  $("#photo-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) await classify(await bytesOf(file), file.name);
  });
  startPad();
  startCamera();
}
