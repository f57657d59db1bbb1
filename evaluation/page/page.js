// What every part uses, and the start.

const study = JSON.parse(document.getElementById("study").textContent);
const onFront = new Set([...study.front, ...study.safeFront]);
const STAGES = {
  baseline: "teacher",
  after_kd: "after distillation",
  after_pruning: "after pruning",
  after_quantization: "after quantization",
  classical: "classical floor",
};
const MARKS = { safe: "●", inconclusive: "▲", unsafe: "✕", "not checked": "▽" };

function allModels() {
  return study.keys.map((_, i) => i);
}

function stageOf(i) {
  return study.stage.names[study.stage.codes[i]];
}

function stageTitle(i) {
  return STAGES[stageOf(i)] ?? stageOf(i);
}

function chainOf(i) {
  return study.chain.names[study.chain.codes[i]];
}

function verdictOf(i) {
  return study.verdict.names[study.verdict.codes[i]] ?? "not checked";
}

function verdicts(i) {
  const marked = (verdict) => `${MARKS[verdict] ?? ""} ${verdict}`, tested = study.test[i]?.verdict;
  return `on validation ${marked(verdictOf(i))}${tested ? `, on test ${marked(tested)}` : ""}`;
}

function shortened(text, most) {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

/** A whole number whole, any other with at most four digits; without an exponent. */
function plain(value) {
  return value.toLocaleString("en", Number.isInteger(value) ? {} : { maximumSignificantDigits: 4 });
}

/** A number with so many decimals; a dash for none. */
function fixed(value, decimals) {
  if (value === null || value === undefined) return "–";
  const text = value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return Number(text.replaceAll(",", "")) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** What the first number is more than the second, with its sign; a dash when one is missing. */
function change(value, other) {
  if ([value, other].some((number) => number === null || number === undefined)) return "–";
  const text = fixed(value - other, 3);
  return text.startsWith("−") || Number(text) === 0 ? text : `+${text}`;
}

/** An element with attributes and children; strings become text, never markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A table whose first column names its rows, in a box that scrolls. */
function table(caption, headings, rows) {
  const heading = (text, at) => element("th", { scope: "col", class: at ? "number" : "" }, text);
  const cell = (text, at) =>
    at ? element("td", { class: "number", dir: "auto" }, text) : element("th", { scope: "row", dir: "auto" }, text);
  const head = element("thead", {}, element("tr", {}, ...headings.map(heading)));
  const body = element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))));
  const label = caption || headings.join(", ");
  const box = { class: "scroll", role: "region", tabindex: 0, "aria-label": label };
  const scroll = element("div", box, element("table", { "aria-label": label }, head, body));
  return element("div", {}, ...(caption ? [element("p", { class: "caption" }, caption)] : []), scroll);
}

function message(place, text) {
  place.replaceChildren(element("p", { class: "note" }, text));
}

function onPress(target, action) {
  target.addEventListener("click", action);
  target.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    action(event);
  });
}

function showTooltip(i, event) {
  const tooltip = document.getElementById("tooltip"), columns = study.columns, test = study.test[i];
  const speed = [columns.speed, columns.speed_low, columns.speed_high].map((values) => fixed(values[i], 2));
  const lines = [
    stageTitle(i),
    verdicts(i),
    `macro F1 ${fixed(columns.f1[i], 4)}${test ? `, on test ${fixed(test.f1, 4)}` : ""}`,
    `critical F1 ${fixed(columns.critical_f1[i], 3)}, recall ${fixed(columns.critical_recall[i], 3)}`,
    `${fixed(columns.size[i], 2)} MB, ${speed[0]}× the teacher's speed [${speed[1]}, ${speed[2]}]`,
    `median latency ${fixed(columns.p50[i], 2)} ms`,
  ];
  const chain = element("strong", { dir: "auto" }, chainOf(i));
  tooltip.replaceChildren(chain, ...lines.map((line) => element("div", {}, line)));
  tooltip.hidden = false;
  placeNear(tooltip, event.clientX, event.clientY);
}

/** Puts a box beside the pointer, on the side where it fits into the window. */
function placeNear(box, x, y) {
  const { width, height } = box.getBoundingClientRect(), away = 16, edge = 8;
  const beside = (at, length, end) => (at + away + length > end - edge ? at - length - away : at + away);
  const left = Math.min(beside(x, width, innerWidth), innerWidth - width - edge);
  box.style.left = `${Math.max(edge, left)}px`;
  box.style.top = `${Math.max(edge, beside(y, height, innerHeight))}px`;
}

function hideTooltip() {
  document.getElementById("tooltip").hidden = true;
}

/** Rows of models can be pinned; the columns of long tables can be sorted. */
function enliven() {
  for (const row of document.querySelectorAll("tr[data-model]")) {
    row.tabIndex = 0;
    onPress(row, () => pin(Number(row.dataset.model), row));
  }
  for (const heading of document.querySelectorAll("table.sortable thead th")) {
    const sort = () => sortBy(heading);
    heading.append(element("button", { type: "button", onclick: sort }, ...heading.childNodes));
  }
}

function sortBy(heading) {
  const body = heading.closest("table").tBodies[0], at = heading.cellIndex;
  const sign = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const text = (row) => row.cells[at].textContent;
  const number = (row) => parseFloat(text(row).replaceAll(",", "").replace("−", "-"));
  const rows = [...body.rows];
  if (heading.classList.contains("number") && rows.some((row) => !Number.isNaN(number(row)))) {
    const missing = (a, b) => Number.isNaN(a) - Number.isNaN(b);
    rows.sort((a, b) => missing(number(a), number(b)) || sign * (number(a) - number(b)));
  } else {
    rows.sort((a, b) => sign * text(a).localeCompare(text(b)));
  }
  body.append(...rows);
}

/** Draws one part; a part that fails says so in its place and leaves the others alone. */
function attempt(id, draw) {
  try {
    draw();
  } catch (error) {
    message(document.getElementById(id), `Could not be drawn (${error.message}); the tables hold its figures.`);
  }
}

function drawLater() {
  attempt("trials-plot", drawGrowth);
  attempt("settings-plot", drawSettings);
  document.documentElement.dataset.drawn = "all";
}

function drawAll() {
  attempt("pareto-plot", drawPareto);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
  setTimeout(drawLater);
}

function drawAgainWhenNeeded() {
  for (const input of document.querySelectorAll("input[name=axis]")) {
    input.addEventListener("change", () => attempt("pareto-plot", drawPareto));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    drawAll();
  });
}

/** Tables and panel work at once; the plots follow when plotly is there, which stands after this script. */
function start() {
  document.documentElement.classList.add("scripted");
  pinned = study.start;
  fillPanel();
  enliven();
  markRows();
  drawAgainWhenNeeded();
  document.addEventListener("DOMContentLoaded", drawAll);
  addEventListener("scroll", hideTooltip, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hideTooltip();
    if (pinned !== null) unpin();
  });
}

start();
