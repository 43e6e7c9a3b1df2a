// The chapter on the visitor's own photo.
import { call } from "./calls.js";
import { $, bytesOf, drawGrey, percent, sentence } from "./dom.js";
import { bars, doubtful, pngOf, ranked, startCamera, startPad } from "./sources.js";

function say(verdict, doubt, figures = []) {
  $("#photo-result").hidden = false;
  $("#photo-verdict").textContent = verdict;
  $("#photo-doubt").textContent = doubt;
  $("#photo-doubt").hidden = doubt === "";
  $("#photo-bars").replaceChildren(...figures);
}

// Classifies an image file, and shows what the network saw.
export async function classify(bytes, name) {
  try {
    const { image, probabilities, names, model, inverted, doubts } = await call.predict(bytes, name, "auto");
    drawGrey($("#photo-seen"), image, 28, true);
    const [best] = ranked(probabilities);
    const swapped = inverted ? " Light and dark were swapped, as the background is light." : "";
    say(`${names[best]}, ${percent(probabilities[best], 0)}, says ${model}.${swapped}`, doubtful(doubts, probabilities), bars(names, probabilities));
  } catch (error) {
    say("", sentence(error.message));
  }
}

export function startPhoto() {
  $("#photo-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) await classify(await bytesOf(file), file.name);
  });
  const clear = startPad($("#pad"), async (pad) => classify(await pngOf(pad), "your drawing"));
  $("#pad-clear").addEventListener("click", () => {
    clear();
    $("#photo-result").hidden = true;
  });
  const camera = { open: $("#camera"), shoot: $("#shoot"), video: $("#video") };
  startCamera(camera, async (image) => classify(await pngOf(image), "the camera's image"), (error) => say("", sentence(error.message)));
}
