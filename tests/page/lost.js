// A device that is lost in a training: what the last epoch left is kept, and training is resumed from there.
async function scenario() {
  enter("#epochs", "12");
  $("#start").click();
  await until(() => $("#live-status").textContent.startsWith("Epoch 3"));
  // Epochs are short, and the adapter takes time to open: without a pause, training might be over by then.
  $("#pause").click();
  await until(() => !$("#continue").hidden);
  const { call } = await page();
  // Opens the adapter again, and gives up the one that computes.
  await call.open("gpu");
  const [, epoch] = $("#live-status").textContent.match(/^Epoch (\d+) of/);
  $("#continue").click();
  await until(() => ["done", "error"].includes(document.body.dataset.state));
  const said = $("#error").textContent;
  // The epoch in which it was lost, if its end was not reached, and no other.
  const kept = Number(said.match(/up to epoch (\d+) is kept/)?.[1]);
  if (kept !== epoch - 1 && kept !== Number(epoch)) throw new Error(`lost in epoch ${epoch}: ${said}`);
  const label = $("#resume").textContent;
  enter("#epochs", "");
  $("#resume").click();
  await until(() => document.body.dataset.state !== "error");
  const summary = await finished();
  return { said, label, summary };
}
