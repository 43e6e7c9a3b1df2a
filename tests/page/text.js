// A model text with a mistake, then without it; a training with each.
async function scenario() {
  const text = await until(() => $("#model-text").value);
  enter("#model-text", text.replace("filters = 32", "filters = 32\nfilter = 3"));
  const wrong = await until(() => $("#model-check").className === "wrong" && $("#model-check").textContent);
  enter("#epochs", "1");
  enter("#train_limit", "64");
  $("#dataset").value = "synthetic";
  $("#start").click();
  await until(() => document.body.dataset.state === "error");
  const refused = $("#error").textContent;
  enter("#model-text", text.replace("filters = 32", "filters = 4").replace('name = "cnn"', 'name = "small"'));
  const right = await until(() => $("#model-check").className === "" && $("#model-check").textContent);
  $("#start").click();
  await until(() => document.body.dataset.state !== "error");
  return { wrong, refused, right, summary: await finished() };
}
