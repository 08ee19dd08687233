"use strict";
// The script of the report. The data come from result files, which are other people's input: text reaches the page
// through text nodes (`make`) or, in plots, through `plain`, and never as HTML.

const AXES = {
  params: { title: "parameters", sign: 1 },
  macs: { title: "multiply-adds", sign: 1 },
  activations: { title: "activations", sign: 1 },
  throughput: { title: "images a second", sign: -1 }, // the only cost of which more is better
  memory: { title: "peak memory [bytes]", sign: 1 },
};
// Okabe and Ito 2008, for the seeds of a net. Colours and marks of topologies come with the data.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SVG_DASHES = ["", "6 3", "2 2", "6 2 2 2", "9 3", "9 2 2 2"];
const UNITS = { k: 1e3, m: 1e6, g: 1e9, t: 1e12 };

const $ = (id) => document.getElementById(id);
let data; // what rows.gather returned
let plots = {}; // axis -> element
const state = {
  hidden: new Set(),
  series: new Set(),
  without: new Set(), // columns
  selected: null,
  sort: "score",
  down: true,
  floor: 0.1,
  round: 0,
  drawing: false,
};

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function main() {
  const library = document.createElement("script");
  library.textContent = await unpack("library"); // the content security policy knows its hash
  document.head.append(library);
  data = JSON.parse(await unpack("data"));
  data.series.forEach((series, i) => series.shown && state.series.add(i));
  for (const group of data.groups)
    $("group").append(make("option", { value: group.id }, `${group.id}: ${group.metric}`));
  for (const axis in AXES) plots[axis] = make("div", { className: "plot", id: `plot-${axis}` });
  $("plots").prepend(...Object.values(plots));
  for (const id of [...CONTROLS, "front"]) $(id).addEventListener("input", draw);
  $("group").addEventListener("input", () => enterGroup());
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", () => select(null));
  $("csv").addEventListener("click", saveTable);
  $("all-series").addEventListener("click", toggleSeries);
  $("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  $("card").addEventListener("click", (event) => event.target === $("card") && $("card").close()); // the backdrop
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme());
  addEventListener("hashchange", () => location.reload()); // by the reader
  drawProvenance();
  $("main").hidden = false; // plots ask for their size
  const view = new URLSearchParams(location.hash.slice(1));
  restore(view, ["group"]);
  enterGroup(view);
  setTheme();
  $("status").remove();
}

// ---- small tools

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Text for plotly, which takes a little HTML in its texts. */
const plain = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

function short(number) {
  if (number == null) return "-";
  for (const [unit, size] of [
    ["T", 1e12],
    ["G", 1e9],
    ["M", 1e6],
    ["k", 1e3],
  ])
    if (Math.abs(number) >= size) return `${+(number / size).toPrecision(4)} ${unit}`;
  return String(+number.toPrecision(4));
}

const percent = (number) => (number == null ? "-" : number.toFixed(2));
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = () => style("color-scheme") === "dark";
const look = (topology) => ({ colour: data.looks[topology][0], marker: data.looks[topology][1] });

/** A marker as in the plots, for legends and the table. */
function glyph(topology, hollow) {
  const { colour, marker } = look(topology);
  const shapes = {
    circle: "M7 2a5 5 0 1 0 .01 0z",
    square: "M2.5 2.5h9v9h-9z",
    "triangle-up": "M7 2L12.5 11.5H1.5z",
    diamond: "M7 1L13 7L7 13L1 7z",
    "triangle-down": "M7 12L12.5 2.5H1.5z",
    "triangle-left": "M2 7L11.5 1.5V12.5z",
    "triangle-right": "M12 7L2.5 1.5V12.5z",
    "triangle-ne": "M2 2H12V12z",
    "diamond-tall": "M7 1L10.5 7L7 13L3.5 7z",
    "diamond-wide": "M1 7L7 3.5L13 7L7 10.5z",
    hourglass: "M2 2H12L2 12H12z",
    bowtie: "M2 2V12L12 2V12z",
    "star-diamond": "M7 .5L8.7 5.3L13.5 7L8.7 8.7L7 13.5L5.3 8.7L.5 7L5.3 5.3z",
    pentagon: "M7 1L13 5.4L10.7 12.4H3.3L1 5.4z",
    cross: "M5 1.5h4V5h3.5v4H9v3.5H5V9H1.5V5H5z",
    x: "M4 1.5L7 4.5L10 1.5L12.5 4L9.5 7L12.5 10L10 12.5L7 9.5L4 12.5L1.5 10L4.5 7L1.5 4z",
    star: "M7 .8L8.8 5H13.3L9.7 7.8L11 12.5L7 9.7L3 12.5L4.3 7.8L.7 5H5.2z",
  };
  return drawing(14, { d: shapes[marker], fill: hollow ? "none" : colour, stroke: colour, "stroke-width": 1.5 });
}

function drawing(width, attributes) {
  const svg = $("drawing").content.firstElementChild.cloneNode(true);
  svg.setAttribute("width", width);
  for (const [key, value] of Object.entries(attributes)) svg.firstElementChild.setAttribute(key, value);
  return svg;
}

// ---- which rows

const inGroup = () => data.rows.filter((row) => row.group === $("group").value);
const metric = () => data.groups.find((group) => group.id === $("group").value).metric;

