// Waits for the training that the address asks for; returns its summary, the run as a zip, and the digest of the weights.
async function scenario() {
  const summary = await finished();
  const { call } = await page();
  const described = await call.describe();
  return {
    summary,
    device: $("#device").textContent,
    losses: described.history.map((record) => record.loss),
    verdict: $("#verdict").textContent,
    zip: await base64(await call.zip("run")),
    digest: await sha256(await call.safetensors()),
    fields: ["model", "epochs", "batch_size", "train_limit", "seed"].map((id) => $(`#${id}`).value),
    figures: document.querySelectorAll("#maps figure").length,
  };
}
