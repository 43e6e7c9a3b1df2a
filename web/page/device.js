// The device that computes.
import { call } from "./calls.js";
import { $ } from "./dom.js";

let opening = null;
export let device = null;

// Opens the device of this choice (`auto`, `gpu` or `cpu`), once; says which it is, and why.
export async function openDevice(choice) {
  if (opening?.choice !== choice) opening = { choice, device: call.open(choice) };
  device = await opening.device;
  const { name, backend, why } = device;
  $("#device").textContent = backend === "cpu"
    ? `Computes on the CPU, in one thread (${why}).`
    : `Computes on the GPU: ${name}.`;
  return device;
}

// After the device was lost.
export function forgetDevice() {
  opening = null;
}
