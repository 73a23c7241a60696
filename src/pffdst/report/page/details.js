// Plots of what is behind a figure: bytes by part, the model over rounds, the clients.

// ---- bytes by part

const partNames = () => Object.keys(data.parts);
// Means over the runs that have the figure: one without a summary knows its bytes, not their parts.
const partOf = (group, way, part) =>
  spreadOf(group.runs.map((run) => run.final[`bytes_${way}_${part}`] ?? null)).mean || 0;
const wayOf = (group, way) => spreadOf(group.runs.map((run) => run.final[`bytes_${way}`] ?? null)).mean || 0;
const partsSum = (group, way) => partNames().reduce((sum, part) => sum + partOf(group, way, part), 0);

// Rows are identified by position, not name: two long names that are shortened alike stay two rows.
function parts(seen) {
  const rows = seen.shown.toReversed();
  const most = Math.max(...rows.flatMap((group) => [wayOf(group, "up"), wayOf(group, "down")]), 1);
  const { scale, unit } = unitOf([most], BYTES);
  const traces = ["up", "down"].flatMap((way, i) => partNames().map((part) => partTrace(rows, way, part, i, scale)));
  const masks = (group) =>
    ["mask", "catch_up"]
      .flatMap((part) => [partOf(group, "up", part), partOf(group, "down", part)])
      .reduce((a, b) => a + b, 0);
  const told = seen.shown.map(
    (group) =>
      `${group.label}: up ${bytesText(wayOf(group, "up"))}, down ${bytesText(wayOf(group, "down"))}, masks and catching up ${bytesText(masks(group))}`,
  );
  const how = { bytes: "", share: ", as shares of a direction", log: ", each part a dot" }[state.partsAs];
  return {
    traces: rows.length > 0 ? traces : [],
    layout: partsLayout(rows, unit),
    label: `Bytes by part and direction. ${told.join("; ")}.`,
    caption: `Means over seeds of the bytes of the whole run${how}. Catching up: masks and frozen weights for clients that were away.`,
  };
}

function partTrace(rows, way, part, i, scale) {
  const color = partHue(part);
  const value = {
    bytes: (group) => partOf(group, way, part) / scale,
    share: (group) => (100 * partOf(group, way, part)) / Math.max(partsSum(group, way), 1),
    log: (group) => partOf(group, way, part) || null,
  }[state.partsAs];
  const shape =
    state.partsAs === "log"
      ? { type: "scatter", mode: "markers", marker: { color, size: 10 } }
      : { type: "bar", orientation: "h", width: 0.65 * rowHeight(1), marker: { color, line: { width: 0 } } };
  return {
    ...shape,
    name: data.parts[part].words,
    y: partsPlaces(rows).places,
    x: rows.map(value),
    xaxis: i === 0 ? "x" : "x2",
    meta: {},
    customdata: rows.map((group) => [bytesText(partOf(group, way, part)), plain(group.label)]),
    hovertemplate: `%{customdata[1]}<br>${data.parts[part].words}, ${way}: <b>%{customdata[0]}</b><extra></extra>`,
  };
}

const partsHeight = (seen) => 110 + partsPlaces(seen.shown).total;
const rowHeight = (lines) => (isPaper() ? 7 + 13 * lines : 12 + 14 * Math.max(lines, isNarrow() ? 2 : 1.3));

// The centres of rows that are as high as their names, in pixels from the bottom, and the total height.
function partsPlaces(rows) {
  const places = [];
  let total = 0;
  for (const high of rows.map((group) => rowHeight(rowLines(group).length))) {
    places.push(total + high / 2);
    total += high;
  }
  return { places, total };
}

// A name in lines of so many characters, broken between its parts.
function rowLines(group) {
  const most = isNarrow() ? 18 : 28;
  const lines = [];
  for (const part of group.label.split(" · ")) {
    const longer = lines.length > 0 ? `${lines.at(-1)} · ${part}` : part;
    if (lines.length > 0 && longer.length <= most) lines[lines.length - 1] = longer;
    else lines.push(part);
  }
  return lines.map((line) => brief(line, most));
}