/** What is drawn: the score, or, for both views on a log scale, the error. */
function vertical(row) {
  if ($("view").value === "score") return row.score;
  return Math.max(100 - row.score, state.floor); // a log axis has no place for 0
}

function cost(row, axis) {
  if (axis === "throughput" || axis === "memory")
    return (row.machine[$("condition").value] || [])[+(axis === "memory")];
  return row[axis];
}

/** The largest count that a slider admits: from the least count of the group, on a log scale; at its end no limit. */
function budget(axis) {
  const slider = $(`budget-${axis}`);
  const counts = inGroup()
    .map((row) => row[axis])
    .filter((count) => count > 0);
  const [low, high] = [Math.min(...counts), Math.max(...counts)];
  const limited = +slider.value < +slider.max && counts.length;
  const most = limited ? low * (high / low) ** (slider.value / slider.max) : Infinity;
  $(`most-${axis}`).textContent = most < Infinity ? short(most) : "any";
  slider.setAttribute("aria-valuetext", $(`most-${axis}`).textContent);
  return most;
}

/**
 * A test for what the reader typed: words that the row's texts hold, and limits such as params < 1M. What looks like a
 * limit and is none is told below the field, and filters nothing.
 */
function matcher(text) {
  const wrong = [];
  const tests = text
    .toLowerCase()
    .replace(/\s*(<=|>=|[<>=])\s*/g, "$1")
    .replace(/(\d)\s+([kmgt%])(?=\s|$)/g, "$1$2")
    .split(/\s+/)
    .filter(Boolean)
    .map((term) => {
      const isWord = !/[<>=]/.test(term) || data.rows.some((row) => row.words.includes(term)); // names hold anything
      if (isWord) return (row) => row.words.includes(term);
      const limit = /^(\w+)(<=|>=|<|>|=)(\d+\.?\d*|\.\d+)([kmgt%]?)$/.exec(term);
      const key = limit && NUMBERS.find((column) => [column, column.replace(/s$/, ""), ALIASES[column]].includes(limit[1]));
      if (!key) {
        wrong.push(term);
        return () => true;
      }
      const bound = limit[3] * (UNITS[limit[4]] || 1);
      const holds = {
        "<": (v) => v < bound,
        ">": (v) => v > bound,
        "<=": (v) => v <= bound,
        ">=": (v) => v >= bound,
        "=": (v) => v === bound,
      };
      return (row) => number(row, key) != null && holds[limit[2]](number(row, key));
    });
  $("filter-error").textContent = wrong.length
    ? `No limit: ${wrong.join(" ")}. A limit is one of ${NUMBERS.join(", ")}, then <, <=, =, >= or >, then a number, ` +
      "perhaps with k, M, G, T or %: params < 1M"
    : "";
  $("filter").setAttribute("aria-invalid", wrong.length > 0);
  return (row) => tests.every((test) => test(row));
}

const ALIASES = { score: "accuracy", macs: "flops", params: "parameters" };
const TOGETHER = -1; // in place of a series
const NUMBERS = ["params", "macs", "activations", "throughput", "memory", "score", "error", "seeds"];
const number = (row, key) => (key === "error" ? 100 - row.score : key in AXES ? cost(row, key) : row[key]);

const MOST_FRONTS = 6; // more lines than that are a web

/** Rows that no row of the same series beats at a cost, cheapest first, by series; many published ones have one front. */
function fronts(rows, axis) {
  const many = new Set(rows.map((row) => row.series)).size > MOST_FRONTS;
  const place = (row) => (many && row.kind === "published" ? TOGETHER : row.series);
  const bySeries = rows.reduce((map, row) => map.set(place(row), [...(map.get(place(row)) || []), row]), new Map());
  for (const [series, own] of bySeries) {
    const sign = AXES[axis].sign;
    own.sort((a, b) => sign * (cost(a, axis) - cost(b, axis)) || b.score - a.score);
    let best = -Infinity,
      last = null;
    bySeries.set(
      series,
      own.filter((row) => {
        const equal = last && row.score === best && cost(row, axis) === cost(last, axis);
        if (row.score <= best && !equal) return false;
        [best, last] = [row.score, row];
        return true;
      }),
    );
  }
  return bySeries;
}

// ---- drawing

function draw() {
  for (const row of data.rows)
    row.words ||= [row.name, row.card, row.topology, row.family, row.kind, data.series[row.series].title, row.source, row.note]
      .join(" ")
      .toLowerCase();
  const matches = matcher($("filter").value);
  const most = { params: budget("params"), macs: budget("macs") };
  // A count that is not known may be any: it is left out only while there is a limit.
  const affordable = (row) =>
    Object.entries(most).every(([axis, limit]) => limit === Infinity || row[axis] <= limit * 1.0001);
  let rows = inGroup().filter(
    (row) => state.series.has(row.series) && !state.hidden.has(row.topology) && affordable(row) && matches(row),
  );
  const front = {};
  for (const row of rows) row.fronts = [];
  for (const axis in AXES) {
    front[axis] = fronts(
      rows.filter((row) => cost(row, axis) > 0),
      axis,
    );
    for (const own of front[axis].values()) for (const row of own) row.fronts.push(axis);
  }
  if ($("front").checked) rows = rows.filter((row) => row.fronts.length);
  state.drawing = true;
  for (const axis in AXES)
    drawPlot(
      axis,
      rows.filter((row) => cost(row, axis) > 0),
      front[axis],
    );
  state.drawing = false;
  drawTable(
    rows.filter((row) => !state.selected || state.selected.has(row.id)),
    rows.length,
  );
  $("clear").hidden = !state.selected;
  tellLeftOut();
  keepInAddress();
}

