const figures = JSON.parse(document.getElementById("figures").textContent);
const BEFORE = "#8a97a3", AFTER = "#2b83c6", CUT = "#d9534a";

// Text and lines take the page's colour, so that dark mode and printing need no second drawing.
const config = {
  background: null,
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 12,
    titleFontSize: 12, titleFontWeight: "normal", domain: false, ticks: false,
    gridColor: "currentColor", gridOpacity: 0.12, labelLimit: 180, labelPadding: 6,
  },
  legend: {
    labelColor: "currentColor", titleColor: "currentColor", orient: "top", labelFontSize: 12,
    titleFontSize: 12, titleFontWeight: "normal",
  },
};

// Names may be there twice, or be too long: what is drawn is told apart by its number.
const short = (name) => {
  const parts = name.replace(/_output_0$/, "").replace(/^\/|\/$/g, "").split("/");
  const text = parts.filter((part, i) => !(parts[i + 1] ?? "").startsWith(`${part}.`)).join("/");
  return text.length > 24 ? `…${text.slice(-23)}` : text;
};
const keys = (names) => names.map((name, i) => `${i} ${short(name)}`);
const labelExpr = "substring(datum.label, indexof(datum.label, ' ') + 1)";
const lengthOf = (count, most, least, room) =>
  count * Math.max(least, Math.min(most, room / Math.max(count, 1)));

// An element for each mark is what can be printed sharply, until they are too many.
const MOST_MARKS = 8000, MOST_CLASSES = 40;

async function draw(name, spec, marks = 0) {
  const place = document.querySelector(`[data-chart="${name}"]`);
  if (!place) return null;
  const whole = { width: "container", autosize: { type: "fit-x", contains: "padding" }, ...spec };
  const { view } = await window.vegaEmbed(place, { ...whole, config }, {
    actions: false, renderer: marks > MOST_MARKS ? "canvas" : "svg", ast: true, mode: "vega-lite",
  });
  return view;
}

const share = { type: "quantitative", axis: { format: ".0%", title: null } };
const series = (domain, range) => ({
  field: "series", type: "nominal", title: null, scale: { domain, range },
});

// Classes that changed most, in their order.
function changed(classes) {
  const by = (c) => Math.abs((c.after?.value ?? 0) - (c.before?.value ?? 0));
  const order = classes.map((_, i) => i).sort((i, j) => by(classes[j]) - by(classes[i]));
  return order.slice(0, MOST_CLASSES).sort((i, j) => i - j).map((i) => classes[i]);
}

async function accuracy({ classes: all }) {
  const classes = changed(all);
  if (classes.length < all.length) {
    document.getElementById("changed").textContent =
      `The ${classes.length} of ${all.length} classes that changed most.`;
  }
  const named = keys(classes.map((c) => c.name));
  const values = classes.flatMap((c, i) => ["before", "after"].filter((s) => c[s]).map((s) => ({
    class: named[i], series: s, value: c[s].value, low: c[s].low, high: c[s].high,
    images: c[s].images,
  })));
  const y = { field: "class", type: "nominal", sort: named, title: null, axis: { labelExpr } };
  const color = series(["before", "after"], [BEFORE, AFTER]);
  const yOffset = { field: "series", sort: ["before", "after"] };
  const tooltip = [
    { field: "class" }, { field: "series" }, { field: "value", format: ".1%" },
    { field: "low", format: ".1%" }, { field: "high", format: ".1%" }, { field: "images" },
  ];
  await draw("accuracy", {
    data: { values }, height: lengthOf(classes.length, 30, 12, 1200),
    encoding: { y, yOffset, color, tooltip },
    layer: [
      { mark: { type: "rule", strokeWidth: 2, opacity: 0.6 },
        encoding: { x: { ...share, field: "low" }, x2: { field: "high" } } },
      { mark: { type: "point", filled: true, size: 60, opacity: 1 },
        encoding: { x: { ...share, field: "value", scale: { domain: [0, 1] } } } },
    ],
  });
}

async function search({ axis, points, chosen }) {
  const values = points.map((p) => ({ x: p.x, value: p.accuracy, series: p.series }));
  const names = [...new Set(values.map((v) => v.series))];
  const x = { field: "x", type: "quantitative", title: axis };
  const y = { ...share, field: "value", scale: { domain: [0, 1] } };
  const tooltip = [
    { field: "x", title: axis }, { field: "value", format: ".1%", title: "accuracy" },
    { field: "series", title: "of" },
  ];
  const layer = [{
    data: { values }, mark: { type: "line", point: { filled: true, size: 50 } },
    encoding: { x, y, tooltip, color: series(names, [AFTER, CUT, BEFORE, "#4a9d5b"]) },
  }];
  if (chosen !== null) {
    layer.push({
      data: { values: [{ x: chosen }] },
      mark: { type: "rule", strokeDash: [4, 4], color: "currentColor", opacity: 0.6 },
      encoding: { x },
    });
  }
  await draw("search", { height: 260, layer });
}

