// Pictures of what a figure is made of: bytes by part, the model over rounds, the clients.

// ---- bytes by part

const PARTS_OF = Object.keys(PART_WORDS);
const partOf = (group, way, part) => spreadOf(group.runs.map((run) => run.final[`bytes_${way}_${part}`] ?? 0)).mean;
const wayOf = (group, way) => spreadOf(group.runs.map((run) => run.final[`bytes_${way}`] ?? 0)).mean;

// Rows have numbers for places: two long names that are cut short alike stay two rows.
function parts(seen) {
  const palette = PART_HUES[dark() ? "dark" : "light"];
  const rows = seen.shown.toReversed();
  const traces = ["up", "down"].flatMap((way, i) =>
    PARTS_OF.map((part) => ({
      type: "bar",
      orientation: "h",
      name: PART_WORDS[part],
      y: rows.map((_, row) => row),
      x: rows.map((group) => partOf(group, way, part)),
      xaxis: i === 0 ? "x" : "x2",
      meta: {},
      marker: { color: palette[part], line: { width: 0 } },
      customdata: rows.map((group) => [bytesText(partOf(group, way, part)), plain(group.label)]),
      hovertemplate: `%{customdata[1]}<br>${PART_WORDS[part]}, ${way}: <b>%{customdata[0]}</b><extra></extra>`,
    })),
  );
  const masks = (group) =>
    ["mask", "catch_up"]
      .flatMap((part) => [partOf(group, "up", part), partOf(group, "down", part)])
      .reduce((a, b) => a + b, 0);
  const told = seen.shown.map(
    (group) =>
      `${group.label}: up ${bytesText(wayOf(group, "up"))}, down ${bytesText(wayOf(group, "down"))}, masks and catching up ${bytesText(masks(group))}`,
  );
  return {
    traces: rows.length > 0 ? traces : [],
    layout: partsLayout(rows),
    label: `Bytes by part and direction. ${told.join("; ")}.`,
    caption:
      "Means over seeds of the bytes of the whole run. Catching up: masks and frozen weights for clients that were away.",
  };
}

const partsHeight = (seen) => Math.max(200, 74 + (isNarrow() ? 40 : 30) * seen.shown.length);

function partsLayout(rows) {
  const most = Math.max(...rows.flatMap((group) => [wayOf(group, "up"), wayOf(group, "down")]), 1);
  const title = (words, x) => ({
    text: words,
    xref: "paper",
    yref: "paper",
    x,
    y: 1,
    yshift: 4,
    xanchor: "left",
    yanchor: "bottom",
    showarrow: false,
    font: { size: 12.5, color: css("--quiet") },
  });
  const side = (domain) => axis("", { ...bytesAxis, domain, range: [0, 1.04 * most], nticks: isNarrow() ? 2 : 4 });
  const label = (group) =>
    isNarrow()
      ? group.label
          .split(" · ")
          .map((part) => brief(part, 16))
          .join("<br>")
      : brief(group.label, 30);
  return layoutOf({
    barmode: "stack",
    bargap: 0.35,
    xaxis: side([0, 0.47]),
    xaxis2: { ...side([0.53, 1]), anchor: "y" },
    yaxis: axis("", {
      gridcolor: "rgba(0,0,0,0)",
      tickfont: { size: isNarrow() ? 11 : 12.5, color: css("--ink") },
      ticklabelstandoff: 6,
      tickvals: rows.map((_, row) => row),
      ticktext: rows.map(label),
    }),
    annotations: [
      title(isNarrow() ? "up" : "up: clients to server", 0),
      title(isNarrow() ? "down" : "down: server to clients", 0.53),
    ],
    margin: { l: 20, r: 12, t: 26, b: 30 },
  });
}

// ---- the model over rounds

function meanOverRounds(group, column) {
  const maps = group.runs
    .filter((run) => run.model.round !== undefined)
    .map((run) => new Map(run.model.round.map((t, i) => [t, run.model[column][i]])));
  const rounds = [...(maps[0]?.keys() ?? [])].filter((t) =>
    maps.every((map) => map.get(t) !== undefined && map.get(t) !== null),
  );
  return rounds.map((t) => ({ round: t, y: { mean: mean(maps.map((map) => map.get(t))) } }));
}