/** Say which series are off, and whether that hides the best of these images. */
function tellLeftOut() {
  const off = inGroup().filter((row) => !state.series.has(row.series));
  const best = Math.max(...off.map((row) => row.score));
  const titles = [...new Set(off.map((row) => row.series))];
  const better = best > Math.max(...inGroup().filter((row) => state.series.has(row.series)).map((row) => row.score));
  $("left-out").firstElementChild.textContent = off.length
    ? `Left out: ${off.length} figures of ${titles.length} series, such as ${data.series[titles[0]].title}; the best has ` +
      `${percent(best)} %${better ? ", more than all that are shown" : ""}.`
    : "All series are shown.";
  $("all-series").textContent = off.length ? "Show all series" : "Show the series of the first view";
  $("left-out").hidden = !off.length && firstSeries().size === seriesPlaces().size; // nothing to switch
}

/** The series of the first view of these images: all, where none is meant for it. */
function firstSeries() {
  const own = [...seriesPlaces().keys()];
  const shown = own.filter((series) => data.series[series].shown);
  return new Set(shown.length ? shown : own);
}

function toggleSeries() {
  const own = [...seriesPlaces().keys()];
  const all = own.some((series) => !state.series.has(series));
  const first = firstSeries();
  for (const series of own) all || first.has(series) ? state.series.add(series) : state.series.delete(series);
  showSeries();
  draw();
}

// ---- the view in the address, so that it can be sent

const CONTROLS = ["view", "bars", "condition", "filter", "budget-params", "budget-macs"];

function keepInAddress() {
  const view = new URLSearchParams();
  for (const id of ["group", ...CONTROLS]) if ($(id).value) view.set(id, $(id).value);
  if ($("front").checked) view.set("front", "1");
  view.set("sort", (state.down ? "-" : "") + state.sort);
  for (const topology of state.hidden) view.append("without", topology);
  for (const column of state.without) view.append("hide", column);
  for (const series of state.series)
    if (inGroup().some((row) => row.series === series)) view.append("series", data.series[series].title);
  history.replaceState(null, "", `#${view}`);
}

/** Set controls from an address; values that this page does not have are left alone. */
function restore(view, ids) {
  for (const id of ids) {
    const options = $(id).options && [...$(id).options].map((option) => option.value);
    if (view.has(id) && (!options || options.includes(view.get(id)))) $(id).value = view.get(id);
  }
  if (ids !== CONTROLS) return;
  $("front").checked = view.has("front");
  const [, down, sort] = /^(-?)(.*)$/.exec(view.get("sort") || "");
  if (COLUMNS.some((column) => column.key === sort)) [state.sort, state.down] = [sort, down === "-"];
  for (const key of view.getAll("hide")) if (COLUMNS.slice(1).some((column) => column.key === key)) state.without.add(key);
  for (const topology of view.getAll("without")) if (topology in data.looks) state.hidden.add(topology);
  if (view.has("series"))
    for (const row of inGroup())
      view.getAll("series").includes(data.series[row.series].title)
        ? state.series.add(row.series)
        : state.series.delete(row.series);
}

