// Parallel coordinates of the settings, as SVG: plotly's need WebGL.

// Cividis, from dark to light; the end that has no contrast with the page is left out.
const CIVIDIS = ["#00224e", "#1a386f", "#434e6c", "#61656f", "#7d7c78", "#9b9476", "#bcae6c", "#dec958", "#fee838"];
const MOST_LINES = 400;
const MOST_LEVELS = 10;
const HEIGHT = 380, TOP = 64, BOTTOM = 60, UNUSED = -0.12;
const filters = new Map();

function cividis(share) {
  const place = (isDark() ? 0.3 + 0.7 * share : 0.82 * share) * (CIVIDIS.length - 1);
  const below = Math.min(Math.floor(place), CIVIDIS.length - 2);
  const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const [from, to] = [channels(CIVIDIS[below]), channels(CIVIDIS[below + 1])];
  return `rgb(${from.map((value, k) => Math.round(value + (place - below) * (to[k] - value))).join(",")})`;
}

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Where a setting's values lie between 0 (bottom) and 1, and whether each has a mark of its own. */
function scaleOf({ values }) {
  const count = values.length, numeric = values.every((value) => typeof value === "number");
  if (!numeric || count <= MOST_LEVELS) {
    const at = (code) => (count === 1 ? 0.5 : code / (count - 1));
    return { levels: count <= 2 * MOST_LEVELS, at: (code) => (code < 0 ? UNUSED : at(code)) };
  }
  const low = values[0], high = values[count - 1], log = low > 0 && high / low > 50;
  const share = (v) => (log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low));
  return { levels: false, at: (code) => (code < 0 ? UNUSED : share(values[code])) };
}

/** Models whose lines are drawn, best macro F1 last: those on a front, and an even share of the others. */
function lineModels(all) {
  const kept = all.filter((i) => onFront.has(i)), others = all.filter((i) => !onFront.has(i));
  const step = Math.max(1, others.length / Math.max(1, MOST_LINES - kept.length));
  for (let place = 0; place < others.length; place += step) kept.push(others[Math.floor(place)]);
  return kept.sort((a, b) => study.columns.f1[a] - study.columns.f1[b]);
}

function drawSettings() {
  const place = document.getElementById("settings-plot"), note = document.getElementById("settings-note");
  const all = allModels().filter((i) => !(stageOf(i) in REFERENCES)), settings = study.settings;
  if (!settings.length || !all.length) {
    note.textContent = "No setting differs between the models of this study.";
    return place.replaceChildren();
  }
  const models = lineModels(all), [low, high] = extent(models.map((i) => study.columns.f1[i]));
  const spacing = Math.max(130, (place.clientWidth - 150) / Math.max(1, settings.length - 1));
  const width = Math.max(place.clientWidth, 150 + spacing * (settings.length - 1));
  const x = (axis) => 20 + axis * spacing, y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const scales = settings.map(scaleOf);
  const lines = models.map((i) => {
    const heights = settings.map((setting, axis) => y(scales[axis].at(setting.codes[i])).toFixed(1));
    const points = heights.map((height, axis) => `${x(axis).toFixed(1)},${height}`);
    const share = high > low ? (study.columns.f1[i] - low) / (high - low) : 0.5;
    return drawLine(i, points.length > 1 ? `M${points.join("L")}` : `M${points[0]}h40`, cividis(share));
  });
  const axes = settings.map((setting, axis) => drawAxis(setting, axis, scales[axis], x(axis), y));
  const box = { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` };
  place.replaceChildren(svg("svg", box, svg("g", { class: "lines" }, ...lines), ...axes));
  const some = models.length < all.length ? ` (${models.length} of ${all.length.toLocaleString("en")})` : "";
  note.textContent = `Each line is a model${some}; its colour is macro F1 on validation, from ${low.toFixed(3)} `
    + `(${isDark() ? "grey" : "dark blue"}) to ${high.toFixed(3)} (yellow). “Not used”: that model has no such setting. `
    + "Choose values on the axes to see only the models that have them; click a line to pin its model.";
  markLines();
}

function drawLine(i, d, stroke) {
  const line = svg("path", { d, stroke, "data-model": i });
  line.addEventListener("mousemove", (event) => showTooltip(i, event));
  line.addEventListener("mouseleave", hideTooltip);
  line.addEventListener("click", () => pin(i));
  return line;
}

function drawAxis(setting, axis, scale, x, y) {
  const [stage, ...name] = setting.name.split(".");
  const title = svg("text", { class: "axis-title", x, y: 36 }, shortened(name.join("."), 17));
  title.append(svg("title", {}, setting.name));
  const last = setting.values.length - 1;
  const codes = scale.levels ? setting.values.map((_, code) => code) : last > 0 ? [0, last] : [0];
  if (setting.codes.includes(-1)) codes.push(-1);
  const marks = codes.map((code) => {
    const mark = drawMark(settingText(setting, code), x, y(scale.at(code)));
    if (scale.levels || code < 0) makeChoice(mark, axis, code);
    return mark;
  });
  const line = svg("line", { x1: x, x2: x, y1: y(0), y2: y(1) });
  return svg("g", { class: "axis" }, svg("text", { x, y: 20 }, stage), title, line, ...marks);
}

function settingText(setting, code) {
  if (code < 0) return "not used";
  const value = setting.values[code];
  return typeof value === "number" ? plain(value) : String(value);
}

function drawMark(whole, x, y) {
  const style = { x: x + 7, y: y + 4, "unicode-bidi": "plaintext" };
  const text = svg("text", style, shortened(whole, 16), svg("title", {}, whole));
  return svg("g", { "data-value": whole }, svg("circle", { cx: x, cy: y, r: 3, fill: "currentColor" }), text);
}

/** Makes the mark of a value a switch that leaves only the lines through it. */
function makeChoice(mark, axis, code) {
  const chosen = () => filters.get(axis) === code;
  const attributes = { role: "button", tabindex: 0, "aria-pressed": chosen(), "data-axis": axis };
  attributes["aria-label"] = `${study.settings[axis].name}: ${mark.dataset.value}`;
  for (const [key, value] of Object.entries(attributes)) mark.setAttribute(key, value);
  onPress(mark, () => {
    if (chosen()) filters.delete(axis);
    else filters.set(axis, code);
    const others = mark.parentElement.querySelectorAll("[role=button]");
    for (const other of others) other.setAttribute("aria-pressed", "false");
    mark.setAttribute("aria-pressed", String(chosen()));
    markLines();
  });
}

/** Fades the lines that a chosen value excludes, and marks the pinned model's. */
function markLines() {
  const excluded = (i) => [...filters].some(([axis, code]) => study.settings[axis].codes[i] !== code);
  for (const line of document.querySelectorAll("#settings-plot .lines path")) {
    const i = Number(line.dataset.model);
    line.classList.toggle("faded", excluded(i));
    line.classList.toggle("pinned", i === pinned);
  }
}
