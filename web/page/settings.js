// The settings in the address of the page: `?model=cnn&epochs=2&start=1`. A lesson is a link.
import { $ } from "./dom.js";

// The fields of the form, which have the names of the settings.
const FIELDS = ["epochs", "batch_size", "train_limit", "validation_split", "seed"];
// What is no setting of a training.
const OF_PAGE = ["model", "dataset", "device", "start", "test_limit"];

// A number, a switch or a word, as a model file has it.
function value(text) {
  if (text === "true" || text === "false") return text === "true";
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

// Puts what the address says into the form.
export function readSettings() {
  const query = new URLSearchParams(location.search);
  const choose = (id, wanted) => {
    const select = $(id);
    if (!wanted) return;
    if (![...select.options].some((option) => option.value === wanted)) {
      throw new Error(`the address asks for ${id.slice(1)} ${wanted}; there are ${[...select.options].map((o) => o.value).join(", ")}`);
    }
    select.value = wanted;
  };
  choose("#model", query.get("model"));
  choose("#dataset", query.get("dataset"));
  choose("#device-choice", query.get("device"));
  for (const name of FIELDS) {
    if (query.has(name)) $(`#${name}`).value = query.get(name);
  }
  return { device: $("#device-choice").value, start: query.get("start") === "1" };
}

// The settings of a training, from the form and, for those that have no field, from the address.
export function trainingSettings() {
  const query = new URLSearchParams(location.search);
  const settings = {};
  for (const [name, text] of query) {
    if (!OF_PAGE.includes(name) && !FIELDS.includes(name)) settings[name] = value(text);
  }
  for (const name of FIELDS) {
    if ($(`#${name}`).value !== "") settings[name] = value($(`#${name}`).value);
  }
  const limit = query.get("test_limit");
  return { settings, test_limit: limit === null ? null : Number(limit) };
}

// The address with what the form says now.
export function link() {
  const address = new URL(location.href);
  const set = (name, text, usual) => (text === "" || text === usual ? address.searchParams.delete(name) : address.searchParams.set(name, text));
  set("model", $("#model").value, "own");
  set("dataset", $("#dataset").value, "auto");
  set("device", $("#device-choice").value, "auto");
  for (const name of FIELDS) set(name, $(`#${name}`).value, "");
  address.hash = "training";
  return address.href;
}