function drawPlot(axis, rows, front) {
  const plot = plots[axis];
  plot.hidden = !inGroup().some((row) => cost(row, axis) > 0); // not by what is filtered, or the page would jump
  if (plot.hidden) return;
  const places = seriesPlaces();
  const traces = [];
  const side = AXES[axis].sign > 0 ? "hv" : "vh";
  for (const [series, own] of front)
    if (own.length > 1)
      traces.push({
        x: own.map((row) => cost(row, axis)),
        y: own.map(vertical),
        mode: "lines+text",
        text: frontLabels(own, axis, rows).map((label) => label && `\u00a0\u00a0${label}\u00a0\u00a0`), // beside the mark
        textposition: sides(own, axis, rows),
        cliponaxis: false,
        textfont: { size: 10 },
        hoverinfo: "skip",
        line: { shape: side, width: 1.3, color: style("--faint"), dash: DASHES[(places.get(series) || 0) % DASHES.length] },
      });
  traces.push(...joined(axis, rows));
  const bars = $("bars").value;
  for (const kind of ["published", "measured"]) {
    for (const topology of new Set(rows.filter((row) => row.kind === kind).map((row) => row.topology))) {
      const own = rows.filter((row) => row.kind === kind && row.topology === topology);
      const { colour, marker } = look(topology);
      const filled = kind === "measured";
      traces.push({
        x: own.map((row) => cost(row, axis)),
        y: own.map(vertical),
        mode: "markers",
        customdata: own.map((row) => row.id),
        hoverinfo: "text",
        hovertext: own.map(hoverText),
        marker: {
          color: colour,
          symbol: filled ? marker : `${marker}-open`,
          size: filled ? 10 : 9,
          line: filled ? { color: style("--back"), width: 1 } : { color: colour, width: 1.6 },
        },
        error_y: {
          type: "data",
          array: own.map((row) => (filled && row[bars]) || 0),
          visible: filled && own.some((row) => row[bars]),
          thickness: 1,
          width: 3,
          color: colour,
        },
        selectedpoints: state.selected ? own.flatMap((row, i) => (state.selected.has(row.id) ? [i] : [])) : undefined,
        unselected: { marker: { opacity: 0.12 } },
      });
    }
  }
  const line = {
    gridcolor: style("--line"),
    linecolor: style("--faint"),
    zeroline: false,
    ticks: "outside",
    tickcolor: style("--line"),
  };
  const layout = {
    margin: { l: 58, r: 12, t: 30, b: 50 },
    showlegend: false,
    hovermode: "closest",
    dragmode: isNarrow() ? false : "select",
    paper_bgcolor: style("--back"),
    plot_bgcolor: style("--back"),
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--text") },
    hoverlabel: {
      align: "left",
      bgcolor: style("--panel"),
      bordercolor: style("--faint"),
      font: { color: style("--text") },
    },
    // New limits only for another question; a reader's zoom outlives a filter.
    uirevision: [$("group").value, $("view").value, $("condition").value].join(),
    selections: [],
    selectionrevision: state.round, // the box goes when its points are lit
    xaxis: {
      ...line,
      type: "log",
      title: { text: AXES[axis].title, standoff: 6 },
      tickfont: { size: 11 },
      ...logTicks(
        plot.layout?.xaxis,
        rows.map((row) => cost(row, axis)),
        short,
        Math.max(3, Math.min(10, (plot.clientWidth - 70) / 44)),
      ),
    },
    yaxis: { ...line, ...scale(plot, rows) },
    annotations: rows.length
      ? []
      : [
          {
            text: `nothing shown has ${AXES[axis].title.replace(/ \[.*/, "")}`,
            showarrow: false,
            xref: "paper",
            yref: "paper",
            x: 0.5,
            y: 0.5,
            font: { color: style("--faint") },
          },
        ],
  };
  plot.setAttribute("role", "figure");
  plot.setAttribute("aria-label", summary(axis, rows, front));
  if (!rows.length) Object.assign(layout, { xaxis: { visible: false }, yaxis: { visible: false } });
  const fresh = !plot.on;
  Plotly.react(plot, traces, layout, {
    responsive: true,
    displaylogo: false,
    displayModeBar: isNarrow() ? false : "hover",
    modeBarButtons: [["toImage", "select2d", "zoom2d", "pan2d", "resetScale2d"]],
  });
  if (fresh) {
    plot.on("plotly_hover", (event) => highlight(idOf(event.points[0]), plot));
    plot.on("plotly_unhover", () => highlight(null, plot));
    plot.on("plotly_click", (event) => idOf(event.points[0]) != null && openCard(data.rows[idOf(event.points[0])]));
    // Redrawing tells of selections, too; only the reader's count.
    plot.on(
      "plotly_selected",
      (event) => event && !state.drawing && select(new Set(event.points.map(idOf).filter((id) => id != null))),
    );
    plot.on(
      "plotly_relayout",
      (event) => !state.drawing && Object.keys(event).some((key) => /range/.test(key)) && draw(),
    ); // ticks
    plot.on("plotly_deselect", () => !state.drawing && select(null));
  }
}

/** The topology beside each point of a front where it changes, as far as there is room: a label is a tenth of a plot. */
function frontLabels(own, axis, rows) {
  const places = rows.map((row) => Math.log(cost(row, axis)));
  const room = 0.12 * (Math.max(...places) - Math.min(...places));
  let last = -Infinity;
  return own.map((row, i) => {
    const place = AXES[axis].sign * Math.log(cost(row, axis));
    if ((i && own[i - 1].topology === row.topology) || place - last < room) return "";
    last = place;
    return plain(row.topology);
  });
}

/** The side of each point that its label stands on: to the left of those in the first third is the axis. */
function sides(own, axis, rows) {
  const places = rows.map((row) => Math.log(cost(row, axis)));
  const [low, high] = [Math.min(...places), Math.max(...places)];
  return own.map((row) => (Math.log(cost(row, axis)) < low + (high - low) / 3 ? "top right" : "top left"));
}

/** A line through the sizes of each topology that one series has measured, if nothing else about the nets differs. */
function joined(axis, rows) {
  const bySizes = new Map();
  for (const row of rows)
    if (row.kind === "measured") {
      const key = JSON.stringify([row.series, row.topology, row.apart]);
      bySizes.set(key, [...(bySizes.get(key) || []), row]);
    }
  return [...bySizes.values()]
    .filter((own) => own.length > 1)
    .map((own) => {
      own.sort((a, b) => a.params - b.params);
      return {
        x: own.map((row) => cost(row, axis)),
        y: own.map(vertical),
        mode: "lines",
        hoverinfo: "skip",
        opacity: state.selected ? 0.12 : 0.55,
        line: { width: 1.2, color: look(own[0].topology).colour },
      };
    });
}

const few = (names) => (names.length > 9 ? [...names.slice(0, 4), "...", ...names.slice(-4)] : names).join(", ");

