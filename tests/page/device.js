// Which device the page has chosen, and why.
async function scenario() {
  await until(() => !$("#device").textContent.startsWith("Looking"));
  await until(() => $("#version").textContent);
  await until(() => $("#filters img"));
  return { device: $("#device").textContent, model: $("#inside-model").textContent };
}
