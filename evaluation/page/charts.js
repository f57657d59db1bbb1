// What the plotly figures have in common.

const CONFIG = {
  responsive: true,
  displaylogo: false,
  // Nothing of a study leaves the page: not to plotly's own service either.
  modeBarButtonsToRemove: ["sendChartToCloud", "lasso2d", "select2d", "autoScale2d"],
};

/** Colours of the page, which follow the system's theme. */
function theme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "ink", "soft", "line", "accent"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function axisStyle(title, colours, more) {
  return {
    title: { text: title, standoff: 8 },
    gridcolor: colours.line,
    linecolor: colours.soft,
    zeroline: false,
    ticks: "outside",
    tickcolor: colours.line,
    automargin: true,
    ...more,
  };
}

function layout(colours, more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest",
    // On a touch screen a drag scrolls the page.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    font: { family: "system-ui, sans-serif", size: 13, color: colours.ink },
    margin: { l: 60, r: 14, t: 20, b: 50 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.accent },
    ...more,
  };
}

/** The smallest and the largest of some numbers. */
function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

const ROUND = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]];

/** Round numbers of a logarithmic axis between two positive numbers: at least three where the range has room. */
function roundNumbers(low, high) {
  for (const digits of ROUND) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      found.push(...digits.map((digit) => Number((digit * 10 ** power).toPrecision(3))));
    }
    const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    if (inside.length >= 3) return inside;
  }
  return low === high ? [low] : [low, high];
}

const UNITS = [[3600 * 48, 86400, "days"], [3600 * 2, 3600, "hours"], [120, 60, "minutes"], [-1, 1, "seconds"]];

/** Hypervolume over trials and over time, as steps. */
function drawGrowth() {
  const curves = study.history;
  drawCurve("trials-plot", curves?.trials, "Trials", "after %{x} trials: %{y:.4f}<extra></extra>");
  const last = curves?.seconds.x.at(-1) ?? 0;
  const [, seconds, unit] = UNITS.find(([least]) => last > least);
  const title = `Time since the first model (${unit})`;
  drawCurve("time-plot", curves?.seconds, title, `after %{x:.2f} ${unit}: %{y:.4f}<extra></extra>`, seconds);
}

function drawCurve(id, curve, title, hovertemplate, divisor = 1) {
  const place = document.getElementById(id), colours = theme();
  if (!curve?.x.length) {
    const why = study.history ? "no row says when it was made" : "no teacher was measured";
    return message(place, `No hypervolume over ${id === "time-plot" ? "time" : "trials"}: ${why}.`);
  }
  const trace = {
    type: "scatter",
    mode: curve.x.length > 60 ? "lines" : "lines+markers",
    x: curve.x.map((value) => value / divisor),
    y: curve.y,
    line: { shape: "hv", color: colours.accent, width: 2 },
    marker: { size: 5 },
    hovertemplate,
  };
  const grown = curve.y.some((value) => value > 0);
  Plotly.react(place, [trace], layout(colours, {
    xaxis: axisStyle(title, colours, { rangemode: "tozero" }),
    yaxis: axisStyle("Hypervolume beyond the teacher", colours, grown ? {} : { range: [0, 1] }),
    showlegend: false,
  }), CONFIG);
}
