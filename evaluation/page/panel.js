// One model beside the teacher.

let pinned = null;
let pinnedFrom = null;

const DROPS = [
  ["f1_drop", "Macro F1"],
  ["critical_f1_drop", "Critical F1"],
  ["critical_recall_drop", "Critical recall"],
];
const QUALITY = [
  ["Macro F1", "f1", 3],
  ["Accuracy", "accuracy", 3],
  ["Critical F1", "critical_f1", 3],
  ["Critical recall", "critical_recall", 3],
  ["ROC-AUC", "roc_auc", 3],
];
const COSTS = [
  ["Speed-up (×)", "speed", 2],
  ["Speed-up, low (95 %)", "speed_low", 2],
  ["Speed-up, high (95 %)", "speed_high", 2],
  ["Size (MB)", "size", 2],
  ["Download (MB)", "download", 2],
  ["Parameters", "parameters", 0],
  ["Zero weights (%)", "sparsity", 1],
  ["Latency, median (ms)", "p50", 2],
  ["Latency, 95 % (ms)", "p95", 2],
  ["Comments per second", "throughput", 0],
  ["Memory (MB)", "memory", 1],
];

/** Compares a model with the teacher, and marks it in plots and tables; `source` is the row that it was chosen from. */
function pin(i, source = null) {
  pinned = i;
  pinnedFrom = source;
  fillPanel();
  attempt("pareto-plot", drawPareto);
  markLines();
  markRows();
  if (!source) return;
  const panel = document.getElementById("panel");
  panel.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "start" });
}

function unpin() {
  const source = pinnedFrom;
  pin(null);
  source?.focus();
  source?.scrollIntoView({ block: "center" });
}

function markRows() {
  for (const row of document.querySelectorAll("tr[data-model]")) {
    row.setAttribute("aria-current", String(Number(row.dataset.model) === pinned));
  }
}

function fillPanel() {
  const panel = document.getElementById("panel"), i = pinned;
  if (i === null) {
    const how = "Click a model in the plot, or press Enter on a row of a table.";
    return panel.replaceChildren(element("h3", {}, "A model beside the teacher"), element("p", {}, how));
  }
  const trial = study.columns.trial[i] === null ? "" : `, trial ${study.columns.trial[i]}`;
  const needed = study.columns.needed[i];
  const decide = `${fixed(needed, 0)} validation comments with the critical label would decide.`;
  panel.replaceChildren(
    element("h3", { dir: "auto" }, chainOf(i)),
    element("p", {}, `${stageTitle(i)}${trial}; ${verdicts(i)}.`),
    ...(needed === null ? [] : [element("p", {}, decide)]),
    element("p", { class: "key" }, study.keys[i]),
    element("button", { type: "button", onclick: unpin }, pinnedFrom ? "Back to the table" : "Unpin"),
    figuresTable(i),
    dropsTable(i),
    ...labelTables(i),
    ...settingsList(i),
  );
}

function figuresTable(i) {
  const teacher = study.teacher, columns = study.columns, test = study.test[i], reference = study.test[teacher];
  const onValidation = (name, decimals) => [columns[name][i], columns[name][teacher]].map((v) => fixed(v, decimals));
  const onTest = (name, decimals) => [
    fixed(test[name], decimals), fixed(reference?.[name], decimals), change(columns[name][i], test[name]),
  ];
  const rows = QUALITY.map(([title, name, decimals]) =>
    [title, ...onValidation(name, decimals), ...(test ? onTest(name, decimals) : [])]);
  for (const [title, name, decimals] of COSTS) {
    rows.push([title, ...onValidation(name, decimals), ...(test ? ["", "", ""] : [])]);
  }
  const caption = `Figures on validation${test ? ", and on test; gap: validation less test" : ""}`;
  return table(caption, ["", "Model", "Teacher", ...(test ? ["Test", "Teacher, test", "Gap"] : [])], rows);
}

function dropsTable(i) {
  const test = study.test[i], columns = study.columns;
  const rows = DROPS.map(([name, title]) => {
    const cells = [columns[name][i], columns[`${name}_upper`][i]];
    return [title, ...[...cells, ...(test ? [test[name], test[`${name}_upper`]] : [])].map((value) => fixed(value, 3))];
  });
  const headings = ["", "Drop", "Upper", ...(test ? ["Test", "Upper, test"] : [])];
  return table("Drops against the teacher, with upper bounds", headings, rows);
}

/** Label by label, beside the teacher: on validation, and on test where there are figures. */
function labelTables(i) {
  const teacher = study.teacher, byLabel = study.byLabel;
  const onValidation = (k) => (name, l) => byLabel[name][l][k];
  const onTest = (k) => (name, l) => study.test[k]?.byLabel[name][l];
  if (!study.labels.length) return [];
  const caption = "Label by label on validation; Δ: change against the teacher";
  const tables = [labelTable(caption, onValidation(i), onValidation(teacher))];
  if (study.test[i]) {
    const gap = "Label by label on test; F1 gap: validation less test";
    tables.push(labelTable(gap, onTest(i), onTest(teacher), onValidation(i)));
  }
  return tables;
}

function labelTable(caption, model, teacher, validation = null) {
  const names = ["f1", "precision", "recall"], headings = ["Label"];
  for (const title of ["F1", "Precision", "Recall"]) headings.push(title, "Teacher", "Δ");
  const rows = study.labels.map((label, l) => {
    const cells = names.flatMap((name) => {
      const [value, reference] = [model(name, l), teacher(name, l)];
      return [fixed(value, 3), fixed(reference, 3), change(value, reference)];
    });
    if (validation) cells.push(change(validation("f1", l), model("f1", l)));
    return [label === study.critical ? `${label} (critical)` : label, ...cells];
  });
  return table(caption, validation ? [...headings, "F1 gap"] : headings, rows);
}

function settingsList(i) {
  const used = study.settings.filter((setting) => setting.codes[i] >= 0);
  if (!used.length) return [];
  const rows = used.map((setting) => [setting.name, settingText(setting, setting.codes[i])]);
  const list = table("", ["Setting", "Value"], rows);
  return [element("details", {}, element("summary", {}, "Settings that differ between models"), list)];
}