const bound = (extra) => ({
  field: "bound", type: "quantitative", title: "bound",
  scale: { scheme: "viridis", domainMin: 0, nice: true, ...extra },
  legend: { gradientLength: 160, format: ".2f" },
});

async function heat({ columns, layers }) {
  const named = keys(columns), rows = keys(layers.map((l) => l.tensor));
  const values = layers.flatMap((l, i) => l.mean.map((value, k) => ({
    at: i, layer: rows[i], column: named[k], bound: value, channels: l.channels,
  })));
  const view = await draw("heat", {
    data: { values }, height: lengthOf(rows.length, 22, 12, 900),
    mark: { type: "rect", cursor: "pointer" },
    encoding: {
      x: { field: "column", type: "nominal", sort: named, title: null,
        axis: { labelExpr, labelAngle: -45, labelOverlap: true, labelLimit: 90 } },
      y: { field: "layer", type: "nominal", sort: rows, title: null, axis: { labelExpr } },
      color: bound({}),
      tooltip: [{ field: "layer" }, { field: "column", title: "class" },
        { field: "bound", format: ".3f" }, { field: "channels" }],
    },
  }, values.length);
  const select = document.getElementById("layer");
  rows.forEach((name, i) => select.add(new Option(name.slice(name.indexOf(" ") + 1), i)));
  select.addEventListener("change", () => channels(layers[select.value], named));
  view.addEventListener("click", (_, item) => {
    if (item?.datum?.at === undefined) return;
    select.value = item.datum.at;
    channels(layers[item.datum.at], named);
  });
  if (layers.length) {
    select.value = layers.length - 1;
    await channels(layers[layers.length - 1], named);
  }
}

async function channels(layer, named) {
  const gone = "- removed", many = layer.shown.length;
  document.getElementById("shown").textContent = many < layer.channels
    ? `The ${many} of ${layer.channels} channels with the largest bounds.`
    : `${many} channels.`;
  const order = layer.shown.map(String);
  const values = layer.shown.flatMap((channel, i) => layer.bounds[i].map((value, k) => ({
    channel: String(channel), column: named[k], bound: value,
    state: layer.removed[i] ? "removed" : "kept",
  })));
  const cuts = layer.shown.filter((_, i) => layer.removed[i])
    .map((channel) => ({ channel: String(channel), column: gone }));
  document.getElementById("cuts").hidden = !cuts.length;
  const x = { field: "column", type: "nominal", title: null,
    scale: { domain: cuts.length ? [...named, gone] : named },
    axis: { labelExpr, labelAngle: -45, labelOverlap: true, labelLimit: 90 } };
  const y = { field: "channel", type: "nominal", sort: order, title: "channel",
    scale: { domain: order }, axis: { labelOverlap: true } };
  await draw("channels", {
    height: lengthOf(many, 16, 3, 700),
    encoding: { x, y },
    layer: [
      { data: { values }, mark: "rect", encoding: {
        color: bound({ domainMax: 1 }),
        tooltip: [{ field: "channel" }, { field: "column", title: "class" },
          { field: "bound", format: ".3f" }, { field: "state" }] } },
      { data: { values: cuts }, mark: { type: "rect", color: CUT } },
    ],
  }, values.length);
}

async function groups(list) {
  const rows = keys(list.map((g) => g.name));
  const values = list.flatMap((g, i) => [
    { group: rows[i], series: "kept", components: g.components - g.removed.length, order: 0 },
    { group: rows[i], series: "removed", components: g.removed.length, order: 1 },
  ]);
  await draw("groups", {
    data: { values }, height: lengthOf(rows.length, 22, 12, 900),
    mark: { type: "bar" },
    encoding: {
      y: { field: "group", type: "nominal", sort: rows, title: null, axis: { labelExpr } },
      x: { field: "components", type: "quantitative", title: "components" },
      color: series(["kept", "removed"], [AFTER, CUT]),
      order: { field: "order" },
      tooltip: [{ field: "group" }, { field: "series" }, { field: "components" }],
    },
  });
}

if (figures.accuracy) await accuracy(figures.accuracy);
if (figures.search) await search(figures.search);
if (figures.heat) await heat(figures.heat);
if (figures.groups.length) await groups(figures.groups);
document.documentElement.dataset.drawn = "yes";