function overRounds(seen, column, words, empty) {
  const found = seen.shown
    .map((group) => ({ group, points: meanOverRounds(group, column) }))
    .filter(({ points }) => points.some((p) => p.y.mean > 0));
  const traces = found.map(({ group, points }) =>
    lineOf(group, points, X_AXES.round, {
      mode: "lines",
      line: {
        color: group.look.color,
        dash: group.look.dash,
        width: 1.8,
        shape: column === "frozen" ? "hv" : "linear",
      },
      meta: { said: (i) => `${group.label}, round ${points[i].round}: ${percentText(points[i].y.mean)}` },
      hovertemplate: "<b>%{y:.1f} %</b>",
    }),
  );
  return {
    traces,
    empty,
    layout: layoutOf({
      hovermode: "x unified",
      xaxis: axis("round", { tickformat: "d", rangemode: "tozero" }),
      yaxis: axis(`% of the alive weights`, { rangemode: "tozero" }),
      margin: { l: 50, r: 12, t: 8, b: 44 },
    }),
    label: `${words} At the end: ${found.map(({ group, points }) => `${group.label} ${percentText(points.at(-1).y.mean)}`).join("; ")}.`,
    caption: words,
  };
}

const changed = (seen) =>
  overRounds(
    seen,
    "changed",
    "Positions of the mask that changed since the round before, as a share of the alive weights, mean over seeds.",
    "No mask moved.",
  );
const frozenShare = (seen) =>
  overRounds(
    seen,
    "frozen",
    "Frozen weights as a share of the alive ones, mean over seeds.",
    "No weight is frozen in these runs.",
  );

const SCALE = {
  light: [
    [0, "#f4f6f8"],
    [0.25, "#c3d8ea"],
    [0.5, "#78a9d1"],
    [0.75, "#2f74ab"],
    [1, "#0b3c68"],
  ],
  dark: [
    [0, "#1d2126"],
    [0.25, "#21405c"],
    [0.5, "#2f6f9f"],
    [0.75, "#64a8da"],
    [1, "#d6ebfb"],
  ],
};

function heat(more) {
  return {
    type: "heatmap",
    colorscale: SCALE[dark() ? "dark" : "light"],
    zmin: 0,
    xgap: 0,
    meta: {},
    colorbar: {
      thickness: 10,
      outlinewidth: 0,
      len: 1,
      tickfont: { size: 11.5, color: css("--quiet") },
      ticksuffix: " %",
    },
    ...more,
  };
}

const densityRun = (seen) => runNamed(state.density, seen, (each) => Object.keys(each.model.density ?? {}).length > 0);
const densityHeight = (seen) => Math.max(170, 80 + 22 * Object.keys(densityRun(seen)?.model.density ?? {}).length);

function densityMap(seen) {
  const run = densityRun(seen);
  if (run === undefined) return null;
  const layers = Object.entries(run.model.density);
  const z = layers.map(([, values]) => values.map((value) => (value === null ? null : 100 * value)));
  const ends = layers.map(([name, values]) => `${name} ${percentText(values.at(-1))}`);
  return {
    traces: [
      heat({
        x: run.model.round,
        y: layers.map(([name]) => plain(name)),
        z,
        zmax: Math.max(...z.flat(), 1),
        hovertemplate: "%{y}, round %{x}: <b>%{z:.1f} %</b><extra></extra>",
      }),
    ],
    layout: layoutOf({
      xaxis: axis("round", { tickformat: "d", showgrid: false }),
      yaxis: axis("", {
        autorange: "reversed",
        showgrid: false,
        tickfont: { size: isNarrow() ? 10 : 12, color: css("--ink") },
      }),
      margin: { l: 20, r: 8, t: 6, b: 44 },
    }),
    label: `Density of each layer over rounds. At the end: ${ends.join("; ")}.`,
    caption: `Share of each layer's weights that is alive, run ${nameOf(run)}. At the end: ${ends.slice(0, 6).join(", ")}${ends.length > 6 ? " …" : "."}`,
  };
}

