// The plot of all models: macro F1 against size or speed-up, the third figure as colour, the verdict as shape.

const SYMBOLS = { safe: "circle", inconclusive: "triangle-up", unsafe: "x", "not checked": "triangle-down" };
const REFERENCES = { baseline: ["teacher", "star", 20], classical: ["classical floor", "square", 13] };
const DIMENSIONS = {
  size: { title: "Model size (MB)", colour: "speed" },
  speed: { title: "Speed-up over the teacher (×)", colour: "size" },
};

function drawPareto() {
  const axis = document.querySelector("input[name=axis]:checked").value;
  const place = document.getElementById("pareto-plot"), colours = theme();
  const x = study.columns[axis], f1 = study.columns.f1, drawn = allModels().filter((i) => x[i] > 0);
  if (!drawn.length) return clear(place, "No measured model to draw.");
  place.querySelector(":scope > .note")?.remove();
  const [low, high] = extent(drawn.map((i) => Math.log10(x[i])));
  const [bottom, top] = extent(drawn.map((i) => f1[i]));
  const margin = Math.max(0.06 * (high - low), 0.05), padding = Math.max(0.08 * (top - bottom), 0.005);
  const view = { axis, x, colours, range: [low - margin, high + margin], spread: [bottom - padding, top + padding] };
  const scale = colourScale(DIMENSIONS[axis].colour, colours);
  const ticks = roundNumbers(10 ** view.range[0], 10 ** view.range[1]);
  const traces = [...frontLines(view), ...modelTraces(view, drawn), ...referenceTraces(view, drawn), ring(view)];
  Plotly.react(place, traces, layout(colours, {
    xaxis: axisStyle(DIMENSIONS[axis].title, colours, {
      type: "log", range: view.range, tickvals: ticks, ticktext: ticks.map(plain),
    }),
    yaxis: axisStyle("Macro F1 on validation", colours, { range: view.spread }),
    legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top" },
    annotations: drawn.filter((i) => stageOf(i) in REFERENCES).map((i) => nameBeside(view, i)),
    margin: { l: 60, r: 14, t: scale ? 66 : 20, b: innerWidth < 700 ? 110 : 90 },
    uirevision: axis,
    ...(scale ? { coloraxis: scale } : {}),
  }), CONFIG);
  listen(place);
}

/** Takes the plot away, so that another can be drawn in its place. */
function clear(place, text) {
  Plotly.purge(place);
  delete place.dataset.listening;
  message(place, text);
}

function listen(place) {
  if (place.dataset.listening) return;
  place.dataset.listening = "yes";
  place.on("plotly_hover", ({ points, event }) => showTooltip(points[0].customdata, event));
  place.on("plotly_unhover", hideTooltip);
  place.on("plotly_click", ({ points }) => {
    hideTooltip();
    pin(points[0].customdata);
  });
}

/** A logarithmic scale of colours for the third figure; null when it is not known for any model. */
function colourScale(dimension, colours) {
  const known = study.columns[dimension].filter((value) => value > 0);
  if (!known.length) return null;
  const [low, high] = extent(known), margin = low === high ? 0.1 : 0, ticks = roundNumbers(low, high);
  const title = `Colour: ${DIMENSIONS[dimension].title}`;
  return {
    colorscale: "Cividis",
    cmin: Math.log10(low) - margin,
    cmax: Math.log10(high) + margin,
    colorbar: {
      title: { text: title, side: "top", font: { size: 12 } },
      orientation: "h", thickness: 10, len: 0.9, x: 0.5, y: 1.02, yanchor: "bottom", outlinewidth: 0,
      tickvals: ticks.map(Math.log10), ticktext: ticks.map(plain), tickcolor: colours.line,
    },
  };
}

