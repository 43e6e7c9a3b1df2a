// A drawing and an image file, classified; one that is none; the laboratory.
async function scenario() {
  await until(() => $("#filters img"));
  const pad = $("#pad");
  const at = (x, y, kind) => pad.dispatchEvent(new PointerEvent(kind, { pointerId: 1, clientX: pad.getBoundingClientRect().left + x, clientY: pad.getBoundingClientRect().top + y, bubbles: true }));
  pad.setPointerCapture = () => {};
  pad.hasPointerCapture = () => true;
  at(70, 60, "pointerdown");
  for (const [x, y] of [[210, 60], [210, 240], [150, 240], [140, 110], [130, 240], [70, 240], [70, 60]]) at(x, y, "pointermove");
  at(70, 60, "pointerup");
  const drawing = await until(() => $("#photo-verdict").textContent);
  const { classify } = await import("./photo.js");
  await classify(await trousers(), "trouser.png");
  const file = $("#photo-verdict").textContent;
  await classify(new TextEncoder().encode("no image"), "notes.txt");
  const refused = $("#photo-doubt").textContent;
  enter("#lab-filter", "blur");
  await until(() => $("#lab-after-caption").textContent.includes("0 to 255"));
  enter("#lab-pool", "max");
  const pooled = await until(() => $("#lab-after-caption").textContent.includes("pooled") && $("#lab-after-caption").textContent);
  enter("#lab-pool", "");
  await until(() => !$("#lab-after-caption").textContent.includes("pooled"));
  $("#lab-before").focus();
  $("#lab-before").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
  return { drawing, file, refused, pooled, sum: $("#lab-sum").textContent };
}