/** What a plot shows, in words: the table holds the same figures. */
function summary(axis, rows, front) {
  const what = `${metric()} against ${AXES[axis].title.replace(/ \[.*/, "")}`;
  if (!rows.length) return `Plot of ${what}: nothing is shown.`;
  const ends = (values, format) => [Math.min(...values), Math.max(...values)].map(format).join(" to ");
  const fronts = [...front].map(
    ([series, own]) => `${series === TOGETHER ? "all that is published" : data.series[series].title}: ${few(own.map((row) => row.name))}`,
  );
  return (
    `Plot of ${what}: ${rows.length} nets, ${ends(rows.map((row) => cost(row, axis)), short)}, ${metric()} ` +
    `${ends(rows.map((row) => row.score), percent)} %. Pareto fronts, cheapest first: ${fronts.slice(0, 4).join("; ")}` +
    `${fronts.length > 4 ? `, and of ${fronts.length - 4} more series` : ""}. The table below holds the same figures.`
  );
}

/** The vertical axis. "stretched" labels a log scale of the error with the score, so that 99 and 99.5 lie apart. */
function scale(plot, rows) {
  const view = $("view").value;
  const title = (text) => ({ text: `${text} [%]`, standoff: 4 });
  if (view === "score") return { type: "linear", title: title(plain(metric())), tickformat: "~g" };
  const ticks = logTicks(plot.layout?.yaxis, rows.map(vertical), (v) =>
    String(+(view === "log" ? v : 100 - v).toPrecision(5)),
  );
  if (view === "log") return { type: "log", title: title(`error (100 - ${plain(metric())})`), ...ticks };
  return { type: "log", autorange: "reversed", title: title(plain(metric())), ...ticks };
}

/** As many round numbers on a log axis as have room; plotly's own are too many and then slanted. */
function logTicks(axis, values, text, room = 10) {
  const zoomed = axis?.type === "log" && axis.autorange === false;
  const ends = zoomed ? axis.range : [Math.min(...values), Math.max(...values)].map(Math.log10);
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const margin = high > low ? 0.05 * (high - low) : 1; // plotly gives a single value a decade on either side
  if (!zoomed) [low, high] = [low - margin, high + margin];
  const fine = (step) => Array.from({ length: Math.round(9 / step) }, (_, i) => 1 + i * step);
  let ticks = [];
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], fine(0.5), fine(0.2), fine(0.1), fine(0.02)]) {
    const finer = [];
    for (let unit = Math.floor(low); unit <= high; unit++)
      finer.push(
        ...steps.map((step) => step * 10 ** unit).filter((v) => low <= Math.log10(v) && Math.log10(v) <= high),
      );
    if (finer.some((v, i) => i && Math.log10(v / finer[i - 1]) < (high - low) / room)) break;
    ticks = finer;
  }
  return { tickvals: ticks, ticktext: ticks.map(text), tickangle: 0 };
}

const isNarrow = () => matchMedia("(max-width: 700px), (pointer: coarse)").matches; // there a drag has to scroll
const idOf = (point) => point.customdata;

function hoverText(row) {
  const bar = row.spread != null ? ` +- ${percent(row.spread)} (${row.seeds} seeds)` : "";
  const lines = [
    ...broken(row.name),
    ...broken(`${row.kind === "measured" ? "" : "published: "}${data.series[row.series].title}`),
    `${metric()} ${percent(row.score)} %${bar}`,
    `params ${short(row.params)}, MACs ${short(row.macs)}`,
    ...(row.activations ? [`activations ${short(row.activations)}`] : []),
    ...(cost(row, "throughput")
      ? [`${short(cost(row, "throughput"))} images/s, ${short(cost(row, "memory"))} bytes`]
      : []),
    ...(row.source ? broken(row.source) : []),
  ];
  return lines.map(plain).join("<br>");
}

/** A long text in lines of some 48 characters. */
const broken = (text) => String(text).match(/.{1,48}(?:\s|$)|.{1,48}/g) || [""];

/** Show where a row is: a label in every other plot, and its line in the table. */
function highlight(id, source) {
  for (const row of document.querySelectorAll("tr.hovered")) row.classList.remove("hovered");
  const line = id == null ? null : $(`row-${id}`);
  if (line) line.classList.add("hovered");
  for (const plot of Object.values(plots)) {
    if (plot === source || !plot.data) continue;
    const points = [];
    plot.data.forEach((trace, curveNumber) => {
      const pointNumber = id == null || !trace.customdata ? -1 : trace.customdata.indexOf(id);
      if (pointNumber >= 0) points.push({ curveNumber, pointNumber });
    });
    Plotly.Fx.hover(plot, points, "xy", true); // without an event, or the plots would answer each other for ever
  }
}

function select(ids) {
  state.selected = ids && ids.size ? ids : null;
  state.round += 1;
  draw();
}

// ---- legends and controls

/** The series of the group, those first that are shown at first, then the large ones; the place decides the dash. */
function seriesPlaces() {
  const sizes = new Map();
  for (const row of inGroup()) sizes.set(row.series, (sizes.get(row.series) || 0) + 1);
  const all = [...sizes.keys()].sort(
    (a, b) => data.series[b].shown - data.series[a].shown || sizes.get(b) - sizes.get(a),
  );
  return new Map(all.map((series, i) => [series, i]));
}

