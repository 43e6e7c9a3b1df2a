// The self-test, by the function that the page has for tests, and by its button.
async function scenario() {
  const report = await window.fmnist.selftest();
  if (report.kernels.length < 60) {
    $("#prove").click();
    await until(() => !$("#copy-proof").hidden);
  }
  return { report, rows: document.querySelectorAll("#proof-table tbody tr").length, status: $("#proof-status").textContent };
}
