// Loads the data set that the form names.
async function scenario() {
  await until(() => $("#version").textContent);
  $("#load-data").click();
  await until(() => /[0-9]{2},000 for training|not|GitHub/.test($("#data-status").textContent) && !$("#load-data").disabled);
  return { status: $("#data-status").textContent, samples: !$("#samples").hidden };
}