function enterGroup(view) {
  const rows = inGroup();
  state.selected = null;
  const errors = rows.map((row) => 100 - row.score).filter((error) => error > 0);
  state.floor = errors.length ? Math.min(...errors) / 2 : 0.1;
  const known = new Map(); // condition -> rows that have it
  for (const row of rows) for (const id of Object.keys(row.machine)) known.set(id, (known.get(id) || 0) + 1);
  const conditions = data.conditions
    .filter(({ id }) => known.has(id))
    .sort((a, b) => known.get(b.id) - known.get(a.id));
  $("condition").replaceChildren(
    ...conditions.map(({ id, title }) => make("option", { value: id }, `${title} (${known.get(id)})`)),
  );
  $("condition").disabled = !known.size;
  if (!known.size) $("condition").append(make("option", { value: "" }, "nothing measured for these images"));
  // With one seed each there is no deviation; then the test images' standard error is what there is.
  $("bars").value = rows.some((row) => row.spread != null) ? "spread" : "error";
  if (view) restore(view, CONTROLS);
  const topologies = Object.keys(data.looks).filter((topology) => rows.some((row) => row.topology === topology));
  const hollow = (topology) => !rows.some((row) => row.topology === topology && row.kind === "measured");
  $("topologies").replaceChildren(
    ...topologies.map((topology) =>
      chip(topology, glyph(topology, hollow(topology)), !state.hidden.has(topology), (on) =>
        on ? state.hidden.delete(topology) : state.hidden.add(topology),
      ),
    ),
  );
  const places = seriesPlaces();
  if (![...places.keys()].some((series) => state.series.has(series)))
    for (const series of firstSeries()) state.series.add(series);
  showSeries();
  showColumns();
  draw();
}

function showSeries() {
  const [places, rows] = [seriesPlaces(), inGroup()];
  for (const kind of ["measured", "published"]) {
    const chips = [...places]
      .filter(([series]) => data.series[series].kind === kind)
      .map(([series, place]) => {
        const dash = drawing(26, {
          d: "M0 7H26",
          stroke: "currentColor",
          "stroke-width": 1.5,
          "stroke-dasharray": SVG_DASHES[place % SVG_DASHES.length],
        });
        const size = rows.filter((row) => row.series === series).length;
        return chip(`${data.series[series].title} (${size})`, dash, state.series.has(series), (on) =>
          on ? state.series.add(series) : state.series.delete(series),
        );
      });
    $(kind).replaceChildren(...(chips.length ? chips : ["none of these images"]));
  }
}

function chip(text, picture, on, change) {
  const button = make("button", { type: "button" }, picture, text);
  button.setAttribute("aria-pressed", on);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", now);
    change(now);
    draw();
  });
  return button;
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").textContent = isDark() ? "Light" : "Dark";
  draw();
  if ($("card").open) $("card").close(); // its curves have the old colours
}

// ---- table

const COLUMNS = [
  { key: "name", title: "net", text: true },
  { key: "score", title: () => `${metric()} [%]`, format: percent },
  { key: "spread", title: "seed dev.", format: percent },
  { key: "error", title: "standard error", format: percent },
  { key: "seeds", title: "seeds" },
  {
    key: "gap",
    title: "vs. published",
    format: (value) => (value == null ? "-" : (value > 0 ? "+" : "") + value.toFixed(2)),
  },
  { key: "params", title: "params", format: short },
  { key: "macs", title: "MACs", format: short },
  { key: "activations", title: "activations", format: short },
  { key: "throughput", title: "images/s", format: short, value: (row) => cost(row, "throughput") },
  { key: "memory", title: "memory", format: short, value: (row) => cost(row, "memory") },
  { key: "seconds", title: "train s", format: short },
  { key: "fronts", title: "on the front of", text: true, value: (row) => row.fronts.join(" ") },
  { key: "topology", title: "topology", text: true },
  { key: "family", title: "family", text: true },
  { key: "series", title: "series", text: true, value: (row) => data.series[row.series].title },
];
const valueOf = (row, column) => (column.value ? column.value(row) : row[column.key]);

/** A chip for every column that these images have figures for; the name stays. */
function showColumns() {
  const known = COLUMNS.slice(1).filter((column) => column.text || inGroup().some((row) => valueOf(row, column) != null));
  $("columns").lastElementChild.replaceChildren(
    ...known.map((column) =>
      chip(titleOf(column), null, !state.without.has(column.key), (on) =>
        on ? state.without.delete(column.key) : state.without.add(column.key),
      ),
    ),
  );
}

const titleOf = (column) => (typeof column.title === "function" ? column.title() : column.title);