const runNamed = (id, seen, has) =>
  seen.usable.find((run) => run.id === id && has(run)) ?? seen.shown.flatMap((group) => group.runs).find(has);

// ---- clients

const modelOfAccuracy = () => (state.accuracy.startsWith("ema") ? "average" : "last");

function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

function clientAccuracies(seen) {
  const model = modelOfAccuracy();
  const sorted = (run) => run.clients.accuracy?.[model]?.sorted ?? [];
  const shares = Array.from({ length: 101 }, (_, i) => i / 100);
  const found = seen.shown
    .map((group) => ({ group, runs: group.runs.filter((run) => sorted(run).length > 0) }))
    .filter(({ runs }) => runs.length > 0);
  const traces = found.map(({ group, runs }) => {
    const x = shares.map((share) => 100 * mean(runs.map((run) => quantile(sorted(run), share))));
    return {
      type: "scatter",
      mode: "lines",
      name: plain(group.label),
      x,
      y: shares.map((share) => 100 * share),
      line: { color: group.look.color, dash: group.look.dash, width: 2 },
      meta: { said: (i) => `${group.label}: ${i} % of the clients are below ${x[i].toFixed(1)} %` },
      hovertemplate: `${plain(group.label)}: %{y:.0f} % of the clients at most <b>%{x:.1f} %</b><extra></extra>`,
    };
  });
  const tenth = found.map(
    ({ group, runs }) => `${group.label} ${percentText(mean(runs.map((run) => quantile(sorted(run), 0.1))))}`,
  );
  return {
    traces,
    empty: "No run has written down its clients' accuracies yet: they do when they end.",
    layout: layoutOf({
      xaxis: axis("accuracy on a client's own test share, %"),
      yaxis: axis("% of the clients at or below", { range: [0, 100.5] }),
      margin: { l: 52, r: 12, t: 8, b: 44 },
    }),
    label: `Distribution of accuracy over clients. A tenth of the clients are at or below: ${tenth.join("; ")}.`,
    caption: `How many clients do how well at the end, ${model === "average" ? "server average" : "last round"}; lines to the right are better. Worst tenth at or below: ${tenth.join(", ")}.`,
  };
}

function partitionMap(seen) {
  const run = runNamed(state.partition, seen, (each) => (each.clients.train ?? []).length > 0);
  if (run === undefined) return { traces: [], empty: "No run has written down its clients' classes." };
  const { train, shown, classes, clients } = run.clients;
  const sizes = train.map((row) => row.reduce((a, b) => a + b, 0));
  const order = shown.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a]);
  const z = Array.from({ length: classes }, (_, c) => order.map((i) => (100 * train[i][c]) / Math.max(sizes[i], 1)));
  const custom = Array.from({ length: classes }, (_, c) => order.map((i) => [shown[i], train[i][c], sizes[i]]));
  return {
    traces: [
      heat({
        z,
        customdata: custom,
        zmax: 100,
        hovertemplate:
          "client %{customdata[0]}, class %{y}: <b>%{customdata[1]}</b> of %{customdata[2]} samples<extra></extra>",
      }),
    ],
    layout: layoutOf({
      xaxis: axis("clients, largest first", { showgrid: false, tickformat: "d" }),
      yaxis: axis("class", { showgrid: false, dtick: classes > 20 ? undefined : 1 }),
      margin: { l: 44, r: 8, t: 8, b: 44 },
    }),
    label: `Classes by client: ${shown.length} of ${clients} clients, ${Math.min(...sizes)} to ${Math.max(...sizes)} samples each.`,
    caption: `Share of each class in a client's training samples, run ${nameOf(run)}. ${shown.length < clients ? `${shown.length} of ${clients.toLocaleString("en")}` : clients} clients with ${Math.min(...sizes)} to ${Math.max(...sizes)} samples.`,
  };
}
