// A device that is lost in a training: what the last epoch left is kept, and training is resumed from there.
async function scenario() {
  enter("#epochs", "6");
  $("#start").click();
  await until(() => $("#live-status").textContent.startsWith("Epoch 3"));
  const { call } = await page();
  // Opens the adapter again, and gives up the one that computes.
  await call.open("gpu");
  await until(() => document.body.dataset.state === "error");
  const said = $("#error").textContent;
  const label = $("#resume").textContent;
  enter("#epochs", "");
  $("#resume").click();
  await until(() => document.body.dataset.state !== "error");
  const summary = await finished();
  return { said, label, summary };
}
