// Pause, continue and stop; then training further from the epoch that was done.
async function scenario() {
  $("#dataset").value = "synthetic";
  enter("#model", "mlp");
  enter("#epochs", "40");
  enter("#train_limit", "2000");
  enter("#device-choice", "cpu");
  $("#start").click();
  await until(() => $("#live-status").textContent.startsWith("Epoch 2"));
  $("#pause").click();
  await until(() => $("#live-status").textContent.endsWith("(paused)"));
  const then = $("#progress").value;
  await sleep(300);
  const paused = $("#progress").value - then;
  $("#continue").click();
  await until(() => $("#progress").value > then);
  $("#stop").click();
  const stopped = await finished();
  const label = $("#resume").textContent;
  enter("#epochs", "");
  $("#resume").click();
  await until(() => document.body.dataset.state !== "done");
  const resumed = await finished();
  return { paused, stopped, label, resumed };
}
