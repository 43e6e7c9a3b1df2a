// The page in a frame of each width: whether it fits, and what axe-core finds, before and after a training.
async function framed(width) {
  const frame = document.createElement("iframe");
  Object.assign(frame, { width, height: 900, title: "page", src: "page.html?model=cnn&dataset=synthetic&train_limit=64&test_limit=40&epochs=1&device=cpu&start=1" });
  document.body.replaceChildren(frame);
  await until(() => ["done", "error"].includes(frame.contentDocument?.body?.dataset.state));
  const { contentWindow: inside, contentDocument: content } = frame;
  content.querySelectorAll("details").forEach((details) => { details.open = true; });
  content.querySelector("#prove").click();
  await until(() => !content.querySelector("#copy-proof").hidden);
  content.querySelector("#measure").click();
  await until(() => !content.querySelector("#copy-speeds").hidden);
  const script = content.createElement("script");
  script.src = "axe.min.js";
  content.head.append(script);
  await until(() => inside.axe);
  const { violations, passes } = await inside.axe.run();
  const found = violations.map((rule) => [rule.id, rule.nodes.map((node) => node.target.join(" "))]);
  // Whatever can be used can be reached by the Tab key.
  const controls = [...content.querySelectorAll("button, input, select, textarea, summary, a[href]")];
  const unreachable = controls.filter((control) => control.tabIndex < 0).map((control) => control.id);
  return { state: content.body.dataset.state, width: content.documentElement.scrollWidth, rules: passes.length, found, unreachable, controls: controls.length, speeds: content.querySelectorAll("#speed-table tbody tr").length };
}

async function scenario() {
  return { narrow: await framed(390), wide: await framed(1280) };
}