function drawTable(rows, shown) {
  const columns = COLUMNS.filter(
    (column) => !state.without.has(column.key) && (column.text || rows.some((row) => valueOf(row, column) != null)),
  );
  const column = COLUMNS.find(({ key }) => key === state.sort);
  const order = new Intl.Collator("en", { numeric: true }).compare; // resnet20 before resnet110
  rows.sort((a, b) => {
    const [x, y] = [valueOf(a, column), valueOf(b, column)];
    if (x == null || y == null) return (x == null) - (y == null); // what is not known comes last either way
    return (state.down ? -1 : 1) * (column.text ? order(x, y) : x - y) || order(a.name, b.name);
  });
  const head = columns.map((own) => {
    const active = own.key === state.sort;
    const title = titleOf(own);
    const button = make("button", { type: "button" }, title + (active ? (state.down ? " \u25be" : " \u25b4") : ""));
    button.dataset.column = own.key;
    button.addEventListener("click", () => {
      state.down = active ? !state.down : !own.text;
      state.sort = own.key;
      draw();
      document.querySelector(`[data-column="${own.key}"]`).focus();
    });
    const cell = make("th", { scope: "col", className: `${own.text ? "text" : ""} ${own.key}` }, button);
    if (active) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    return cell;
  });
  const lines = rows.map((row) => {
    const line = make("tr", { id: `row-${row.id}` });
    line.append(
      ...columns.map((own) => {
        if (own.key === "name") {
          const open = make(
            "button",
            { type: "button", title: row.name },
            glyph(row.topology, row.kind === "published"),
            make("span", {}, row.name),
          );
          open.addEventListener("click", () => openCard(row));
          return make("td", { className: "text" }, open);
        }
        const value = valueOf(row, own);
        return make(
          "td",
          { className: `${own.text ? "text" : ""} ${own.key}` },
          own.format ? own.format(value) : String(value ?? "-"),
        );
      }),
    );
    line.addEventListener("mouseenter", () => highlight(row.id, null));
    line.addEventListener("mouseleave", () => highlight(null, null));
    return line;
  });
  state.table = [
    columns.map(titleOf),
    ...rows.map((row) => columns.map((own) => valueOf(row, own))),
  ];
  $("table").tHead.replaceChildren(make("tr", {}, ...head));
  $("table").tBodies[0].replaceChildren(...lines);
  const of = state.selected ? `${rows.length} selected of ${shown}` : `${rows.length}`;
  $("count").textContent =
    `${of} shown, of ${inGroup().length} for these images. Click a heading to sort, a net for its card.`;
}