function partsAxis(rows, unit, domain) {
  const sums = rows.flatMap((group) => [wayOf(group, "up"), wayOf(group, "down")]);
  if (state.partsAs === "share") return axis("%", { domain, range: [0, 100], nticks: 4 });
  if (state.partsAs === "bytes")
    return axis(unit, { domain, range: [0, (1.06 * Math.max(...sums, 1)) / 1000 ** BYTES.indexOf(unit)], nticks: 4 });
  const sizes = rows.flatMap((g) => ["up", "down"].flatMap((way) => partNames().map((part) => partOf(g, way, part))));
  const known = sizes.filter((size) => size > 0);
  const powers = Array.from({ length: 18 }, (_, power) => 10 ** power);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const ticks = powers.filter((tick) => tick >= low / 1.5 && tick <= high * 1.5);
  const step = Math.ceil(ticks.length / (isNarrow() ? 3 : 4));
  const shown = ticks.filter((_, i) => i % step === 0);
  const words = shown.map((tick) => bytesText(tick).replace(/\.0+ /, " "));
  return { ...axis("", { domain }), type: "log", range: paddedLog(known), tickvals: shown, ticktext: words };
}

function partsLayout(rows, unit) {
  const { places, total } = partsPlaces(rows);
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
  return layoutOf({
    barmode: "stack",
    xaxis: partsAxis(rows, unit, [0, 0.46]),
    xaxis2: { ...partsAxis(rows, unit, [0.54, 1]), anchor: "y" },
    yaxis: axis("", {
      gridcolor: state.partsAs === "log" ? css("--grid") : "rgba(0,0,0,0)",
      tickfont: { size: isNarrow() ? 11 : 12, color: css("--ink") },
      ticklabelstandoff: 6,
      tickvals: places,
      ticktext: rows.map((group) => rowLines(group).join("<br>")),
      range: [0, total],
    }),
    annotations: [
      title(isNarrow() ? "up" : "up: clients to server", 0),
      title(isNarrow() ? "down" : "down: server to clients", 0.54),
    ],
    margin: { l: 20, r: 12, t: 26, b: 44 },
    uirevision: state.partsAs,
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

const groupsOver = (seen, column) =>
  seen.shown.filter((group) => group.runs.some((run) => (run.model[column] ?? []).some((value) => value > 0)));

// Moves are events: a lane for each group, with a stem at each round with a move; the largest fills its lane.
function stems(found) {
  const most = Math.max(...found.flatMap(({ points }) => points.map((p) => p.y.mean)));
  return found.map(({ group, points }, nth) => {
    const moved = points.filter((p) => p.y.mean > 0);
    const floor = found.length - 1 - nth;
    return {
      type: "scatter",
      mode: "lines+markers",
      name: plain(group.label),
      x: moved.flatMap((p) => [p.round, p.round, null]),
      y: moved.flatMap((p) => [floor, floor + (0.78 * p.y.mean) / most, null]),
      line: { color: group.look.color, width: 1.4 },
      marker: { color: group.look.color, symbol: group.look.symbol, size: moved.flatMap(() => [0, 4, 0]) },
      text: moved.flatMap((p) => ["", `round ${p.round}: <b>${percentText(p.y.mean)}</b>`, ""]),
      meta: {
        said: (i) => {
          const p = moved[Math.floor(i / 3)];
          return `${group.label}, round ${p.round}: ${percentText(p.y.mean)}`;
        },
      },
      hovertemplate: `${plain(group.label)}, %{text}<extra></extra>`,
    };
  });
}

const lanesHeight = (seen) => Math.max(170, 66 + (isPaper() ? 20 : isNarrow() ? 30 : 26) * groupsOver(seen, "changed").length);

// The lanes' names take the place of an axis' numbers.
const lanes = (found) =>
  axis("", {
    tickvals: found.map((_, nth) => found.length - 1 - nth + 0.3),
    ticktext: found.map(({ group }) => brief(group.label, isNarrow() ? 16 : 26)),
    tickfont: { size: 11.5, color: css("--ink") },
    showgrid: false,
    range: [-0.15, found.length],
  });

const steps = (found) =>
  found.map(({ group, points }) =>
    lineOf(group, points, X_AXES.round, {
      mode: "lines",
      line: { color: group.look.color, dash: group.look.dash, width: 1.8, shape: "hv" },
      meta: { said: (i) => `${group.label}, round ${points[i].round}: ${percentText(points[i].y.mean)}` },
      hovertemplate: "<b>%{y:.1f} %</b>",
    }),
  );

function overRounds(seen, column, draw, words, empty) {
  const found = groupsOver(seen, column).map((group) => ({ group, points: meanOverRounds(group, column) }));
  const some = found.filter(({ points }) => points.some((p) => p.y.mean > 0));
  const last = (points) => percentText(points.findLast((p) => p.y.mean > 0).y.mean);
  return {
    traces: some.length > 0 ? draw(some) : [],
    empty,
    layout: layoutOf({
      hovermode: column === "frozen" ? "x unified" : "closest",
      xaxis: axis("round", { tickformat: "d", rangemode: "tozero" }),
      yaxis: draw === stems ? lanes(some) : axis(`% of the alive weights`, { rangemode: "tozero" }),
      margin: { l: draw === stems ? 20 : 50, r: 12, t: 8, b: 44 },
    }),
    label: `${words} At the end: ${some.map(({ group, points }) => `${group.label} ${last(points)}`).join("; ")}.`,
    caption: words,
  };
}

const changed = (seen) =>
  overRounds(
    seen,
    "changed",
    stems,
    "Positions of the mask that changed, as a share of the alive weights, mean over seeds: a stem for each move, all on one scale.",
    "No mask moved.",
  );
const frozenShare = (seen) =>
  overRounds(
    seen,
    "frozen",
    steps,
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

const hasDensity = (run) => Object.keys(run.model.density?.layers ?? {}).length > 0;
const moves = (run) => (run.model.changed ?? []).some((value) => value > 0);
// The requested run; else the most accurate sparse one, preferring runs whose mask moves.
function densityRun(seen) {
  const known = seen.usable.filter(hasDensity);
  const asked = known.find((run) => run.id === state.density);
  if (asked !== undefined) return asked;
  const sparse = known.filter((run) => run.config.sparsity > 0);
  const moving = sparse.filter(moves);
  const among = moving.length > 0 ? moving : sparse.length > 0 ? sparse : known;
  return among.toSorted((a, b) => (b.final[state.accuracy] ?? 0) - (a.final[state.accuracy] ?? 0))[0];
}

// A line per layer, from the first one's colour to the last one's.
function densityMap(seen) {
  const run = densityRun(seen);
  if (run === undefined) return null;
  const { round, layers } = run.model.density;
  const named = Object.entries(layers);
  const ramp = (i) => between(["#0b6e8f", "#d4622a"], named.length > 1 ? i / (named.length - 1) : 0);
  const traces = named.map(([name, values], i) => ({
    type: "scatter",
    mode: "lines",
    name: plain(name),
    x: round,
    y: values.map((value) => (value === null ? null : 100 * value)),
    line: { color: ramp(i), width: 1.8 },
    meta: { said: (at) => `${name}, round ${round[at]}: ${percentText(values[at])}` },
    hovertemplate: `${plain(name)}, round %{x}: <b>%{y:.1f} %</b><extra></extra>`,
  }));
  const picked = [...new Set([0, Math.floor((named.length - 1) / 2), named.length - 1])];
  const ends = named.map(([name, values]) => `${name} ${percentText(values.at(-1))}`);
  const span = Math.max(...traces.flatMap((trace) => trace.y.map((y) => y ?? 0)), 1);
  const labels = picked.map((i) => ({ y: 100 * named[i][1].at(-1), text: named[i][0], color: ramp(i) }));
  return {
    traces,
    layout: layoutOf({
      xaxis: axis("round", { tickformat: "d" }),
      yaxis: axis("alive, %", { rangemode: "tozero" }),
      annotations: isNarrow() ? [] : endLabels(labels, (span * 18) / 200, [0, span]),
      margin: { l: 50, r: isNarrow() ? 12 : 200, t: 8, b: 44 },
      uirevision: run.id,
    }),
    label: `Density of each layer over rounds. At the end: ${ends.join("; ")}.`,
    caption: `Share of each layer's weights that is alive, run ${nameOf(run)}; ${named.length} layers, from the first (blue) to the last (orange). Point at a line for its name.`,
  };
}

function between([from, to], share) {
  const part = (color, i) => parseInt(color.slice(i, i + 2), 16);
  const mixed = [1, 3, 5].map((i) => Math.round(part(from, i) + (part(to, i) - part(from, i)) * share));
  return `rgb(${mixed.join(",")})`;
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
    empty: "No run has recorded its clients' accuracies yet: runs do so when they end.",
    layout: layoutOf({
      xaxis: axis("accuracy on a client's own test share, %"),
      yaxis: axis("% of the clients at or below", { range: [0, 100.5] }),
      margin: { l: 52, r: 12, t: 8, b: 44 },
    }),
    label: `Distribution of accuracy over clients. A tenth of the clients are at or below: ${tenth.join("; ")}.`,
    caption: `Distribution of the clients' accuracies at the end, ${model === "average" ? "server average" : "last round"}; lines to the right are better. The worst tenth is a column of the table above.`,
  };
}

function partitionMap(seen) {
  const run = runNamed(state.partition, seen, (each) => (each.clients.train ?? []).length > 0);
  if (run === undefined) return { traces: [], empty: "No run has recorded its clients' classes." };
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