function markers({ axis, x, colours }, name, positions, symbol, size) {
  const values = study.columns[DIMENSIONS[axis].colour], known = positions.some((i) => values[i] > 0);
  const colour = known
    ? { color: positions.map((i) => (values[i] > 0 ? Math.log10(values[i]) : null)), coloraxis: "coloraxis" }
    : { color: colours.soft };
  return {
    type: "scatter",
    mode: "markers",
    name,
    x: positions.map((i) => x[i]),
    y: positions.map((i) => study.columns.f1[i]),
    customdata: positions,
    hoverinfo: "none",
    showlegend: false,
    marker: {
      symbol,
      size: positions.map((i) => size ?? (onFront.has(i) ? 12 : 8)),
      opacity: positions.map((i) => (size || onFront.has(i) ? 1 : 0.55)),
      line: { width: 1, color: colours.ink },
      ...colour,
    },
  };
}

/** One trace a verdict, models of a front on top, and a legend entry each. */
function modelTraces(view, drawn) {
  const traces = [], others = drawn.filter((i) => !(stageOf(i) in REFERENCES));
  for (const [verdict, symbol] of Object.entries(SYMBOLS)) {
    const chosen = others.filter((i) => verdictOf(i) === verdict).sort((a, b) => onFront.has(a) - onFront.has(b));
    if (!chosen.length) continue;
    traces.push({ ...markers(view, verdict, chosen, symbol), legendgroup: verdict });
    // plotly has no single colour for the legend of a trace that is coloured by value.
    const line = { width: 1, color: view.colours.ink };
    traces.push({
      type: "scatter", mode: "markers", name: verdict, legendgroup: verdict, x: [null], y: [null], hoverinfo: "skip",
      marker: { symbol, size: 10, color: view.colours.soft, line },
    });
  }
  return traces;
}

function referenceTraces(view, drawn) {
  return Object.entries(REFERENCES).map(([stage, [name, symbol, size]]) =>
    markers(view, name, drawn.filter((i) => stageOf(i) === stage), symbol, size));
}

function frontLines(view) {
  const front = staircase(view, "Pareto front", study.front, { color: view.colours.soft, dash: "dash", width: 1.5 });
  const safe = staircase(view, "safe front", study.safeFront, { color: view.colours.accent, width: 2 });
  return [front, safe].filter((line) => line.x.length);
}

/** The best macro F1 at each size or below (speed-up: or above), drawn on to the end of the axis. */
function staircase({ axis, x, range }, name, positions, style) {
  const f1 = study.columns.f1, sign = axis === "size" ? 1 : -1;
  const sorted = positions.filter((i) => x[i] > 0).sort((a, b) => sign * (x[a] - x[b]) || f1[b] - f1[a]);
  const xs = sorted.map((i) => x[i]), ys = [];
  for (const i of sorted) ys.push(Math.max(f1[i], ys.at(-1) ?? 0));
  if (sorted.length) {
    xs.push(10 ** (axis === "size" ? range[1] : range[0]));
    ys.push(ys.at(-1));
  }
  return { type: "scatter", mode: "lines", name, x: xs, y: ys, hoverinfo: "skip", line: { shape: "hv", ...style } };
}

/** The name of teacher or floor beside its point, towards the middle of the plot. */
function nameBeside({ x, range, spread, colours }, i) {
  const place = Math.log10(x[i]), right = place > (range[0] + range[1]) / 2;
  const high = study.columns.f1[i] > (spread[0] + spread[1]) / 2;
  return {
    x: place, y: study.columns.f1[i], text: `<b>${REFERENCES[stageOf(i)][0]}</b>`, font: { size: 12 },
    showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: colours.soft, bgcolor: colours.paper, opacity: 0.9,
    ax: right ? -22 : 22, ay: high ? 34 : -34, xanchor: right ? "right" : "left",
  };
}

/** A circle around the pinned model. */
function ring({ x, colours }) {
  const shown = pinned !== null && x[pinned] > 0;
  return {
    type: "scatter", mode: "markers", name: "pinned", hoverinfo: "skip", showlegend: false,
    x: shown ? [x[pinned]] : [], y: shown ? [study.columns.f1[pinned]] : [],
    marker: { symbol: "circle-open", size: 26, color: colours.accent, line: { width: 3, color: colours.accent } },
  };
}