/** The shown table as CSV, in whole numbers; no spreadsheet reads a text of it as a formula. */
function csv() {
  const cell = (value) => {
    if (typeof value === "number") return String(value);
    const text = String(value ?? "").replace(/(^|;)([ '"]*[=+@\uff0b\uff0d\uff1d\uff20-])/g, "$1'$2");
    return /[",\n;]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return state.table.map((row) => row.map(cell).join(",") + "\r\n").join("");
}

function saveTable() {
  const link = make("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "table.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- cards and provenance

function openCard(row) {
  const card = data.cards[row.card];
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => $("card").close());
  const rows = data.rows.filter((other) => other.card === row.card);
  const runs = data.runs.filter((run) => run.card === row.card);
  const published = rows.filter((other) => other.kind === "published");
  const measured = rows.filter((other) => other.kind === "measured");
  const parts = [
    make(
      "header",
      {},
      make("h1", { id: "card-title" }, glyph(row.topology, row.kind === "published"), " ", row.card),
      close,
    ),
    facts({
      family: card.family || row.family,
      paper: card.paper && linked(card.paper),
      reference: card.reference,
      "timm name": card.timm,
      notes: card.notes,
    }),
    titled("Drawing", card.drawn && drawn(card.drawn, card.overrides)),
    titled(
      "Measured",
      measured.length &&
        tabled(
          ["images", "score [%]", "seeds", "params", "MACs", "activations", "series", "note"],
          measured.map((m) => [
            m.group,
            percent(m.score) + (m.spread == null ? "" : ` +- ${percent(m.spread)}`),
            m.seeds,
            short(m.params),
            short(m.macs),
            short(m.activations),
            data.series[m.series].title,
            m.note,
          ]),
        ),
    ),
    titled(
      "Published",
      published.length &&
        tabled(
          ["as", "images", "size", "top-1 error", "top-5 error", "params", "MACs", "series", "source", "note"],
          published.map((p) => [
            p.name,
            p.group,
            p.size,
            percent(100 - p.score),
            percent(p.top5),
            short(p.params),
            short(p.macs),
            data.series[p.series].title,
            p.source,
            p.note,
          ]),
        ),
    ),
    titled(
      "Learning curves",
      runs.some((run) => run.epochs.length > 1) &&
        make(
          "div",
          { className: "curves" },
          make("div", { className: "curve", id: "curve-scores" }),
          make("div", { className: "curve", id: "curve-losses" }),
        ),
    ),
    titled(
      "Classes",
      card.classes &&
        make(
          "div",
          {},
          make("p", { className: "hint" }, `On the test images of the last run, on ${card.of}: ${card.classes.words}.`),
          tabled(["class", "accuracy [%]", ...card.classes.heads], card.classes.rows),
        ),
    ),
    titled("Overrides", facts(card.overrides)),
    titled("Specification", facts(card.spec, "facts")),
    titled("Structure", facts(card.structure)),
    titled("Feature taps", card.taps?.length && tabled(["module", "channels", "stride"], card.taps)),
    titled(
      "Counts by stage",
      card.stages?.length
        ? make(
            "div",
            {},
            make("p", { className: "hint" }, card.counted),
            tabled(
              ["stage", "params", "MACs", "activations"],
              card.stages.map(([name, ...counts]) => [name, ...counts.map(short)]),
            ),
          )
        : runs.length
          ? make(
              "p",
              { className: "hint" },
              "Not in these result lines; zoo report --count adds them for registered nets.",
            )
          : null,
    ),
    titled("Operators not counted", card.uncounted && (facts(card.uncounted) || make("p", {}, "none"))),
    titled(
      "Runs",
      runs.length &&
        tabled(
          ["images", "seed", "score [%]", "seconds", "recipe", "device", "versions", "revision", "finished"],
          runs.map((run) => [
            run.group,
            run.seed,
            percent(run.score),
            run.seconds,
            Object.entries(run.recipe)
              .map(([key, value]) => `${key}=${value}`)
              .join(" "),
            run.device,
            run.versions,
            run.revision,
            run.finished,
          ]),
        ),
    ),
  ];
  $("card").replaceChildren(...parts.filter(Boolean));
  if (!$("card").open) $("card").showModal();
  $("card").scrollTop = 0;
  if ($("curve-scores"))
    for (const [key, title] of [
      ["scores", "test score [%]"],
      ["losses", "training loss"],
    ])
      drawCurves(`curve-${key}`, key, title, runs);
}

/** The drawing of a preset; nets of result lines are not built, so that of a variant is its preset's. */
function drawn(name, overrides) {
  const changed = Object.keys(overrides || {}).join(", ");
  const picture = make("img", {
    alt: `${name}, drawn: units from left to right in order of computation, from top to bottom by resolution.`,
    src: `data:image/svg+xml,${encodeURIComponent(data.drawings[name])}`,
  });
  return make(
    "div",
    {},
    changed ? make("p", { className: "hint" }, `The preset ${name}. This net differs in ${changed}.`) : null,
    make("div", { className: "drawn", tabIndex: 0, role: "region", ariaLabel: `drawing of ${name}` }, picture),
  );
}

function drawCurves(id, key, title, runs) {
  const several = new Set(runs.map((run) => run.group)).size > 1;
  const traces = runs.map((run, i) => ({
    x: run.epochs,
    y: run[key],
    mode: "lines",
    name: plain(`${several ? `${run.group}, ` : ""}seed ${run.seed}`),
    line: { color: COLOURS[i % COLOURS.length], dash: DASHES[i % DASHES.length], width: 1.8 },
  }));
  const line = { gridcolor: style("--line"), zeroline: false };
  Plotly.newPlot(
    id,
    traces,
    {
      margin: { l: 48, r: 8, t: 8, b: 38 },
      paper_bgcolor: style("--back"),
      plot_bgcolor: style("--back"),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--text") },
      showlegend: runs.length > 1 && runs.length < 9,
      legend: {
        x: 1,
        xanchor: "right",
        y: key === "scores" ? 0 : 1,
        yanchor: key === "scores" ? "bottom" : "top",
        bgcolor: "rgba(0,0,0,0)",
      },
      xaxis: { ...line, title: { text: "epoch", standoff: 6 } },
      yaxis: { ...line, title: { text: title, standoff: 6 }, rangemode: "tozero" },
    },
    { responsive: true, displayModeBar: false },
  );
}

const titled = (title, content) => (content ? make("section", {}, make("h3", {}, title), content) : null);

function facts(values, className = "") {
  const known = Object.entries(values || {}).filter(([, value]) => value != null && value !== "");
  return known.length
    ? make(
        "dl",
        { className },
        ...known.flatMap(([key, value]) => [
          make("dt", {}, key),
          make("dd", {}, value instanceof Node ? value : String(value)),
        ]),
      )
    : null;
}

function tabled(head, lines) {
  const isText = (column) => lines.some((line) => /[a-z]{2}/i.test(line[column] ?? ""));
  const cell = (tag, value, column) =>
    make(
      tag,
      { className: isText(column) ? (String(value ?? "").length > 24 ? "text long" : "text") : "" },
      value === "" || value == null ? "-" : String(value),
    );
  return make(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `table of ${head.join(", ")}` },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, ...head.map((title, i) => cell("th", title, i)))),
      make("tbody", {}, ...lines.map((line) => make("tr", {}, ...line.map((value, i) => cell("td", value, i))))),
    ),
  );
}

/** A paper with its arXiv number as a link, which only a click follows. */
function linked(text) {
  const parts = text.split(/(arXiv:\d{4}\.\d{4,5})/);
  return make(
    "span",
    {},
    ...parts.map((part, i) =>
      i % 2
        ? make("a", { href: `https://arxiv.org/abs/${part.slice(6)}`, rel: "noreferrer", target: "_blank" }, part)
        : part,
    ),
  );
}

function drawProvenance() {
  const { zoo, files, machines, warnings } = data.provenance;
  const parts = [
    make("p", {}, `Written by zoo ${zoo}. Published figures have their sources in the table and the cards.`),
    titled(
      "Result files",
      tabled(
        ["file", "lines", "SHA-256, first 16"],
        files.map((file) => [file.name, file.lines, file.sha256]),
      ),
    ),
    titled(
      "Machines",
      tabled(
        ["device", "versions", "revision", "lines"],
        machines.map((m) => [m.device, m.versions, m.revision, m.lines]),
      ),
    ),
    titled(
      "Failed runs",
      data.failures.length &&
        tabled(
          ["net", "seed", "error"],
          data.failures.map((f) => [f.name, f.seed, f.error]),
        ),
    ),
    titled("Warnings", warnings.length && make("ul", {}, ...warnings.map((text) => make("li", {}, text)))),
  ];
  $("provenance").append(...parts.filter(Boolean));
}

main().catch((error) => {
  $("status").textContent = `This page could not be shown: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
});
