// The page of `export --format html` in a frame: what it makes of an image.
async function scenario() {
  const frame = document.createElement("iframe");
  Object.assign(frame, { width: 800, height: 900, title: "page", src: "model.html" });
  document.body.append(frame);
  const inside = await until(() => frame.contentWindow?.fmnist);
  await inside.ready;
  const png = await trousers();
  await inside.classify(png, "trouser.png");
  const content = frame.contentDocument;
  return {
    png: await base64(png),
    verdict: content.querySelector("#verdict").textContent,
    failure: content.querySelector("#failure").textContent,
    maps: content.querySelectorAll("#maps figure").length,
  };
}
