// The page of `export --format html` in a frame: what it makes of an image.
async function scenario() {
  const frame = document.createElement("iframe");
  Object.assign(frame, { width: 800, height: 900, title: "page", src: "model.html" });
  document.body.append(frame);
  const inside = await until(() => frame.contentWindow?.fmnist);
  await inside.ready;
  const canvas = Object.assign(document.createElement("canvas"), { width: 300, height: 400 });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, 300, 400);
  context.fillStyle = "#333";
  context.fill(new Path2D("M90 40h120l20 330h-60l-20-220-20 220H70z"));
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const png = new Uint8Array(await blob.arrayBuffer());
  await inside.classify(png, "trouser.png");
  const content = frame.contentDocument;
  return {
    png: await base64(png),
    verdict: content.querySelector("#verdict").textContent,
    failure: content.querySelector("#failure").textContent,
    maps: content.querySelectorAll("#maps figure").length,
  };
}
